"""Which checks a plugin gets, by the way it is started; and that what runs is what was checked."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from prism.verification.refusals import PluginRefused

SCRIPTS = {
    "py": "import sys; print('ran', *sys.argv[1:])",
    "js": "console.log('ran', ...process.argv.slice(2))",
    "sh": "echo ran $@",
    "pl": 'print "ran @ARGV\\n"',
}


def test_the_script_of_an_interpreter_is_what_is_judged(verify, refused, home, release):
    script = home / "plugin.py"
    script.write_text("print('ran')\n")
    release.sign(script)
    config = {"policy": "require", "trusted_keys": [release.trusted]}
    assert verify(config, command=["python3", str(script)]).content.path == str(script)
    assert verify(
        config, command=["python3", "plugin.py"], working_directory=str(home)
    ).content.path == str(script)
    error = refused(config, command=["python3", "-m", "plugin"])
    assert error.reason == "entry_unknown"
    assert "`entry`" in error.way_out
    assert verify(command=["python3", "-m", "plugin"]) is None
    assert refused(command=["env", "x"], entry="y").reason == "entry_unknown"
    named = verify(config, command=["env", "python3", str(script)], entry=str(script))
    assert named.content.path == str(script)


def test_a_working_directory_that_others_can_write(verify, refused, home):
    place = home / "work"
    place.mkdir()
    place.chmod(0o777)
    keys = {"command": ["python3", "-m", "plugin"], "working_directory": str(place)}
    error = refused(**keys)
    assert (error.reason, error.place) == ("world_writable", str(place))
    place.chmod(0o755)
    assert verify(**keys) is None
    place.rmdir()
    assert verify(**keys) is None, "starting it says best that it is not there"


def test_an_interpreter_that_others_can_write(refused, program, home):
    script = home / "plugin.sh"
    script.write_text("echo ran\n")
    script.chmod(0o644)
    shell = home / "sh"
    shell.write_bytes(b"#!/bin/sh\n")
    shell.chmod(0o777)
    error = refused(command=[str(shell), str(script)])
    assert (error.reason, error.place) == ("world_writable", str(shell))


def test_a_program_that_is_not_executable(verify, refused, program, release):
    release.sign(program)
    program.chmod(0o644)
    verify()  # for the start to say
    assert refused({"trusted_keys": [release.trusted]}).reason == "not_executable"


def test_a_library_gets_the_same_checks(verify, home, release):
    library = home / "lib.so"
    library.write_bytes(b"\x7fELF")
    library.chmod(0o644)
    config = {"policy": "require", "trusted_keys": [release.trusted]}
    with pytest.raises(PluginRefused):
        verify(config, library=str(library))
    release.sign(library)
    assert verify(config, library=str(library)).signer == "release"
    library.chmod(0o666)
    with pytest.raises(PluginRefused):
        verify(config, library=str(library))


def test_a_module_s_process_gets_a_copy_of_what_was_checked(verifier, home, release):
    module = home / "a.wasm"
    module.write_bytes(b"\0asm")
    module.chmod(0o644)
    unsigned = {"policy": "require", "trusted_keys": [release.trusted]}
    with pytest.raises(PluginRefused):
        verifier(unsigned, file=str(module)).sealed(str(module), lambda copy: [])
    with verifier(file=str(module)).sealed(str(module), lambda copy: [f"{copy}"]) as command:
        module.write_bytes(b"changed")
        (copy,) = command.descriptors
        assert command.words == [str(copy)]
        assert Path(f"/proc/self/fd/{copy}").read_bytes() == b"\0asm"
        with pytest.raises(PermissionError):
            os.write(copy, b"more")
        assert command.verdict.content.path == str(module)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(copy)


def test_a_package_that_is_not_there(verify, home, release):
    config = {"policy": "require", "trusted_keys": [release.trusted]}
    for keywords in ({"path": str(home)}, {"sha256": "0" * 64}):
        with pytest.raises(PluginRefused) as caught:
            verify(module="nowhere:Orders", **keywords)
        assert caught.value.reason == "module_unverifiable"
    with pytest.raises(PluginRefused):
        verify(config, module="nowhere:Orders")
    with pytest.raises(PluginRefused):
        verify(config, module="sys:Orders")  # built into Python
    assert verify(module="nowhere:Orders") is None  # the import says so best


def test_what_comes_with_the_proxy_needs_no_signature(verify, release):
    config = {"policy": "require", "trusted_keys": [release.trusted]}
    assert verify(config, module="prism_plugins.sqlite:SQLitePlugin") is None


# -- what runs -------------------------------------------------------------------------


def run(command):
    done = subprocess.run(
        command.words,
        executable=command.executable,
        pass_fds=command.descriptors,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def tamper(file):
    """Write other bytes into the same file."""
    with file.open("r+b") as opened:
        opened.write(b"X" * file.stat().st_size)


def replace(file):
    """Put another file in its place."""
    other = file.with_name("other")
    other.write_text("#!/bin/sh\necho tampered\n")
    other.chmod(0o755)
    other.rename(file)


def remove(file):
    file.unlink()


@pytest.mark.parametrize("meanwhile", [tamper, replace, remove])
@pytest.mark.parametrize("how", ["pinned", "signed"])
def test_what_was_checked_runs_whatever_happens_to_the_file(
    verifier, verify, program, release, how, meanwhile
):
    if how == "pinned":
        made = verifier(sha256=verify().content.digest.hexdigest)
    else:
        release.sign(program)
        made = verifier({"trusted_keys": [release.trusted]})
    with made.command(os.environ["PATH"]) as command:
        assert command.words == [str(program)]
        meanwhile(program)
        assert run(command) == "ran\n"
        for descriptor in command.descriptors:
            with pytest.raises(PermissionError):
                os.write(descriptor, b"x")
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, 0)
    assert command.descriptors == ()


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ([sys.executable], "py"),
        ([sys.executable, "-I", "-B"], "py"),
        (["node"], "js"),
        (["sh"], "sh"),
        (["perl"], "pl"),
    ],
)
def test_scripts_run_from_their_copy(verifier, verify, home, words, kind):
    if shutil.which(words[0]) is None and not os.environ.get("CI"):
        pytest.skip(f"{words[0]} is not installed")
    script = home / f"plugin.{kind}"
    script.write_text(SCRIPTS[kind])
    words = [*words, str(script), "a", "b"]
    digest = verify(command=words).content.digest.hexdigest
    with verifier(command=words, sha256=digest).command(os.environ["PATH"]) as command:
        replace(script)
        assert run(command) == "ran a b\n"


def test_a_compiled_program_runs_from_its_copy(verifier, verify, home):
    program = home / "plugin"
    shutil.copy("/bin/echo", program)
    words = [str(program), "ran"]
    digest = verify(command=words).content.digest.hexdigest
    with verifier(command=words, sha256=digest).command(os.environ["PATH"]) as command:
        replace(program)
        assert run(command) == "ran\n"


def test_without_a_pin_or_a_signature_it_runs_as_it_is_written(verifier, program):
    with verifier(command=[str(program), "x"]).command("") as command:
        assert (command.words, command.executable) == ([str(program), "x"], str(program))
        assert command.descriptors == ()
        assert run(command) == "ran\n"


def descriptors():
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_descriptors_are_closed_whatever_is_found(verify, verifier, program, release):
    before = descriptors()
    release.sign(program, b"other")
    for config in ({}, {"trusted_keys": [release.trusted]}, {"policy": "require"}):
        for words in ([str(program)], ["sh", str(program)], ["nothing-there"], ["/dev/null"]):
            with suppress(PluginRefused):
                verify(config, command=words)
    with verifier(sha256=verify().content.digest.hexdigest).command("") as command:
        assert len(command.descriptors) == 1
    assert descriptors() == before

"""Which word of a command is the plugin; and what runs is what was checked."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from prism.verification.command import take_apart
from prism.verification.refusals import PluginRefused

SCRIPTS = {
    "py": "import sys; print('ran', *sys.argv[1:])",
    "js": "console.log('ran', ...process.argv.slice(2))",
    "sh": "echo ran $@",
    "pl": 'print "ran @ARGV\\n"',
}


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "plugin.x"
    path.touch()
    return str(path)


@pytest.mark.parametrize(
    ("words", "entry"),
    [
        (["python3", "S"], 1),
        (["python3.11", "-I", "-B", "S", "data"], 3),
        (["python3", "-W", "error", "-Xdev", "S"], 4),
        (["python3", "-W", "error", "-X", "dev", "S"], 5),
        (["python3", "-Ximporttime", "S"], None),  # read as a bundle that has -m in it
        (["python3", "-m", "S"], None),
        (["python3", "-Bm", "S"], None),
        (["python3", "-c", "S"], None),
        (["python3", "-"], None),
        (["python3"], None),
        (["python3", "not-there.py"], None),
        (["node", "--no-warnings", "S"], 2),
        (["node", "-r", "./hook.js", "S"], 3),
        (["node", "-e", "S"], None),
        (["sh", "S"], 1),
        (["sh", "-e", "S"], 2),
        (["sh", "-ec", "S"], None),
        (["bash", "-o", "pipefail", "S"], 3),
        (["perl", "-w", "S"], 2),
        (["./own-program", "S"], 0),
    ],
)
def test_the_plugin_s_own_word(script, tmp_path, words, entry):
    folder = tmp_path / "bin"
    folder.mkdir()
    own = folder / words[0]
    own.touch(0o755)
    own.chmod(0o755)
    words = [script if word == "S" else word for word in words]
    found = take_apart(words, None, str(folder), str(folder))
    assert found.program == str(folder / own.name) or found.program.endswith("/own-program")
    assert found.entry == entry
    assert (found.entry_path is None) == (entry is None)


def test_a_name_is_looked_up_as_the_kernel_would(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, mode in (("a", 0o644), ("b", 0o755), ("c", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run").touch()
        (tmp_path / name / "run").chmod(mode)
    (tmp_path / "d" / "run").mkdir(parents=True)
    path = f"{tmp_path}/none:{tmp_path}/d:a:{tmp_path}/b:{tmp_path}/c"
    assert take_apart(["run"], None, None, path).program == str(tmp_path / "b" / "run")
    assert take_apart(["none"], None, None, path).program is None
    assert take_apart(["./run"], None, str(tmp_path / "c"), path).program == f"{tmp_path}/c/./run"


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


@pytest.mark.parametrize("swapped", ["opt", "opt/plugin"])
def test_a_rename_during_the_walk_leads_nowhere_else(verify, program, home, monkeypatch, swapped):
    """Whoever can rename on the way gets what was checked, or a refusal; never his own file in."""
    from prism.verification.trust import Trust

    planted = home.parent / "planted"
    planted.mkdir()
    (planted / "plugin").write_text("#!/bin/sh\necho tampered\n")
    (planted / "plugin").chmod(0o777)
    expected = verify().content.digest
    check = Trust.check

    def swap_after(self, status, place, descriptor=None):
        check(self, status, place, descriptor)
        if place == str(home.parent / swapped) and not (home.parent / "gone").exists():
            target = home.parent / swapped
            target.rename(home.parent / "gone")
            (planted if swapped == "opt" else planted / "plugin").rename(target)

    monkeypatch.setattr(Trust, "check", swap_after)
    assert verify().content.digest == expected


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

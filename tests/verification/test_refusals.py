"""Every way to be refused, with real files; and that what is right passes each check."""

import errno
import grp
import os
import pwd
import socket
from datetime import date

import pytest

from prism.verification import refusals, trust
from prism.verification.refusals import PluginRefused

STRANGER = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def refused(verify, *arguments, **keywords):
    """The refusal, which must say everything that it has to."""
    with pytest.raises(PluginRefused) as caught:
        verify(*arguments, **keywords)
    error = caught.value
    for part in (error.plugin, error.reason, error.place, error.found, error.expected):
        assert part
        assert part in str(error)
    assert error.way_out in str(error)
    return error


def test_every_reason_has_one_class_and_one_word():
    kinds = PluginRefused.__subclasses__()
    assert len({kind.reason for kind in kinds}) == len(kinds)
    assert all(kind.__module__ == refusals.__name__ for kind in kinds)
    assert {kind.reason for kind in kinds} >= {"wrong_owner", "world_writable", "digest_mismatch"}


# -- who can have written it ----------------------------------------------------


def test_a_plugin_that_is_installed_well_passes(verify, program):
    verdict = verify()
    assert verdict.content.path == str(program)
    assert not verdict.vouched


@pytest.mark.parametrize(
    ("mode", "reason"), [(0o757, "world_writable"), (0o777, "world_writable"), (0o755, None)]
)
def test_the_mode_of_the_file(verify, program, mode, reason):
    program.chmod(mode)
    if reason is None:
        verify()
    else:
        error = refused(verify)
        assert (error.reason, error.place) == (reason, str(program))


@pytest.mark.parametrize(
    ("mode", "reason"), [(0o757, "world_writable"), (0o777, "world_writable"), (0o1777, None)]
)
def test_the_mode_of_a_directory_above(verify, program, home, mode, reason):
    home.chmod(mode)
    if reason is None:
        verify()
    else:
        error = refused(verify)
        assert (error.reason, error.place) == (reason, str(home))


@pytest.fixture
def group_of_many(monkeypatch):
    """The group of the files made here, with another user in it."""
    entry = grp.struct_group(("many", "x", os.getegid(), ["stranger"]))
    stranger = pwd.struct_passwd(("stranger", "x", STRANGER, STRANGER, "", "/", "/bin/sh"))
    monkeypatch.setattr(trust.grp, "getgrgid", lambda _gid: entry)
    monkeypatch.setattr(trust.pwd, "getpwnam", lambda _name: stranger)


@pytest.mark.usefixtures("group_of_many")
def test_a_group_that_can_write(verify, program, home):
    program.chmod(0o775)
    error = refused(verify)
    assert (error.reason, error.place) == ("group_writable", str(program))
    assert "group many" in error.found
    program.chmod(0o755)
    home.chmod(0o775)
    error = refused(verify)
    assert (error.reason, error.place) == ("group_writable", str(home))
    assert error.way_out == f"chmod g-w {home}"


def test_a_user_s_group_of_his_own_may_write(verify, program, monkeypatch):
    entry = grp.struct_group(("mine", "x", os.getegid(), []))
    monkeypatch.setattr(trust.grp, "getgrgid", lambda _gid: entry)
    monkeypatch.setattr(trust.pwd, "getpwall", lambda: [pwd.getpwuid(os.geteuid())])
    program.chmod(0o775)
    verify()
    stranger = pwd.struct_passwd(("s", "x", STRANGER, os.getegid(), "", "/", "/bin/sh"))
    monkeypatch.setattr(trust.pwd, "getpwall", lambda: [stranger])
    assert refused(verify).reason == "group_writable"


def test_a_group_s_bits_mean_more_where_there_is_an_access_list(verify, program, monkeypatch):
    entry = grp.struct_group(("mine", "x", os.getegid(), []))
    monkeypatch.setattr(trust.grp, "getgrgid", lambda _gid: entry)
    monkeypatch.setattr(trust.pwd, "getpwall", list)
    program.chmod(0o775)
    verify()
    monkeypatch.setattr(trust.os, "listxattr", lambda _path: ["system.posix_acl_access"])
    assert refused(verify).reason == "group_writable"


@needs_root
@pytest.mark.parametrize("what", ["file", "directory", "group"])
def test_another_owner(verify, program, home, what):
    if what == "group":
        os.chown(program, -1, 1)  # daemon, which has a member that is not root
        program.chmod(0o775)
        assert refused(verify).reason == "group_writable"
        return
    place = program if what == "file" else home
    os.chown(place, STRANGER, -1)
    error = refused(verify)
    assert (error.reason, error.place) == ("wrong_owner", str(place))
    assert "uid 12345" in error.found
    verify({"trusted_owners": ["nobody-of-this-name", str(STRANGER)]})
    os.chown(place, pwd.getpwnam("daemon").pw_uid, -1)
    verify({"trusted_owners": ["daemon"]})


@needs_root
def test_a_stranger_s_file_in_a_sticky_directory(verify, home):
    home.chmod(0o1777)
    planted = home / "planted"
    planted.write_text("#!/bin/sh\n")
    planted.chmod(0o755)
    os.chown(planted, STRANGER, STRANGER)
    assert refused(verify, command=[str(planted)]).reason == "wrong_owner"


# -- what it is ---------------------------------------------------------------------


def test_links_are_followed_and_what_they_lead_through_is_checked(verify, program, home, tmp_path):
    version = home / "v1"
    version.mkdir()
    version.chmod(0o755)
    program.rename(version / "plugin")
    (home / "current").symlink_to("v1")
    (tmp_path / "run").symlink_to("opt/../opt/current/plugin")
    verdict = verify(command=[str(tmp_path / "run")])
    assert verdict.content.path == str(version / "plugin")
    version.chmod(0o777)
    error = refused(verify, command=[str(tmp_path / "run")])
    assert (error.reason, error.place) == ("world_writable", str(version))


@needs_root
def test_a_stranger_s_link_is_not_followed(verify, program, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(program)
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    error = refused(verify, command=[str(link)])
    assert (error.reason, error.place) == ("wrong_owner", str(link))


def test_links_in_a_circle(verify, home):
    (home / "a").symlink_to("b")
    (home / "b").symlink_to("a")
    assert refused(verify, command=[str(home / "a")]).reason == "symlink"


def test_links_that_grow_without_end(verify, home):
    (home / "a").symlink_to("./a/" + "x/" * 500)
    assert refused(verify, command=[str(home / "a")]).reason == "symlink"


@pytest.mark.parametrize("kind", ["directory", "pipe", "socket", "device"])
def test_what_is_no_file(verify, home, kind):
    place = home / "thing"
    if kind == "directory":
        place.mkdir(mode=0o755)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(place))
        place.chmod(0o755)
    else:
        place.symlink_to("/dev/null")
    error = refused(verify, library=str(place))
    # /dev/null is world-writable as well, and that is seen only once it is opened.
    assert error.reason == "not_regular"
    assert kind in error.found


def test_what_is_not_there(verify, home):
    gone = str(home / "gone")
    assert refused(verify, library=gone).reason == "file_missing"
    assert refused(verify, library=f"{home}/plugin/below").reason == "file_missing"
    assert refused(verify, command=[gone], sha256="0" * 64).reason == "file_missing"
    # Starting it says best that it is not there, and nothing asked what it is.
    assert verify(command=[gone]) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_cannot_be_read(verify, program):
    program.chmod(0o311)
    assert refused(verify).reason == "unreadable"


def test_a_program_that_is_not_executable(verify, program, release):
    release.sign(program)
    program.chmod(0o644)
    verify()  # for the start to say
    assert refused(verify, {"trusted_keys": [release.trusted]}).reason == "not_executable"


def test_a_system_that_makes_no_copy(verify, program, monkeypatch):
    def no_memory(*_):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    pinned = verify().content.digest.hexdigest
    monkeypatch.setattr(os, "memfd_create", no_memory)
    error = refused(verify, sha256=pinned)
    assert error.reason == "copy_failed"
    assert "Cannot allocate memory" in error.found
    assert not verify().vouched, "nothing needs a copy then"


@pytest.mark.parametrize("kind", ["command", "package"])
def test_a_disk_that_fails(verify, program, monkeypatch, kind):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    if kind == "command":
        monkeypatch.setattr(os, "read", broken)
        error = refused(verify)
    else:
        monkeypatch.setattr("prism.verification.tree._Reader.read", broken)
        package = program.parent / "orders"
        package.mkdir(mode=0o755)
        (package / "__init__.py").touch(0o644)
        error = refused(verify, module="orders:Orders", path=str(program.parent))
    assert error.reason == "unreadable"
    assert "Input/output error" in error.found


def test_a_file_over_the_limit(verify, program, monkeypatch):
    monkeypatch.setattr("prism.verification.content.MAX_FILE", 10)
    assert refused(verify).reason == "too_large"


# -- which content it is --------------------------------------------------------------


def test_a_pin(verify, program):
    digest = verify().content.digest.hexdigest
    assert verify(sha256=digest).pinned
    program.write_text("#!/bin/sh\necho tampered\n")
    error = refused(verify, sha256=digest)
    assert error.reason == "digest_mismatch"
    assert digest in error.expected
    assert verify().content.digest.hexdigest in error.found


def test_a_revoked_content(verify):
    digest = verify().content.digest.hexdigest
    assert refused(verify, {"revoked": [digest]}).reason == "digest_revoked"
    assert refused(verify, {"revoked": [digest]}, sha256=digest).reason == "digest_revoked"


def test_a_signature(verify, program, release):
    release.sign(program)
    verdict = verify({"policy": "require", "trusted_keys": [release.trusted]})
    assert (verdict.signer, verdict.key) == ("release", release.id)
    assert f"signed by release (key {release.id})" in str(verdict)


def test_the_policy(verify, program, release):
    keys = {"trusted_keys": [release.trusted]}
    assert verify(keys).signer is None
    assert refused(verify, {**keys, "policy": "require"}).reason == "signature_missing"
    assert refused(verify, keys, signature_policy="require").reason == "signature_missing"
    lenient = verify({**keys, "policy": "require"}, signature_policy="allow_missing")
    assert lenient.signer is None
    # A pin says what it is, not who made it.
    digest = lenient.content.digest.hexdigest
    assert refused(verify, {**keys, "policy": "require"}, sha256=digest).reason == (
        "signature_missing"
    )


def test_a_signature_elsewhere(verify, program, home, release):
    keys = {"trusted_keys": [release.trusted]}
    place = home / "elsewhere"
    release.sign(program).rename(place)
    assert verify(keys, signature=str(place)).signer == "release"
    missing = str(home / "nowhere")
    assert refused(verify, keys, signature=missing).reason == "signature_missing"
    assert refused(verify, signature=missing).reason == "signature_missing"


def test_without_trusted_keys_a_signature_means_nothing(verify, program, release):
    place = release.sign(program)
    assert verify().signer is None
    assert refused(verify, signature=str(place)).reason == "key_unknown"


def torn(content):
    return content[:-30]


def empty(_content):
    return b""


def huge(_content):
    return b"x" * 3 * 1024 * 1024


def with_another_digest(content):
    return content.replace(b"digest: sha256:", b"digest: sha256:" + b"0" * 64 + b"\n#", 1)


@pytest.mark.parametrize("change", [torn, empty, huge, with_another_digest])
def test_a_file_that_is_no_signature(verify, program, release, change):
    place = release.sign(program)
    place.write_bytes(change(place.read_bytes()))
    error = refused(verify, {"trusted_keys": [release.trusted]})
    assert (error.reason, error.place) == ("signature_malformed", str(place))


def test_a_signature_that_is_no_file(verify, program, release):
    os.mkfifo(f"{program}.sig")
    error = refused(verify, {"trusted_keys": [release.trusted]})
    assert error.reason == "signature_malformed"


def test_a_signature_that_was_changed(verify, program, release):
    place = release.sign(program, name="orders")
    place.write_bytes(place.read_bytes().replace(b"name: orders", b"name: orderz"))
    assert refused(verify, {"trusted_keys": [release.trusted]}).reason == "signature_invalid"


def test_a_signature_by_a_key_that_borrows_the_name_of_another(verify, program, release, other):
    place = release.sign(program)
    place.write_bytes(place.read_bytes().replace(release.id.encode(), other.id.encode()))
    assert refused(verify, {"trusted_keys": [other.trusted]}).reason == "signature_invalid"


def test_an_unknown_key(verify, program, release, other):
    other.sign(program)
    error = refused(verify, {"trusted_keys": [release.trusted]})
    assert error.reason == "key_unknown"
    assert other.id in error.found
    assert f"release ({release.id})" in error.expected
    both = {"trusted_keys": [release.trusted, other.trusted]}
    assert verify(both).signer == "other"


def test_a_revoked_key(verify, program, release):
    release.sign(program)
    config = {"trusted_keys": [release.trusted], "revoked": [release.id]}
    assert refused(verify, config).reason == "key_revoked"


def test_an_expired_key(verify, program, release):
    release.sign(program)
    last_day = {"trusted_keys": [{**release.trusted, "expires": "2030-01-31"}]}
    verify(last_day, day=date(2030, 1, 31))
    error = refused(verify, last_day, day=date(2030, 2, 1))
    assert error.reason == "key_expired"
    assert "2030-01-31" in error.found


def test_a_signature_of_something_else(verify, program, release):
    place = release.sign(program, b"something else")
    error = refused(verify, {"trusted_keys": [release.trusted]})
    assert error.reason == "digest_mismatch"
    assert str(place) in error.expected


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"name": "orders", "version": "v1.3"}, None),
        ({"name": "other", "version": "v1.3"}, "name_mismatch"),
        ({"name": "orders", "version": "v1.2"}, "version_mismatch"),
        ({"name": "orders"}, "version_mismatch"),
        ({"version": "v1.3"}, "name_mismatch"),
    ],
)
def test_what_the_catalogue_calls_it_the_signature_must(verify, program, release, said, reason):
    release.sign(program, **said)
    keys = {"trusted_keys": [release.trusted]}
    assert verify(keys).signer == "release", "an inline plugin has no name"
    if reason is None:
        assert verify(keys, name="orders", version="v1.3").signer == "release"
    else:
        assert refused(verify, keys, name="orders", version="v1.3").reason == reason


def test_without_the_library_signatures_are_refused_and_nothing_else(
    verify, program, release, monkeypatch
):
    release.sign(program)
    monkeypatch.setitem(__import__("sys").modules, "cryptography.exceptions", None)
    verify()
    verify(sha256=verify().content.digest.hexdigest)
    error = refused(verify, {"trusted_keys": [release.trusted]})
    assert error.reason == "signatures_unavailable"
    assert "prism-proxy[signatures]" in error.way_out


# -- which of its words a command's file is -----------------------------------------


def test_the_script_of_an_interpreter_is_what_is_judged(verify, home, release):
    script = home / "plugin.py"
    script.write_text("print('ran')\n")
    release.sign(script)
    config = {"policy": "require", "trusted_keys": [release.trusted]}
    assert verify(config, command=["python3", str(script)]).content.path == str(script)
    assert verify(
        config, command=["python3", "plugin.py"], working_directory=str(home)
    ).content.path == str(script)
    error = refused(verify, config, command=["python3", "-m", "plugin"])
    assert error.reason == "entry_unknown"
    assert "`entry`" in error.way_out
    assert verify(command=["python3", "-m", "plugin"]) is None
    assert refused(verify, command=["env", "x"], entry="y").reason == "entry_unknown"
    named = verify(config, command=["env", "python3", str(script)], entry=str(script))
    assert named.content.path == str(script)


def test_a_working_directory_that_others_can_write(verify, home):
    place = home / "work"
    place.mkdir()
    place.chmod(0o777)
    keys = {"command": ["python3", "-m", "plugin"], "working_directory": str(place)}
    error = refused(verify, **keys)
    assert (error.reason, error.place) == ("world_writable", str(place))
    place.chmod(0o755)
    assert verify(**keys) is None
    place.rmdir()
    assert verify(**keys) is None, "starting it says best that it is not there"


def test_an_interpreter_that_others_can_write(verify, program, home):
    script = home / "plugin.sh"
    script.write_text("echo ran\n")
    script.chmod(0o644)
    shell = home / "sh"
    shell.write_bytes(b"#!/bin/sh\n")
    shell.chmod(0o777)
    error = refused(verify, command=[str(shell), str(script)])
    assert (error.reason, error.place) == ("world_writable", str(shell))

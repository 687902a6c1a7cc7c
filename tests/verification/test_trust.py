"""Who can have written a file, with real files; and that what is right passes each check."""

import grp
import os
import pwd
import socket

import pytest

from prism.verification import trust
from prism.verification.trust import Trust

STRANGER = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def test_a_plugin_that_is_installed_well_passes(verify, program):
    verdict = verify()
    assert verdict.content.path == str(program)
    assert not verdict.vouched


@pytest.mark.parametrize(
    ("mode", "reason"), [(0o757, "world_writable"), (0o777, "world_writable"), (0o755, None)]
)
def test_the_mode_of_the_file(verify, refused, program, mode, reason):
    program.chmod(mode)
    if reason is None:
        verify()
    else:
        error = refused()
        assert (error.reason, error.place) == (reason, str(program))


@pytest.mark.parametrize(
    ("mode", "reason"), [(0o757, "world_writable"), (0o777, "world_writable"), (0o1777, None)]
)
def test_the_mode_of_a_directory_above(verify, refused, program, home, mode, reason):
    home.chmod(mode)
    if reason is None:
        verify()
    else:
        error = refused()
        assert (error.reason, error.place) == (reason, str(home))


@pytest.fixture
def group_of_many(monkeypatch):
    """The group of the files made here, with another user in it."""
    entry = grp.struct_group(("many", "x", os.getegid(), ["stranger"]))
    stranger = pwd.struct_passwd(("stranger", "x", STRANGER, STRANGER, "", "/", "/bin/sh"))
    monkeypatch.setattr(trust.grp, "getgrgid", lambda _gid: entry)
    monkeypatch.setattr(trust.pwd, "getpwnam", lambda _name: stranger)


@pytest.mark.usefixtures("group_of_many")
def test_a_group_that_can_write(refused, program, home):
    program.chmod(0o775)
    error = refused()
    assert (error.reason, error.place) == ("group_writable", str(program))
    assert "group many" in error.found
    program.chmod(0o755)
    home.chmod(0o775)
    error = refused()
    assert (error.reason, error.place) == ("group_writable", str(home))
    assert error.way_out == f"chmod g-w {home}"


def test_a_user_s_group_of_his_own_may_write(verify, refused, program, monkeypatch):
    entry = grp.struct_group(("mine", "x", os.getegid(), []))
    monkeypatch.setattr(trust.grp, "getgrgid", lambda _gid: entry)
    monkeypatch.setattr(trust.pwd, "getpwall", lambda: [pwd.getpwuid(os.geteuid())])
    program.chmod(0o775)
    verify()
    stranger = pwd.struct_passwd(("s", "x", STRANGER, os.getegid(), "", "/", "/bin/sh"))
    monkeypatch.setattr(trust.pwd, "getpwall", lambda: [stranger])
    assert refused().reason == "group_writable"


def test_a_group_s_bits_mean_more_where_there_is_an_access_list(
    verify, refused, program, monkeypatch
):
    entry = grp.struct_group(("mine", "x", os.getegid(), []))
    monkeypatch.setattr(trust.grp, "getgrgid", lambda _gid: entry)
    monkeypatch.setattr(trust.pwd, "getpwall", list)
    program.chmod(0o775)
    verify()
    monkeypatch.setattr(trust.os, "listxattr", lambda _path: ["system.posix_acl_access"])
    assert refused().reason == "group_writable"


@needs_root
@pytest.mark.parametrize("what", ["file", "directory", "group"])
def test_another_owner(verify, refused, program, home, what):
    if what == "group":
        os.chown(program, -1, 1)  # daemon, which has a member that is not root
        program.chmod(0o775)
        assert refused().reason == "group_writable"
        return
    place = program if what == "file" else home
    os.chown(place, STRANGER, -1)
    error = refused()
    assert (error.reason, error.place) == ("wrong_owner", str(place))
    assert "uid 12345" in error.found
    verify({"trusted_owners": ["nobody-of-this-name", str(STRANGER)]})
    os.chown(place, pwd.getpwnam("daemon").pw_uid, -1)
    verify({"trusted_owners": ["daemon"]})


@needs_root
def test_a_stranger_s_file_in_a_sticky_directory(refused, home):
    home.chmod(0o1777)
    planted = home / "planted"
    planted.write_text("#!/bin/sh\n")
    planted.chmod(0o755)
    os.chown(planted, STRANGER, STRANGER)
    assert refused(command=[str(planted)]).reason == "wrong_owner"


# -- the way to it -----------------------------------------------------------------


def test_links_are_followed_and_what_they_lead_through_is_checked(
    verify, refused, program, home, tmp_path
):
    version = home / "v1"
    version.mkdir()
    version.chmod(0o755)
    program.rename(version / "plugin")
    (home / "current").symlink_to("v1")
    (tmp_path / "run").symlink_to("opt/../opt/current/plugin")
    verdict = verify(command=[str(tmp_path / "run")])
    assert verdict.content.path == str(version / "plugin")
    version.chmod(0o777)
    error = refused(command=[str(tmp_path / "run")])
    assert (error.reason, error.place) == ("world_writable", str(version))


@needs_root
def test_a_stranger_s_link_is_not_followed(refused, program, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(program)
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    error = refused(command=[str(link)])
    assert (error.reason, error.place) == ("wrong_owner", str(link))


def test_links_in_a_circle(refused, home):
    (home / "a").symlink_to("b")
    (home / "b").symlink_to("a")
    assert refused(command=[str(home / "a")]).reason == "symlink"


def test_links_that_grow_without_end(refused, home):
    (home / "a").symlink_to("./a/" + "x/" * 500)
    assert refused(command=[str(home / "a")]).reason == "symlink"


@pytest.mark.parametrize("swapped", ["opt", "opt/plugin"])
def test_a_rename_during_the_walk_leads_nowhere_else(verify, program, home, monkeypatch, swapped):
    """A rename on the way leads to what was checked, or to a refusal; never to the other file."""
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


@pytest.mark.parametrize("kind", ["directory", "pipe", "socket", "device"])
def test_what_is_no_file(refused, home, kind):
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
    error = refused(library=str(place))
    # /dev/null is world-writable as well, and that is seen only once it is opened.
    assert error.reason == "not_regular"
    assert kind in error.found


def test_what_is_not_there(verify, refused, home):
    gone = str(home / "gone")
    assert refused(library=gone).reason == "file_missing"
    assert refused(library=f"{home}/plugin/below").reason == "file_missing"
    assert refused(command=[gone], sha256="0" * 64).reason == "file_missing"
    # Starting it says best that it is not there, and nothing asked what it is.
    assert verify(command=[gone]) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_cannot_be_read(refused, program):
    program.chmod(0o311)
    assert refused().reason == "unreadable"

import grp
import os
import socket
import stat
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from prism.contract.errors import ChannelError
from prism.streams import unix
from prism.streams.errors import LaunchError


@pytest.fixture
def umask():
    previous = os.umask(0o022)
    yield
    os.umask(previous)


@pytest.fixture
def public_directory():
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


async def accepted(listener):
    async with await trio.open_unix_socket(str(listener.path)):
        stream, peer = await listener.accept()
        await stream.aclose()
        return peer


@pytest.mark.usefixtures("umask")
async def test_the_socket_and_its_new_directory_are_private(tmp_path, caplog):
    caplog.set_level("INFO", "prism.channel")
    path = tmp_path / "new" / "deep" / "s"
    listener = unix.listen(path)
    assert f"made the directory {path.parent}, which was not there" in caplog.text
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    peer = await accepted(listener)
    assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
    await listener.aclose()
    assert not path.exists()
    await listener.aclose()


@pytest.mark.usefixtures("umask")
async def test_the_umask_does_not_narrow_the_mode_that_was_asked_for(tmp_path):
    group = grp.getgrgid(os.getegid()).gr_name
    listener = unix.listen(tmp_path / "d" / "s", group=unix.find_group(group), mode=0o660)
    assert (mode(listener.path), mode(tmp_path / "d")) == (0o660, 0o710)
    await listener.aclose()


async def test_a_dead_socket_is_replaced(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listener = unix.listen(path)
    await accepted(listener)
    await listener.aclose()


async def test_a_live_socket_is_left_alone(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(LaunchError, match="another process listens"):
            unix.listen(path)
        async with await trio.open_unix_socket(str(path)):
            pass


def test_a_live_socket_that_nobody_accepts_on_holds_nobody_up(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other, ExitStack() as waiting:
        other.bind(str(path))
        other.listen(0)
        for _ in range(10):  # more than the backlog takes
            connecting = waiting.enter_context(socket.socket(socket.AF_UNIX))
            connecting.setblocking(False)
            connecting.connect_ex(str(path))
        with pytest.raises(LaunchError, match="another process listens"):
            unix.listen(path)


@pytest.mark.parametrize("kind", ["file", "symlink"])
def test_what_is_not_a_socket_is_left_alone(tmp_path, kind):
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LaunchError, match="not a socket"):
        unix.listen(path)
    assert os.path.lexists(path)


async def test_a_second_proxy_is_told_who_holds_the_socket(tmp_path):
    listener = unix.listen(tmp_path / "s")
    with pytest.raises(LaunchError, match=f"another proxy \\(pid {os.getpid()}\\)"):
        unix.listen(tmp_path / "s")
    await accepted(listener)
    await listener.aclose()
    await unix.listen(tmp_path / "s").aclose()


async def test_a_file_that_took_the_sockets_place_is_not_removed(tmp_path, autojump_clock):
    listener = unix.listen(tmp_path / "s")
    assert listener.in_place
    listener.path.unlink()
    listener.path.write_text("somebody else's")
    await listener.wait_removed()
    await listener.aclose()
    assert listener.path.read_text() == "somebody else's"


def test_a_path_the_kernel_does_not_take(tmp_path):
    with pytest.raises(LaunchError, match="at most 107 are possible"):
        unix.listen(tmp_path / ("x" * 108))


@pytest.mark.parametrize("bits", [0o777, 0o770, 0o702])
def test_a_directory_that_others_can_write_is_refused(tmp_path, bits):
    tmp_path.chmod(bits)
    with pytest.raises(LaunchError, match="written by others"):
        unix.listen(tmp_path / "s", group=None)


async def test_a_sticky_directory_is_taken(tmp_path):
    tmp_path.chmod(0o1777)
    await unix.listen(tmp_path / "s").aclose()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda d: (d / "f").write_text(""), "f is not a directory"),
        (lambda d: (d / "f").symlink_to(d / "f"), "cannot use directory"),
    ],
)
def test_a_directory_that_is_none(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(LaunchError, match=message):
        unix.listen(tmp_path / "f" / "s")


async def test_a_directory_that_locks_the_group_out_draws_a_warning(tmp_path, caplog):
    directory = tmp_path / "d"
    directory.mkdir(mode=0o700)
    group = grp.getgrgid(os.getegid()).gr_name
    await unix.listen(directory / "s", group=unix.find_group(group), mode=0o660).aclose()
    (message,) = caplog.messages
    assert message.startswith(f"group {group} cannot enter {directory} (mode 0700): chgrp")
    directory.chmod(0o710)
    caplog.clear()
    await unix.listen(directory / "s", group=unix.find_group(group), mode=0o660).aclose()
    assert caplog.messages == []


def test_an_unknown_group():
    with pytest.raises(LaunchError, match="no group 'nosuchgroup'"):
        unix.find_group("nosuchgroup")


def test_a_failure_after_the_bind_leaves_no_socket(tmp_path, monkeypatch):
    def refuse(*_args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(LaunchError, match="not permitted"):
        unix.listen(tmp_path / "s")
    assert not (tmp_path / "s").exists()


async def test_a_stranger_is_disconnected(tmp_path, monkeypatch):
    listener = unix.listen(tmp_path / "s")
    monkeypatch.setattr(unix, "peer_credentials", lambda _: unix.PeerCredentials(1, 4711, 4711))
    async with await trio.open_unix_socket(str(listener.path)) as client:
        with pytest.raises(ChannelError, match="uid 4711"):
            await listener.accept()
        assert await client.receive_some() == b""
    with pytest.raises(LaunchError, match="uid 4711"):
        await unix.dial(listener.path)
    await listener.aclose()


async def test_a_member_of_the_group_may_talk(tmp_path, monkeypatch):
    group = grp.getgrgid(os.getegid())
    theirs = unix.find_group(group.gr_name)
    listener = unix.listen(tmp_path / "d" / "s", group=theirs, mode=0o660)
    peer = unix.PeerCredentials(1, 4711, group.gr_gid)
    monkeypatch.setattr(unix, "peer_credentials", lambda _: peer)
    assert await accepted(listener) == peer
    peer = unix.PeerCredentials(1, 4711, 4711)
    async with await trio.open_unix_socket(str(listener.path)):
        with pytest.raises(ChannelError, match=f"root and group '{group.gr_name}'"):
            await listener.accept()
    await listener.aclose()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
async def test_another_user_is_refused_by_the_kernels_word(public_directory, monkeypatch):
    monkeypatch.setattr(unix.os, "geteuid", lambda: 12345)
    program = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); os.seteuid(65534);"
        "s.connect(sys.argv[1]); s.recv(1)"
    )
    monkeypatch.setattr(unix, "_prepare_directory", lambda *_: None)
    listener = unix.listen(public_directory / "s", mode=0o666)
    client = await trio.lowlevel.open_process([sys.executable, "-c", program, str(listener.path)])
    with pytest.raises(ChannelError, match="uid 65534"):
        await listener.accept()
    await client.wait()
    await listener.aclose()


async def test_nobody_listens(tmp_path):
    with pytest.raises(LaunchError, match=r"No such file.*is the plugin running\?"):
        await unix.dial(tmp_path / "s")

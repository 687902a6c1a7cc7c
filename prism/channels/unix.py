"""Unix sockets between the proxy and plugins that it did not start.

Who may talk is settled twice. The file system: the socket lies in a directory
that nobody else can write, and has its final mode before it is bound, so that
there is no moment in which others could connect or replace it. The kernel:
``SO_PEERCRED`` names the user at the other end, whatever the file system said.
"""

import errno
import fcntl
import grp
import os
import pwd
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import trio

from prism.contract.exceptions import ChannelError, LaunchError

MAX_PATH = 107
"""Bytes of a path that fit into ``sockaddr_un``, besides its closing zero."""
BACKLOG = 8
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class PeerCredentials:
    """The process at the other end of a Unix socket, as the kernel knows it."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"pid {self.pid}, uid {self.uid}, gid {self.gid}"


def peer_credentials(stream: trio.SocketStream) -> PeerCredentials:
    """Who connected; fixed at the time of the connection."""
    raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return PeerCredentials(*_CREDENTIALS.unpack(raw))


def check_peer(stream: trio.SocketStream, group: str | None) -> PeerCredentials:
    """The peer's credentials, if it may talk to us.

    Allowed are this process's user, root, and the members of ``group``.

    Raises:
        ChannelError: it may not.
    """
    peer = peer_credentials(stream)
    if peer.uid in (os.geteuid(), 0):
        return peer
    if group is not None and _is_member(peer, group):
        return peer
    who = f"this user (uid {os.geteuid()}), root" + (f" and group {group!r}" if group else "")
    raise ChannelError(f"refused a peer with {peer}; allowed are {who}")


def _is_member(peer: PeerCredentials, group: str) -> bool:
    try:
        entry = grp.getgrnam(group)
        name = pwd.getpwuid(peer.uid).pw_name
    except KeyError:
        name = ""
        try:
            entry = grp.getgrnam(group)
        except KeyError:
            return False
    return peer.gid == entry.gr_gid or name in entry.gr_mem


class UnixListener:
    """A socket that plugins dial. Made by :func:`listen`; ``aclose`` removes the file.

    A lock beside the socket keeps a second proxy from taking its place.
    """

    def __init__(self, path: Path, sock: socket.socket, lock: int, group: str | None) -> None:
        self.path = path
        self.group = group
        self._lock = lock
        self._inode = path.stat().st_ino
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))

    async def accept(self) -> tuple[trio.SocketStream, PeerCredentials]:
        """The next plugin that may talk to us.

        Raises:
            ChannelError: somebody else connected; they were disconnected.
        """
        stream = await self._listener.accept()
        try:
            return stream, check_peer(stream, self.group)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    async def aclose(self) -> None:
        """Stop listening; remove the file, if it is still ours."""
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except OSError:
            pass
        os.close(self._lock)
        await self._listener.aclose()


def listen(path: Path, *, group: str | None = None, mode: int = 0o600) -> UnixListener:
    """Bind ``path`` for plugins that dial in.

    A missing directory is made, private. What a dead proxy left behind is
    removed; what somebody else has there is not touched.

    Raises:
        LaunchError: the path cannot be used; the message says why.
    """
    check_path(path)
    _prepare_directory(path.parent, group)
    lock = _lock(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        os.fchmod(sock.fileno(), mode)
        sock.bind(os.fspath(path))
        if group is not None:
            os.chown(path, -1, _group_id(group))
        sock.listen(BACKLOG)
        return UnixListener(path, sock, lock, group)
    except OSError as error:
        sock.close()
        os.close(lock)
        raise LaunchError(f"cannot listen on {path}: {error.strerror or error}") from None
    except LaunchError:
        sock.close()
        os.close(lock)
        raise


async def dial(path: Path, *, group: str | None = None) -> trio.SocketStream:
    """Connect to a plugin that listens on ``path``, and check who it is.

    Raises:
        LaunchError: nobody listens there, or somebody who may not.
    """
    check_path(path)
    try:
        stream = await trio.open_unix_socket(os.fspath(path))
    except OSError as error:
        hint = "is the plugin running?" if error.errno in (errno.ENOENT, errno.ECONNREFUSED) else ""
        reason = error.strerror or str(error)
        raise LaunchError(f"cannot connect to {path}: {reason}. {hint}".strip()) from None
    try:
        check_peer(stream, group)
    except ChannelError as error:
        await trio.aclose_forcefully(stream)
        raise LaunchError(f"{path}: {error}") from None
    return stream


def check_path(path: Path) -> None:
    """Raise LaunchError if ``path`` is longer than the kernel takes."""
    size = len(os.fsencode(path))
    if size > MAX_PATH:
        raise LaunchError(
            f"socket path of {size} bytes, the most is {MAX_PATH}: {path}. Use a shorter directory"
        )


def _prepare_directory(directory: Path, group: str | None) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True)
        if group is not None:
            os.chown(directory, -1, _group_id(group))
            directory.chmod(0o710)
    except FileExistsError:
        pass
    except OSError as error:
        raise LaunchError(f"cannot make directory {directory}: {error.strerror}") from None
    found = directory.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise LaunchError(f"{directory} is not a directory")
    if found.st_uid not in (os.geteuid(), 0):
        raise LaunchError(f"directory {directory} belongs to uid {found.st_uid}, not to this user")
    # The sticky bit (as on /tmp) keeps others from replacing our socket.
    loose = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and group is None)
    if loose and not found.st_mode & stat.S_ISVTX:
        raise LaunchError(
            f"directory {directory} can be written by others "
            f"(mode {stat.S_IMODE(found.st_mode):04o}): chmod 0700 it"
        )


def _group_id(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise LaunchError(f"there is no group {group!r} on this machine") from None


def _lock(path: Path) -> int:
    """Take the lock file beside ``path``; returns its descriptor."""
    name = path.with_name(path.name + ".lock")
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise LaunchError(f"cannot open {name}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(lock, 20).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise LaunchError(f"{path} is in use by another proxy (pid {holder})") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise LaunchError(f"{path} exists and is not a socket; it was left alone")
    if found.st_uid != os.geteuid():
        raise LaunchError(f"{path} belongs to uid {found.st_uid}, not to this user")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise LaunchError(f"{path} is in use: another process listens there")

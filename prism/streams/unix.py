"""Unix sockets between the proxy and plugins that it did not start.

Who may talk is settled twice. The file system: the socket lies in a directory
that nobody else can write, and has its final mode before it is bound, so that
there is no moment in which others could connect or replace it. The kernel:
``SO_PEERCRED`` names the user at the other end, whatever the file system said.
"""

import errno
import fcntl
import grp
import logging
import os
import pwd
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import trio

from prism.contract.errors import ChannelError
from prism.streams.addresses import check_socket_path
from prism.streams.errors import LaunchError

log = logging.getLogger("prism.channel")

BACKLOG = 8
WATCH_INTERVAL = 5.0
"""Seconds between looks whether a listener's file is still there."""
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
    except KeyError:
        return False
    if peer.gid == entry.gr_gid:
        return True
    try:
        return pwd.getpwuid(peer.uid).pw_name in entry.gr_mem
    except KeyError:
        return False


class UnixListener:
    """A socket that plugins dial. Made by :func:`listen`; ``aclose`` removes the file.

    A lock beside the socket keeps a second proxy from taking its place.
    """

    def __init__(self, path: Path, sock: socket.socket, lock: int, group: str | None) -> None:
        self.path = path
        self.group = group
        self._lock = lock
        self._inode = _inode(path)
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))

    async def accept(self) -> tuple[trio.SocketStream, PeerCredentials]:
        """The next plugin that may talk to us.

        Raises:
            ChannelError: somebody else connected, and was disconnected; or the
                kernel could not accept.
        """
        try:
            stream = await self._listener.accept()
        except OSError as error:
            raise ChannelError(f"cannot accept on {self.path}: {error.strerror}") from None
        try:
            return stream, check_peer(stream, self.group)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    @property
    def in_place(self) -> bool:
        """Is the file at ``path`` still this listener's?"""
        return _inode(self.path) == self._inode

    async def wait_removed(self) -> None:
        """Wait until the file is gone or replaced, so that no plugin can find us."""
        while self.in_place:  # noqa: ASYNC110 - nothing else tells
            await trio.sleep(WATCH_INTERVAL)

    async def aclose(self) -> None:
        """Stop listening; remove the file, if it is still ours. Again does nothing."""
        if self._lock >= 0:
            if self.in_place:
                self.path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1
        await self._listener.aclose()


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def listen(path: Path, *, group: str | None = None, mode: int = 0o600) -> UnixListener:
    """Bind ``path`` for plugins that dial in.

    A missing directory is made, private. What a dead proxy left behind is
    removed; what somebody else has there is not touched.

    Raises:
        LaunchError: the path cannot be used; the message says why.
    """
    _check_path(path)
    group_id = _group_id(group) if group is not None else -1
    _prepare_directory(path.parent, group_id)
    lock = _lock(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound = False
    try:
        _remove_stale(path)
        os.fchmod(sock.fileno(), mode)
        sock.bind(os.fspath(path))
        bound = True
        os.chown(path, -1, group_id)
        # bind() took the umask's share; nobody else can have replaced the file.
        path.chmod(mode)
        sock.listen(BACKLOG)
        return UnixListener(path, sock, lock, group)
    except BaseException as error:
        if bound:
            path.unlink(missing_ok=True)
        sock.close()
        os.close(lock)
        if isinstance(error, OSError):
            raise LaunchError(f"cannot listen on {path}: {error.strerror or error}") from None
        raise


async def dial(path: Path, *, group: str | None = None) -> trio.SocketStream:
    """Connect to a plugin that listens on ``path``, and check who it is.

    Raises:
        LaunchError: nobody listens there, or somebody who may not.
    """
    _check_path(path)
    try:
        stream = await trio.open_unix_socket(os.fspath(path))
    except OSError as error:
        absent = error.errno in (errno.ENOENT, errno.ECONNREFUSED)
        hint = "; is the plugin running?" if absent else ""
        raise LaunchError(f"cannot connect to {path}: {error.strerror or error}{hint}") from None
    try:
        check_peer(stream, group)
    except ChannelError as error:
        await trio.aclose_forcefully(stream)
        raise LaunchError(f"{path}: {error}") from None
    return stream


def _check_path(path: Path) -> None:
    try:
        check_socket_path(path)
    except ValueError as error:
        raise LaunchError(f"{error}: {path}. Use a shorter directory") from None


def _prepare_directory(directory: Path, group_id: int) -> None:
    """Make ``directory`` if it is missing; refuse one in which others could put a socket."""
    try:
        try:
            directory.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            pass
        else:
            if group_id >= 0:
                os.chown(directory, -1, group_id)
                directory.chmod(0o710)
        found = directory.stat()
    except OSError as error:
        raise LaunchError(f"cannot use directory {directory}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise LaunchError(f"{directory} is not a directory")
    if found.st_uid not in (os.geteuid(), 0):
        raise LaunchError(f"directory {directory} belongs to uid {found.st_uid}, not to this user")
    # The sticky bit (as on /tmp) keeps others from replacing our socket.
    by_group = found.st_mode & stat.S_IWGRP and found.st_gid != group_id
    if (found.st_mode & stat.S_IWOTH or by_group) and not found.st_mode & stat.S_ISVTX:
        raise LaunchError(
            f"directory {directory} can be written by others "
            f"(mode {stat.S_IMODE(found.st_mode):04o}): chmod 0700 it"
        )
    enters = stat.S_IXOTH | (stat.S_IXGRP if found.st_gid == group_id else 0)
    if group_id >= 0 and not found.st_mode & enters:
        group = grp.getgrgid(group_id).gr_name
        log.warning(
            "group %s cannot enter %s (mode %04o): chgrp %s %s && chmod 0710 %s",
            *(group, directory, stat.S_IMODE(found.st_mode)),
            *(group, directory, directory),
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
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:  # somebody listens, and does not keep up
            pass
        raise LaunchError(f"{path} is in use: another process listens there")

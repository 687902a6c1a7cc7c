"""Unix sockets: pairs handed down to plugins, sockets that plugins dial or listen on, listeners.

Who may talk over a socket with a path is settled twice. The file system: the socket has its
final mode before it is bound, and a plugin's lies in a directory that nobody else can write, so
that there is no moment in which others could connect or replace it. The kernel: ``SO_PEERCRED``
names the user at the other end, whatever the file system said.
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
from typing import NamedTuple

import trio

from prism.contract.errors import ChannelError
from prism.streams.addresses import check_socket_path
from prism.streams.errors import LaunchError, ListenError

SEND_BUFFER = 1024 * 1024
"""Bytes of a plugin's socket, if the system lets us have them: a large message then takes one
round of both processes instead of six."""

log = logging.getLogger("prism.channel")

FD_VARIABLE = "PRISM_PLUGIN_FD"
"""Environment variable that tells a spawned plugin its descriptor's number."""
SOCKET_VARIABLE = "PLUGIN_SOCKET"
"""Environment variable that tells a plugin the path of the proxy's socket (RFC-008's name)."""
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


async def check_peer(stream: trio.SocketStream, group: str | None) -> PeerCredentials:
    """The peer's credentials, if it may talk to us.

    Allowed are this process's user, root, and the members of ``group``, for whom a directory
    service may be asked: in a worker thread. Cancelling leaves ``stream`` open.

    Raises:
        ChannelError: it may not.
    """
    peer = peer_credentials(stream)
    if peer.uid in (os.geteuid(), 0):
        return peer
    if group is not None and await trio.to_thread.run_sync(
        _is_member, peer, group, abandon_on_cancel=True
    ):
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
            return stream, await check_peer(stream, self.group)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    @property
    def in_place(self) -> bool:
        """Is the file at ``path`` still this listener's? Short: sockets lie in file systems of this
        machine, and what is asked of them stands in memory."""
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


class Group(NamedTuple):
    """A group of this machine: who is in it may dial."""

    name: str
    id: int


def find_group(name: str) -> Group:
    """The group; blocks for as long as a directory service takes to say.

    Raises:
        LaunchError: there is none.
    """
    try:
        return Group(name, grp.getgrnam(name).gr_gid)
    except KeyError:
        raise LaunchError(f"there is no group {name!r} on this machine") from None


def listen(path: Path, *, group: Group | None = None, mode: int = 0o600) -> UnixListener:
    """Bind ``path`` for plugins that dial in.

    A missing directory is made, private. What a dead proxy left behind is
    removed; what somebody else has there is not touched.

    Raises:
        LaunchError: the path cannot be used; the message says why.
    """
    _check_path(path)
    _prepare_directory(path.parent, group)
    try:
        lock = lock_socket(path)
        try:
            sock = bind(path, mode=mode, group_id=-1 if group is None else group.id)
            return UnixListener(path, sock, lock, None if group is None else group.name)
        except BaseException:
            os.close(lock)
            raise
    except ListenError as error:
        raise LaunchError(str(error)) from None


def lock_socket(path: Path) -> int:
    """Keep other proxies from binding ``path``, until the descriptor returned is closed.

    Without it two that start together could both find a dead socket, and one remove what
    the other has just put in its place. The file beside the socket stays.

    Raises:
        ListenError: another proxy has it, or the file cannot be made.
    """
    name = path.with_name(path.name + ".lock")
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _refused(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(lock, 20).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise ListenError(
            str(path),
            f"it is in use by another proxy (pid {holder})",
            "that is the process this one is to replace, and a plugin that dials in has one proxy;"
            " use `dial: true`, or a `command` without a `socket`"
            if holder == str(os.getppid())
            else "stop that, or choose another path",
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def bind(path: Path, *, mode: int = 0o600, group_id: int = -1, backlog: int = 8) -> socket.socket:
    """A socket that listens at ``path``, in the place of one on which nobody listens any more.

    The caller holds ``lock_socket(path)``.

    The file never has more rights than ``mode``: the socket has them before it is bound, and
    can be connected to only once it has the group.

    Raises:
        ListenError: with the reason and what to do about it. Nothing is left behind.
    """
    bound = False
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        os.fchmod(sock.fileno(), mode)
        sock.bind(os.fspath(path))
        bound = True
        os.chown(path, -1, group_id)
        path.chmod(mode)  # what the umask has taken
        sock.listen(backlog)
        return sock
    except BaseException as error:
        if bound:
            path.unlink(missing_ok=True)
        sock.close()
        if isinstance(error, OSError):
            raise _refused(path, error) from error
        raise


def _remove_stale(path: Path) -> None:
    """Make way for a socket at ``path``.

    Raises:
        ListenError: somebody needs what is there.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    way_out = "remove it, or choose another path"
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenError(str(path), "there is a file that is not a socket", way_out)
    if found.st_uid != os.geteuid():
        why = f"the socket there belongs to uid {found.st_uid}, not to this user"
        raise ListenError(str(path), why, way_out)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:  # somebody listens, and does not keep up
            pass
    raise ListenError(str(path), "another process listens there", "stop it, or choose another path")


def _refused(path: Path, error: OSError) -> ListenError:
    way_out = "see the reason given"
    if error.errno == errno.ENOENT:
        way_out = f"make the directory {path.parent}"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        way_out = "choose a directory that this user may write"
    return ListenError(str(path), (error.strerror or str(error)).lower(), way_out)


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
        await check_peer(stream, group)
    except BaseException as error:
        await trio.aclose_forcefully(stream)
        if isinstance(error, ChannelError):
            raise LaunchError(f"{path}: {error}") from None
        raise
    return stream


def _check_path(path: Path) -> None:
    try:
        check_socket_path(path)
    except ValueError as error:
        raise LaunchError(f"{error}: {path}. Use a shorter directory") from None


def _prepare_directory(directory: Path, group: Group | None) -> None:
    """Make ``directory`` if it is missing; refuse one in which others could put a socket."""
    try:
        try:
            directory.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            pass
        else:
            log.info("made the directory %s, which was not there", directory)
            if group is not None:
                os.chown(directory, -1, group.id)
                directory.chmod(0o710)
        found = directory.stat()
    except OSError as error:
        raise LaunchError(f"cannot use directory {directory}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise LaunchError(f"{directory} is not a directory")
    if found.st_uid not in (os.geteuid(), 0):
        raise LaunchError(f"directory {directory} belongs to uid {found.st_uid}, not to this user")
    # The sticky bit (as on /tmp) keeps others from replacing our socket.
    is_theirs = group is not None and found.st_gid == group.id
    by_group = found.st_mode & stat.S_IWGRP and not is_theirs
    if (found.st_mode & stat.S_IWOTH or by_group) and not found.st_mode & stat.S_ISVTX:
        raise LaunchError(
            f"directory {directory} can be written by others "
            f"(mode {stat.S_IMODE(found.st_mode):04o}): chmod 0700 it"
        )
    enters = stat.S_IXOTH | (stat.S_IXGRP if is_theirs else 0)
    if group is not None and not found.st_mode & enters:
        log.warning(
            "group %s cannot enter %s (mode %04o): chgrp %s %s && chmod 0710 %s",
            *(group.name, directory, stat.S_IMODE(found.st_mode)),
            *(group.name, directory, directory),
        )


def socket_pair() -> tuple[trio.SocketStream, socket.socket]:
    """The proxy's end as a stream, and the plugin's end to hand down and then close.

    There is no path to squat, guess or delete, and nothing else can connect. When either
    process dies, the other reads end-of-file.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return trio.SocketStream(trio.socket.from_stdlib_socket(ours)), theirs

"""The admin port as a Unix socket: a file that this user alone may open."""

import errno
import os
import socket
import stat
from pathlib import Path

import trio

from prism.streams.errors import ListenError

MODE = 0o600
BACKLOG = 64


def open_unix_listener(path: str) -> trio.SocketListener:
    """Listen at ``path``, in the place of a socket on which nobody listens any more.

    The file is left behind at the end: a successor may be listening on the same socket.

    Raises:
        ListenError: with the reason and what to do about it.
    """
    _make_way(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        Path(path).chmod(MODE)  # nobody can connect before listen, whatever the umask
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _refused(path, error) from error
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _make_way(path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refused(path, error) from error
    way_out = "remove it, or choose another path in admin.address"
    if not stat.S_ISSOCK(status.st_mode):
        raise ListenError(path, "there is a file that is no socket", way_out)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
            return
        except OSError as error:
            raise ListenError(path, str(error.strerror or error).lower(), way_out) from error
    raise ListenError(path, "another process listens there", "stop it, or choose another path")


def _refused(path: str, error: OSError) -> ListenError:
    way_out = "see the reason given"
    if error.errno == errno.ENOENT:
        way_out = f"make the directory {os.path.dirname(path)}"  # noqa: PTH120 - text, not a file
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        way_out = "choose a directory that this user may write"
    return ListenError(path, os.strerror(error.errno or 0).lower(), way_out)

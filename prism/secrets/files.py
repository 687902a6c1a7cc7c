"""Secrets in files: one each, in a directory that Kubernetes or an operator fills.

Kubernetes swaps a whole directory at once: the files are links to ``..data/NAME``, and ``..data``
is a link to a directory with the time in its name. So links are followed, as long as they stay
inside; where one has led is asked of the kernel once the file is open, so that nothing can be
swapped between the check and the reading.
"""

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

MAX_SECRET_BYTES = 64 * 1024
"""The largest secret: a key with its certificate chain fits many times."""

SHORTEST_TOKEN = 16
"""Characters: fewer can be guessed. ``openssl rand -hex 32`` makes a good one."""

# O_NONBLOCK: opening a FIFO must not wait for its writer.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

_log = logging.getLogger(__name__)

OnExposed = Callable[[Path], object]
"""Is told of a file that any user may read."""


def exposed(file: Path) -> str:
    """What to say of a secret's ``file`` that any user may read."""
    return f"any user may read the secret file {file}; chmod it to 0600"


def log_exposed(file: Path) -> None:
    """The log is told of a file that any user may read."""
    _log.warning("%s", exposed(file))


def read_from(directory: Path, name: str, on_exposed: OnExposed = log_exposed) -> str:
    """The secret in the file ``name`` of ``directory``, without newlines at its end.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no file for a secret, lies outside of the directory, or any user may
            change it; says why.
    """
    if "/" in name or name in (".", ".."):
        raise ValueError("its name is no file's")
    at = os.open(directory, _FLAGS | os.O_DIRECTORY)
    try:
        mode = os.fstat(at).st_mode
        # Where it is sticky, as in Kubernetes, nobody can replace what is another's.
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ValueError(f"any user may change the directory {directory}; chmod it to 0700")
        descriptor = os.open(name, _FLAGS, dir_fd=at)
        try:
            if not _path_of(descriptor).is_relative_to(_path_of(at)):
                raise ValueError(f"it is a link out of {directory}")
            content, status = _content(descriptor)
        finally:
            os.close(descriptor)
    finally:
        os.close(at)
    if status.st_mode & stat.S_IWOTH:
        raise ValueError("any user may change it; chmod it to 0600")
    if status.st_mode & stat.S_IROTH:
        on_exposed(directory / name)
    return checked(content)


def read_secret(file: Path, *, private: bool = False, on_exposed: OnExposed = log_exposed) -> str:
    """What is in a secret's file, without newlines at its end.

    ``on_exposed`` is told of a file that any user may read; a ``private`` one is refused, as is
    one that somebody else could have written.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no file for a secret; says why.
    """
    descriptor = os.open(file, _FLAGS)
    try:
        content, status = _content(descriptor)
    finally:
        os.close(descriptor)
    if private:
        _check_private(status)
    elif status.st_mode & stat.S_IROTH:
        on_exposed(file)
    return checked(content)


def read_token(file: Path) -> str:
    """An operator's token, one line of ASCII.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no token, or somebody else's to read; says why.
    """
    token = read_secret(file, private=True)
    if len(token) < SHORTEST_TOKEN:
        raise ValueError(f"it is shorter than {SHORTEST_TOKEN} characters")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ValueError("it is not one line of ASCII without spaces")
    return token


def checked(content: bytes) -> str:
    """What a source has of a secret, as the secret. Raises ValueError if it can be none."""
    if len(content) > MAX_SECRET_BYTES:
        raise ValueError(f"it is larger than {MAX_SECRET_BYTES} bytes")
    try:
        secret = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if not secret:
        raise ValueError("it is empty")
    return secret


def _path_of(descriptor: int) -> Path:
    """Where what is open lies, as the kernel says."""
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def _content(descriptor: int) -> tuple[bytes, os.stat_result]:
    """As much as a secret may have, and one byte."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    with open(descriptor, "rb", closefd=False) as opened:
        return opened.read(MAX_SECRET_BYTES + 1), status


def _check_private(status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise ValueError(
            f"it belongs to uid {status.st_uid}; it must be root's, or the proxy's "
            f"(uid {os.geteuid()})"
        )
    if status.st_mode & (stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
        may = "read" if status.st_mode & stat.S_IROTH else "change"
        raise ValueError(
            f"other users may {may} it (mode {stat.S_IMODE(status.st_mode):04o}); chmod it to 0600"
        )

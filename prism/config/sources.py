"""Where a configuration comes from: a file, which is read and watched.

It is watched by looking at its content every second: that works on every file system, and
through every way of writing one. Editors put a new file in the old one's place, Kubernetes
swaps a symlink two directories up, and network file systems tell nobody.
"""

import hashlib
import os
import stat
from pathlib import Path

import trio

from prism.config.errors import ConfigError, ConfigProblem

MAX_FILE_BYTES = 1024 * 1024
"""The largest configuration file; thousands of namespaces fit."""

INTERVAL = 1.0
"""Seconds between two looks."""


def read_file(path: str | Path, *, guarded: bool = False) -> str:
    """The text of the file. Blocks for as long as the disk takes.

    A ``guarded`` one decides who may call, so it is refused where others may change it, or put
    another in its place.

    Raises:
        ConfigError: it cannot be read, is too large, or is not UTF-8; or others may change it.
    """
    file = str(path)
    try:
        with Path(path).open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
            mode = os.fstat(opened.fileno()).st_mode
        around = [Path(path).absolute().parent, Path(path).resolve().parent]  # of a link, both
        directories = {each: each.stat().st_mode for each in around} if guarded else {}
    except OSError as error:
        raise unusable(file, f"cannot be read: {error.strerror}") from None
    if guarded and is_changeable(mode):
        octal = f"{stat.S_IMODE(mode):04o}"
        raise unusable(file, f"may be changed by other users (mode {octal}); chmod it to 0600")
    for directory, mode in directories.items():
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            why = f"is in {directory}, which any user may change; chmod that to 0755"
            raise unusable(file, why)
    if len(content) > MAX_FILE_BYTES:
        raise unusable(file, f"is larger than {MAX_FILE_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise unusable(file, f"is not UTF-8 text (line {line})") from None


def is_changeable(mode: int) -> bool:
    """Whether others than its owner may write a file with this mode."""
    return mode & (stat.S_IWGRP | stat.S_IWOTH) != 0


def unusable(file: str, why: str) -> ConfigError:
    """The error for a file of which no line can be blamed."""
    return ConfigError([ConfigProblem(file, 0, 0, "", f"the file {why}")])


class FileWatch:
    """Watches ``file`` from now on. One that cannot be read is one that has not changed."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._known = self._look()

    async def changed(self) -> None:
        """Wait until the content is another, and the same at two looks: whole, that is.

        Cancelling leaves the watch as it was: the change is still to be told.
        """
        latest = self._known
        while True:
            await trio.sleep(INTERVAL)
            found = await trio.to_thread.run_sync(self._look, abandon_on_cancel=True)
            before, latest = latest, found
            if latest is not None and latest == before and latest != self._known:
                self._known = latest
                return

    def _look(self) -> bytes | None:
        try:
            with Path(self.file).open("rb") as opened:
                return hashlib.sha256(opened.read(MAX_FILE_BYTES + 1)).digest()
        except OSError:
            return None

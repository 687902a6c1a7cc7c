"""Where a configuration comes from: a file, which is read and watched.

It is watched by looking at its content every second: that works on every file system, and
through every way of writing one. Editors put a new file in the old one's place, Kubernetes
swaps a symlink two directories up, and network file systems tell nobody.
"""

import hashlib
from pathlib import Path

import trio

from prism.config.errors import ConfigError, ConfigProblem

MAX_FILE_BYTES = 1024 * 1024
"""The largest configuration file; thousands of namespaces fit."""

INTERVAL = 1.0
"""Seconds between two looks."""


def read_file(path: str | Path) -> str:
    """The text of the file. Blocks for as long as the disk takes.

    Raises:
        ConfigError: it cannot be read, is too large, or is not UTF-8.
    """
    file = str(path)
    try:
        with Path(path).open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise unusable(file, f"cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise unusable(file, f"is larger than {MAX_FILE_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise unusable(file, f"is not UTF-8 text (line {line})") from None


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

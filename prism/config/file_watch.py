"""Tells when a configuration file has changed.

By looking at its content every second: that works on every file system, and through every
way of writing one. Editors put a new file in the old one's place, Kubernetes swaps a
symlink two directories up, and network file systems tell nobody.
"""

import hashlib
from pathlib import Path

import trio

from prism.config.loading import MAX_FILE_BYTES

INTERVAL = 1.0
"""Seconds between two looks."""


class FileWatch:
    """Watches ``file`` from now on. One that cannot be read is one that has not changed."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._known = self._look()

    async def changed(self) -> None:
        """Wait until the content is another, and the same at two looks: whole, that is."""
        latest = self._known
        while True:
            await trio.sleep(INTERVAL)
            before, latest = latest, await trio.to_thread.run_sync(self._look)
            if latest is not None and latest == before and latest != self._known:
                self._known = latest
                return

    def _look(self) -> bytes | None:
        try:
            with Path(self.file).open("rb") as opened:
                return hashlib.sha256(opened.read(MAX_FILE_BYTES + 1)).digest()
        except OSError:
            return None

"""The file that says which process serves, for scripts and service managers that want one."""

import logging
import os
from contextlib import suppress
from pathlib import Path

from prism.contract.errors import PrismError

log = logging.getLogger("prism.process")


class PidFileError(PrismError):
    """The file cannot be written; the message names it and says why."""


class PidFile:
    """``path`` holds the pid of this process from ``write`` to ``remove``.

    A successor of a rolling restart writes its own when it serves, and from then on the
    file is its own. Readers see the one or the other, never half of it.

    Written and removed on the event loop, which is short: some bytes, in ``/run`` or its like.

    Raises:
        PidFileError: there is no directory for it that this process may write, or the file
            is there and holds something else than a pid.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path).absolute()
        directory = self._path.parent
        if not directory.is_dir():
            raise PidFileError(f"--pid-file {path}: there is no directory {directory}")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PidFileError(f"--pid-file {path}: this user may not write in {directory}")
        if not _is_free(self._path):
            raise PidFileError(
                f"--pid-file {path}: the file holds something else than a pid;"
                " choose another, or remove it"
            )

    def write(self) -> None:
        """This process serves. If the file cannot be written, the log says why."""
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            fresh.write_text(f"{os.getpid()}\n")
            fresh.replace(self._path)
        except OSError as error:
            log.error("the pid file %s cannot be written: %s", self._path, error.strerror)

    def remove(self) -> None:
        """This process ends. A successor's file stays."""
        with suppress(OSError):
            if self._path.read_text() == f"{os.getpid()}\n":
                self._path.unlink()


def _is_free(path: Path) -> bool:
    """Whether nothing is lost when ``path`` is written: it is absent, empty, or holds a pid."""
    if not path.is_file():
        return True  # not there; what is no file is said when it is written
    try:
        with path.open("rb") as opened:
            content = opened.read(32).strip()
    except OSError:
        return False
    return not content or (content.isdigit() and len(content) < 20)

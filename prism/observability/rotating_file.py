"""A file that lines are added to, for a thread that may wait for the disk: the audit log's, and
those of recordings.

A line is written whole or once more from its beginning; a file that somebody else moves is opened
anew; a device, or a pipe, is written to as it is.
"""

import fcntl
import logging
import os
import select
import stat
import time
from pathlib import Path

from prism.observability.audit_reading import is_torn, rotated_files, rotated_name

MAX_WRITE = 64 * 1024
"""Bytes handed to the kernel at a time."""

log = logging.getLogger("prism.files")


def why(error: OSError) -> str:
    """The error in words."""
    return error.strerror or type(error).__name__


class RotatingFile:
    """The file, and its successors; what is added waits until it is written. For one thread.

    From ``rotate_bytes`` on it gets another name, with the time in it; of those ``keep_files`` are
    kept, or all. ``private``: nobody else may read it, also if it was there before.
    """

    def __init__(
        self, path: Path, rotate_bytes: int, keep_files: int | None, *, private: bool = False
    ) -> None:
        self.path = path
        self._private = private
        self._rotate_bytes = rotate_bytes
        self._keep_files = keep_files
        self._descriptor = -1
        self._is_regular = False
        self._unwritten = b""

    def open(self) -> None:
        """Open what ``path`` names now. Raises OSError: it cannot be."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY
        # Without waiting: nobody may read the pipe, or the path may name one by mistake.
        descriptor = os.open(self.path, flags | os.O_NONBLOCK, 0o600)
        try:
            is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            if is_regular:
                if self._private:
                    os.fchmod(descriptor, 0o600)
                os.set_blocking(descriptor, True)
                fcntl.flock(descriptor, fcntl.LOCK_SH)  # tells readers that a process writes
                if is_torn(self.path):  # by a process that was killed
                    self._unwritten = b"\n" + self._unwritten
        except OSError:
            os.close(descriptor)
            raise
        self.close()
        self._descriptor, self._is_regular = descriptor, is_regular

    def add(self, lines: bytes) -> None:
        """Have whole lines written with the next ``write``."""
        self._unwritten += lines

    def write(self) -> None:
        """Write what waits. Raises OSError: not all of it could be; the rest waits on."""
        if self._descriptor < 0 or (self._is_regular and self._was_moved()):
            self.open()
        data = self._unwritten
        position = 0
        try:
            while position < len(data):
                try:
                    position += os.write(self._descriptor, data[position : position + MAX_WRITE])
                except BlockingIOError:  # a pipe, whose reader is slow
                    poll = select.poll()
                    poll.register(self._descriptor, select.POLLOUT)
                    poll.poll()
        finally:
            self._unwritten = rest_after(data, position)

    def _was_moved(self) -> bool:
        """Does the path name another file by now, or none?"""
        ours = os.fstat(self._descriptor)
        try:
            theirs = self.path.stat()
        except FileNotFoundError:
            return True
        return (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino)

    def sync(self) -> None:
        """Have the disk keep what was written."""
        if self._is_regular:
            os.fdatasync(self._descriptor)

    def rotate(self) -> bool:
        """Give the file another name if it is large enough; True if that was done."""
        if not self._is_regular or self._unwritten:
            return False
        try:
            if os.fstat(self._descriptor).st_size < self._rotate_bytes or self._was_moved():
                return False
            self.path.rename(rotated_name(self.path, time.time()))
            old = rotated_files(self.path)
            for each in old[: len(old) - self._keep_files] if self._keep_files is not None else ():
                each.unlink(missing_ok=True)
        except OSError as error:  # the file grows on, which loses nothing
            log.warning("%s cannot be rotated: %s", self.path, why(error))
            return False
        return True

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def rest_after(data: bytes, position: int) -> bytes:
    """What is to be written after ``position`` bytes of ``data`` were: a line that was torn is
    written once more, from the beginning of a new one."""
    if position in (0, len(data)) or data[position - 1 : position] == b"\n":
        return data[position:]
    if data[position : position + 1] == b"\n":
        return data[position:]
    return b"\n" + data[data.rfind(b"\n", 0, position) + 1 :]

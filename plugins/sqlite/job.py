"""A piece of work for a connection, and how to stop it while it runs."""

import resource
import sqlite3
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Generic, NamedTuple, TypeVar

from prism.sdk import PluginError, StatusCode

from .authorizer import Ended
from .connection import Connection

T = TypeVar("T")

INSTRUCTIONS_BETWEEN_CHECKS = 10_000
"""Of SQLite's virtual machine: well under a millisecond, where it calls no functions."""

GROWTH_BYTES = 256 * 1024 * 1024
"""What the process may grow by while a statement runs that SQLite does not bound: others grow
meanwhile, too, and it is far beyond what such a statement could give as a result."""

_PAGE_BYTES = resource.getpagesize()


class JobLimits(NamedTuple):
    """What a job may use: seconds, and bytes that it writes to any file."""

    seconds: float
    written_bytes: int


class Job(Generic[T]):
    """Made in the event loop, run in a worker thread, its outcome taken in the event loop.

    ``limits`` make the job interruptible: it ends soon after ``cancelled`` was set, which any
    thread may do, or after it has used up what it may. Jobs without are short.

    Two ways lead out of SQLite. Its progress handler asks now and then, counted in
    instructions, each of which may be a function that takes milliseconds. So somebody has to
    call ``interrupt_if_due`` meanwhile, from another thread, which is heeded wherever the
    statement loops; it is lost if it comes before the statement begins.
    """

    def __init__(self, work: Callable[[Connection], T], limits: JobLimits | None = None) -> None:
        self.cancelled = False
        self.error: Exception | None = None
        self._work = work
        self._limits = limits
        self._ends_at = 0.0
        self._thread = 0
        self._before: tuple[int, int] | None = None  # written, and in memory, at the first look
        self._result: list[T] = []
        self._running: Connection | None = None
        self._interrupted: PluginError | None = None  # why
        self._lock = threading.Lock()  # an interrupt must not meet the next job's statements

    @property
    def interruptible(self) -> bool:
        """Whether setting ``cancelled`` ends the job while it runs."""
        return self._limits is not None

    def run(self, connection: Connection) -> None:
        """Do the work; errors are kept for ``outcome``. A second run replaces the first."""
        try:
            self.error = None
            self._result = [self._run(connection)]
        except Exception as error:
            self.error = error
            self._result.clear()
            _forget_locals(error)

    def outcome(self) -> T:
        """What the work returned; raises what it raised."""
        if self.error is not None:
            raise self.error
        return self._result[0]

    def interrupt_if_due(self) -> None:
        """Interrupt the job if it runs, in another thread, and should not any more."""
        with self._lock:
            if self._running is None:
                return
            self._interrupted = self._interrupted or self._overdue()
            if self._interrupted is not None:
                self._running.interrupt()

    def _run(self, connection: Connection) -> T:
        if self.cancelled:
            raise _cancelled()
        if self._limits is None:
            return self._work(connection)
        self._thread = threading.get_native_id()
        self._before = None
        self._ends_at = monotonic() + self._limits.seconds
        connection.set_progress_handler(self._must_end, INSTRUCTIONS_BETWEEN_CHECKS)
        connection.authorizer.must_end = self._must_end
        self._interrupted = None
        self._running = connection
        try:
            return self._work(connection)
        except (sqlite3.OperationalError, Ended) as error:
            if getattr(error, "sqlite_errorcode", None) not in (None, sqlite3.SQLITE_INTERRUPT):
                raise
            raise (self._interrupted or self._overdue() or _cancelled()) from error
        finally:
            with self._lock:
                self._running = None
            connection.set_progress_handler(None, 0)
            connection.authorizer.must_end = _never

    def _must_end(self) -> bool:
        return self.cancelled or monotonic() > self._ends_at

    def _overdue(self) -> PluginError | None:
        """Why the job has to end."""
        if self.cancelled:
            return _cancelled()
        if self._limits is None:
            return None
        if monotonic() > self._ends_at:
            return PluginError(
                StatusCode.DEADLINE_EXCEEDED,
                f"the statement ran for {self._limits.seconds:g} s, "
                "the limit of sql_timeout_seconds",
            )
        return self._used_up(self._limits.written_bytes)

    def _used_up(self, most_written: int) -> PluginError | None:
        written, memory = _written(self._thread), _memory()
        if self._before is None:
            self._before = written, memory
        if written - self._before[0] > most_written:
            return PluginError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"the statement wrote more than {most_written} bytes to disk, "
                "the limit of max_sql_write_bytes: sort or change less at a time, or add an index",
            )
        grows = self._running is not None and self._running.grows
        if grows and memory - self._before[1] > GROWTH_BYTES:
            return PluginError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"the statement took more than {GROWTH_BYTES} bytes of memory: "
                "group fewer rows with json_group_array or json_group_object",
            )
        return None


def _forget_locals(error: BaseException | None) -> None:
    """What the work had read so far is not to live as long as its error, which refers to it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _written(thread: int) -> int:
    """What a thread has written to files so far; 0 where the kernel does not tell."""
    try:
        counters = Path(f"/proc/self/task/{thread}/io").read_bytes()
    except OSError:
        return 0
    _, _, after = counters.partition(b"wchar: ")
    return int(after.split(b"\n", 1)[0] or 0)


def _memory() -> int:
    """What the process holds in memory, in bytes; 0 where the kernel does not tell."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _never() -> bool:
    return False


def _cancelled() -> PluginError:
    return PluginError(StatusCode.CANCELLED, "the call was cancelled")

"""A piece of work for a connection, and how to stop it while it runs."""

import sqlite3
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

from prism.sdk import PluginError, StatusCode

from .connection import Connection

T = TypeVar("T")

INSTRUCTIONS_BETWEEN_CHECKS = 10_000
"""Of SQLite's virtual machine: well under a millisecond."""


class Job(Generic[T]):
    """Made in the event loop, run in a worker thread, its outcome taken in the event loop.

    ``time_limit`` in seconds makes the job interruptible: it also ends soon
    after ``cancelled`` was set, which any thread may do. Jobs without a limit
    are short.
    """

    def __init__(self, work: Callable[[Connection], T], time_limit: float | None = None) -> None:
        self.cancelled = False
        self.error: Exception | None = None
        self._work = work
        self._time_limit = time_limit
        self._ends_at = 0.0
        self._result: list[T] = []

    @property
    def interruptible(self) -> bool:
        """Whether setting ``cancelled`` ends the job while it runs."""
        return self._time_limit is not None

    def run(self, connection: Connection) -> None:
        """Do the work; errors are kept for ``outcome``. A second run replaces the first."""
        try:
            self.error = None
            self._result = [self._run(connection)]
        except Exception as error:
            self.error = error

    def outcome(self) -> T:
        """What the work returned; raises what it raised."""
        if self.error is not None:
            raise self.error
        return self._result[0]

    def _run(self, connection: Connection) -> T:
        if self.cancelled:
            raise PluginError(StatusCode.CANCELLED, "the call was cancelled")
        if self._time_limit is None:
            return self._work(connection)
        self._ends_at = monotonic() + self._time_limit
        connection.set_progress_handler(self._must_end, INSTRUCTIONS_BETWEEN_CHECKS)
        try:
            return self._work(connection)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            if self.cancelled:
                raise PluginError(StatusCode.CANCELLED, "the call was cancelled") from error
            raise PluginError(
                StatusCode.DEADLINE_EXCEEDED,
                f"the statement ran for {self._time_limit:g} s, the limit of sql_timeout_seconds",
            ) from error
        finally:
            connection.set_progress_handler(None, 0)

    def _must_end(self) -> bool:
        return self.cancelled or monotonic() > self._ends_at

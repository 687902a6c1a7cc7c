"""Which connection does what, and in which thread.

One connection writes, in batches that share a commit. One answers short reads,
in batches too, because the hop to a thread costs more than the read. A pool of
``readers`` connections runs what may take long: scans and clients' queries. In
memory there is a single connection, and everything takes the writer's way.
"""

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import anyio

from prism.sdk import PluginError, StatusCode

from .batching import Batcher, run_interruptible
from .config import SQLiteConfig
from .connection import Connection, open_reader, open_writer
from .errors import DATABASE_ERRORS, translate, translate_at_start
from .job import Job, JobLimits
from .transaction import commit_together, read_together

T = TypeVar("T")
Work = Callable[[Connection], T]

SWEEP_INTERVAL_SECONDS = 1.0


class Database:
    """An open database. What SQLite reports is raised as ``PluginError``."""

    def __init__(self, config: SQLiteConfig, sweep: Callable[[Connection], bool]) -> None:
        """Open the file; blocks. ``sweep`` removes some expired rows, True while more remain.

        Raises:
            PluginError: it cannot be opened.
        """
        self.path = config.path
        self.commits = 0
        self._limits = JobLimits(config.sql_timeout_seconds, config.max_sql_write_bytes)
        self._in_memory = config.in_memory
        self.sweep = sweep
        self._sweep_at = 0.0
        self._closing = False
        self._next_commit: anyio.Event | None = None
        self._has_changed = False  # and those who wait for it have not been told
        self._long: set[Job[Any]] = set()  # running, to be interrupted by close
        self._readers = config.readers
        self._pool: list[Connection] = []
        self._connections: list[Connection] = []
        try:
            self._writer = self._opened(open_writer(config))
            if not self._in_memory:
                self._reader = self._opened(open_reader(config))
                self._pool = [self._opened(open_reader(config)) for _ in range(config.readers)]
                self._inode = Path(config.path).stat().st_ino
        except BaseException as error:
            refusal = _refusal(error, self.path)  # while what is open still shows why
            for connection in self._connections:
                connection.close()
            if refusal is None:
                raise
            raise refusal from error
        limiter = anyio.CapacityLimiter(config.readers + 2)
        self._limiter = limiter
        self._pool_slots = anyio.CapacityLimiter(config.readers)
        self._writes = Batcher(self._run_writes, limiter)
        self._reads = self._writes if self._in_memory else Batcher(self._run_reads, limiter)

    async def write(self, work: Work[T], *, may_take_long: bool = False) -> T:
        """Run work in a write transaction; on return it is committed and synced.

        Cancelled before its batch began it never runs; later, it may be committed.
        """
        if may_take_long:
            try:
                return await self._run_long(self._writes.run, work)
            finally:
                self._announce_commit()
        job = Job(work)
        await self._writes.run(job)
        self._announce_commit()
        return self._outcome(job)

    def next_commit(self) -> anyio.Event:
        """Set when something has been changed through this object, after now.

        Take it before reading what is to be newer than the reading. A write that changes
        nothing does not set it: those who look by writing would wake each other for ever.
        """
        if self._next_commit is None:
            self._next_commit = anyio.Event()
        return self._next_commit

    def _announce_commit(self) -> None:
        if not self._has_changed:
            return
        self._has_changed = False
        committed, self._next_commit = self._next_commit, None
        if committed is not None:
            committed.set()

    async def read(self, work: Work[T]) -> T:
        """Run a short read on a snapshot that has every write answered before."""
        job = Job(work)
        await self._reads.run(job)
        return self._outcome(job)

    async def read_long(self, work: Work[T]) -> T:
        """Run a read that may take long; cancelling interrupts it."""
        return await self._run_long(
            self._writes.run if self._in_memory else self._run_in_pool, work
        )

    async def close(self) -> None:
        """Interrupt what may take long, wait for what is short, close every connection.

        Cancelling leaves some connections open, for the end of the process to close.
        """
        self._closing = True
        for job in self._long:
            job.cancelled = True
        if not self._in_memory:
            for slot in range(self._readers):
                await self._pool_slots.acquire_on_behalf_of(slot)
            for connection in self._pool:
                connection.close()
            for slot in range(self._readers):
                self._pool_slots.release_on_behalf_of(slot)
            await self._reads.run(Job(lambda _: None))
        await self._writes.run(Job(lambda _: None))

    @property
    def readers_active(self) -> int:
        """Pooled connections in use now."""
        return self._pool_slots.borrowed_tokens

    @property
    def readers_idle(self) -> int:
        """Pooled connections not in use now."""
        return len(self._pool)

    async def check(self) -> str:
        """Read something; returns what is wrong, or ""."""
        await self.read(lambda connection: connection.execute("SELECT 1").fetchone())
        return await anyio.to_thread.run_sync(self._file_problem, limiter=self._limiter)

    async def _run_in_pool(self, job: Job[Any]) -> None:
        async with self._pool_slots:
            connection = self._pool.pop()
            try:
                await run_interruptible(
                    job, lambda jobs: read_together(connection, jobs), [job], self._limiter
                )
            finally:
                self._pool.append(connection)

    async def _run_long(self, run: Callable[[Job[T]], Awaitable[None]], work: Work[T]) -> T:
        job = Job(work, self._limits)
        self._long.add(job)
        try:
            await run(job)
        finally:
            self._long.discard(job)
        return self._outcome(job)

    def _file_problem(self) -> str:
        if self._in_memory:
            return ""
        try:
            replaced = Path(self.path).stat().st_ino != self._inode
        except OSError as error:
            return f"the file {self.path!r} is gone: {error.strerror}"
        return f"the file {self.path!r} was replaced; reload the namespace" if replaced else ""

    def _run_writes(self, jobs: list[Job[Any]]) -> int:
        sweeps = monotonic() >= self._sweep_at
        if sweeps:  # first: a batch with large results does not come to its end
            jobs = [Job(self._sweep_some), *jobs]
        changes = self._count_changes()
        ran = commit_together(self._writer, jobs)
        self.commits += 1
        if self._count_changes() != changes:
            self._has_changed = True
        if self._closing and ran == len(jobs):
            self._writer.close()
        return ran - sweeps

    def _count_changes(self) -> int:
        try:
            return self._writer.total_changes
        except sqlite3.ProgrammingError:  # closed; the jobs find out as well
            return 0

    def _run_reads(self, jobs: list[Job[Any]]) -> int:
        ran = read_together(self._reader, jobs)
        if self._closing and ran == len(jobs):
            self._reader.close()
        return ran

    def _sweep_some(self, connection: Connection) -> None:
        if not self.sweep(connection):
            self._sweep_at = monotonic() + SWEEP_INTERVAL_SECONDS

    def _outcome(self, job: Job[T]) -> T:
        try:
            return job.outcome()
        except DATABASE_ERRORS as error:
            raise translate(error) from error

    def _opened(self, connection: Connection) -> Connection:
        self._connections.append(connection)
        return connection


def _refusal(error: BaseException, path: str) -> PluginError | None:
    if isinstance(error, DATABASE_ERRORS):
        return translate_at_start(error, path)
    if isinstance(error, OSError):
        detail = f"config.path {path!r}: {error.strerror}"
        return PluginError(StatusCode.FAILED_PRECONDITION, detail)
    return None

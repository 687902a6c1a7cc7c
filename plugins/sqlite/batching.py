"""Many callers, one thread: work that arrives while a batch runs forms the next batch.

Theory of operation (leader and followers). Nobody owns a background task. The
first caller leads: it takes everything that waits, its own job first, and runs
it in a worker thread. Those who come meanwhile wait. When the batch is done,
the leader wakes its followers, which find their outcome, and makes the first of
those still waiting the next leader. So the batch grows with the load, and an
idle batcher costs one hop to a thread.

A batch whose results are large ends early (see ``transaction``). Its rest goes back to the
head of those who wait, and is the next batch: that begins when the event loop has woken its
leader, which it does together with those who take the results. So there are never more
results than two batches make, however far the event loop is behind.

Cancellation. A leader is shielded while its batch runs, because other callers'
jobs are in it. A follower leaves at once: before its batch began its job never
runs; after that it does, and only the outcome is lost.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from .job import Job

MAX_BATCH = 128
"""Bounds the time a batch takes, and with it the wait of those behind it."""

LOOK_AGAIN_SECONDS = 0.05
"""Between two looks whether a running job has to end: a disk takes some tens of MB meanwhile."""


class _Turn:
    __slots__ = ("done", "job", "leads", "left", "woken")

    def __init__(self, job: Job[Any]) -> None:
        self.job = job
        self.woken: anyio.Event | None = None
        self.leads = False
        self.done = False
        self.left = False


class Batcher:
    """Runs jobs in batches: ``run_batch`` gets each batch, in a worker thread.

    It returns how many of them it ran, from the first on and at least one; the others are in
    the next batch. It must not raise; outcomes, errors too, are kept in the jobs.
    """

    def __init__(
        self, run_batch: Callable[[list[Job[Any]]], int], limiter: anyio.CapacityLimiter
    ) -> None:
        self._run_batch = run_batch
        self._limiter = limiter
        self._waiting: deque[_Turn] = deque()
        self._led = False

    async def run(self, job: Job[Any]) -> None:
        """Run a job in some batch; returns when its batch is done.

        Cancelling sets ``job.cancelled``; see the top of this file.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        turn = _Turn(job)
        self._waiting.append(turn)
        if self._led:
            await self._follow(turn)
        if not turn.done:
            self._led = True
            await self._lead(turn)

    async def _follow(self, turn: _Turn) -> None:
        turn.woken = anyio.Event()
        try:
            await turn.woken.wait()
        except BaseException:
            turn.job.cancelled = True
            turn.left = True
            if turn in self._waiting:
                self._waiting.remove(turn)
                if turn.leads:
                    self._name_next_leader()
            raise

    async def _lead(self, turn: _Turn) -> None:
        count = min(len(self._waiting), MAX_BATCH)
        batch = [self._waiting.popleft() for _ in range(count)]
        jobs = [member.job for member in batch]
        ran = count

        def run_batch(jobs: list[Job[Any]]) -> None:
            nonlocal ran
            ran = self._run_batch(jobs)

        try:
            if any(job.interruptible for job in jobs):
                await run_interruptible(turn.job, run_batch, jobs, self._limiter)
            else:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(run_batch, jobs, limiter=self._limiter)
        finally:
            if ran < count:
                rest = [member for member in batch[ran:] if not member.left]
                self._waiting.extendleft(reversed(rest))
            for member in batch[:ran]:
                member.done = True
                if member.woken is not None:
                    member.woken.set()
            self._name_next_leader()

    def _name_next_leader(self) -> None:
        self._led = bool(self._waiting)
        if self._waiting:
            following = self._waiting[0]
            following.leads = True
            if following.woken is not None:
                following.woken.set()


async def run_interruptible(
    job: Job[Any],
    function: Callable[[list[Job[Any]]], object],
    jobs: list[Job[Any]],
    limiter: anyio.CapacityLimiter,
) -> None:
    """Run ``function(jobs)`` in a worker thread, and interrupt those of them that are due.

    When cancelled, ``job`` is. Waits for the thread in any case: it is using a connection.
    """
    done = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(_interrupt, job, jobs, done)
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(function, jobs, limiter=limiter)
            finally:
                done.set()
    await anyio.lowlevel.checkpoint_if_cancelled()  # asyncio's group does not raise it


async def _interrupt(job: Job[Any], jobs: list[Job[Any]], done: anyio.Event) -> None:
    """Interrupt those of ``jobs`` that are due, until ``done``; once cancelled, ``job`` is."""
    try:
        await _look_after(jobs, done)
    except BaseException:
        job.cancelled = True
        job.interrupt_if_due()
        with anyio.CancelScope(shield=True):
            await _look_after(jobs, done)
        raise


async def _look_after(jobs: list[Job[Any]], done: anyio.Event) -> None:
    while not done.is_set():
        with anyio.move_on_after(LOOK_AGAIN_SECONDS) as waiting:
            await done.wait()
        if waiting.cancelled_caught:
            for job in jobs:
                job.interrupt_if_due()

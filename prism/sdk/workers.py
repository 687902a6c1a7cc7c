"""Tasks that run a session's calls, kept and reused: starting one costs more than most calls.

A worker that takes a call first wakes another if more calls wait, so that none of
them depends on this one; a call that never has to wait is thus answered at the
price of a function call, and one that does holds up nobody. A worker whose
handler left a context variable changed takes no further calls, so that every
call starts with the session's own context.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context

import anyio
from anyio.abc import TaskGroup

from prism.wire.events import Open

MAX_IDLE_WORKERS = 64
"""Workers kept for the next calls; more are started when needed, and end after."""
CALLS_BEFORE_PAUSE = 16
"""Calls after which the reader and the writer get a turn: the host can work on
the first answers while the rest of a burst is still being made."""


class Workers:
    """Runs each call that is added in a task of ``tasks``; ``run`` must not raise."""

    def __init__(self, tasks: TaskGroup, run: Callable[[Open], Awaitable[None]]) -> None:
        self._tasks = tasks
        self._run = run
        self._waiting: deque[Open] = deque()
        self._idle: list[anyio.Event] = []
        self._context = copy_context()
        self._one_is_coming = False
        self._since_pause = 0

    def add(self, call: Open) -> None:
        """Have a worker run ``call``; returns at once."""
        self._waiting.append(call)
        self._wake_one()

    def _wake_one(self) -> None:
        if self._one_is_coming:
            return
        self._one_is_coming = True
        if self._idle:
            self._idle.pop().set()
        else:
            self._context.run(self._tasks.start_soon, self._work)

    async def _work(self) -> None:
        waiting = self._waiting
        context = copy_context()
        while True:
            self._one_is_coming = False
            while waiting:
                call = waiting.popleft()
                if waiting:
                    self._wake_one()
                await self._run(call)
                if copy_context() != context:
                    return
                self._since_pause += 1
                if self._since_pause >= CALLS_BEFORE_PAUSE:
                    self._since_pause = 0
                    await anyio.lowlevel.checkpoint()
            if len(self._idle) >= MAX_IDLE_WORKERS:
                return
            wake = anyio.Event()
            self._idle.append(wake)
            await wake.wait()

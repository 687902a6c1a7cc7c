"""Tasks kept for reuse: starting one costs more than most of what is done in one."""

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import Any

import trio

log = logging.getLogger("prism.tasks")

MAX_IDLE = 64
"""Tasks that a pool keeps waiting for work, if it is not told otherwise."""

Work = Callable[..., Awaitable[object]]


class TaskPool:
    """Runs work in tasks of ``nursery``, each in a cancel scope of its own.

    Work must deal with its own failures: an ``Exception`` that leaves it is a bug, which is
    logged, and costs nothing but that piece of work. ``max_idle`` tasks are kept waiting for
    more; others end, so with 0 the nursery ends when all work has.
    """

    def __init__(self, nursery: trio.Nursery, max_idle: int = MAX_IDLE) -> None:
        self._nursery = nursery
        self._max_idle = max_idle
        self._waiting: deque[tuple[trio.CancelScope, Work, tuple[Any, ...]]] = deque()
        self._idle: list[trio.lowlevel.Task] = []

    def start(self, work: Work, *arguments: object) -> trio.CancelScope:
        """Have ``work`` run soon; returns the scope that ends it, if it is cancelled.

        Work that is cancelled before it runs still begins, and meets the cancellation where
        it first waits.
        """
        scope = trio.CancelScope()
        self._waiting.append((scope, work, arguments))
        if self._idle:
            trio.lowlevel.reschedule(self._idle.pop())
        else:
            # Not in the context of who starts it: the task is others' next.
            Context().run(partial(self._nursery.start_soon, self._run, name="a pooled task"))
        return scope

    async def _run(self) -> None:
        while True:
            while self._waiting:
                scope, work, arguments = self._waiting.popleft()
                with scope:
                    try:
                        await work(*arguments)
                    except Exception:
                        log.exception("bug in %s", getattr(work, "__qualname__", work))
            if len(self._idle) >= self._max_idle:
                return
            task = trio.lowlevel.current_task()
            self._idle.append(task)

            def abort(_: object, task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                self._idle.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)

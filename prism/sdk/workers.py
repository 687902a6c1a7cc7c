"""Tasks that run a session's calls, kept and reused: starting one costs more than most calls.

A worker that takes a call first wakes another if more calls wait, so that none of
them depends on this one; a call that never has to wait is thus answered at the
price of a function call, and one that does holds up nobody. Its cancel scope serves
for the next call as well, until one was cancelled in it. A worker whose
handler left a context variable changed takes no further calls, so that every
call starts with the session's own context.
"""

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context

import anyio
from anyio.abc import TaskGroup

from prism.sdk.scopes import Scope
from prism.wire.events import Open

log = logging.getLogger("prism.sdk")

MAX_IDLE_WORKERS = 64
"""Workers kept for the next calls; more are started when needed, and end after."""
CALLS_BEFORE_PAUSE = 16
"""Calls after which the reader and the writer get a turn: the host can work on
the first answers while the rest of a burst is still being made."""


class UnaryCall:
    """A call that waits for a worker, or runs. ``deadline`` is on the event loop's clock."""

    __slots__ = ("_scope", "cancelled", "deadline", "opened")

    def __init__(self, opened: Open, deadline: float) -> None:
        self.opened = opened
        self.deadline = deadline
        self.cancelled = False
        self._scope: Scope | None = None

    def begin(self, scope: Scope) -> None:
        """It runs now, in ``scope``."""
        self._scope = scope
        if self.deadline != math.inf:
            scope.deadline = self.deadline

    def end(self) -> None:
        """It runs no more: the scope is the next one's."""
        if self._scope is not None and self.deadline != math.inf:
            self._scope.deadline = math.inf
        self._scope = None

    def cancel(self) -> None:
        """Nobody waits for its answer."""
        self.cancelled = True
        if self._scope is not None:
            self._scope.cancel()


class Workers:
    """Runs each call that is added in a task of ``tasks``, in a scope that ``new_scope`` makes.

    ``run`` must not raise, except for the scope's cancellation.
    """

    def __init__(
        self,
        tasks: TaskGroup,
        run: Callable[[UnaryCall, Scope], Awaitable[None]],
        new_scope: Callable[[], Scope],
    ) -> None:
        self._tasks = tasks
        self._run = run
        self._new_scope = new_scope
        self._waiting: deque[UnaryCall] = deque()
        self._idle: list[anyio.Event] = []
        self._context = copy_context()
        self._one_is_coming = False
        self._since_pause = 0

    def add(self, call: UnaryCall) -> None:
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
        context = copy_context()
        goes_on = True
        while goes_on:
            scope = self._new_scope()
            try:
                with scope:
                    goes_on = await self._take_calls(scope, context)
            except Exception:
                # What came beside a cancellation, in one group; the call has its answer.
                log.exception("a cancelled call failed as well")
            goes_on = goes_on and copy_context() == context

    async def _take_calls(self, scope: Scope, context: Context) -> bool:
        """Run calls until ``scope`` is used up; False if this worker is to end."""
        waiting = self._waiting
        while True:
            self._one_is_coming = False
            while waiting:
                call = waiting.popleft()
                if waiting:
                    self._wake_one()
                await self._run(call, scope)
                if copy_context() != context:
                    return False
                if scope.cancel_called:
                    return True
                self._since_pause += 1
                if self._since_pause >= CALLS_BEFORE_PAUSE:
                    self._since_pause = 0
                    await anyio.lowlevel.checkpoint()
            if len(self._idle) >= MAX_IDLE_WORKERS:
                return False
            wake = anyio.Event()
            self._idle.append(wake)
            await wake.wait()

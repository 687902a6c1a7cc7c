"""The tasks of a session, which take turns at reading and run what they read.

Theory of operation. Handing each call to a task of its own costs more than most calls. So
the task that reads begins a call itself, as soon as it is read, and one that never waits is
answered at the price of a function call. A call that does wait keeps its task; the reading
goes on in another one (known as "leader and followers"). A call thus begins and ends in one
task, and what belongs to a task is right for all of it: cancel scopes, deadlines, context
variables, locks, ``asyncio.current_task``.

Each worker has one cancel scope, which serves call after call until one was cancelled in
it. A worker whose handler left a context variable changed takes no further calls, so that
every call starts with the session's own context.
"""

import asyncio
import logging
import math
import sys
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import copy_context
from types import TracebackType
from typing import Any, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup

from prism.sdk.plugin import is_fault

T = TypeVar("T")

log = logging.getLogger("prism.sdk")

TURN = 0.0005
"""Seconds that one task may run on before the others get a turn, if there is more to do: the
host can work on the first answers, and calls that waited can go on."""
MAX_IDLE_WORKERS = 64
"""Workers kept for their next turn; more are started when needed, and end after."""


class Scope(Protocol):
    """A cancel scope: anyio's, or trio's own."""

    deadline: float

    @property
    def cancel_called(self) -> bool: ...

    def cancel(self) -> None: ...

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...


def event_loop() -> tuple[Callable[..., Scope], Callable[[], float]]:
    """What makes cancel scopes on the event loop that runs here, and its clock.

    They are the loop's own where anyio's would be the same, at twice the price.
    """
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return trio.CancelScope, trio.lowlevel.current_clock().current_time
    return anyio.CancelScope, asyncio.get_running_loop().time


@types.coroutine
def await_rest(coroutine: Coroutine[Any, Any, T], wait: object) -> Generator[Any, Any, T]:
    """Await a coroutine that was begun by ``send`` and has answered ``wait``.

    What ``await`` does from the beginning, this does from the first wait on (PEP 380):
    the event loop gets what the coroutine asks of it, and the coroutine its answers. It must
    be awaited in the task that began the coroutine, which may have registered itself already.
    """
    while True:
        error = None
        try:
            answer = yield wait
        except BaseException as raised:
            error = raised
        try:
            wait = coroutine.send(answer) if error is None else coroutine.throw(error)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            del error  # whose traceback has this frame


class Worker:
    """One of the tasks. ``reads``: it is this one's turn to read.

    ``spent``: its scope was cancelled, and serves no further call.
    """

    __slots__ = ("_context", "deadline", "reads", "scope", "spent", "turn")

    def __init__(self) -> None:
        self.reads = True
        self.turn: anyio.Event

    def begin(self) -> None:
        """Its task has begun."""
        self._context = copy_context()

    def use(self, scope: Scope) -> Scope:
        """Run calls in this scope, which has no deadline, from now on."""
        self.scope = scope
        self.deadline = math.inf
        self.spent = False
        return scope

    def set_deadline(self, deadline: float) -> None:
        """Have the scope cancelled then. Setting it costs the event loop as much as a whole
        call, and most calls of a burst have the same."""
        if deadline != self.deadline:
            self.deadline = self.scope.deadline = deadline
            self.spent = self.scope.cancel_called

    def call_ended(self) -> None:
        """A call that had to wait is over; it may have been cancelled."""
        self.set_deadline(math.inf)
        self.spent = self.scope.cancel_called

    @property
    def has_own_context(self) -> bool:
        """Has a call left a context variable changed?"""
        return copy_context() != self._context


class Workers:
    """Has one task of ``tasks`` at a time ``read``.

    ``read`` returns when its worker has passed the reading on and run its call to the end,
    and when the worker can run no more: ``spent``, or with a context of its own.
    """

    def __init__(
        self,
        tasks: TaskGroup,
        read: Callable[[Worker], Awaitable[None]],
        new_scope: Callable[[], Scope],
    ) -> None:
        self._tasks = tasks
        self._read = read
        self._new_scope = new_scope
        self._idle: list[Worker] = []
        self._context = copy_context()
        self._coming: Worker | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin to read."""
        self._coming = Worker()
        self._context.run(self._tasks.start_soon, self._work, self._coming)

    def pass_on(self, reader: Worker) -> None:
        """Let another worker read in the place of this one."""
        reader.reads = False
        if self._coming is not None:
            self._coming.reads = True
        elif self._idle:
            self._coming = self._idle.pop()
            self._coming.reads = True
            self._coming.turn.set()
        else:
            self.start()

    def take_over(self, worker: Worker) -> None:
        """Let this worker, which runs, read in the place of one that has yet to wake up."""
        if self._coming is not None:
            self._coming.reads = False
            worker.reads = True

    def stop(self) -> None:
        """Read no more, and cancel the calls that wait."""
        self._stopped = True
        self._tasks.cancel_scope.cancel()

    async def _work(self, worker: Worker) -> None:
        worker.begin()
        goes_on = True
        try:
            while goes_on and not self._stopped:
                try:
                    with worker.use(self._new_scope()):
                        goes_on = await self._take_turns(worker)
                except BaseException as error:
                    if not (worker.scope.cancel_called and is_fault(error)):
                        raise
                    # What came beside a cancellation, in one group; the call has its answer.
                    log.exception("a cancelled call failed as well")
                goes_on = goes_on and not worker.has_own_context
        except anyio.get_cancelled_exc_class():
            if anyio.current_effective_deadline() == -math.inf:
                raise  # all are cancelled
            # On asyncio a plugin can cancel a task that it finds itself in.
            if worker in self._idle:
                self._idle.remove(worker)
        if worker.reads and not self._stopped:
            self.pass_on(worker)

    async def _take_turns(self, worker: Worker) -> bool:
        """Read whenever it is this worker's turn; False if it is to end."""
        while not self._stopped:
            if self._coming is worker:
                self._coming = None
            if not worker.reads:
                if len(self._idle) >= MAX_IDLE_WORKERS:
                    return False
                worker.turn = anyio.Event()
                self._idle.append(worker)
                await worker.turn.wait()
                continue
            await self._read(worker)
            if worker.spent or worker.has_own_context:
                break
        return True

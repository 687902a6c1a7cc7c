"""A plugin in the proxy's own process: direct calls, no encoding.

There is no isolation here, and none is pretended: the plugin shares the
proxy's memory and its event loop. What is contained are its exceptions.

Ordinary calls (``start``) stand in a queue, and a *worker*, a pooled task, runs one after the
other. Before it runs one while more wait, it has a second worker come, so that none of them
depends on a handler that waits for something; a handler that never waits costs no more than
its own work. After ``WORKER_SECONDS`` it leaves the rest to that second one, whose turn comes when
all others had theirs: a flood of calls is not run in one go. A worker's cancel scope serves call
after call, until one is cancelled in it. A handler that leaves its answer for later
(``PendingExecution``) is done with: no task waits, and who settles it answers the call.

A stream's handler runs only as far as its next message, and on when that is asked for, or a few
short ones ahead: there is one message of it on the way, and the handler's own memory is the only
place where more may wait. What both take is counted. Where there is no room for a message, it is
dropped and its stream ends; a handler that says beforehand how much it is about to read
(``Call.room``) waits instead.
"""

import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from copy import copy
from functools import partial
from math import inf
from time import perf_counter
from typing import Any, TypeVar

import trio

from prism.channels.channel import (
    COPIES,
    UNCOUNTED,
    AnswerMemory,
    PluginChannel,
    StreamCall,
    UnaryCall,
    execute_request,
    message_size,
)
from prism.contract.errors import (
    AnswerDropped,
    CallError,
    ChannelBroken,
    ChannelClosed,
    LocalProtocolError,
    PluginCrashed,
    PluginError,
    PluginUnavailable,
)
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    HealthCheckRequest,
    HealthCheckResponse,
    InitializeRequest,
    InitializeResponse,
    ShutdownRequest,
    ShutdownResponse,
    StreamRequest,
    StreamResponse,
)
from prism.contract.redaction import Redaction
from prism.contract.service import (
    BackendPlugin,
    PendingExecution,
    StreamRequests,
    execution_of,
)
from prism.contract.status import StatusCode
from prism.streams.tasks import TaskPool

log = logging.getLogger("prism.channel")

T = TypeVar("T")

speaker: ContextVar[object] = ContextVar("speaker", default=None)
"""Whose code runs: the ``speaker`` of a plugin's channel, within what it calls; else None."""
_FAULT = "the plugin failed; the proxy's log has the cause"
_RAISED = "raised where the contract wants an answer"

WORKER_SECONDS = 0.002
"""How long a worker takes calls before others have their turn; some dozens of short ones."""
MESSAGE_COST = 256
"""Bytes that a message takes beside its own, by which the number of short ones is bounded."""
KEPT = COPIES + 1
"""Of a message whose handler waits: the handler has it, too."""


class InProcessChannel(PluginChannel):
    """Calls a plugin object directly. Cancellation reaches it as trio's own.

    What its code logs is told by the context variable ``speaker``, which is ``speaks_as``
    while it runs.
    """

    def __init__(
        self, plugin: BackendPlugin, name: str = "the plugin", speaks_as: object = None
    ) -> None:
        self.name = name
        self._speaks_as = speaks_as
        self._plugin = plugin
        self._begin = execution_of(plugin)
        self._open: set[trio.CancelScope] = set()
        self._waiting: deque[UnaryCall] = deque()
        self._running: dict[UnaryCall, trio.CancelScope] = {}
        self._left: dict[UnaryCall, PendingExecution] = {}
        self._worker_comes = False
        self._closed = trio.Event()
        self._cut: CallError | None = None
        self._broken: ChannelBroken | None = None

    @property
    def ended(self) -> Exception | None:
        """Why the channel can carry no more calls; None while it can."""
        return self._why_ended() if self._closed.is_set() else None

    def _why_ended(self) -> Exception:
        return self._broken or ChannelClosed(f"{self.name} was stopped")

    def break_off(self, why: str) -> None:
        """Carry no more calls, for there is no hope for the plugin: ``why`` is for operators."""
        if not self._closed.is_set():
            self._broken = ChannelBroken(f"{self.name}: {why}")
            self._end()

    @property
    def open_calls(self) -> int:
        """Calls that have not returned yet."""
        return len(self._open) + len(self._running) + len(self._left) + len(self._waiting)

    def cancel_calls(self, error: CallError) -> None:
        """Cancel every open call, and let each end with ``error``."""
        self._cut = error
        for scope in self._open:
            scope.cancel()
        self._fail_calls(error)

    def _fail_calls(self, error: CallError) -> None:
        for call in [*self._waiting, *self._running, *self._left]:
            self.cancel(call, StatusCode.UNAVAILABLE)
            call.failed(copy(error))

    def start(self, call: UnaryCall) -> None:
        """Queue the call for a worker."""
        if self._closed.is_set():
            raise PluginUnavailable(f"{self.name} was stopped")
        self._waiting.append(call)
        self._call_worker(call.tasks)

    def cancel(self, call: UnaryCall, status: StatusCode) -> None:
        """Cancel the call's handler, let go of what it has left for later, or take the call out of
        the queue."""
        scope = self._running.pop(call, None)
        if scope is not None:
            scope.cancel()
            return
        pending = self._left.pop(call, None)
        if pending is not None:
            pending.abandon()
        elif call in self._waiting:
            self._waiting.remove(call)

    def _call_worker(self, tasks: TaskPool) -> None:
        if not self._worker_comes:
            self._worker_comes = True
            worker = _Worker()
            worker.scope = tasks.start(lambda: self._work(worker))

    async def _work(self, worker: "_Worker") -> None:
        """Run calls while any wait, and until one is cancelled."""
        self._worker_comes = False
        speaker.set(self._speaks_as)
        try:
            await self._run_calls(worker.scope)
        finally:
            speaker.set(None)  # the task is somebody else's next

    async def _run_calls(self, scope: trio.CancelScope) -> None:
        waiting, deadline = self._waiting, inf
        until = perf_counter() + WORKER_SECONDS
        while waiting:
            call = waiting.popleft()
            if waiting:
                self._call_worker(waiting[0].tasks)
            self._running[call] = scope
            if call.deadline != deadline:  # calls of one turn mostly have the same
                deadline = scope.deadline = call.deadline
            response: object = _EXECUTE_FAILED
            is_wanted = False
            try:
                response = await self._begin(execute_request(call))
            except BaseException as error:
                _raise_what_passes(error, f"{self.name} {_RAISED}", self.redaction)
            finally:
                is_wanted = self._running.pop(call, None) is not None  # or it was cancelled
                if scope.cancel_called and waiting:
                    self._call_worker(waiting[0].tasks)
            if isinstance(response, PendingExecution):
                self._leave(call, response, is_wanted=is_wanted)
            elif is_wanted:
                call.answered(self._checked(response))
            if scope.cancel_called:
                return
            if waiting and perf_counter() >= until:
                self._call_worker(waiting[0].tasks)
                # The pool may give it to this very task.
                await trio.lowlevel.cancel_shielded_checkpoint()
                return

    def _leave(self, call: UnaryCall, pending: PendingExecution, *, is_wanted: bool) -> None:
        """Answer ``call`` when it is settled; no worker waits for that."""
        if not is_wanted:
            pending.abandon()
            return
        self._left[call] = pending
        pending.when_settled(partial(self._finish_left, call))

    def _finish_left(self, call: UnaryCall) -> None:
        """Runs where the answer was settled: in a task of the plugin's, most often."""
        pending = self._left.pop(call)
        before = speaker.set(self._speaks_as)
        try:
            response = self._checked(pending.finish())
            speaker.set(None)
            call.answered(response)
        finally:
            speaker.reset(before)

    def _checked(self, response: object) -> ExecuteResponse:
        if type(response) is not ExecuteResponse:
            log.error("%s answered with a %s", self.name, type(response).__name__)
            return _EXECUTE_FAILED
        return response if response.success else self.redaction.fields(response, "error")

    async def _call(self, method: Callable[[Any], Awaitable[T]], request: object, failed: T) -> T:
        """Await ``method``; what it raises becomes ``failed``."""
        if self._closed.is_set():
            raise PluginUnavailable(f"{self.name} was stopped")
        with trio.CancelScope() as scope:
            self._open.add(scope)
            before = speaker.set(self._speaks_as)
            try:
                answer = await method(request)
            except BaseException as error:
                _raise_what_passes(error, f"{self.name} {_RAISED}", self.redaction)
                return failed
            finally:
                speaker.reset(before)
                self._open.remove(scope)
            if isinstance(answer, type(failed)):
                return answer
            log.error("%s answered with a %s", self.name, type(answer).__name__)
            return failed
        raise (
            copy(self._cut)
            if self._cut
            else PluginCrashed(f"{self.name} was stopped during the call")
        )

    async def initialize(self, request: InitializeRequest) -> InitializeResponse:
        """Configure the plugin; the first call, made exactly once."""
        failed = InitializeResponse(error=_FAULT, error_code=StatusCode.INTERNAL)
        self.redaction = Redaction(request.credentials)
        answer = await self._call(self._plugin.initialize, request, failed)
        return self.redaction.fields(answer, "error", "plugin_version")

    async def execute(
        self, request: ExecuteRequest, memory: AnswerMemory | None = None
    ) -> ExecuteResponse:
        """Run one operation. Its answer is there at once, so that nothing is counted."""
        answer = await self._call(self._plugin.execute, request, _EXECUTE_FAILED)
        return answer if answer.success else self.redaction.fields(answer, "error")

    async def health_check(self, request: HealthCheckRequest) -> HealthCheckResponse:
        """Ask for the plugin's health."""
        failed = HealthCheckResponse(message=_FAULT)
        answer = await self._call(self._plugin.health_check, request, failed)
        return self.redaction.fields(answer, "message", "details")

    async def shutdown(self, request: ShutdownRequest) -> ShutdownResponse:
        """Ask the plugin to finish and end. Call ``aclose`` afterwards."""
        answer = await self._call(self._plugin.shutdown, request, ShutdownResponse(error=_FAULT))
        return self.redaction.fields(answer, "error")

    @asynccontextmanager
    async def execute_stream(
        self, first: StreamRequest, memory: AnswerMemory | None = None
    ) -> AsyncGenerator[StreamCall, None]:
        """Open a stream with its first message; leaving the block early cancels it."""
        if self._closed.is_set():
            raise PluginUnavailable(f"{self.name} was stopped")
        call = _InProcessStream(self.name, self.redaction, lambda: self._cut, memory)
        failure: Exception | None = None
        self._open.add(call.scope)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call.run, self._plugin, first, self._speaks_as)
                try:
                    yield call
                except Exception as error:
                    # Not through the nursery, which would wrap it in a group.
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            self._open.remove(call.scope)
            if memory is not None:
                memory.release()
        if failure is not None:
            raise failure

    def go_away(self, reason: str) -> None:
        """Does nothing: a plugin in this process has nobody to send calls to."""

    async def aclose(self) -> None:
        """Refuse further calls, and cancel those that are running."""
        self._end()
        await trio.lowlevel.checkpoint()

    def _end(self) -> None:
        self._closed.set()
        for scope in self._open:
            scope.cancel()
        self._fail_calls(PluginCrashed(f"{self.name} was stopped during the call"))

    async def wait_broken(self) -> Exception:
        """Wait for ``aclose``, or ``break_off``: without a connection nothing else breaks."""
        await self._closed.wait()
        return self._why_ended()


_EXECUTE_FAILED = ExecuteResponse(error=_FAULT, error_code=StatusCode.INTERNAL)


class _Worker:
    """A pooled task that runs calls; ``scope`` is the one it runs in."""

    __slots__ = ("scope",)
    scope: trio.CancelScope


class _InProcessStream(StreamCall):
    """A stream to a generator in this process; each side waits for the other.

    ``scope`` holds the plugin's side: cancelling it ends the stream as crashed.
    """

    counts_sent = True

    def __init__(
        self,
        name: str,
        redaction: Redaction,
        why_cut: Callable[[], CallError | None],
        memory: AnswerMemory | None,
    ) -> None:
        self.scope = trio.CancelScope()
        self.memory = memory
        self.room = 0  # bytes that the handler has for messages to come
        self.largest = 0  # of these
        self._name = name
        self._redaction = redaction
        self._why_cut = why_cut
        self._send_requests, self.requests = trio.open_memory_channel[StreamRequest](0)
        self._made: deque[StreamResponse] = deque()  # and not received
        self._made_size = 0
        self._given = 0  # bytes of the messages that were received last
        self._is_wanted = True
        self._over = False
        self._error: CallError | None = None
        self._receiver = trio.lowlevel.ParkingLot()
        self._handler = trio.lowlevel.ParkingLot()

    async def run(self, plugin: BackendPlugin, first: StreamRequest, speaks_as: object) -> None:
        """Feed the plugin and pass on what it yields; raises only Cancelled."""
        speaker.set(speaks_as)
        with self.requests:
            try:
                with self.scope:
                    await self._pass_on(plugin, first)
                if self.scope.cancelled_caught:
                    self._error = self._why_cut() or PluginCrashed(
                        f"{self._name} was stopped during the call"
                    )
            except AnswerDropped as error:
                self._error = error
            except BaseException as error:
                _raise_what_passes(
                    error, "a stream raised where the contract wants an answer", self._redaction
                )
                self._error = PluginError(StatusCode.INTERNAL, _FAULT)
            finally:
                self._over = True
                self._receiver.unpark_all()

    async def _pass_on(self, plugin: BackendPlugin, first: StreamRequest) -> None:
        requests = _Requests(self, first)
        async with aclosing(_closable(plugin.execute_stream(requests))) as responses:
            while True:
                while not self._is_wanted:
                    await self._handler.park()
                self._count(self._given + self._made_size)
                try:
                    item = await anext(responses)
                except StopAsyncIteration:
                    return
                if item.error_code:
                    detail = self._redaction.text(item.error)
                    self._error = PluginError(StatusCode.from_wire(item.error_code), detail)
                    return
                is_final = item.is_final
                if not is_final or item.result_json or item.result_raw:
                    self._give(item)
                if is_final:
                    return
                del item  # not to be held here while the handler waits

    def _give(self, message: StreamResponse) -> None:
        """Have ``receive`` return it."""
        size = self._made_size + message_size(message)
        self._count(self._given + size)
        self._made.append(message)
        self._made_size = size
        if size + MESSAGE_COST * len(self._made) > UNCOUNTED:
            self._is_wanted = False
        if self._receiver:
            self._receiver.unpark()

    def _count(self, size: int) -> None:
        """Messages of ``size`` bytes are on their way.

        Raises:
            AnswerDropped: there is no room for it.
        """
        if self.memory is not None:
            most = self.room + COPIES * self.largest
            if size > self.largest + UNCOUNTED:  # a few bytes more need not be told
                most = max(most, KEPT * size)
            if self.memory.size != most:
                self.memory.resize(most)

    def resize_room(self, sizes: Sequence[int]) -> None:
        """The handler holds messages to come of these sizes."""
        self.largest = min(max(sizes, default=0), self.largest)
        self.room = min(sum(sizes), self.room)
        self._count(self._given + self._made_size)

    async def send(self, request: StreamRequest) -> None:
        """Send one message; waits until the plugin takes it."""
        self._ask()  # the handler may have to be woken to take it
        try:
            await self._send_requests.send(request)
        except trio.ClosedResourceError:
            raise LocalProtocolError("this stream's sending side has ended") from None
        except trio.BrokenResourceError:
            finished = PluginError(StatusCode.CANCELLED, "the plugin has finished the stream")
            raise (self._error or finished) from None

    async def end(self) -> None:
        """Say that no more messages will be sent. Calling it again does nothing."""
        await self._send_requests.aclose()

    async def receive(self) -> StreamResponse:
        """The plugin's next message. Cancelling loses nothing."""
        await self._wait_made()
        message = self._made.popleft()
        self._given = message_size(message)
        self._made_size -= self._given
        return message

    async def receive_some(self) -> list[StreamResponse]:
        """The plugin's next message, and short ones right behind it."""
        await self._wait_made()
        messages = list(self._made)
        self._made.clear()
        self._given, self._made_size = self._made_size, 0
        return messages

    async def _wait_made(self) -> None:
        self._given = 0
        if self._made or self._over:
            await trio.lowlevel.checkpoint()
        while not self._made:
            if self._over:
                raise self._error or trio.EndOfChannel
            self._ask()
            await self._receiver.park()

    def _ask(self) -> None:
        """Have the handler make a message, unless there is enough to be received."""
        if self._made_size + MESSAGE_COST * len(self._made) <= UNCOUNTED:
            self._is_wanted = True
            self._handler.unpark_all()


class _Requests(StreamRequests):
    """The client's messages, ``first`` before the others, as the handler sees them."""

    def __init__(self, stream: _InProcessStream, first: StreamRequest) -> None:
        self._stream = stream
        self._first: StreamRequest | None = first

    async def __anext__(self) -> StreamRequest:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await anext(self._stream.requests)

    async def wait_room(self, size: int) -> None:
        memory = self._stream.memory
        if memory is not None and size > UNCOUNTED:
            await memory.wait_room(KEPT * size)
            self._stream.room = self._stream.largest = size

    def resize_room(self, sizes: Sequence[int]) -> None:
        self._stream.resize_room(sizes)


def _closable(items: AsyncIterator[StreamResponse]) -> Any:
    """``items`` as something that can be closed; most plugins return a generator."""
    if hasattr(items, "aclose"):
        return items

    async def wrap() -> AsyncIterator[StreamResponse]:
        async for item in items:
            yield item

    return wrap()


_PASSING = (trio.Cancelled, KeyboardInterrupt, GeneratorExit)
"""What passes through a plugin without being its own: trio's cancellation, Ctrl-C, and a
generator being closed. ``SystemExit`` and a stray ``asyncio.CancelledError`` are its bugs."""


def is_fault(error: BaseException) -> bool:
    """Is it the plugin's own failure alone, with nothing in it that passes through?"""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(_PASSING) is None
    return not isinstance(error, _PASSING)


def _raise_what_passes(error: BaseException, what: str, redaction: Redaction) -> None:
    """Log the plugin's own share in ``error``, and raise the rest if there is one.

    A plugin with a nursery may be cancelled and fail at it, which gives a group of both.
    """
    passing: BaseException | None = None
    own: BaseException | None = None
    if isinstance(error, BaseExceptionGroup):
        passing, own = error.split(_PASSING)
    elif is_fault(error):
        own = error
    else:
        passing = error
    if own is not None:
        log.error("%s\n%s", what, redaction.traceback(own))
    if passing is not None:
        raise passing

"""The calls of one session: each begins with an OPEN and ends with the one CLOSE.

A unary call is run by the worker that read it (``workers``), a stream by a task of its own;
both under a cancel scope with the deadline that the host gave. Whatever happens to a call,
the task that ran it queues its CLOSE.
"""

import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import anyio
from anyio.abc import TaskGroup

from prism.contract.errors import LocalProtocolError, PayloadTooLarge
from prism.contract.messages import (
    ExecuteResponse,
    HealthCheckResponse,
    InitializeResponse,
    Message,
    ShutdownRequest,
    ShutdownResponse,
    StreamRequest,
    StreamResponse,
)
from prism.contract.service import BackendPlugin, Method, StreamRequests, execution_of
from prism.contract.status import StatusCode
from prism.sdk.byte_streams import Writer
from prism.sdk.plugin import PendingResponse, is_fault
from prism.sdk.turns import Turns
from prism.sdk.workers import TURN, Scope, Worker, Workers, await_rest, event_loop
from prism.wire import ConnectionState
from prism.wire.connection import Connection
from prism.wire.events import Cancel, Close, Credit, Data, Event, Open, Overrun

log = logging.getLogger("prism.sdk")

REPLACED = "replaced"
"""The reason in a Shutdown that is for good: another process has this one's place."""

HEAD_START = 0.0003
"""Seconds for which answers of a burst are gathered: the host works on them while the next are
made, and with fewer at a time, sending costs more than it brings."""

# Every call comes by these: on Python 3.11 an enum's attribute is a Python call.
STOPPED = "the plugin stopped before the call had ended; it may have run"
"""What is said of a call for which the end did not wait."""
_CLOSED = ConnectionState.CLOSED
_EXECUTE_STREAM = Method.EXECUTE_STREAM
_SHUTDOWN = Method.SHUTDOWN
_OK = StatusCode.OK


class Calls:
    """Runs calls to ``plugin``.

    ``shut_down``: Shutdown was answered, and ``replaced`` says whether it was for good. A call
    that comes once ``draining`` is set is closed as not started.
    """

    def __init__(
        self, plugin: BackendPlugin, connection: Connection, writer: Writer, turns: Turns
    ) -> None:
        self.draining = False
        self._stopping = False
        self.shut_down = False
        self.replaced = False
        self._plugin = plugin
        self._connection = connection
        self._writer = writer
        self._turns = turns
        self._write_at = math.inf
        self._tasks: TaskGroup
        self._new_scope, self.now = event_loop()
        self._running: dict[int, Scope | _LeftCall] = {}
        self._next_deadline = math.inf
        self._deadline_sooner = anyio.Event()
        self._streams: dict[int, MessageStream] = {}
        self._one_ended = anyio.Event()
        self._unary: dict[Method, Callable[[Any], Coroutine[Any, Any, Any]]] = {
            Method.INITIALIZE: plugin.initialize,
            Method.HEALTH_CHECK: plugin.health_check,
            Method.EXECUTE: execution_of(plugin),
            Method.SHUTDOWN: plugin.shutdown,
        }

    def start(self, tasks: TaskGroup, take_turn: Callable[[Worker], Awaitable[None]]) -> None:
        """Have workers in ``tasks`` take turns at reading what the host sends."""
        self._tasks = tasks
        self.workers = Workers(tasks, take_turn, self._new_scope)
        self.workers.start()
        tasks.start_soon(self._keep_deadlines)

    async def wait_none_left(self) -> None:
        """Wait until every call that runs has ended."""
        while self._running:
            self._one_ended = anyio.Event()
            await self._one_ended.wait()

    def take(self, event: Event) -> None:
        """Act on a frame of a call that has begun. It may be over: the two crossed."""
        if isinstance(event, Data):
            if (stream := self._streams.get(event.stream)) is not None:
                stream.deliver(event)
        elif isinstance(event, Credit):
            if (stream := self._streams.get(event.stream)) is not None:
                stream.credit()
        elif isinstance(event, Cancel | Overrun) and event.stream in self._running:
            self._running[event.stream].cancel()

    def begin(
        self, opened: Open, read_at: float, now: float, worker: Worker
    ) -> Awaitable[None] | None:
        """Begin a call that was read at ``read_at``. Returns what is left of one that has to
        wait, to be awaited by this worker."""
        deadline = read_at + opened.deadline_ms / 1000 if opened.deadline_ms else math.inf
        if now >= deadline:
            self._refuse(opened, StatusCode.DEADLINE_EXCEEDED)
        elif self._connection.is_cancelled(opened.stream):
            self._refuse(opened, StatusCode.CANCELLED)
        elif self.draining or self._stopping:
            self._refuse(opened, StatusCode.UNAVAILABLE)
        elif opened.method is _EXECUTE_STREAM:
            self._begin_stream(opened, deadline)
        else:
            self._stopping = self._stopping or opened.method is _SHUTDOWN
            return self._begin_unary(opened, deadline, worker)
        return None

    def _refuse(self, opened: Open, status: StatusCode) -> None:
        self._close(opened, status, not_started=True)

    # -- unary calls ----------------------------------------------------------

    def _begin_unary(self, opened: Open, deadline: float, worker: Worker) -> Awaitable[None] | None:
        worker.set_deadline(deadline)
        try:
            coroutine = self._unary[opened.method](opened.message)
            wait = coroutine.send(None)
        except StopIteration as done:
            if type(done.value) is PendingResponse:
                self._leave(opened, done.value, deadline)
            else:
                self._answer(opened, done.value)
            return None
        except BaseException as error:
            self._fail(opened, error, deadline, worker)
            if not isinstance(error, Exception):
                raise
            return None
        self._running[opened.stream] = worker.scope
        return self._finish(opened, deadline, await_rest(coroutine, wait), worker)

    async def _finish(
        self, opened: Open, deadline: float, rest: Awaitable[Any], worker: Worker
    ) -> None:
        """Await the rest of a call that had to wait, and answer it; cancelling it, too."""
        try:
            response = await rest
            if type(response) is PendingResponse:
                response = await response
        except BaseException as error:
            self._has_waited(opened, worker)
            self._fail(opened, error, deadline, worker)
            if not isinstance(error, Exception):
                raise
        else:
            self._has_waited(opened, worker)
            self._answer(opened, response)
        finally:
            if self._connection.open_streams:
                self._writer.wake()
            else:
                self._writer.write_now()

    def _leave(self, opened: Open, pending: PendingResponse, deadline: float) -> None:
        """Answer a call when its answer is there; no worker waits for it."""
        left = _LeftCall(self, opened, pending, deadline)
        self._running[opened.stream] = left
        if deadline < self._next_deadline:
            self._next_deadline = deadline
            self._deadline_sooner.set()
        pending.later.when_settled(left.settled)

    def finish_left(self, left: "_LeftCall") -> None:
        """What a call that was left has waited for is there.

        Of a burst of answers, some are written before the others are made: the host can work on
        them meanwhile.
        """
        del self._running[left.opened.stream]
        self._answer(left.opened, left.pending.finish())
        turns = self._turns
        if not turns.run:
            if self._connection.open_streams:
                self._writer.wake()
            else:
                self._writer.write_now()
        elif self._write_at == math.inf:
            self._write_at = self.now() + HEAD_START
            turns.at_end(self._write_answers)
        elif self.now() >= self._write_at:
            self._writer.write_now()
            self._write_at = self.now() + HEAD_START

    def _write_answers(self) -> None:
        """Write those of the turn that ends."""
        self._write_at = math.inf
        self._writer.write_now()

    def cancel_left(self, left: "_LeftCall") -> None:
        """End a call that was left: it is cancelled, or its time is up."""
        del self._running[left.opened.stream]
        left.pending.abandon()
        late = self.now() >= left.deadline
        self._close(left.opened, StatusCode.DEADLINE_EXCEEDED if late else StatusCode.CANCELLED)
        self._writer.wake()

    def _left(self) -> "list[_LeftCall]":
        return [call for call in self._running.values() if type(call) is _LeftCall]

    async def _keep_deadlines(self) -> None:
        """End calls that were left when their time is up."""
        while True:
            self._deadline_sooner = anyio.Event()
            with anyio.CancelScope(deadline=self._next_deadline):
                await self._deadline_sooner.wait()
            now = self.now()
            if now >= self._next_deadline:
                for left in self._left():
                    if now >= left.deadline:
                        self.cancel_left(left)
                self._next_deadline = min(
                    (left.deadline for left in self._left()), default=math.inf
                )

    def _has_waited(self, opened: Open, worker: Worker) -> None:
        del self._running[opened.stream]
        worker.call_ended()

    def _answer(self, opened: Open, response: Message) -> None:
        if type(response) is ExecuteResponse and response.success and not response.error_code:
            self._close(opened, _OK, response)
            return
        if isinstance(opened.message, ShutdownRequest):
            self._close_running()
        self._close(opened, _status_of(response), response)
        if isinstance(opened.message, ShutdownRequest):
            self.shut_down = True
            self.replaced = opened.message.reason == REPLACED
            self.workers.stop()

    def _fail(self, opened: Open, error: BaseException, deadline: float, worker: Worker) -> None:
        self._stopping = self._stopping and opened.method is not _SHUTDOWN
        if self.now() >= deadline:
            self._close(opened, StatusCode.DEADLINE_EXCEEDED)
        elif worker.spent and not isinstance(error, Exception):
            self._close(opened, StatusCode.CANCELLED)
        elif isinstance(error, anyio.get_cancelled_exc_class()):
            self._close_as_cancelled_here(opened)
        else:
            log.exception("%s failed outside its operation", opened.method.name)
            self._close(opened, StatusCode.INTERNAL)

    # -- streams --------------------------------------------------------------

    def _begin_stream(self, opened: Open, deadline: float) -> None:
        scope = self._new_scope(deadline=deadline)
        stream = MessageStream(opened, self._connection, self._writer, self.now)
        self._running[opened.stream] = scope
        self._streams[opened.stream] = stream
        self._tasks.start_soon(self._run_stream, stream, opened, scope)

    async def _run_stream(self, stream: "MessageStream", opened: Open, scope: Scope) -> None:
        status: StatusCode | None = None
        last: StreamResponse | None = None
        too_large = False
        try:
            with scope:
                last = await self._send_items(stream)
                status = StatusCode.from_wire(last.error_code) if last else StatusCode.OK
        except PayloadTooLarge as error:
            status = StatusCode.RESOURCE_EXHAUSTED
            last = StreamResponse(error=f"the plugin's message is too large: {error}")
            too_large = True
        except BaseException as error:
            if not is_fault(error):
                raise
            log.exception("a stream failed outside its operation")
            status = StatusCode.INTERNAL
        finally:
            del self._running[opened.stream]
            del self._streams[opened.stream]
            if status is not None:
                self._close(opened, status, last, too_large=too_large)
            elif self.now() >= scope.deadline:
                self._close(opened, StatusCode.DEADLINE_EXCEEDED)
            elif scope.cancel_called:
                self._close(opened, StatusCode.CANCELLED)
            else:
                self._close_as_cancelled_here(opened)
            self._writer.wake()

    async def _send_items(self, stream: "MessageStream") -> StreamResponse | None:
        """Send what the plugin yields; returns its final message, if it made one."""
        async with aclosing(_closable(self._plugin.execute_stream(stream))) as items:
            async for item in items:
                if item.is_final or item.error_code:
                    last: StreamResponse = item
                    return last
                await stream.send(item)
        return None

    # -- the end of either ----------------------------------------------------

    def _close(
        self,
        opened: Open,
        status: StatusCode,
        response: Message | None = None,
        *,
        not_started: bool = False,
        too_large: bool = False,
    ) -> None:
        """Queue the CLOSE of a call; who calls has it written."""
        if self.draining:
            self._one_ended.set()
        if not self._may_close(opened.stream):
            return
        try:
            self._connection.send(Close(opened.stream, status, response, not_started, too_large))
        except PayloadTooLarge as error:
            why = f"the plugin's answer is too large: {error}"
            self._close_without_answer(
                opened.stream, StatusCode.RESOURCE_EXHAUSTED, why, too_large=True
            )
        except LocalProtocolError as error:
            log.exception("the answer to %s cannot be sent", opened.method.name)
            why = f"the plugin's answer cannot be sent: {error}"
            self._close_without_answer(opened.stream, StatusCode.INTERNAL, why)

    def _may_close(self, stream: int) -> bool:
        """Is the connection there, and the call without its CLOSE? Shutdown may have closed it."""
        return self._connection.state is not _CLOSED and self._connection.is_open(stream)

    def _close_as_cancelled_here(self, opened: Open) -> None:
        """Close a call that was cancelled, though not by the host: nobody asked for that.

        The session ends, and cancels what is left of it; on asyncio, a plugin can also cancel
        the task that it finds itself in.
        """
        if anyio.current_effective_deadline() == -math.inf:
            self._close_as_ended(opened)
        else:
            why = "the plugin cancelled the call itself"
            self._close_without_answer(opened.stream, StatusCode.INTERNAL, why)

    def _close_as_ended(self, opened: Open) -> None:
        self._close_without_answer(opened.stream, StatusCode.UNAVAILABLE, STOPPED)

    def abandon_left(self) -> None:
        """End the calls that were left: the session has ended, or is about to."""
        for left in self._left():
            del self._running[left.opened.stream]
            left.pending.abandon()
            self._close_as_ended(left.opened)

    def _close_running(self) -> None:
        """The calls for which Shutdown has not waited have their CLOSE before its own."""
        self.abandon_left()
        for stream in self._running:
            self._close_without_answer(stream, StatusCode.UNAVAILABLE, STOPPED)

    def _close_without_answer(
        self, stream: int, status: StatusCode, why: str, *, too_large: bool = False
    ) -> None:
        if not self._may_close(stream):
            return
        message = _FAILURE[self._connection.method_of(stream)](why)
        try:
            self._connection.send(Close(stream, status, message, too_large=too_large))
        except PayloadTooLarge:  # a host that takes next to nothing
            self._connection.send(Close(stream, status, too_large=too_large))


class _LeftCall:
    """A call whose operation has left its answer for later."""

    __slots__ = ("_calls", "deadline", "opened", "pending")

    def __init__(
        self, calls: Calls, opened: Open, pending: PendingResponse, deadline: float
    ) -> None:
        self._calls = calls
        self.opened = opened
        self.pending = pending
        self.deadline = deadline

    def settled(self) -> None:
        """The answer is there."""
        self._calls.finish_left(self)

    def cancel(self) -> None:
        """End it."""
        self._calls.cancel_left(self)


class MessageStream(StreamRequests):
    """The messages of one ExecuteStream, held back by credit in both directions.

    Iterating gives the host's messages, the opening one first, until it says END.
    It is not a generator, so that a plugin may stop reading before that.
    """

    def __init__(
        self, opened: Open, connection: Connection, writer: Writer, now: Callable[[], float]
    ) -> None:
        self._number = opened.stream
        self._connection = connection
        self._writer = writer
        self._now = now
        self._pause_at = now() + TURN
        self._give_back_at = connection.local_hello.window // 2
        self._dealt_with = 0
        first = Data(opened.stream, opened.message, opened.end)
        self._inbox: deque[Data] = deque([first])
        self._ended = False
        self._changed = anyio.Event()

    def deliver(self, event: Data) -> None:
        """Take in a message from the host."""
        self._inbox.append(event)
        self._changed.set()

    def credit(self) -> None:
        """The host has room again."""
        self._changed.set()

    async def _wait_for_change(self) -> None:
        if self._changed.is_set():
            self._changed = anyio.Event()
        await self._changed.wait()

    async def __anext__(self) -> StreamRequest:
        """The next message. A half-close without one of its own arrives as an empty
        message, which is not passed on."""
        while not self._ended:
            while not self._inbox:
                await self._wait_for_change()
            data = self._inbox.popleft()
            self._give_back(data.size)
            self._ended = data.end
            assert isinstance(data.message, StreamRequest)  # noqa: S101 - decoded as this type
            if not (data.end and data.size and data.message == StreamRequest()):
                return data.message
        raise StopAsyncIteration

    def _give_back(self, size: int) -> None:
        self._dealt_with += size
        if self._dealt_with >= self._give_back_at and self._connection.is_open(self._number):
            self._send(Credit(self._number, self._dealt_with))
            self._dealt_with = 0

    async def send(self, response: StreamResponse) -> None:
        """Send one message; waits while the host gives no credit.

        Messages that come in one turn leave in one send: to have the event loop take a turn
        for each cost more than to make it.
        """
        if self._now() >= self._pause_at:
            await anyio.lowlevel.checkpoint()
            self._pause_at = self._now() + TURN
        await self.wait_room(0)
        self._send(Data(self._number, response))

    async def wait_room(self, size: int) -> None:
        """Wait until the host gives credit: what a message has beyond it is lent."""
        while self._connection.send_credit(self._number) <= 0:
            await self._wait_for_change()

    def _send(self, event: Event) -> None:
        if self._connection.state is not _CLOSED:
            self._connection.send(event)
            self._writer.wake()


def _closable(items: AsyncIterator[StreamResponse]) -> Any:
    """``items`` as something that can be closed; most plugins return a generator."""
    if hasattr(items, "aclose"):
        return items

    async def wrap() -> AsyncIterator[StreamResponse]:
        async for item in items:
            yield item

    return wrap()


def _status_of(response: Message) -> StatusCode:
    """The status for a CLOSE: what the response says of itself."""
    code = getattr(response, "error_code", 0)
    if code or getattr(response, "success", True):
        return StatusCode.from_wire(code)
    return StatusCode.UNKNOWN


_FAILURE: dict[Method, Callable[[str], Message]] = {
    Method.INITIALIZE: lambda error: InitializeResponse(error=error),
    Method.HEALTH_CHECK: lambda error: HealthCheckResponse(message=error),
    Method.EXECUTE: lambda error: ExecuteResponse(error=error),
    Method.EXECUTE_STREAM: lambda error: StreamResponse(error=error),
    Method.SHUTDOWN: lambda error: ShutdownResponse(error=error),
}

"""One connection to a host: frames in, calls to a plugin, frames out.

Theory of operation. The task that runs the session reads, a second one writes
(``session_writer``), and workers run the calls (``workers``), each under its own
cancel scope with the deadline the host gave it. Whatever happens to a call, its
worker ends it by queueing the one CLOSE that the protocol asks for. Queued frames
leave in one send.

The session ends when the host closes the connection or breaks the protocol, or
after Shutdown was answered. Calls that are running then are cancelled.
"""

import logging
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup

from prism.contract.errors import (
    HandshakeFailed,
    LocalProtocolError,
    PayloadTooLarge,
    RemoteProtocolError,
)
from prism.contract.messages import (
    ExecuteResponse,
    HealthCheckResponse,
    InitializeResponse,
    Message,
    ShutdownRequest,
    ShutdownResponse,
    StreamResponse,
)
from prism.contract.service import BackendPlugin, Method
from prism.contract.status import StatusCode
from prism.sdk.scopes import Scope, scope_type
from prism.sdk.session_stream import SessionStream
from prism.sdk.session_writer import CONNECTION_ERRORS, SessionWriter
from prism.sdk.workers import UnaryCall, Workers
from prism.wire import ConnectionState, Role
from prism.wire.codecs import CODEC_NAMES
from prism.wire.connection import Connection
from prism.wire.events import (
    Cancel,
    Close,
    Credit,
    Data,
    Event,
    GoAway,
    Hello,
    Note,
    Open,
    Overrun,
    Ping,
)

log = logging.getLogger("prism.sdk")

RECEIVE_SIZE = 64 * 1024
MAX_FRAME = 16 * 1024 * 1024
"""Largest message a plugin on this SDK accepts."""
MAX_STREAMS = 4096
"""Calls it runs at a time; the host keeps to it."""
HANDSHAKE_TIMEOUT = 30.0
"""Seconds for the host's HELLO."""
STOP_TIMEOUT = 10.0
"""Seconds for the plugin's ``shutdown`` when the host is gone."""
MAX_QUEUED_FOR_NOTES = 256 * 1024
"""Bytes waiting for a host that does not read, at which it gets no more news of us."""
PARTING_TIME = 2.0
"""Seconds to write what is still queued when the session ends."""
REPLACED = "replaced"
"""The reason in a Shutdown that is for good: another process has this one's place."""
DRAIN_TOKEN = 0x647261
"""Of the PING that follows a drain's GOAWAY; its echo says that the host has read both."""


class ByteStream(Protocol):
    """What a session needs of its connection: anyio's byte streams have it."""

    async def receive(self, max_bytes: int = ...) -> bytes: ...

    async def send(self, item: bytes) -> None: ...

    async def aclose(self) -> None: ...


class Session:
    """Serves ``plugin`` to the host at the other end of ``stream``."""

    def __init__(
        self, stream: ByteStream, plugin: BackendPlugin, *, name: str, version: str
    ) -> None:
        self._stream = stream
        self._plugin = plugin
        self._name = name
        self._connection = Connection(
            Role.PLUGIN,
            Hello(
                name=name,
                version=version,
                instance=secrets.token_hex(16),
                codecs=tuple(CODEC_NAMES),
                max_frame=MAX_FRAME,
                max_streams=MAX_STREAMS,
            ),
        )
        self._running: dict[int, Scope | UnaryCall] = {}
        self._reading = anyio.CancelScope()
        self._streams: dict[int, SessionStream] = {}
        self._writer = SessionWriter(stream, self._connection)
        self._call_ended = anyio.Event()
        self._shut_down = False
        self.replaced = False
        self._draining = False
        self._drain_seen = anyio.Event()
        self._unary: dict[Method, Callable[[Any], Awaitable[Message]]] = {
            Method.INITIALIZE: plugin.initialize,
            Method.HEALTH_CHECK: plugin.health_check,
            Method.EXECUTE: plugin.execute,
            Method.SHUTDOWN: plugin.shutdown,
        }

    @property
    def ready(self) -> bool:
        """Have both sides said HELLO, and is the connection still there?"""
        return self._connection.state not in (
            ConnectionState.START,
            ConnectionState.GREETED,
            ConnectionState.CLOSED,
        )

    @property
    def takes_notes(self) -> bool:
        """Is it ready, and does the host read what it is sent?"""
        return self.ready and self._connection.queued_bytes < MAX_QUEUED_FOR_NOTES

    async def drain(self, reason: str) -> None:
        """Start no more calls, and wait until the running ones have ended.

        Calls that the host sent before it read GOAWAY are on their way; they are closed
        as not started, so that it may repeat them. Its answer to a PING comes after them.
        """
        self._draining = True
        if self.ready:
            self.send(GoAway(self._connection.last_peer_stream, reason))
            self.send(Ping(DRAIN_TOKEN))
            with anyio.move_on_after(PARTING_TIME):
                await self._drain_seen.wait()
        while self._running:
            self._call_ended = anyio.Event()
            await self._call_ended.wait()

    # -- life -----------------------------------------------------------------

    async def run(self) -> None:
        """Serve until the session ends; the connection is closed then.

        Cancelling ends it at once; ``stop`` of the plugin is still run, briefly.

        Raises:
            HandshakeFailed: the host refused the plugin or said no HELLO.
        """
        self._new_scope = scope_type()
        # Not cancelled with the rest: the last frames, such as logs, have yet to leave.
        writer_scope = anyio.CancelScope(shield=True)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._writer.run, writer_scope)
                try:
                    self.send(self._connection.local_hello)
                    with anyio.fail_after(HANDSHAKE_TIMEOUT):
                        await self._greet()
                    async with anyio.create_task_group() as calls:
                        workers = Workers(calls, self._run_unary, self._new_scope)
                        with self._reading:
                            await self._serve(calls, workers)
                        calls.cancel_scope.cancel()
                except TimeoutError:
                    raise HandshakeFailed("the host did not answer HELLO in time") from None
                finally:
                    await self._writer.flush(PARTING_TIME)
                    writer_scope.cancel()
        except* HandshakeFailed as group:
            raise group.exceptions[0] from None
        finally:
            await self._end()

    async def _end(self) -> None:
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(PARTING_TIME), suppress(*CONNECTION_ERRORS):
                await self._stream.aclose()
            if self._shut_down:
                return
            request = ShutdownRequest(reason="the connection to the host ended")
            try:
                with anyio.move_on_after(STOP_TIMEOUT):
                    await self._plugin.shutdown(request)
            except Exception:
                log.exception("the plugin failed to shut down")

    async def _greet(self) -> None:
        while True:
            event = await self._next_event()
            if isinstance(event, Hello):
                return
            if isinstance(event, GoAway):
                raise HandshakeFailed(f"the host refused this plugin: {event.reason}")
            raise HandshakeFailed("the host closed the connection instead of saying HELLO")

    async def _next_event(self) -> Event | None:
        """The next event, or ``None`` when the connection has ended."""
        connection = self._connection
        while connection.state is not ConnectionState.CLOSED:
            try:
                event = connection.next_event()
            except RemoteProtocolError as error:
                log.error("the host broke the frame protocol: %s", error)
                return None
            if event is not None:
                return event
            connection.receive_data(await self._receive())
        return None

    async def _receive(self) -> bytes:
        try:
            return await self._stream.receive(RECEIVE_SIZE)
        except anyio.EndOfStream:
            return b""
        except CONNECTION_ERRORS as error:
            log.debug("the connection to the host broke: %s", error.__cause__ or error)
            return b""

    async def _serve(self, calls: TaskGroup, workers: Workers) -> None:
        while not self._shut_down:
            event = await self._next_event()
            if isinstance(event, Open):
                self._open(event, calls, workers)
            elif isinstance(event, Data):
                if (stream := self._streams.get(event.stream)) is not None:
                    stream.deliver(event)
            elif isinstance(event, Credit):
                if (stream := self._streams.get(event.stream)) is not None:
                    stream.credit()
            elif isinstance(event, Cancel | Overrun):
                if (running := self._running.get(event.stream)) is not None:
                    running.cancel()
            elif isinstance(event, Ping):
                if not event.ack:
                    self.send(Ping(event.token, ack=True))
                elif event.token == DRAIN_TOKEN:
                    self._drain_seen.set()
            elif isinstance(event, GoAway):
                log.debug("the host drains this plugin: %s", event.reason)
            elif event is None:
                return

    def note(self, note: Note) -> None:
        """Send news to the host; dropped when the connection cannot take it."""
        if self.takes_notes:
            with suppress(PayloadTooLarge, LocalProtocolError):
                self.send(note)

    # -- writing --------------------------------------------------------------

    def send(self, event: Event) -> None:
        """Queue one event and wake the writer. Once the connection is closed, drop it.

        Raises:
            LocalProtocolError, PayloadTooLarge: nothing was queued.
        """
        if self._connection.state is not ConnectionState.CLOSED:
            self._connection.send(event)
            self._writer.wake()

    # -- calls ----------------------------------------------------------------

    def _open(self, event: Open, calls: TaskGroup, workers: Workers) -> None:
        full = len(self._running) >= MAX_STREAMS
        if full or self._draining:
            status = StatusCode.RESOURCE_EXHAUSTED if full else StatusCode.UNAVAILABLE
            self.send(Close(event.stream, status, not_started=True))
            return
        deadline = math.inf
        if event.deadline_ms:
            deadline = anyio.current_time() + event.deadline_ms / 1000
        if event.method is Method.EXECUTE_STREAM:
            scope = self._new_scope(deadline=deadline)
            stream = SessionStream(self, event, self._connection)
            self._running[event.stream] = scope
            self._streams[event.stream] = stream
            calls.start_soon(self._run_stream, stream, event.stream, scope)
        else:
            call = UnaryCall(event, deadline)
            self._running[event.stream] = call
            workers.add(call)

    async def _run_unary(self, call: UnaryCall, scope: Scope) -> None:
        event = call.opened
        response: Message | None = None
        status = StatusCode.CANCELLED
        late = call.deadline != math.inf and anyio.current_time() >= call.deadline
        started = not (call.cancelled or late)
        try:
            if started:
                call.begin(scope)
                response = await self._unary[event.method](event.message)
                status = _status_of(response)
        except Exception:
            log.exception("%s failed outside its operation", event.method.name)
            status = StatusCode.INTERNAL
        finally:
            call.end()
            if response is None and anyio.current_time() >= call.deadline:
                status = StatusCode.DEADLINE_EXCEEDED
            del self._running[event.stream]
            self._close(Close(event.stream, status, response, not started), event.method)
        if event.method is Method.SHUTDOWN and response is not None:
            self._shut_down = True
            self.replaced = getattr(event.message, "reason", "") == REPLACED
            self._reading.cancel()

    async def _run_stream(self, stream: SessionStream, number: int, scope: Scope) -> None:
        status = StatusCode.CANCELLED
        last: StreamResponse | None = None
        try:
            with scope:
                last = await self._send_items(stream)
                status = StatusCode.from_wire(last.error_code) if last else StatusCode.OK
        except PayloadTooLarge as error:
            status = StatusCode.RESOURCE_EXHAUSTED
            last = StreamResponse(error=f"the plugin's message is too large: {error}")
        except Exception:
            log.exception("a stream failed outside its operation")
            status = StatusCode.INTERNAL
        finally:
            if status is StatusCode.CANCELLED and anyio.current_time() >= scope.deadline:
                status = StatusCode.DEADLINE_EXCEEDED
            del self._running[number]
            del self._streams[number]
            self._close(Close(number, status, last), Method.EXECUTE_STREAM)

    async def _send_items(self, stream: SessionStream) -> StreamResponse | None:
        """Send what the plugin yields; returns its final message, if it made one."""
        async with aclosing(_generator(self._plugin.execute_stream(stream))) as items:
            async for item in items:
                if item.is_final or item.error_code:
                    last: StreamResponse = item
                    return last
                await stream.send(item)
        return None

    def _close(self, close: Close, method: Method) -> None:
        if self._draining:
            self._call_ended.set()
        if not self._connection.is_open(close.stream):
            return
        try:
            self.send(close)
        except PayloadTooLarge as error:
            refusal = _FAILURE[method](f"the plugin's answer is too large: {error}")
            self.send(Close(close.stream, StatusCode.RESOURCE_EXHAUSTED, refusal))
        except LocalProtocolError as error:
            log.exception("the answer to %s cannot be sent", method.name)
            refusal = _FAILURE[method](f"the plugin's answer cannot be sent: {error}")
            self.send(Close(close.stream, StatusCode.INTERNAL, refusal))


def _generator(items: AsyncIterator[StreamResponse]) -> Any:
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

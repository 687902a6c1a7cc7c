"""One connection to a host: frames in, calls to a plugin, frames out.

Theory of operation. Workers take turns at reading (``workers``), and run the calls that
they read (``calls``). What a read brought is answered in one send; what the connection does
not take at once is left to a task that writes (``byte_streams.Writer``).

The session ends when the host closes the connection or breaks the protocol, or
after Shutdown was answered. Calls that are running then are cancelled.
"""

import logging
import math
import secrets
from collections import deque
from contextlib import suppress

import anyio

from prism.contract.errors import (
    HandshakeFailed,
    LocalProtocolError,
    PayloadTooLarge,
    RemoteProtocolError,
)
from prism.contract.messages import ShutdownRequest
from prism.contract.service import BackendPlugin
from prism.sdk.byte_streams import (
    CONNECTION_ERRORS,
    LARGE_RECEIVE,
    RECEIVE_SIZE,
    ByteStream,
    Writer,
)
from prism.sdk.calls import Calls
from prism.sdk.turns import Turns, turns
from prism.sdk.workers import TURN, Worker
from prism.wire import ConnectionState, Role
from prism.wire.codecs import CODEC_NAMES
from prism.wire.connection import Connection
from prism.wire.events import Event, GoAway, Hello, Note, Open, Ping

log = logging.getLogger("prism.sdk")

MAX_FRAME = 16 * 1024 * 1024
"""Largest message a plugin on this SDK accepts."""
MAX_STREAMS = 4096
"""Calls it runs at a time; the host keeps to it."""
HANDSHAKE_TIMEOUT = 30.0
"""Seconds for the host's HELLO."""
STOP_TIMEOUT = 10.0
"""Seconds for the plugin's ``shutdown`` when the host is gone."""
MAX_QUEUED_FOR_NOTES = 256 * 1024
"""Bytes waiting for a host that does not read, at which it gets no more notes."""
CLOSING_TIMEOUT = 2.0
"""Seconds to write what is still queued when the session ends, and then to close."""
DRAIN_TOKEN = 0x647261
"""Of the PING that follows a drain's GOAWAY; its echo says that the host has read both."""

_CLOSED = ConnectionState.CLOSED


class Session:
    """Serves ``plugin`` to the host at the other end of ``stream``."""

    def __init__(
        self, stream: ByteStream, plugin: BackendPlugin, *, name: str, version: str
    ) -> None:
        self._stream = stream
        self._plugin = plugin
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
        self._writer = Writer(stream, self._connection)
        self._turns = Turns()
        self._calls = Calls(plugin, self._connection, self._writer, self._turns)
        self._events: deque[Event] = deque()
        self._read_at = 0.0
        self._drain_seen = anyio.Event()
        self._host_goes = ""

    @property
    def ready(self) -> bool:
        """Have both sides said HELLO, and is the connection still there?"""
        return self._connection.state not in (
            ConnectionState.START,
            ConnectionState.OFFERED,
            ConnectionState.CLOSED,
        )

    @property
    def takes_notes(self) -> bool:
        """Is it ready, and does the host read what it is sent?"""
        return self.ready and self._connection.queued_bytes < MAX_QUEUED_FOR_NOTES

    @property
    def replaced(self) -> bool:
        """Was this plugin shut down for good, since another process has its place?"""
        return self._calls.replaced

    def note(self, note: Note) -> None:
        """Tell the host something; dropped when the connection cannot take it."""
        if self.takes_notes:
            with suppress(PayloadTooLarge, LocalProtocolError):
                self._send(note)

    def write_now(self) -> None:
        """Write what is queued as far as the connection takes it, without waiting."""
        self._writer.write_now()

    async def drain(self, reason: str) -> None:
        """Start no more calls, and wait until the running ones have ended.

        Calls that the host sent before it read GOAWAY are on their way; they are closed
        as not started, so that it may repeat them. Its answer to a PING comes after them.
        Cancelling ends the wait alone: the session starts no more calls.
        """
        self._calls.draining = True
        if self.ready:
            self._send(GoAway(self._connection.last_peer_stream, reason))
            self._send(Ping(DRAIN_TOKEN))
            with anyio.move_on_after(CLOSING_TIMEOUT):
                await self._drain_seen.wait()
        await self._calls.wait_none_left()

    async def run(self) -> None:
        """Serve until the session ends; the connection is closed then.

        Cancelling ends it at once; ``stop`` of the plugin is still run, briefly.

        Raises:
            HandshakeFailed: the host refused the plugin or said no HELLO.
        """
        # Not cancelled with the rest: the last frames, such as logs, have yet to leave.
        writer_scope = anyio.CancelScope(shield=True)
        belongs = turns.set(self._turns)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._writer.run, writer_scope)
                try:
                    await self._handshake()
                    async with anyio.create_task_group() as calls:
                        self._calls.start(calls, self._take_turn)
                finally:
                    self._calls.abandon_left()
                    with anyio.move_on_after(CLOSING_TIMEOUT, shield=True):
                        await self._writer.flush()
                    writer_scope.cancel()
        except* HandshakeFailed as group:
            raise group.exceptions[0] from None
        finally:
            turns.reset(belongs)
            await self._end()

    async def _end(self) -> None:
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(CLOSING_TIMEOUT), suppress(*CONNECTION_ERRORS):
                await self._stream.aclose()
            if self._calls.shut_down:
                return
            request = ShutdownRequest(reason="the connection to the host ended")
            try:
                with anyio.move_on_after(STOP_TIMEOUT):
                    await self._plugin.shutdown(request)
            except Exception:
                log.exception("the plugin failed to shut down")

    async def _handshake(self) -> None:
        self._send(self._connection.local_hello)
        event = None
        try:
            with anyio.fail_after(HANDSHAKE_TIMEOUT):
                while event is None and self._connection.state is not _CLOSED:
                    self._connection.receive_data(await self._receive())
                    self._read_at = self._calls.now()  # calls may have come with the HELLO
                    event = self._connection.next_event()
        except TimeoutError:
            raise HandshakeFailed("the host did not answer HELLO in time") from None
        except RemoteProtocolError as error:
            log.error("the host broke the frame protocol: %s", error)
        if isinstance(event, GoAway):
            raise HandshakeFailed(f"the host refused this plugin: {event.reason}")
        if event is None:
            raise HandshakeFailed("the host closed the connection instead of saying HELLO")

    def _send(self, event: Event) -> None:
        """Queue one event and wake the writer. Once the connection is closed, drop it.

        Raises:
            LocalProtocolError, PayloadTooLarge: nothing was queued.
        """
        if self._connection.state is not _CLOSED:
            self._connection.send(event)
            self._writer.wake()

    # -- reading --------------------------------------------------------------

    async def _receive(self, missing: int = 0) -> bytes:
        try:
            return await self._stream.receive(min(max(RECEIVE_SIZE, missing), LARGE_RECEIVE))
        except anyio.EndOfStream:
            return b""
        except CONNECTION_ERRORS as error:
            log.debug("the connection to the host broke: %s", error.__cause__ or error)
            return b""

    async def _read(self) -> bool:
        """Wait for the next events; False where the connection has ended."""
        connection = self._connection
        while True:
            try:
                events = connection.next_events()
            except RemoteProtocolError as error:
                log.error("the host broke the frame protocol: %s", error)
                return False
            if connection.is_broken:
                continue  # of a host that breaks the protocol, nothing more is begun
            if events:
                self._events.extend(events)
                return True
            if connection.state is _CLOSED:
                if self._host_goes and not self._calls.shut_down:  # no drain: a rule was broken
                    log.error("the host ended the connection: %s", self._host_goes)
                return False
            connection.receive_data(await self._receive(connection.bytes_missing))
            self._read_at = self._calls.now()

    async def _take_turn(self, worker: Worker) -> None:
        """Read, and do what is read, for as long as this worker can."""
        calls, turn = self._calls, self._turns
        turn_ends = calls.now() + TURN
        while True:
            turn.begin()
            while self._events:
                event = self._events.popleft()
                if not isinstance(event, Open):
                    self._take(event)
                    continue
                now = calls.now()
                rest = calls.begin(event, self._read_at, now, worker)
                if rest is not None:
                    calls.workers.pass_on(worker)
                    self._writer.wake()
                    if self._events:
                        turn.pass_on()
                    else:
                        turn.end()
                    await rest
                    if self._events:
                        calls.workers.take_over(worker)
                    return
                if worker.spent or worker.has_own_context or calls.shut_down:
                    turn.end()
                    return
                if now >= turn_ends:
                    break
            worker.set_deadline(math.inf)
            turn.end()
            self._writer.write_now()
            if worker.spent:
                return
            if self._events:
                await anyio.lowlevel.checkpoint()
            elif not await self._read():
                calls.workers.stop()
                return
            turn_ends = calls.now() + TURN

    def _take(self, event: Event) -> None:
        """Act on what is not the beginning of a call."""
        if isinstance(event, Ping):
            if not event.ack:
                self._send(Ping(event.token, ack=True))
            elif event.token == DRAIN_TOKEN:
                self._drain_seen.set()
        elif isinstance(event, GoAway):
            log.debug("the host says that it goes: %s", event.reason)
            self._host_goes = event.reason
        else:
            self._calls.take(event)

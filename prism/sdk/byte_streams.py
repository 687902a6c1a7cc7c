"""The bytes between a plugin and its host: streams, and the task that writes.

On trio and on asyncio. WebSockets are wsproto's, which comes with the proxy; a plugin
installed without it needs ``prism-plugin-sdk[websocket]``.
"""

import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import anyio

from prism.contract.errors import HandshakeFailed
from prism.wire.connection import Connection

if TYPE_CHECKING:
    from wsproto.events import Event

RECEIVE_SIZE = 64 * 1024
"""Bytes asked of a connection at a time ..."""
LARGE_RECEIVE = 256 * 1024
"""... and at most, where a large frame has begun: some more than a socket holds."""
SUBPROTOCOL = "prism.frames.v1"
WEBSOCKET_TIMEOUT = 10.0
"""Seconds for a client's WebSocket handshake."""

CONNECTION_ERRORS = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
"""What a stream raises when its connection is gone; TLS's own errors are OSErrors."""


class ByteStream(Protocol):
    """What a session needs of its connection: anyio's byte streams have it."""

    async def receive(self, max_bytes: int = ...) -> bytes: ...

    async def send(self, item: bytes) -> None: ...

    async def aclose(self) -> None: ...


class SocketStream:
    """A connected socket, read and written with one system call where that is enough.

    anyio's own stream tries to read before it waits, which costs a failed call and an
    exception for each batch of what a host sends, and sends in a pass of the event loop.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock

    async def receive(self, max_bytes: int = RECEIVE_SIZE) -> bytes:
        """What the host sent next. Cancelling loses nothing.

        Raises:
            anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError
        """
        while True:
            await anyio.wait_readable(self._socket)
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                continue
            except OSError as error:
                raise anyio.BrokenResourceError from error
            if not data:
                raise anyio.EndOfStream
            return data

    def send_nowait(self, item: bytes | Sequence[bytes | bytearray | memoryview]) -> int:
        """How many bytes of ``item``, whole or in pieces, the kernel has taken at once."""
        try:
            if isinstance(item, bytes):
                return self._socket.send(item)
            return self._socket.sendmsg(item)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise anyio.BrokenResourceError from error

    async def send(self, item: bytes) -> None:
        """Send all of ``item``; other tasks get no turn where the kernel takes it at once.
        Cancelling may leave a part of it unsent."""
        await self.send_pieces((item,))

    async def send_pieces(self, pieces: Sequence[bytes | bytearray | memoryview]) -> None:
        """As ``send``, of one piece after the other."""
        while pieces := rest_of(pieces, self.send_nowait(pieces)):
            await anyio.wait_writable(self._socket)

    async def aclose(self) -> None:
        """Close; who waits for it gets a ``ClosedResourceError``."""
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()


def rest_of(
    pieces: Sequence[bytes | bytearray | memoryview], taken: int
) -> Sequence[bytes | bytearray | memoryview]:
    """What is left of ``pieces`` behind their first ``taken`` bytes; it is not copied."""
    rest = []
    for piece in pieces:
        if taken < len(piece):
            rest.append(memoryview(piece)[taken:] if taken else piece)
        taken = max(0, taken - len(piece))
    return rest


class WebSocketStream:
    """The byte stream inside a WebSocket that was accepted; see ``accept``."""

    def __init__(self, stream: ByteStream) -> None:
        from wsproto import ConnectionType, WSConnection

        self._stream = stream
        self._protocol = WSConnection(ConnectionType.SERVER)
        self._events = self._protocol.events()
        self._received = bytearray()
        self._sending = anyio.Lock()  # by the task that writes, and by the one that answers pings
        self._closed = False

    async def accept(self) -> None:
        """Answer the client's handshake.

        Raises:
            HandshakeFailed: it is no WebSocket client, or says nothing in time.
        """
        from wsproto.events import AcceptConnection, Request
        from wsproto.utilities import ProtocolError

        try:
            with anyio.fail_after(WEBSOCKET_TIMEOUT):
                event = await self._next_event()
        except (TimeoutError, ProtocolError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise HandshakeFailed(f"no WebSocket handshake came: {error or 'in time'}") from None
        if not isinstance(event, Request):
            raise HandshakeFailed("no WebSocket handshake came")
        chosen = SUBPROTOCOL if SUBPROTOCOL in event.subprotocols else None
        await self._send(AcceptConnection(subprotocol=chosen))

    async def receive(self, max_bytes: int = RECEIVE_SIZE) -> bytes:
        """Bytes of the client's messages.

        Raises:
            anyio.EndOfStream: it closed.
            anyio.BrokenResourceError: it broke the protocol, or sent text.
        """
        from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
        from wsproto.utilities import ProtocolError

        while not self._received:
            try:
                event = await self._next_event()
            except ProtocolError as error:
                raise anyio.BrokenResourceError from error
            match event:
                case BytesMessage():
                    self._received += event.data
                case Ping():
                    await self._send(event.response())
                case CloseConnection():
                    self._closed = True
                    raise anyio.EndOfStream
                case TextMessage():
                    raise anyio.BrokenResourceError
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        return data

    async def send(self, item: bytes) -> None:
        """Send ``item`` as one message."""
        from wsproto.events import BytesMessage

        await self._send(BytesMessage(data=bytes(item)))

    async def aclose(self) -> None:
        """Close, and tell the client, if it listens."""
        from wsproto.events import CloseConnection
        from wsproto.utilities import LocalProtocolError

        try:
            if not self._closed:
                self._closed = True
                await self._send(CloseConnection(code=1000))
        except (LocalProtocolError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the handshake never ended, or the client is gone
        finally:
            await self._stream.aclose()

    async def _send(self, event: "Event") -> None:
        async with self._sending:
            await self._stream.send(self._protocol.send(event))

    async def _next_event(self) -> "Event":
        while True:
            for event in self._events:
                return event
            data = await self._stream.receive(RECEIVE_SIZE)
            self._protocol.receive_data(data)
            self._events = self._protocol.events()


class Writer:
    """Sends what ``connection`` has queued; everything queued by then leaves in one send."""

    def __init__(self, stream: ByteStream, connection: Connection) -> None:
        self._stream = stream
        self._connection = connection
        self._rest: Sequence[bytes | bytearray | memoryview] = ()
        self._wake = anyio.Event()
        self._waits = False
        self._all_written = anyio.Event()
        self._can_write = True

    @property
    def _is_behind(self) -> bool:
        return bool(self._rest or self._connection.queued_bytes)

    def wake(self) -> None:
        """Have what is queued written soon, together with what else is queued by then."""
        if self._waits:
            self._waits = False
            self._wake.set()

    def write_now(self) -> None:
        """Write what is queued; what the connection does not take at once, the task writes."""
        if not self._waits or not self._connection.queued_bytes:
            return
        if isinstance(self._stream, SocketStream):
            self._waits = False  # a log record, made while this runs, would be written as well
            data = self._connection.pieces_to_send()
            taken = 0
            with suppress(anyio.BrokenResourceError):  # the task meets it, too
                taken = self._stream.send_nowait(data)
            self._rest = rest_of((data,) if isinstance(data, bytes) else data, taken)
            self._waits = True
        if self._is_behind:
            self.wake()

    async def run(self, scope: anyio.CancelScope) -> None:
        """Write until ``scope`` is cancelled or the connection breaks."""
        with scope:
            while True:
                if not self._rest:
                    data = self._connection.pieces_to_send()
                    self._rest = rest_of((data,) if isinstance(data, bytes) else data, 0)
                if self._rest:
                    try:
                        await self._send_rest()
                    except CONNECTION_ERRORS:
                        break  # the reader sees the end as well, and acts on it
                    self._rest = ()
                else:
                    self._all_written.set()
                    self._wake = anyio.Event()
                    self._waits = True
                    await self._wake.wait()
        self._can_write = False
        self._all_written.set()

    async def _send_rest(self) -> None:
        if isinstance(self._stream, SocketStream):
            await self._stream.send_pieces(self._rest)
        else:
            await self._stream.send(b"".join(self._rest))

    async def flush(self) -> None:
        """Wait until everything queued has been written, or nothing can be any more."""
        while self._can_write and self._is_behind:
            if self._all_written.is_set():
                self._all_written = anyio.Event()
            self.wake()
            await self._all_written.wait()

"""Frames inside the binary messages of a WebSocket, for plugins behind HTTP infrastructure.

A message's boundaries mean nothing: the frames are one stream of bytes. The proxy is the
client; load balancers, ingresses and TLS terminators on the way need know no more than HTTP.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from prism.streams import tcp
from prism.streams.addresses import WebSocketURL
from prism.streams.errors import LaunchError
from prism.streams.tls import TLSFiles

SUBPROTOCOL = "prism.frames.v1"
"""Names what is spoken inside; servers that know it confirm it."""
MAX_MESSAGE = 1024 * 1024
"""Bytes of a message, both ways; longer frames span several."""
CLOSE_PATIENCE = 1.0
"""Seconds for the peer's half of the closing handshake."""


class _Reader:
    """The nursery that the library's reader is given: one that can end it alone.

    The reader waits, for ever, while nobody takes the message that it has read. What it
    raises, such as a refused handshake, ends ``opening`` rather than the nursery.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self.scope = trio.CancelScope()
        self.opening = trio.CancelScope()
        self.failure: Exception | None = None
        self._nursery = nursery

    def start_soon(self, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        self._nursery.start_soon(self._run, function, arguments)

    async def _run(
        self, function: Callable[..., Awaitable[object]], arguments: tuple[object, ...]
    ) -> None:
        with self.scope:
            try:
                await function(*arguments)
            except Exception as error:
                self.failure = error
                self.opening.cancel()


class WebSocketStream(trio.abc.Stream):
    """A WebSocket's binary messages as a stream of bytes; closing it ends all below."""

    def __init__(
        self, connection: WebSocketConnection, transport: trio.abc.Stream, reader: _Reader
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._reader = reader
        self._received = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``; cancelled, it leaves the stream of no more use.

        Raises:
            trio.BrokenResourceError: the connection is closed.
        """
        view = memoryview(data)
        try:
            for start in range(0, len(view), MAX_MESSAGE):
                await self._connection.send_message(bytes(view[start : start + MAX_MESSAGE]))
        except ConnectionClosed as error:
            raise trio.BrokenResourceError(_reason(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        """Only a checkpoint: the library does not tell."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Bytes of the next message, or of the rest of the last; empty at a clean end.

        Raises:
            trio.BrokenResourceError: the connection broke, or text came.
        """
        await trio.lowlevel.checkpoint()
        while not self._received:
            try:
                message = await self._connection.get_message()
            except ConnectionClosed as error:
                if error.reason is not None and error.reason.code in {1000, 1001}:
                    return b""
                raise trio.BrokenResourceError(_reason(error)) from error
            if isinstance(message, str):
                raise trio.BrokenResourceError("a text message, where frames are binary")
            self._received = message
        size = len(self._received) if max_bytes is None else max_bytes
        data, self._received = self._received[:size], self._received[size:]
        return data

    async def aclose(self) -> None:
        """Close, politely for ``CLOSE_PATIENCE`` at most. Never raises."""
        try:
            with trio.move_on_after(CLOSE_PATIENCE), suppress(ConnectionClosed):
                await self._connection.aclose()
        finally:
            self._reader.scope.cancel()
            await trio.aclose_forcefully(self._transport)


def _reason(error: ConnectionClosed) -> str:
    closed = error.reason
    if closed is None:
        return "the connection broke"
    return f"closed with {closed.code} {closed.reason or ''}".rstrip()


async def dial(url: str, tls: TLSFiles | None, nursery: trio.Nursery) -> WebSocketStream:
    """Connect to a plugin; what reads its messages runs in ``nursery``.

    ``tls`` applies to ``wss://``; plain ``ws://`` is for loopback. The caller sets the
    deadline.

    Raises:
        LaunchError: nobody listens there, it is not who it should be, or no WebSocket.
    """
    endpoint = WebSocketURL.parse(url)
    files = (tls or TLSFiles()) if endpoint.secure else None
    protocols = ["http/1.1"] if endpoint.secure else []
    transport = await tcp.dial(endpoint.host, endpoint.port, files, protocols=protocols)
    reader = _Reader(nursery)
    try:
        with reader.opening:
            connection = await wrap_client_stream(
                reader,  # type: ignore[arg-type]  # as much of a nursery as the library uses
                transport,  # type: ignore[arg-type]  # either of the two that tcp.dial returns
                endpoint.authority,
                endpoint.target,
                subprotocols=[SUBPROTOCOL],
                max_message_size=MAX_MESSAGE,
                receive_buffer_size=64 * 1024,
            )
            return WebSocketStream(connection, transport, reader)
    except BaseException as error:
        await _abandon(reader, transport)
        if isinstance(error, HandshakeError | ConnectionClosed):
            raise LaunchError(_refusal(url, error)) from None
        raise
    await _abandon(reader, transport)
    raise LaunchError(_refusal(url, reader.failure)) from None


def _refusal(url: str, error: Exception | None) -> str:
    if isinstance(error, ConnectionRejected):
        return f"{url} answered HTTP {error.status_code}, not a WebSocket"
    return f"{url} does not speak WebSocket: {error or type(error).__name__}"


async def _abandon(reader: _Reader, transport: trio.abc.Stream) -> None:
    reader.scope.cancel()
    await trio.aclose_forcefully(transport)

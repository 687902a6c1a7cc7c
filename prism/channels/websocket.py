"""Frames inside the binary messages of a WebSocket, for plugins behind HTTP infrastructure.

A message's boundaries mean nothing: the frames are one stream of bytes. The proxy is the
client; load balancers, ingresses and TLS terminators on the way need know no more than HTTP.
"""

from contextlib import suppress

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from prism.streams import tcp
from prism.streams.addresses import WebSocketURL
from prism.streams.errors import ConnectionAged, LaunchError
from prism.streams.tls import TLSFiles

SUBPROTOCOL = "prism.frames.v1"
"""Names what is spoken inside; servers that know it confirm it."""
MAX_MESSAGE = 1024 * 1024
"""Bytes of a message, both ways; longer frames span several."""
NORMAL_CLOSURE = 1000
AGED = (1001, 1012)
"""Going Away and Service Restart: the connection is over, and another one can be had."""
CLOSE_TIMEOUT = 1.0
"""Seconds for the peer's half of the closing handshake."""


class WebSocketStream(trio.abc.Stream):
    """A WebSocket's binary messages as a stream of bytes; closing it ends all below."""

    def __init__(
        self, connection: WebSocketConnection, transport: trio.abc.Stream, reader: trio.CancelScope
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
            raise _broken(error) from error

    async def wait_send_all_might_not_block(self) -> None:
        """Only a checkpoint: the library does not tell."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Bytes of the next message, or of the rest of the last; empty at a clean end.

        Raises:
            ConnectionAged: the peer goes away, or restarts.
            trio.BrokenResourceError: the connection broke, or text came.
        """
        await trio.lowlevel.checkpoint()
        while not self._received:
            try:
                message = await self._connection.get_message()
            except ConnectionClosed as error:
                if error.reason is not None and error.reason.code == NORMAL_CLOSURE:
                    return b""
                raise _broken(error) from error
            if isinstance(message, str):
                raise trio.BrokenResourceError("a text message, where frames are binary")
            self._received = message
        size = len(self._received) if max_bytes is None else max_bytes
        data, self._received = self._received[:size], self._received[size:]
        return data

    async def aclose(self) -> None:
        """Close, politely for ``CLOSE_TIMEOUT`` at most. Never raises."""
        try:
            with trio.move_on_after(CLOSE_TIMEOUT), suppress(ConnectionClosed):
                await self._connection.aclose()
        finally:
            self._reader.cancel()
            await trio.aclose_forcefully(self._transport)


def _broken(error: ConnectionClosed) -> trio.BrokenResourceError:
    closed = error.reason
    if closed is None:
        return trio.BrokenResourceError("the connection broke")
    said = f"closed with {closed.code} {closed.reason or ''}".rstrip()
    return (ConnectionAged if closed.code in AGED else trio.BrokenResourceError)(said)


async def dial(
    url: str, tls: TLSFiles | None, nursery: trio.Nursery, *, address: str = ""
) -> WebSocketStream:
    """Connect to a plugin; what reads its messages runs in ``nursery``, and never fails there.

    ``address`` is dialled, where the URL's host has several. ``tls`` applies to ``wss://``;
    plain ``ws://`` is for loopback. The caller sets the deadline; cancelling closes the connection.

    Raises:
        LaunchError: nobody listens there, it is not who it should be, or no WebSocket.
    """
    endpoint = WebSocketURL.parse(url)
    files = (tls or TLSFiles()) if endpoint.secure else None
    protocols = ["http/1.1"] if endpoint.secure else []
    transport = await tcp.dial(
        endpoint.host, endpoint.port, files, protocols=protocols, address=address
    )
    stream: WebSocketStream = await nursery.start(_hold_open, transport, url)
    return stream


async def _hold_open(
    transport: trio.abc.Stream, url: str, task_status: trio.TaskStatus[WebSocketStream]
) -> None:
    """Open a WebSocket on ``transport``, and keep its reader running until it is closed.

    The nursery is the connection's own: closing must end the library's reader, which waits,
    for ever, while nobody takes the message that it has read.
    """
    endpoint = WebSocketURL.parse(url)
    stream: WebSocketStream | None = None
    try:
        async with trio.open_nursery() as nursery:
            connection = await wrap_client_stream(
                nursery,
                transport,  # type: ignore[arg-type]  # either of the two that tcp.dial returns
                endpoint.authority,
                endpoint.target,
                subprotocols=[SUBPROTOCOL],
                max_message_size=MAX_MESSAGE,
                receive_buffer_size=64 * 1024,
            )
            stream = WebSocketStream(connection, transport, nursery.cancel_scope)
            task_status.started(stream)
    except ExceptionGroup as group:  # what the reader raised
        if stream is None:
            raise LaunchError(_refusal(url, group.exceptions[0])) from None
    finally:
        await trio.aclose_forcefully(transport)


def _refusal(url: str, error: Exception) -> str:
    if isinstance(error, ConnectionRejected):
        return f"{url} answered HTTP {error.status_code}, not a WebSocket"
    return f"{url} does not speak WebSocket: {error or type(error).__name__}"

"""The plugin's end of a WebSocket, on any byte stream: frames inside binary messages.

wsproto is sans-I/O, so this runs on trio and on asyncio. It comes with the proxy; a plugin
installed without it needs ``pip install wsproto``.
"""

from typing import TYPE_CHECKING

import anyio

from prism.contract.errors import HandshakeFailed

if TYPE_CHECKING:
    from wsproto.events import Event

    from prism.sdk.session import ByteStream

SUBPROTOCOL = "prism.frames.v1"
RECEIVE_SIZE = 64 * 1024
HANDSHAKE_TIMEOUT = 10.0


class WebSocketStream:
    """The byte stream inside a WebSocket that was accepted; see ``accept``."""

    def __init__(self, stream: "ByteStream") -> None:
        from wsproto import ConnectionType, WSConnection

        self._stream = stream
        self._protocol = WSConnection(ConnectionType.SERVER)
        self._events = self._protocol.events()
        self._received = bytearray()
        self._closed = False

    async def accept(self) -> None:
        """Answer the client's handshake.

        Raises:
            HandshakeFailed: it is no WebSocket client, or says nothing in time.
        """
        from wsproto.events import AcceptConnection, Request
        from wsproto.utilities import ProtocolError

        try:
            with anyio.fail_after(HANDSHAKE_TIMEOUT):
                event = await self._next_event()
        except (TimeoutError, ProtocolError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise HandshakeFailed(f"no WebSocket handshake came: {error or 'in time'}") from None
        if not isinstance(event, Request):
            raise HandshakeFailed("no WebSocket handshake came")
        chosen = SUBPROTOCOL if SUBPROTOCOL in event.subprotocols else None
        await self._stream.send(self._protocol.send(AcceptConnection(subprotocol=chosen)))

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
                    await self._stream.send(self._protocol.send(event.response()))
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

        await self._stream.send(self._protocol.send(BytesMessage(data=bytes(item))))

    async def aclose(self) -> None:
        """Say goodbye, if the client listens, and close."""
        from wsproto.events import CloseConnection
        from wsproto.utilities import LocalProtocolError

        try:
            if not self._closed:
                self._closed = True
                await self._stream.send(self._protocol.send(CloseConnection(code=1000)))
        except (LocalProtocolError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the handshake never ended, or the client is gone
        finally:
            await self._stream.aclose()

    async def _next_event(self) -> "Event":
        while True:
            for event in self._events:
                return event
            data = await self._stream.receive(RECEIVE_SIZE)
            self._protocol.receive_data(data)
            self._events = self._protocol.events()

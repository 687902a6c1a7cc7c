"""WebSocket (RFC 6455) inside an HTTP exchange.

Once a handshake is accepted, a WebSocket is two streams of bytes: the rest of the request's
body, and the response's. So both HTTP versions carry it with what they have for bodies:
HTTP/2 as DATA of an extended CONNECT (RFC 8441), HTTP/1.1 as what follows its 101. Flow
control, fairness and limits on slow clients are those of any other request.

Two tasks serve it beside the front end's: one reads, since pings and the client's close are
answered whether or not the front end waits for a message; one sees that a silent client is
still there. The reader stops while a message is not taken, and so then does the client.

No extension is negotiated: permessage-deflate lets a client make 430 MB of 400 KB.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

from prism.calls.memory import UNCOUNTED, Hold
from prism.contract.errors import CallCancelled, MemoryFull
from prism.server.exchange import Cancelled, Exchange, Headers, WebSocket, WebSocketClosed
from prism.server.settings import WebSocketLimits

EVENTS_AT_ONCE = 64
"""Frames taken in before other tasks have a turn."""
CLOSE_TIMEOUT = 1.0
"""Seconds for the last frames of a WebSocket that is not waited for any more."""

_TRY_AGAIN_LATER = 1013
"""The close code for a message that there is no room for now (IANA's registry)."""
_NO_BITS = RsvBits(False, False, False)


class FrameWebSocket(WebSocket):
    """A WebSocket whose frames are the bytes of ``exchange``."""

    def __init__(self, exchange: Exchange, limits: WebSocketLimits) -> None:
        self._exchange = exchange
        self._limits = limits
        self._frames = Connection(ConnectionType.SERVER, [_MessageLimit(limits.max_message)])
        self._sender = trio.Lock()
        self._heard = 0.0
        # No message waits: the reader stops at each until it is taken.
        self._deliver, self._messages = trio.open_memory_channel[str | bytes](0)
        self._delivering = False
        self._reading = trio.CancelScope()
        memory = exchange.peer.memory  # another server's connection has none
        requests = None if memory is None else memory.requests
        self._held = Hold(requests, None if requests is None else requests.parent)
        self._finished = False

    # -- for the front end ----------------------------------------------------

    @asynccontextmanager
    async def accept(self, headers: Headers) -> AsyncIterator[None]:
        failure: Exception | None = None
        await self._exchange.begin(200, headers)
        self._heard = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                nursery.start_soon(self._ping)
                try:
                    yield
                except Exception as error:  # the nursery would make a group of it
                    failure = error
                    await self.close(CloseReason.INTERNAL_ERROR)
                except BaseException:
                    with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_TIMEOUT):
                        await self.close(CloseReason.GOING_AWAY, "the server is stopping")
                    raise
                else:
                    await self.close()
                nursery.cancel_scope.cancel()
        finally:
            if not self._finished:
                self._exchange.abort()
        if failure is not None:
            raise failure

    async def receive(self) -> str | bytes:
        try:
            return await self._messages.receive()
        except trio.EndOfChannel:
            raise WebSocketClosed(self.close_code) from None

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            await self._write(TextMessage(data=message))
        else:
            await self._write(BytesMessage(data=message))

    async def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        async with self._sender:
            if self._frames.state not in {ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING}:
                return
            data = self._frames.send(CloseConnection(code=code, reason=reason or None))
            await self._exchange.write(data)
            await self._exchange.finish()
            self._finished = True

    # -- beside it ------------------------------------------------------------

    async def _write(self, event: TextMessage | BytesMessage | Ping | Pong) -> None:
        async with self._sender:
            if self._frames.state is ConnectionState.OPEN:
                await self._exchange.write(self._frames.send(event))

    async def _read(self) -> None:
        """Take in frames until the client closes, leaves, or breaks a rule."""
        try:
            with self._reading:
                await self._read_messages()
        except CallCancelled:
            pass  # it left; what is sent has no effect any more
        finally:
            self._held.release()
            self._deliver.close()
        self._exchange.cancel(Cancelled.CLIENT_LEFT)

    async def _read_messages(self) -> None:
        message = bytearray()
        held = self._held
        while data := await self._exchange.read():
            self._heard = trio.current_time()
            self._frames.receive_data(data)
            for number, event in enumerate(self._frames.events(), 1):
                if number % EVENTS_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
                match event:
                    case TextMessage():
                        message += event.data.encode()
                        if event.message_finished:
                            await self._deliver_message(message.decode())
                            message = bytearray()
                            held.release()
                    case BytesMessage():
                        message += event.data
                        if event.message_finished:
                            await self._deliver_message(bytes(message))
                            message = bytearray()
                            held.release()
                    case Ping():
                        await self._write(event.response())
                    case CloseConnection():
                        self.close_code = int(event.code)
                        await self.close(self.close_code, self._complaint())
                        return
            if len(message) > UNCOUNTED or held.size:
                try:
                    held.resize(len(message))
                except MemoryFull as full:
                    await self.close(_TRY_AGAIN_LATER, str(full))
                    return
        await self.close(CloseReason.PROTOCOL_ERROR, "the end came without a close frame")

    def _complaint(self) -> str:
        """What the client did wrong; empty if it has closed, as it may."""
        if self._frames.state is not ConnectionState.OPEN:
            return ""  # wsproto leaves the state when it reports a broken rule as a close
        if self.close_code == CloseReason.MESSAGE_TOO_BIG:
            return f"a message is larger than {self._limits.max_message} bytes"
        return "the client broke the WebSocket protocol"

    async def _deliver_message(self, message: str | bytes) -> None:
        self._delivering = True
        await self._deliver.send(message)
        self._delivering = False
        self._heard = trio.current_time()

    async def _ping(self) -> None:
        """Ask a silent client whether it is there, and close on one that does not answer.

        A client whose message nobody takes is let wait, and is not silent.
        """
        interval, timeout = self._limits.ping_interval, self._limits.ping_timeout
        while True:
            await trio.sleep(interval / 2)
            silence = trio.current_time() - self._heard
            if silence >= interval + timeout and not self._delivering:
                self.close_code = int(CloseReason.INTERNAL_ERROR)
                await self.close(self.close_code, "no answer to a ping")
                self._reading.cancel()
            elif silence >= interval:
                await self._write(Ping())


class _MessageLimit(Extension):
    """Ends a WebSocket at the head of the frame that makes a message too large: what a head
    announces may never come, and would be waited for."""

    name = "message limit"

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._before = 0  # bytes of the message's frames before this one
        self._frame = 0
        self._of_message = False

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,
    ) -> CloseReason | RsvBits:
        """The size of a frame is known; called again if its head has not come whole."""
        self._of_message = not opcode.iscontrol()
        self._frame = payload_length
        if self._of_message and self._before + self._frame > self._limit:
            return CloseReason.MESSAGE_TOO_BIG
        return _NO_BITS

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> None:
        """A frame has come whole."""
        if self._of_message:
            self._before = 0 if fin else self._before + self._frame

"""WebSocket (RFC 6455) inside an HTTP exchange, as ASGI has it.

Once a handshake is accepted, a WebSocket is two streams of bytes: the rest of the request's
body, and the response's. So both HTTP versions carry it with what they have for bodies:
HTTP/2 as DATA of an extended CONNECT (RFC 8441), HTTP/1.1 as what follows its 101. Flow
control, fairness and limits on slow clients are those of any other request.

No extension is negotiated: permessage-deflate lets a client make 430 MB of 400 KB.
"""

from contextlib import suppress

import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from prism.server.asgi import CANCELLED, App, Headers, Message, Receive, Scope, Send
from prism.server.exchange import UnexpectedMessage
from prism.server.settings import WebSocketLimits

EVENTS_AT_ONCE = 64
"""Frames taken in before other tasks have a turn."""
PARTING_TIME = 1.0
"""Seconds for the last frame of a WebSocket whose time is up."""


class _Abnormal(Exception):
    """The client has to be closed on with a code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class WebSocketAdapter:
    """An ASGI application for an exchange whose request is a WebSocket handshake.

    It runs ``app`` with the protocol ``websocket``, over the HTTP messages it gets.
    """

    def __init__(self, app: App, limits: WebSocketLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket to its end."""
        session = _Session(receive, send, self._limits)
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            session.reader_scope = nursery.cancel_scope
            nursery.start_soon(session.read)
            nursery.start_soon(session.ping)
            try:
                await self._app(websocket_scope(scope), session.receive, session.send)
            except Exception as error:  # a group would hide it from whoever logs it
                failure = error
            except CANCELLED:
                await session.part(CloseReason.GOING_AWAY, "the server is stopping")
                raise
            await session.finish(failed=failure is not None)
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


def websocket_scope(scope: Scope) -> Scope:
    """The ``websocket`` scope of a handshake whose ``http`` scope is given."""
    offered = [
        item.strip().decode("latin-1")
        for name, value in scope["headers"]
        if name == b"sec-websocket-protocol"
        for item in value.split(b",")
    ]
    extensions: dict[str, dict[str, object]] = {"websocket.http.response": {}}
    if "prism.cancels_on_disconnect" in scope["extensions"]:
        extensions["prism.cancels_on_disconnect"] = {}
    return {
        **{key: value for key, value in scope.items() if key != "method"},
        "type": "websocket",
        "scheme": "wss" if scope["scheme"] == "https" else "ws",
        "subprotocols": [item for item in offered if item],
        "extensions": extensions,
    }


class _Fragments:
    """A message while it comes, in however many fragments: it takes no more than its bytes."""

    def __init__(self) -> None:
        self.size = 0
        self._buffer = bytearray()

    def add(self, data: str | bytes | bytearray) -> None:
        """The next of them."""
        self._buffer += data.encode() if isinstance(data, str) else data
        self.size = len(self._buffer)

    def whole(self, last: TextMessage | BytesMessage) -> Message:
        """The message as ASGI has it."""
        if isinstance(last, TextMessage):
            return {"type": "websocket.receive", "text": self._buffer.decode()}
        return {"type": "websocket.receive", "bytes": bytes(self._buffer)}


class _Session:
    """One WebSocket. ``read`` and ``ping`` are tasks beside the application's."""

    def __init__(self, receive: Receive, send: Send, limits: WebSocketLimits) -> None:
        self.reader_scope: trio.CancelScope | None = None
        self._http_receive = receive
        self._http_send = send
        self._limits = limits
        self._frames = Connection(ConnectionType.SERVER)
        self._accepted = trio.Event()
        self._answered = False  # with something other than a WebSocket
        self._connected = False
        self._sender = trio.Lock()
        self._heard = trio.current_time()
        self._delivering = False
        # One message: the reader stops there, and so does the client.
        self._deliver, self._messages = trio.open_memory_channel[Message](0)
        self._disconnect: Message = {"type": "websocket.disconnect", "code": 1006}

    # For the application.

    async def receive(self) -> Message:
        """ASGI ``receive``."""
        if not self._connected:
            self._connected = True
            await trio.lowlevel.checkpoint()
            return {"type": "websocket.connect"}
        try:
            return await self._messages.receive()
        except trio.EndOfChannel:
            return self._disconnect

    async def send(self, message: Message) -> None:
        """ASGI ``send``. Waits while the client takes no more; no effect once it is gone.

        Raises:
            UnexpectedMessage: the application broke ASGI's rules.
        """
        kind = message["type"]
        if kind == "websocket.accept" and not self._accepted.is_set() and not self._answered:
            await self._accept(message)
        elif kind == "websocket.send" and self._accepted.is_set():
            text = message.get("text")
            if text is not None:
                await self._write(TextMessage(data=text))
            else:
                await self._write(BytesMessage(data=message["bytes"]))
        elif kind == "websocket.close" and self._accepted.is_set():
            await self._close(message.get("code", 1000), message.get("reason") or "")
        elif kind == "websocket.close" and not self._answered:
            await self._answer(403)
        elif kind.startswith("websocket.http.response.") and not self._accepted.is_set():
            self._answered = True
            await self._http_send({**message, "type": kind.removeprefix("websocket.")})
        else:
            raise UnexpectedMessage(f"{kind} has no place now")

    # For the adapter.

    async def finish(self, *, failed: bool) -> None:
        """The application has returned: close what it left open."""
        if self._accepted.is_set():
            code = CloseReason.INTERNAL_ERROR if failed else CloseReason.NORMAL_CLOSURE
            await self._close(code, "")
        elif not self._answered and not failed:
            await self._answer(403)

    async def part(self, code: int, reason: str) -> None:
        """As ``finish``, when the time is up."""
        if self._accepted.is_set():
            with trio.CancelScope(shield=True), trio.move_on_after(PARTING_TIME):
                await self._close(code, reason)

    async def read(self) -> None:
        """Take in frames until the client closes, leaves, or breaks a rule."""
        await self._accepted.wait()
        try:
            await self._read_messages()
        except _Abnormal as error:
            self._disconnect = {**self._disconnect, "code": error.code}
            await self._close(error.code, error.reason)
        finally:
            self._deliver.close()

    async def ping(self) -> None:
        """Ask a silent client whether it is there, and give one up that does not answer."""
        interval, timeout = self._limits.ping_interval, self._limits.ping_timeout
        await self._accepted.wait()
        while True:
            await trio.sleep(interval / 2)
            silence = trio.current_time() - self._heard
            if silence >= interval + timeout and not self._delivering:
                self._disconnect = {**self._disconnect, "code": 1011}
                await self._close(CloseReason.INTERNAL_ERROR, "no answer to a ping")
                self._deliver.close()
            elif silence >= interval:
                await self._write(Ping())

    # Writing.

    async def _accept(self, message: Message) -> None:
        headers: Headers = list(message.get("headers", []))
        subprotocol = message.get("subprotocol")
        if subprotocol:
            headers.append((b"sec-websocket-protocol", subprotocol.encode("ascii")))
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        await self._http_send(start)
        await self._http_send({"type": "http.response.body", "body": b"", "more_body": True})
        self._heard = trio.current_time()
        self._accepted.set()

    async def _answer(self, status: int) -> None:
        self._answered = True
        await self._http_send({"type": "http.response.start", "status": status, "headers": []})
        await self._http_send({"type": "http.response.body", "body": b""})

    async def _write(self, event: TextMessage | BytesMessage | Ping | Pong) -> None:
        async with self._sender:
            if self._frames.state in {ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING}:
                with suppress(LocalProtocolError):  # closed meanwhile
                    await self._write_bytes(self._frames.send(event))

    async def _close(self, code: int, reason: str) -> None:
        async with self._sender:
            if self._frames.state not in {ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING}:
                return
            short = reason.encode()[:123].decode(errors="ignore")
            data = self._frames.send(CloseConnection(code=code, reason=short or None))
            await self._write_bytes(data, more=False)

    async def _write_bytes(self, data: bytes, *, more: bool = True) -> None:
        await self._http_send({"type": "http.response.body", "body": data, "more_body": more})

    # Reading.

    async def _read_messages(self) -> None:
        message = _Fragments()
        while True:
            data = await self._receive_bytes()
            self._heard = trio.current_time()
            self._frames.receive_data(data)
            try:
                for number, event in enumerate(self._frames.events(), 1):
                    if number % EVENTS_AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()
                    match event:
                        case TextMessage() | BytesMessage():
                            message.add(event.data)
                            if message.size > self._limits.max_message:
                                limit = self._limits.max_message
                                raise _Abnormal(1009, f"a message is larger than {limit} bytes")
                            if event.message_finished:
                                await self._deliver_message(message.whole(event))
                                message = _Fragments()
                        case Ping():
                            await self._write(event.response())
                        case CloseConnection():
                            self._disconnect = {
                                "type": "websocket.disconnect",
                                "code": int(event.code),
                                "reason": event.reason or "",
                            }
                            await self._close(_answer_to(event.code), "")
                            return
            except RemoteProtocolError as error:
                code = getattr(error.event_hint, "code", CloseReason.PROTOCOL_ERROR)
                raise _Abnormal(int(code), "the client broke the WebSocket protocol") from error
            if not data:
                return

    async def _deliver_message(self, message: Message) -> None:
        self._delivering = True
        await self._deliver.send(message)
        self._delivering = False
        self._heard = trio.current_time()

    async def _receive_bytes(self) -> bytes:
        """What comes next; empty when the client has left without closing."""
        while True:
            message = await self._http_receive()
            if message["type"] != "http.request":
                return b""
            if message["body"] or not message["more_body"]:
                return bytes(message["body"])


def _answer_to(code: int) -> int:
    """The code that answers a client's: the same, if it may stand in a frame (RFC 6455, 7.4)."""
    return int(code) if 1000 <= code < 5000 and code not in {1004, 1005, 1006, 1015} else 1000

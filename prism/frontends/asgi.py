"""Front ends on any ASGI server that runs on trio, such as hypercorn (ASGI 3, HTTP and WebSocket).

Each request is an exchange whose client is the server's ``receive`` and ``send``. Beside the
front end's own tasks one waits in ``receive``: for the body, as far as the front end keeps up,
and for the client's end. What the server must offer:

- trailers (the extension ``http.response.trailers``) for gRPC. Where it has none, or the client
  does not take any (``te: trailers``), gRPC is answered like any unknown path.
- denial responses (``websocket.http.response``), or a refused WebSocket is a bare 403.

A server that stops cancels what runs too long: its calls are logged as ended by the stop.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from prism.server.exchange import (
    BODILESS,
    Cancelled,
    Exchange,
    FrontEnd,
    Headers,
    Peer,
    Phase,
    WebSocket,
    WebSocketClosed,
    content_length,
)
from prism.server.problems import BadRequest, hand_to, refuse
from prism.server.rules import check_request
from prism.streams.tasks import TaskPool

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_UNREAD = 64 * 1024
"""Bytes of a body that wait for the front end before the next are received."""
_CLOSE_TIMEOUT = 1.0
"""Seconds for the close of a WebSocket whose server stops."""


def asgi(front: FrontEnd) -> App:
    """``front`` as an ASGI application."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await _live(receive, send)
        elif kind == "websocket":
            await receive()  # websocket.connect
            await _serve(front, scope, receive, send, ASGIWebSocketExchange)
        else:
            await _serve(front, scope, receive, send, ASGIExchange)

    return app


async def _live(receive: Receive, send: Send) -> None:
    """Agree to start, and to stop: neither takes anything here."""
    kind = ""
    while kind != "lifespan.shutdown":
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})


async def _serve(
    front: FrontEnd, scope: Scope, receive: Receive, send: Send, kind: "type[ASGIExchange]"
) -> None:
    """Serve one request, until it is answered and what was begun for it has ended."""
    async with trio.open_nursery() as nursery:
        # No task is kept for reuse: the nursery ends when their work does.
        exchange = kind(scope, send, TaskPool(nursery, max_idle=0))
        watching = trio.CancelScope()
        nursery.start_soon(exchange.watch_client, receive, watching)
        try:
            check_request(exchange.method, exchange.target, exchange.headers)
        except BadRequest as error:
            refuse(exchange, error)
        else:
            hand_to(front, exchange)
        try:
            await exchange.wait_over()
        except trio.Cancelled:
            exchange.cancel(Cancelled.STOPPED)
            raise
        watching.cancel()


class ASGIExchange(Exchange):
    """One HTTP request."""

    __slots__ = ("_answer", "_body", "_over", "_room", "_send", "_sending")

    def __init__(self, scope: Scope, send: Send, tasks: TaskPool) -> None:
        client, server = scope.get("client"), scope.get("server")
        secure = scope.get("scheme") in {"https", "wss"}
        peer = Peer(
            "https" if secure else "http",
            (client[0], client[1]) if client else None,
            (server[0], server[1]) if server else None,
        )
        target = scope.get("raw_path") or scope["path"].encode()
        if query := scope.get("query_string"):
            target = b"%b?%b" % (target, query)
        headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        method = scope.get("method", "GET").encode()
        super().__init__(peer, tasks, method, target, headers, received_all=False)
        self.version = scope.get("http_version", "1.1")
        self.takes_trailers = "http.response.trailers" in (scope.get("extensions") or {}) and any(
            name == b"te" and b"trailers" in value for name, value in headers
        )
        self._send = send
        self._body: bytes | bytearray = b""
        self._room = trio.Event()
        self._answer: list[Message] = []
        self._over = trio.Event()
        self._sending = trio.CancelScope()

    # -- the request ----------------------------------------------------------

    async def watch_client(self, receive: Receive, scope: trio.CancelScope) -> None:
        """Take in what the server says of the client, until ``scope`` is cancelled."""
        with scope:
            while self.phase is not Phase.DONE and not self.is_gone:
                await self._take_in(await receive())

    async def _take_in(self, message: Message) -> None:
        if message["type"] != "http.request":
            self.cancel(Cancelled.CLIENT_LEFT)
            return
        data = message.get("body", b"")
        if not self._body:
            self._body = data
        elif isinstance(self._body, bytearray):
            self._body += data
        else:
            self._body = bytearray(self._body) + data
        self.received_all = not message.get("more_body", False)
        self._tell_received()
        while len(self._body) >= MAX_UNREAD and not self.is_gone:
            self._room = trio.Event()
            await self._room.wait()

    @property
    def received(self) -> int:
        return len(self._body)

    def take(self) -> bytes:
        body, self._body = self._body, b""
        self._room.set()
        return bytes(body)

    def cancel(self, why: Cancelled) -> None:
        super().cancel(why)
        if why is Cancelled.CLIENT_LEFT:
            self._over.set()
            self._sending.cancel()  # some servers wait for ever for who has left

    # -- the response ---------------------------------------------------------

    def respond(
        self, status: int, headers: Headers, body: bytes, trailers: Headers | None = None
    ) -> None:
        if self.is_gone or self.phase is not Phase.WAITING:
            self.release()
            return
        self.phase = Phase.DONE
        if trailers is None and status not in BODILESS:
            headers = [*headers, content_length(len(body))]
        if self.method == b"HEAD" or status in BODILESS:
            body = b""
        self._answer = self._whole(status, headers, body, trailers)
        self._over.set()

    async def wait_over(self) -> None:
        """Wait for the end of the exchange, and send what ``respond`` was given. What that takes
        is counted until the server says that the client has it."""
        try:
            await self._over.wait()
            with self._sending:
                for message in self._answer:
                    await self._say(message)
        finally:
            self.release()

    def _whole(
        self, status: int, headers: Headers, body: bytes, trailers: Headers | None
    ) -> list[Message]:
        """The messages of a whole response."""
        messages = [_start(status, headers, trailers=trailers is not None), _part(body)]
        return messages if trailers is None else [*messages, _trailers(trailers)]

    async def begin(self, status: int, headers: Headers) -> None:
        if self.cancelled is not None or self.phase is not Phase.WAITING:
            await trio.lowlevel.checkpoint()
            return
        self.phase = Phase.BODY
        await self._say(_start(status, headers, trailers=self.takes_trailers))
        await self._say(_part(b"", more=True))  # servers may hold the head until then

    async def write(self, data: bytes) -> None:
        if self.is_gone or self.phase is not Phase.BODY:
            await trio.lowlevel.checkpoint()
        elif data and self.method != b"HEAD":
            await self._say(_part(data, more=True))

    async def finish(self, trailers: Headers | None = None) -> None:
        if self.is_gone or self.phase is not Phase.BODY:
            return
        self.phase = Phase.DONE
        await self._say(_part(b""))
        if self.takes_trailers:
            await self._say(_trailers(trailers or []))
        self._over.set()

    def abort(self) -> None:
        self.phase = Phase.DONE
        self._over.set()  # a server breaks off what an application leaves unfinished

    async def _say(self, message: Message) -> None:
        if self.is_gone:
            return
        try:
            await self._send(message)
        except OSError:  # so some servers say that the client has left
            self.cancel(Cancelled.CLIENT_LEFT)


def _start(status: int, headers: Headers, *, trailers: bool) -> Message:
    return {
        "type": "http.response.start",
        "status": status,
        "headers": headers,
        "trailers": trailers,
    }


def _part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def _trailers(headers: Headers) -> Message:
    return {"type": "http.response.trailers", "headers": headers, "more_trailers": False}


class ASGIWebSocketExchange(ASGIExchange):
    """A WebSocket's handshake, and the WebSocket."""

    __slots__ = ("_can_deny", "_deliver", "_websocket")

    def __init__(self, scope: Scope, send: Send, tasks: TaskPool) -> None:
        super().__init__(scope, send, tasks)
        self.received_all = True
        self._can_deny = "websocket.http.response" in (scope.get("extensions") or {})
        # No message waits: the next is received when the front end has taken this one.
        self._deliver, messages = trio.open_memory_channel[str | bytes](0)
        self.websocket = self._websocket = ASGIWebSocket(self, messages)

    async def watch_client(self, receive: Receive, scope: trio.CancelScope) -> None:
        with self._deliver:
            await super().watch_client(receive, scope)

    async def _take_in(self, message: Message) -> None:
        if message["type"] == "websocket.receive":
            text = message.get("text")
            await self._deliver.send(message["bytes"] if text is None else text)
            return
        self._websocket.close_code = message.get("code", 1005)
        self.cancel(Cancelled.CLIENT_LEFT)

    def _whole(
        self, status: int, headers: Headers, body: bytes, trailers: Headers | None
    ) -> list[Message]:
        if not self._can_deny:
            return [{"type": "websocket.close"}]
        messages = super()._whole(status, headers, body, None)
        return [{**message, "type": f"websocket.{message['type']}"} for message in messages]

    async def accept_websocket(self, headers: Headers) -> None:
        """Accept the handshake."""
        self.phase = Phase.BODY
        await self._say({"type": "websocket.accept", "headers": headers})

    async def say(self, message: Message) -> None:
        """Send one of the WebSocket's messages, unless it has ended."""
        if self.phase is Phase.BODY:
            await self._say(message)

    def end_websocket(self) -> None:
        """The WebSocket has ended."""
        self.phase = Phase.DONE
        self._over.set()


class ASGIWebSocket(WebSocket):
    """A WebSocket whose frames are the server's business."""

    def __init__(
        self, exchange: ASGIWebSocketExchange, messages: trio.MemoryReceiveChannel[str | bytes]
    ) -> None:
        self._exchange = exchange
        self._messages = messages

    @asynccontextmanager
    async def accept(self, headers: Headers) -> AsyncIterator[None]:
        await self._exchange.accept_websocket(headers)
        try:
            yield
        except Exception:
            await self.close(1011)
            raise
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(_CLOSE_TIMEOUT):
                await self.close(1001, "the server is stopping")
            raise
        else:
            await self.close()
        finally:
            self._exchange.end_websocket()

    async def receive(self) -> str | bytes:
        try:
            return await self._messages.receive()
        except trio.EndOfChannel:
            raise WebSocketClosed(self.close_code) from None

    async def send(self, message: str | bytes) -> None:
        kind = "text" if isinstance(message, str) else "bytes"
        await self._exchange.say({"type": "websocket.send", kind: message})

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._exchange.say({"type": "websocket.close", "code": code, "reason": reason})
        self._exchange.end_websocket()

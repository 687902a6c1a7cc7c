"""A front end that runs an ASGI application for each request, so that the server's tests can
write theirs in a vocabulary that everybody knows. Only what those tests need, and strict."""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import unquote

import trio

from prism.server.exchange import Cancelled, Exchange, Headers, Phase, WebSocketClosed
from prism.server.log import log_failures
from prism.server.problems import BROKEN, BadRequest, refuse

Message = dict[str, Any]
App = Callable[..., Awaitable[None]]

STOPPED = BadRequest(503, "the server is stopping and could not finish the request")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class UnexpectedMessage(RuntimeError):
    """The application sent a message that has no place now."""


class ASGIApp:
    """The front end."""

    def __init__(self, app: App) -> None:
        self.app = app

    def begin(self, exchange: Exchange) -> None:
        run = WebSocketRun if exchange.is_websocket else Run
        exchange.tasks.start(run(self.app, exchange).run)


class Run:
    """One run of the application, which is cancelled when the response is not waited for."""

    def __init__(self, app: App, exchange: Exchange) -> None:
        self.app = app
        self.exchange = exchange
        self.scope = http_scope(exchange)
        self.cancel_scope = trio.CancelScope()
        self.failed = False
        self._changed = trio.Event()
        self._body_delivered = False
        self._start: tuple[int, Headers] | None = None
        self._trailers: Headers | None = None  # announced, and those that have come
        self._body_complete = False
        exchange.watch(self)

    def received(self) -> None:
        self._changed.set()

    def cancelled(self, why: Cancelled) -> None:
        self._changed.set()
        self.cancel_scope.cancel()

    async def run(self) -> None:
        with self.cancel_scope:
            await self.run_app()
        exchange = self.exchange
        if exchange.phase is Phase.BODY:
            exchange.abort()
        elif exchange.phase is Phase.WAITING and not exchange.is_gone:
            self.answer()

    def answer(self) -> None:
        """In the application's place."""
        refuse(self.exchange, STOPPED if self.exchange.cancelled is not None else BROKEN)

    async def run_app(self) -> None:
        try:
            await self.app(self.scope, self.receive, self.send)
        except (Exception, BaseExceptionGroup) as error:
            self.failed = True
            log_failures("the application", error)

    async def receive(self) -> Message:
        exchange = self.exchange
        while True:
            if exchange.is_gone or exchange.phase is Phase.DONE:
                await trio.lowlevel.checkpoint()
                return {"type": "http.disconnect"}
            if exchange.received or (exchange.received_all and not self._body_delivered):
                body = exchange.take()
                self._body_delivered = exchange.received_all
                return {"type": "http.request", "body": body, "more_body": not self._body_delivered}
            if not exchange.received_all:
                exchange.want_body()
            self._changed = trio.Event()
            await self._changed.wait()

    async def send(self, message: Message) -> None:
        if self.exchange.is_gone:
            await trio.lowlevel.checkpoint()
            return
        kind = message["type"]
        if kind == "http.response.start" and self._start is None:
            status = int(message["status"])
            if not 200 <= status <= 599:
                raise UnexpectedMessage(f"{status} is not the status of a final response")
            self._start = status, checked_headers(message.get("headers", []))
            if message.get("trailers", False) and self.exchange.takes_trailers:
                self._trailers = []
        elif kind == "http.response.body" and self._start is not None and not self._body_complete:
            await self._send_body(message.get("body", b""), message.get("more_body", False))
        elif kind == "http.response.trailers" and self._awaits_trailers:
            self._trailers += checked_headers(message.get("headers", []))
            if not message.get("more_trailers", False):
                trailers, self._trailers = self._trailers, None
                await self.exchange.finish(trailers)
                self._changed.set()
        else:
            raise UnexpectedMessage(f"{kind} has no place now")

    @property
    def _awaits_trailers(self) -> bool:
        return self._body_complete and self._trailers is not None

    async def _send_body(self, body: bytes, more: bool) -> None:
        exchange = self.exchange
        status, headers = self._start
        self._body_complete = not more
        if exchange.phase is Phase.WAITING:
            own = [item for item in headers if item[0] != b"content-length"]
            lengths = [value for name, value in headers if name == b"content-length"]
            if not more and self._trailers is None and lengths in ([], [b"%d" % len(body)]):
                exchange.respond(status, own, body)
                await trio.lowlevel.checkpoint()
                self._changed.set()
                return
            await exchange.begin(status, headers)
        if body:
            await exchange.write(body)
        if not more and self._trailers is None:
            await exchange.finish()
            self._changed.set()


class WebSocketRun(Run):
    """As ``Run``, for the protocol ``websocket``."""

    def __init__(self, app: App, exchange: Exchange) -> None:
        super().__init__(app, exchange)
        self.scope = websocket_scope(self.scope)
        self._connected = False
        self._accepted = False
        self._over = trio.Event()
        self._nursery: trio.Nursery

    async def run_app(self) -> None:
        async with trio.open_nursery() as self._nursery:
            await super().run_app()
            self._over.set()

    def answer(self) -> None:
        if self.failed or self.exchange.cancelled is not None:
            super().answer()
        else:
            self.exchange.respond(403, [], b"")

    async def _serve(self, headers: Headers, task_status: trio.TaskStatus[None]) -> None:
        websocket = self.exchange.websocket
        async with websocket.accept(headers):
            self._accepted = True
            task_status.started()
            await self._over.wait()
            if self.failed:
                await websocket.close(1011)

    async def receive(self) -> Message:
        if not self._connected:
            self._connected = True
            await trio.lowlevel.checkpoint()
            return {"type": "websocket.connect"}
        try:
            message = await self.exchange.websocket.receive()
        except WebSocketClosed as closed:
            return {"type": "websocket.disconnect", "code": closed.code}
        kind = "text" if isinstance(message, str) else "bytes"
        return {"type": "websocket.receive", kind: message}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind.startswith("websocket.http.response.") and not self._accepted:
            await super().send({**message, "type": kind.removeprefix("websocket.")})
        elif kind == "websocket.accept" and not self._accepted and self._start is None:
            headers = checked_headers(message.get("headers", []))
            if subprotocol := message.get("subprotocol"):
                headers.append((b"sec-websocket-protocol", subprotocol.encode("ascii")))
            await self._nursery.start(self._serve, headers)
        elif kind == "websocket.send" and self._accepted:
            text = message.get("text")
            await self.exchange.websocket.send(message["bytes"] if text is None else text)
        elif kind == "websocket.close" and self._accepted:
            code, reason = message.get("code", 1000), message.get("reason") or ""
            await self.exchange.websocket.close(code, reason)
        elif kind == "websocket.close" and self._start is None:
            self.exchange.respond(403, [], b"")
        else:
            raise UnexpectedMessage(f"{kind} has no place now")


def http_scope(exchange: Exchange) -> Message:
    """The ASGI scope of a request (ASGI 3, HTTP 2.4)."""
    peer = exchange.peer
    raw_path, _, query = exchange.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": exchange.version,
        "method": exchange.method.decode("ascii"),
        "scheme": peer.scheme,
        "path": unquote(raw_path.decode("ascii")),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": exchange.headers,
        "client": peer.client,
        "server": peer.server,
        "state": {"prism.peer": peer.certificate},
        "extensions": {"http.response.trailers": {}} if exchange.takes_trailers else {},
    }


def websocket_scope(scope: Message) -> Message:
    """The ``websocket`` scope of a handshake whose ``http`` scope is given."""
    offered = [
        item.strip().decode("latin-1")
        for name, value in scope["headers"]
        if name == b"sec-websocket-protocol"
        for item in value.split(b",")
    ]
    return {
        **{key: value for key, value in scope.items() if key != "method"},
        "type": "websocket",
        "scheme": "wss" if scope["scheme"] == "https" else "ws",
        "subprotocols": [item for item in offered if item],
        "extensions": {"websocket.http.response": {}},
    }


def checked_headers(headers: Iterable[Iterable[bytes]]) -> Headers:
    """An application's headers, names in lower case.

    Raises:
        ValueError: a name is not a token, or a value holds CR, LF or NUL.
    """
    checked = []
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or re.search(rb"[\r\n\0]", value):
            raise ValueError("the application sent an invalid header")
        checked.append((name.lower(), value))
    return checked

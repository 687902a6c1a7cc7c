"""One request and its response, as the application sees them through ASGI.

The HTTP versions differ in how bytes are read and written, and fill that in; the
order of ASGI messages, what a disconnect does, and what a failing application
leaves the client with are the same for both and live here.

A response's head is held until the first body message, as ASGI asks: until then
nothing is on the wire, so an application that fails can still be answered 500,
and head and body leave together.
"""

from abc import ABC, abstractmethod
from enum import Enum, auto

import trio

from prism.server.asgi import REQUEST_ID, App, Headers, Message, Scope, checked_headers, problem
from prism.server.log import log_failures

_BODILESS = {204, 304}


class Phase(Enum):
    """How far the response has come."""

    WAITING = auto()  # the application has sent nothing
    HEAD_HELD = auto()  # it has sent the head; nothing is on the wire
    BODY = auto()
    TRAILERS = auto()  # the body is complete; announced trailers are not
    DONE = auto()


class UnexpectedMessage(RuntimeError):
    """The application sent an ASGI message that has no place now: a bug in it."""


class Exchange(ABC):
    """One request and its response.

    ``received`` holds body bytes that the application has not asked for yet; the
    HTTP version bounds it by not letting the client send more.
    """

    phase = Phase.WAITING
    client_gone = False
    received: bytes | bytearray = b""
    received_all = False
    _body_delivered = False
    _changed: trio.Event | None = None  # while somebody waits for it
    _head: tuple[int, Headers]
    _trailers: tuple[tuple[bytes, bytes], ...] = ()
    _trailers_announced = False

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.cancel_scope = trio.CancelScope()
        self._no_body = scope["method"] == "HEAD"

    # The client's side: plain synchronous calls from the connection's reader.

    def feed(self, data: bytes | bytearray) -> None:
        """Body bytes have come."""
        if not self.received:
            self.received = data
        elif isinstance(self.received, bytearray):
            self.received += data
        else:
            self.received = bytearray(self.received) + data
        self._wake_receivers()

    def feed_end(self) -> None:
        """The request is complete."""
        self.received_all = True
        self._wake_receivers()

    def disconnect(self) -> None:
        """The client is gone: cancel the application, and tell it through ``receive``.

        ``scope["state"]["prism.client_gone"]`` tells it apart from the end of a drain.
        """
        self.client_gone = True
        self.scope.setdefault("state", {})["prism.client_gone"] = True
        self._wake_receivers()
        self.cancel_scope.cancel()

    def _wake_receivers(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    # The application's side.

    async def run(self, app: App) -> None:
        """Run the application for this request and see that the client gets an answer.

        Raises nothing but ``trio.Cancelled`` and other non-``Exception``\\ s.
        """
        with self.cancel_scope:
            try:
                await app(self.scope, self.receive, self.send)
            except (Exception, BaseExceptionGroup) as error:
                log_failures("the application", error)
        if self.client_gone or (
            self.phase is not Phase.WAITING and self.phase is not Phase.HEAD_HELD
        ):
            return  # a response begun and not finished is broken off by the connection
        if self.cancel_scope.cancelled_caught:
            await self.answer(503, "the server is stopping and could not finish the request")
        else:
            await self.answer(500, "internal error; the proxy's log has the cause")

    async def answer(self, status: int, detail: str) -> None:
        """Answer in the application's place; only while nothing is on the wire."""
        headers, body = problem(status, detail, self.scope.get("state", {}).get(REQUEST_ID, ""))
        self.phase = Phase.DONE
        await self.write_head(status, headers, b"" if self._no_body else body, end=True)

    async def receive(self) -> Message:
        """ASGI ``receive``. After the whole body: waits for the client to go away."""
        if not self.received and not self.received_all:
            await self.body_wanted()
        while True:
            if self.client_gone or self.phase is Phase.DONE:
                await trio.lowlevel.checkpoint()
                return {"type": "http.disconnect"}
            if self.received or (self.received_all and not self._body_delivered):
                body = bytes(self.received)
                self.received = b""
                self._body_delivered = self.received_all
                self.body_taken(len(body))
                return {
                    "type": "http.request",
                    "body": body,
                    "more_body": not self.received_all,
                }
            if self._changed is None:
                self._changed = trio.Event()
            await self._changed.wait()

    async def send(self, message: Message) -> None:
        """ASGI ``send``. Waits while the client takes no more; no effect once it is gone.

        Raises:
            UnexpectedMessage, ValueError: the application broke ASGI's rules.
        """
        if self.client_gone:
            await trio.lowlevel.checkpoint()
            return
        kind, phase = message["type"], self.phase
        if kind == "http.response.start" and phase is Phase.WAITING:
            self._hold_head(message)
        elif kind == "http.response.body" and (phase is Phase.HEAD_HELD or phase is Phase.BODY):
            await self._send_body(message.get("body", b""), message.get("more_body", False))
        elif kind == "http.response.trailers" and phase is Phase.TRAILERS:
            self._trailers += tuple(checked_headers(message.get("headers", [])))
            if not message.get("more_trailers", False):
                self._finish()
                await self.write_trailers(list(self._trailers))
        else:
            raise UnexpectedMessage(f"{kind} has no place while the response is {phase.name}")

    def _hold_head(self, message: Message) -> None:
        status = int(message["status"])
        if not 200 <= status <= 599:
            raise UnexpectedMessage(f"{status} is not the status of a final response")
        self._head = (status, checked_headers(message.get("headers", [])))
        if message.get("trailers", False) and "http.response.trailers" in self.scope["extensions"]:
            self._trailers_announced = True
        self._no_body = self._no_body or status in _BODILESS
        self.phase = Phase.HEAD_HELD

    async def _send_body(self, data: bytes, more: bool) -> None:
        if self._no_body:
            data = b""
        end = not more and not self._trailers_announced
        first = self.phase is Phase.HEAD_HELD
        if end:
            self._finish()
        else:
            self.phase = Phase.BODY if more else Phase.TRAILERS
        if first:
            status, headers = self._head
            await self.write_head(status, headers, data, end=end)
        elif data or end:
            await self.write_body(data, end=end)

    def _finish(self) -> None:
        self.phase = Phase.DONE
        self._wake_receivers()

    # What the HTTP version fills in.

    async def body_wanted(self) -> None:  # noqa: B027
        """The application is about to wait for the body (HTTP/1.1: ``100 Continue``)."""

    @abstractmethod
    def body_taken(self, size: int) -> None:
        """``received`` was emptied of ``size`` bytes: the client may send more."""

    @abstractmethod
    async def write_head(self, status: int, headers: Headers, data: bytes, *, end: bool) -> None:
        """Write the head and the first of the body, which may be empty."""

    @abstractmethod
    async def write_body(self, data: bytes, *, end: bool) -> None:
        """Write more of the body."""

    @abstractmethod
    async def write_trailers(self, headers: Headers) -> None:
        """Write the trailers, which end the response."""

"""One request and its response, as the front ends see them, whichever HTTP carries them.

A connection makes an ``Exchange`` when a request's head has arrived, with whatever came of its
body, and hands it to ``FrontEnd.begin``, which is plain code. The front end then either

- answers with ``respond``: the whole response at once. This is the ordinary way: it needs no
  task, may be done at once or at any later time, and never waits; or
- has a task (of ``tasks``) read with ``read`` and write with ``begin``, ``write`` and ``finish``,
  each of which waits as long as the client makes it wait.

The front end learns what happens to the request through the exchange's ``handler``, if it sets
one: ``received`` when more of the body has come, ``cancelled`` when nobody waits for the response
any more, or the server cannot wait for it. Both are called from the connection's reader: they
must not wait.

``respond`` and ``finish`` end an exchange, and so does ``cancelled``. A handler that is cancelled
because the server stops may still answer, if nothing is on the wire.

A request that asks for a WebSocket has one in ``websocket``: the front end accepts it there, or
refuses it with ``respond`` like any other request.
"""

import time
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from email.utils import formatdate
from enum import Enum, auto
from typing import NamedTuple, Protocol

import trio
from mypy_extensions import mypyc_attr

from prism.calls.memory import ConnectionMemory, Hold
from prism.contract.errors import CallCancelled
from prism.server.forwarded import Headers as Headers
from prism.server.forwarded import TrustedProxies
from prism.streams.tasks import TaskPool


class Cancelled(Enum):
    """Why nobody waits for a response any more."""

    CLIENT_LEFT = "the client left"
    STOPPED = "the proxy stopped"


class Phase(Enum):
    """How far the response has come."""

    WAITING = auto()  # nothing is on the wire
    BODY = auto()
    DONE = auto()


class Peer(NamedTuple):
    """The facts about a connection that every request on it shares.

    ``client`` and ``server`` are (host, port), or ``None`` on a Unix socket; ``certificate`` is
    the client's, in DER, if TLS verified one; ``uid`` the client's user on a Unix socket.
    ``memory`` is where the bytes of its requests and answers are counted. ``proxies`` is there if
    ``client`` is one of them, so that requests name their clients.
    """

    scheme: str
    client: tuple[str, int] | None = None
    server: tuple[str, int | None] | None = None
    certificate: bytes | None = None
    uid: int | None = None
    memory: ConnectionMemory | None = None
    proxies: TrustedProxies | None = None

    def of_request(self, headers: Headers) -> "Peer":
        """The peer of one request: who asked the trusted proxy that has passed it on."""
        if self.proxies is None or self.client is None:
            return self
        return self._replace(client=self.proxies.client_of(headers, self.client))


class Handler(Protocol):
    """Who deals with an exchange."""

    def received(self) -> None:
        """More of the body has come, or its end: see ``received_all`` and ``take``."""

    def cancelled(self, why: Cancelled) -> None:
        """The response is not waited for any more."""


class FrontEnd(Protocol):
    """What serves requests."""

    def begin(self, exchange: "Exchange") -> None:
        """A request's head is here. Plain code; what it raises is logged and answered 500."""


class WebSocketClosed(Exception):
    """A WebSocket has ended. ``code`` is RFC 6455's (7.4); 1006 if the client just left."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"the WebSocket is closed, with code {self.code}"


@mypyc_attr(allow_interpreted_subclasses=True)
class WebSocket(ABC):
    """The messages of a WebSocket, whatever carries them.

    When its client ends it, the exchange is cancelled (``CLIENT_LEFT``), whether or not anybody
    receives. ``close_code`` is then the client's (RFC 6455, 7.4); 1006 if that just left.
    """

    close_code: int = 1006

    @abstractmethod
    def accept(self, headers: Headers) -> AbstractAsyncContextManager[None]:
        """Accept the handshake, with ``headers``, and serve the WebSocket within the block.

        At the block's end the WebSocket is closed if it is not yet: with 1000, with 1011 after
        an exception, with 1001 if the block is cancelled. That takes ``CLOSE_TIMEOUT`` at most
        where the block was cancelled, else as long as the client takes to read.
        """

    @abstractmethod
    async def receive(self) -> str | bytes:
        """The client's next message. Cancelling loses nothing.

        Raises:
            WebSocketClosed: there is none, since the WebSocket has ended.
        """

    @abstractmethod
    async def send(self, message: str | bytes) -> None:
        """Send one message; waits while the client takes no more, and has no effect after the
        end. Cancelling sends all of the message or nothing."""

    @abstractmethod
    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the WebSocket, unless it has ended. Cancelling may leave it open."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Exchange(ABC):
    """One request and its response.

    ``method``, ``target`` (path and query, as on the wire) and ``headers`` are well formed, and
    ``host`` is there. ``tasks`` runs what has to wait. ``received_all``: the body is complete.
    ``version`` is ``1.0``, ``1.1`` or ``2``; ``takes_trailers``: the response may end in trailers,
    which on HTTP/1.1 it may not. ``cancelled`` is why the response is not waited for any more, once
    that is so.
    """

    __slots__ = (
        "_handler",
        "_waiting",
        "cancelled",
        "headers",
        "held",
        "is_counted",
        "method",
        "peer",
        "phase",
        "received_all",
        "takes_trailers",
        "target",
        "tasks",
        "version",
        "websocket",
    )

    def __init__(
        self,
        peer: Peer,
        tasks: TaskPool,
        method: bytes,
        target: bytes,
        headers: Headers,
        *,
        received_all: bool,
        version: str = "2",
        takes_trailers: bool = True,
    ) -> None:
        self.version = version
        self.takes_trailers = takes_trailers
        self.peer = peer
        self.tasks = tasks
        self.method = method
        self.target = target
        self.headers = headers
        self.received_all = received_all
        self.websocket: WebSocket | None = None
        self.phase = _WAITING
        self.cancelled: Cancelled | None = None
        self.held: Hold | None = None  # what its answer takes until the client has it
        self.is_counted = False  # or who writes counts that
        self._handler: Handler | None = None
        self._waiting: trio.Event | None = None

    # -- for the front end ----------------------------------------------------

    @property
    def is_gone(self) -> bool:
        """Has the client left?"""
        return self.cancelled is _CLIENT_LEFT

    @property
    def is_websocket(self) -> bool:
        """Whether a WebSocket is asked for."""
        return self.websocket is not None

    def watch(self, handler: Handler) -> None:
        """Tell ``handler`` of what happens from now on, until the exchange is over.

        It is forgotten then: it holds the exchange, and a cycle of the two would stay until
        the next search for cycles.
        """
        self._handler = handler

    def unwatch(self) -> Handler | None:
        """The handler, which is told nothing more by the exchange. One that is over and holds
        this exchange calls it to leave no cycle, which only the garbage collector would free."""
        handler, self._handler = self._handler, None
        return handler

    @property
    @abstractmethod
    def received(self) -> int:
        """How many bytes of the body have come and were not taken."""

    @abstractmethod
    def take(self) -> bytes:
        """Those bytes: the client may send as many again."""

    def want_body(self, declared: int | None = 0) -> None:
        """The body is waited for: a client that asked (``Expect: 100-continue``) is told.

        ``declared`` is the size of one that is taken as it comes, however fast that is, None where
        the client does not say it: so that it may send ahead.
        """

    async def read(self) -> bytes:
        """What comes next of the body; empty after its end. Cancelling loses nothing.

        Raises:
            CallCancelled: the client left.
        """
        while not self.received and not self.received_all:
            if self.is_gone:
                raise CallCancelled("the client went away before its request was complete")
            self.want_body()
            if self._waiting is None:
                self._waiting = trio.Event()
            await self._waiting.wait()
        return self.take()

    @abstractmethod
    def respond(
        self, status: int, headers: Headers, body: bytes, trailers: Headers | None = None
    ) -> None:
        """The whole response; ``content-length`` and ``date`` are added, and the body of an
        answer to HEAD left out. Never waits; without effect once the client has left.

        ``trailers``, where they can be sent, leave out ``content-length``.
        """

    @abstractmethod
    async def begin(self, status: int, headers: Headers) -> None:
        """Send the head of a response that goes on."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send more of the body; waits until the connection has put all of it into its output.

        Cancelling sends all of ``data``, which the next ``write`` waits for, or nothing. Where
        another server sends, it may leave a part unsent: the response is then broken.
        """

    @abstractmethod
    async def finish(self, trailers: Headers | None = None) -> None:
        """End the response."""

    @abstractmethod
    def abort(self) -> None:
        """Break a response off that has begun: the client sees that it is not complete."""

    # -- for the connection ---------------------------------------------------

    def release(self) -> None:
        """The client has taken the answer, or will not."""
        if self.held is not None:
            self.held.release()
            self.held = None

    def _tell_received(self) -> None:
        """More of the body, or its end, has come."""
        if self._waiting is not None:
            self._waiting.set()
            self._waiting = None
        if self._handler is not None:
            self._handler.received()

    def cancel(self, why: Cancelled) -> None:
        """Tell the front end that the response is not waited for any more; once."""
        if self.cancelled is not None:
            if why is Cancelled.CLIENT_LEFT:
                self.cancelled = why  # it did not wait for what was left of its answer
                self._handler = None
            return
        if self.phase is Phase.DONE and why is not Cancelled.CLIENT_LEFT:
            return
        self.cancelled = why
        if self._waiting is not None:
            self._waiting.set()
            self._waiting = None
        handler = self._handler
        if why is Cancelled.CLIENT_LEFT:
            self._handler = None
        if handler is not None:
            handler.cancelled(why)


# Every request comes by these: on Python 3.11 an enum's attribute costs as much as a call.
_CLIENT_LEFT = Cancelled.CLIENT_LEFT
_WAITING = Phase.WAITING

BODILESS = frozenset({204, 304})
"""Statuses of responses without a body, and without ``content-length`` (RFC 9110, 8.6)."""

_LENGTHS = [(b"content-length", b"%d" % length) for length in range(4096)]


def content_length(size: int) -> tuple[bytes, bytes]:
    """The header for a body of ``size`` bytes."""
    return _LENGTHS[size] if size < len(_LENGTHS) else (b"content-length", b"%d" % size)


_date: tuple[int, tuple[bytes, bytes]] = (0, (b"date", b""))


def date_header() -> tuple[bytes, bytes]:
    """``date`` for a response (RFC 9110, 6.6.1), formatted once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, (b"date", formatdate(now, usegmt=True).encode("ascii")))
    return _date[1]

"""One request on an HTTP/1.1 connection, and its response as bytes."""

from typing import TYPE_CHECKING

import trio

from prism.server.exchange import (
    BODILESS,
    Cancelled,
    Exchange,
    Headers,
    Peer,
    Phase,
    content_length,
)
from prism.server.http1.head import Head
from prism.server.http1.response import (
    CONTINUE,
    LAST_CHUNK,
    chunk,
    response_head,
    switching_protocols,
)
from prism.server.http1.websocket import accept_token
from prism.server.websocket import FrameWebSocket

if TYPE_CHECKING:
    from prism.server.http1.connection import HTTP1Connection


# Every response comes by these: on Python 3.11 an enum's attribute costs as much as a call.
_CLIENT_LEFT = Cancelled.CLIENT_LEFT
_WAITING = Phase.WAITING
_DONE = Phase.DONE


class HTTP1Exchange(Exchange):
    """One request on an HTTP/1.1 connection. ``complete``: the whole response is in the output."""

    __slots__ = ("_body", "_chunked", "_connection", "_expects_continue", "complete")

    def __init__(
        self, connection: "HTTP1Connection", peer: Peer, head: Head, body: bytes, *, ended: bool
    ) -> None:
        super().__init__(
            peer,
            connection.tasks,
            head.method,
            head.target,
            head.headers,
            received_all=ended,
            version=head.version,
            takes_trailers=False,
        )
        if head.is_websocket:
            self.websocket = FrameWebSocket(self, connection.settings.websocket_limits)
        self.complete = False
        self._body: bytes | bytearray = body
        self._chunked = False
        self._expects_continue = head.expects_continue
        self._connection = connection

    @property
    def over(self) -> bool:
        """Is nothing more to be done for it?"""
        return self.complete or self.cancelled is _CLIENT_LEFT

    # -- the request ----------------------------------------------------------

    def feed(self, data: bytes, *, ended: bool) -> None:
        """More of the body has come, or its end."""
        if not self._body:
            self._body = data
        elif isinstance(self._body, bytearray):
            self._body += data
        else:
            self._body = bytearray(self._body) + data
        self.received_all = ended
        self._tell_received()

    @property
    def received(self) -> int:
        return len(self._body)

    def take(self) -> bytes:
        body, self._body = self._body, b""
        if body:
            self._connection.body_taken()
        return body if isinstance(body, bytes) else bytes(body)

    def want_body(self, declared: int | None = 0) -> None:
        if self._expects_continue and self.phase is Phase.WAITING and not self.received_all:
            self._expects_continue = False
            self._connection.send(CONTINUE)  # RFC 9110, 10.1.1

    @property
    def waits_for_continue(self) -> bool:
        """Has the client not sent its body, since nobody has told it to?"""
        return self._expects_continue and not self.received and not self.received_all

    # -- the response ---------------------------------------------------------

    def respond(
        self, status: int, headers: Headers, body: bytes, trailers: Headers | None = None
    ) -> None:
        if self.cancelled is _CLIENT_LEFT or self.phase is not _WAITING:
            self.release()
            return
        self.phase = _DONE
        if status not in BODILESS:
            headers = [*headers, content_length(len(body))]
        close = self._connection.must_close(status)
        head = response_head(status, headers, close=close)
        bodiless = self.method == b"HEAD" or status in BODILESS
        self._finished(head if bodiless else head + body)

    async def begin(self, status: int, headers: Headers) -> None:
        if self.cancelled is not None or self.phase is not Phase.WAITING:
            await trio.lowlevel.checkpoint()
            return
        self.phase = Phase.BODY
        if self.is_websocket and status == 200:
            token = accept_token(self.headers)
            self._connection.send(
                switching_protocols([*_SWITCH, (b"sec-websocket-accept", token), *headers])
            )
            return
        has_length = status in BODILESS or any(name == b"content-length" for name, _ in headers)
        self._chunked = self.version != "1.0" and not has_length
        # Without either, only the end of the connection ends the body.
        close = self._connection.must_close(status)
        if not (self._chunked or has_length):
            close = self._connection.close_after()
        self._connection.send(response_head(status, headers, close=close, chunked=self._chunked))

    async def write(self, data: bytes) -> None:
        if self.is_gone or self.phase is not Phase.BODY or self.method == b"HEAD":
            await trio.lowlevel.checkpoint()
            return
        if data:
            await self._connection.wait_sent()  # what one that was cancelled has left
            if not self.is_gone:
                self._connection.send(chunk(data) if self._chunked else data)
                await self._connection.wait_sent()

    async def finish(self, trailers: Headers | None = None) -> None:
        if self.is_gone or self.phase is not Phase.BODY:
            return
        self.phase = Phase.DONE
        chunked = self._chunked and self.method != b"HEAD"
        self._finished(LAST_CHUNK if chunked else b"")

    def abort(self) -> None:
        if not self.complete and not self.is_gone:
            self.phase = Phase.DONE
            self._handler = None
            self._connection.break_off()

    def cancel(self, why: Cancelled) -> None:
        super().cancel(why)
        self._connection.settle()

    def _finished(self, data: bytes) -> None:
        self.complete = True
        if self.websocket is None:  # whose handler is yet to be told how it was left
            self._handler = None
        if self.held is not None:
            self._connection.keep(self.held)
            self.held = None
        self._connection.send(data)
        self._connection.settle()


_SWITCH = [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]

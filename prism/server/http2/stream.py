"""One request on an HTTP/2 connection, and its response's way into frames.

A response that fits into the client's window and one burst is in the codec's output as soon as
``respond`` returns. What does not fit is kept as one chunk, and the connection's writer puts it
into frames as windows open, by turns with other streams. ``write`` returns once its chunk has
gone, so that a client that opens no window holds exactly one chunk, and the task that writes.
"""

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
    date_header,
)
from prism.server.http2.codec import MAX_BURST
from prism.server.http2.events import Request
from prism.server.http2.limits import STUB
from prism.server.websocket import FrameWebSocket
from prism.streams.sockets import WRITE_SIZE

if TYPE_CHECKING:
    from prism.server.http2.connection import HTTP2Connection

# Every response comes by these: on Python 3.11 an enum's attribute costs as much as a call.
_CLIENT_LEFT = Cancelled.CLIENT_LEFT
_WAITING = Phase.WAITING
_DONE = Phase.DONE

_CONTINUE = [(b":status", b"100")]
BODY_WINDOW = 512 * 1024
"""Bytes that a client may send ahead of a body that is taken, and counted, as it comes. Without
that it would wait for a WINDOW_UPDATE every 64 KiB."""

_STATUS = {status: (b":status", b"%d" % status) for status in range(100, 600)}


class HTTP2Exchange(Exchange):
    """One stream: its request, its response, and their flow control.

    ``begun_at`` is on trio's clock. ``complete``: the whole response is in frames.
    """

    __slots__ = (
        "_body",
        "_chunk",
        "_chunk_ends",
        "_codec",
        "_connection",
        "_continued",
        "_no_body",
        "_taken",
        "_trailers",
        "_writer",
        "_written",
        "begun_at",
        "complete",
        "protocol",
        "stream_id",
    )

    def __init__(self, connection: "HTTP2Connection", peer: Peer, request: Request) -> None:
        is_websocket = request.protocol == b"websocket"  # RFC 8441
        self.protocol = request.protocol
        method = b"GET" if is_websocket else request.method
        super().__init__(
            peer,
            connection.tasks,
            method,
            request.target,
            request.headers,
            received_all=request.ended,
        )
        if is_websocket:
            self.websocket = FrameWebSocket(self, connection.settings.websocket_limits)
        self.stream_id = request.stream_id
        self.begun_at = connection.now
        self.complete = False
        self._body: bytes | bytearray = request.body
        self._no_body = method == b"HEAD"
        self._connection = connection
        self._codec = connection.codec
        self._writer = connection.writer
        self._continued = False
        self._chunk: memoryview | None = None
        self._chunk_ends = False
        self._trailers: Headers | None = None
        self._written: trio.Event | None = None
        self._taken = 0  # bytes since the client showed that it takes the response

    # -- the request ----------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """More of the body has come."""
        if not self._body:
            self._body = data
        elif isinstance(self._body, bytearray):
            self._body += data
        else:
            self._body = bytearray(self._body) + data
        self._tell_received()

    def feed_end(self) -> None:
        """The request is complete."""
        self.received_all = True
        self._tell_received()

    @property
    def received(self) -> int:
        return len(self._body)

    def take(self) -> bytes:
        body, self._body = self._body, b""
        if body:
            self._codec.consumed(self.stream_id, len(body))
            self._writer.wake()
        return body if isinstance(body, bytes) else bytes(body)

    def want_body(self, declared: int | None = 0) -> None:
        if self._continued or self.received_all:
            return
        self._continued = True
        window = self._connection.settings.stream_window
        if (declared is None or declared > window) and window < BODY_WINDOW:
            self._codec.widen(self.stream_id, BODY_WINDOW)
        if (b"expect", b"100-continue") in self.headers and self.phase is Phase.WAITING:
            self._codec.send_headers(self.stream_id, _CONTINUE, False)  # RFC 9110, 10.1.1
            self._writer.wake()

    def cancel(self, why: Cancelled) -> None:
        if why is Cancelled.CLIENT_LEFT:
            self.drop()
        super().cancel(why)
        self._connection.settle(self)

    def drop(self) -> None:
        """Nobody reads what was received, and nobody waits for what is to be sent."""
        if self._body:  # let the client send as much on other streams
            self._codec.consumed(self.stream_id, len(self._body))
            self._body = b""
        self._drop_chunk()

    # -- the response ---------------------------------------------------------

    def respond(
        self, status: int, headers: Headers, body: bytes, trailers: Headers | None = None
    ) -> None:
        if self.cancelled is _CLIENT_LEFT or self.phase is not _WAITING:
            self.release()
            return
        self.phase = _DONE
        block = [_STATUS[status], date_header(), *headers]
        end = trailers is None
        if end and status not in BODILESS:
            block.append(content_length(len(body)))
        if self._no_body or status in BODILESS:
            body = b""
        codec = self._codec
        if self._writer.may_write_now:
            written = codec.send_response(self.stream_id, block, body, end)
        else:
            written = not body
            codec.send_headers(self.stream_id, block, end and written)
        if not written:
            self._trailers = trailers
            self._queue(body, end=end)
            return
        if trailers is not None:
            codec.send_headers(self.stream_id, trailers, True)
        self._completed()
        self._writer.wake()

    async def begin(self, status: int, headers: Headers) -> None:
        if self.cancelled is not None or self.phase is not Phase.WAITING:
            await trio.lowlevel.checkpoint()
            return
        self.phase = Phase.BODY
        self._codec.send_headers(self.stream_id, [_STATUS[status], date_header(), *headers], False)
        self._writer.wake()

    async def write(self, data: bytes) -> None:
        if self.is_gone or self.phase is not Phase.BODY:
            await trio.lowlevel.checkpoint()
            return
        if self._no_body or not data:
            return
        if self._chunk is None and self._writer.may_write_now and self._fits(len(data)):
            self._codec.send_data(self.stream_id, data, False)
            self._connection.frames_sent(len(data))
            self._writer.wake()
            return
        await self._wait_written()
        if not self.is_gone:
            self._queue(data, end=False)
            await self._wait_written()

    async def finish(self, trailers: Headers | None = None) -> None:
        await self._wait_written()
        if self.is_gone or self.phase is not Phase.BODY:
            return
        self.phase = Phase.DONE
        if trailers is not None:
            self._codec.send_headers(self.stream_id, trailers, True)
        else:
            self._codec.send_data(self.stream_id, b"", True)
        self._completed()
        self._writer.wake()

    def abort(self) -> None:
        if not self.complete and not self.is_gone:
            self.phase = Phase.DONE
            self._handler = None
            self._drop_chunk()
            self._connection.break_off(self)

    def _queue(self, data: bytes, *, end: bool) -> None:
        """Have ``data`` written frame by frame."""
        is_counted = self.is_counted or self.held is not None
        if not is_counted and not self._connection.keep(self, len(data)):
            return
        self._chunk, self._chunk_ends = memoryview(data), end
        self._taken = 0
        self._connection.begin_stall(self)
        self._writer.enqueue(self)

    async def _wait_written(self) -> None:
        """Wait until no chunk is waiting. What is cancelled leaves the rest of it waiting."""
        while self._chunk is not None and not self.is_gone:
            if self._written is None:
                self._written = trio.Event()
            await self._written.wait()

    def _fits(self, size: int) -> bool:
        return size <= MAX_BURST and size <= self._codec.window(self.stream_id)

    def _completed(self) -> None:
        self.complete = True
        if self.websocket is None:  # whose handler is yet to be told how it was left
            self._handler = None
        self.release()
        self._connection.response_sent(self)

    # -- for the writer -------------------------------------------------------

    def write_some(self, most: int) -> bool:
        """Put frames with ``most`` bytes of the waiting chunk into the output, a burst at most.

        Returns whether more waits. If the window is shut, the writer parks the stream until it
        opens.
        """
        if self._chunk is None:
            return False
        window = self._codec.window(self.stream_id)
        size = min(len(self._chunk), window, most)
        if size <= 0 and self._chunk:
            self._writer.park(self)
            return False
        frames, self._chunk = self._chunk[:size], self._chunk[size:]
        last = not self._chunk
        end = self._chunk_ends and last
        self._codec.send_data(self.stream_id, frames, end)
        if size >= STUB or last:
            self._connection.frames_sent(size)
        self._taken += size
        if not last:
            if self._taken >= WRITE_SIZE:
                self._taken = 0
                self._connection.begin_stall(self)
            return True
        self._drop_chunk()
        if self._trailers is not None:
            self._codec.send_headers(self.stream_id, self._trailers, True)
            end = True
        if end:
            self._completed()
        return False

    def _drop_chunk(self) -> None:
        if self._chunk is not None:
            self._chunk = None
            self._connection.end_stall(self)
        self.release()
        if self._written is not None:
            self._written.set()
            self._written = None

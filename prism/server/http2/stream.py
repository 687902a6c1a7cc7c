"""One request on an HTTP/2 connection.

The body of a response is never stored: ``send`` keeps hold of the application's
chunk, and returns once the connection has put all of it into frames. So a client
that opens no window holds exactly one chunk, and the application.
"""

from typing import TYPE_CHECKING

import trio
from h2.errors import ErrorCodes

from prism.server.asgi import BadRequest, Headers, Peer, Scope, date_header, http_scope, is_host
from prism.server.exchange import Exchange, Phase
from prism.server.http2.codec import MAX_FRAME_SIZE
from prism.server.http2.events import Request
from prism.server.http2.limits import STUB
from prism.streams.sockets import WRITE_SIZE

if TYPE_CHECKING:
    from prism.server.http2.connection import HTTP2Connection

_CONNECTION_HEADERS = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
"""Speak about an HTTP/1.1 connection and make an HTTP/2 response malformed (RFC 9113, 8.2.2)."""

_CONTINUE = [(b":status", b"100")]
_STATUS = {status: (b":status", b"%d" % status) for status in range(100, 600)}


class HTTP2Exchange(Exchange):
    """One stream: its request, its response, and their flow control.

    ``begun_at`` is on trio's clock; ``refusal`` is set if the request cannot be passed
    to the application; ``complete`` is set when the whole response is in frames.
    """

    refusal: BadRequest | None = None
    complete = False
    _continued = False
    _chunk: memoryview | None = None
    _chunk_ends = False
    _chunk_written: trio.Event | None = None
    _patience: trio.CancelScope | None = None
    _taken = 0  # bytes since the patience with the client was renewed

    def __init__(self, connection: "HTTP2Connection", peer: Peer, request: Request) -> None:
        self.is_websocket = request.protocol == b"websocket"  # RFC 8441
        scope: Scope
        try:
            if request.protocol and not self.is_websocket:
                raise BadRequest(501, "the :protocol is not known here")
            method = b"GET" if self.is_websocket else request.method
            scope = http_scope(peer, "2", method, request.target, request.headers)
            name, host = request.headers[0]
            if name == b"host" and not is_host(host):
                raise BadRequest(400, "the authority is not a host and port")
        except BadRequest as error:
            self.refusal = error
            scope = {"method": "GET"}
        super().__init__(scope)
        self.stream_id = request.stream_id
        self.received = request.body
        self.received_all = request.ended
        self.begun_at = connection.now
        self._connection = connection
        self._codec = connection.codec
        self._writer = connection.writer

    # From the connection.

    def write_frame(self) -> bool:
        """Put one frame of the waiting chunk into the output.

        Returns whether more waits. If the window is shut, the connection parks the
        stream until it opens.
        """
        if self._chunk is None or self.client_gone:
            return False
        window = self._codec.window(self.stream_id)
        size = min(len(self._chunk), window, MAX_FRAME_SIZE)
        if size <= 0 and self._chunk:
            self._writer.park(self)
            return False
        frame, self._chunk = self._chunk[:size], self._chunk[size:]
        end = self._chunk_ends and not self._chunk
        self._codec.send_data(self.stream_id, frame, end)
        if size >= STUB or not self._chunk:
            self._connection.frame_sent()
        if end:
            self._completed()
        self._taken += size
        if self._taken >= WRITE_SIZE:
            self._be_patient()
        if self._chunk:
            return True
        self._drop_chunk()
        return False

    def disconnect(self) -> None:
        self._give_back()
        if self._chunk_written is not None:
            self._chunk_written.set()
        super().disconnect()

    def close(self) -> None:
        """The application has ended; what waits of its last chunk is dropped."""
        self._chunk = None
        if self.received:
            self._give_back()

    def _give_back(self) -> None:
        """Nobody will read what was received: let the client send as much on other streams."""
        self._codec.consumed(self.stream_id, len(self.received))
        self.received = b""

    # For Exchange.

    async def body_wanted(self) -> None:
        """Tell a client that waits for it to send its body (RFC 9110, 10.1.1)."""
        if self._continued or (
            self.phase is not Phase.WAITING and self.phase is not Phase.HEAD_HELD
        ):
            return
        self._continued = True
        if (b"expect", b"100-continue") in self.scope["headers"]:
            self._codec.send_headers(self.stream_id, _CONTINUE, False)
            self._writer.wake()

    def body_taken(self, size: int) -> None:
        if size:
            self._codec.consumed(self.stream_id, size)
            self._writer.wake()

    async def write_head(self, status: int, headers: Headers, data: bytes, *, end: bool) -> None:
        block = [_STATUS[status], date_header()]
        block += [item for item in headers if item[0] not in _CONNECTION_HEADERS]
        if self._writer.may_write_now:
            written = self._codec.send_response(self.stream_id, block, data, end)
        else:
            written = not data
            self._codec.send_headers(self.stream_id, block, end and written)
        if written:
            if data:
                self._connection.frame_sent()
            if end:
                self._completed()
        self._writer.wake()
        if not written:
            await self._queue(data, end=end)

    async def write_body(self, data: bytes, *, end: bool) -> None:
        if self._chunk is None and self._writer.may_write_now and self._fits(len(data)):
            self._codec.send_data(self.stream_id, data, end)
            self._connection.frame_sent()
            if end:
                self._completed()
            self._writer.wake()
        else:
            await self._queue(data, end=end)

    async def write_trailers(self, headers: Headers) -> None:
        await self._wait_for_turn()
        if not self.client_gone:
            self._codec.send_headers(self.stream_id, headers, True)
            self._completed()
            self._writer.wake()

    async def _queue(self, data: bytes, *, end: bool) -> None:
        """Have ``data`` written frame by frame; wait until it is."""
        await self._wait_for_turn()
        if self.client_gone:
            return
        self._chunk, self._chunk_ends = memoryview(data), end
        self._chunk_written = trio.Event()
        self._writer.enqueue(self)
        await self._wait_for_turn()

    async def _wait_for_turn(self) -> None:
        """Wait until no chunk is waiting; give the client up if it opens no window."""
        if self._chunk is None or self._chunk_written is None:
            return
        with trio.CancelScope() as self._patience:
            self._be_patient()
            while self._chunk is not None and not self.client_gone:
                await self._chunk_written.wait()
        if self._patience.cancelled_caught:
            self._codec.reset(self.stream_id, ErrorCodes.CANCEL)
            self._writer.wake()
            self.disconnect()
        if self.client_gone:
            await trio.lowlevel.checkpoint()

    def _be_patient(self) -> None:
        """From now on, the client has the full time to take the next ``WRITE_SIZE``."""
        if self._patience is not None:
            stall = self._connection.settings.window_stall_timeout
            self._patience.deadline = trio.current_time() + stall
        self._taken = 0

    def _drop_chunk(self) -> None:
        self._chunk = None
        if self._chunk_written is not None:
            self._chunk_written.set()

    def _fits(self, size: int) -> bool:
        return size <= MAX_FRAME_SIZE and (not size or size <= self._codec.window(self.stream_id))

    def _completed(self) -> None:
        self.complete = True
        self._connection.response_sent(self)

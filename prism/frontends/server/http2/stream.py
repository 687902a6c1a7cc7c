"""One request on an HTTP/2 connection.

The body of a response is never stored: ``send`` keeps hold of the application's
chunk, and returns once the connection has put all of it into frames. So a client
that opens no window holds exactly one chunk, and the application.
"""

from typing import TYPE_CHECKING

import trio
from h2.errors import ErrorCodes

from prism.frontends.server.asgi import Headers, Peer, Scope, date_header, http_scope
from prism.frontends.server.exchange import Exchange
from prism.frontends.server.http2.codec import MAX_FRAME_SIZE
from prism.frontends.server.transport import WRITE_SIZE

if TYPE_CHECKING:
    from prism.frontends.server.http2.connection import HTTP2Connection

_CONNECTION_HEADERS = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
"""Speak about an HTTP/1.1 connection and make an HTTP/2 response malformed (RFC 9113, 8.2.2)."""


def request_scope(peer: Peer, headers: Headers) -> Scope:
    """The ASGI scope of a request; its ``:authority`` becomes the ``host`` header.

    Raises:
        BadRequest: as ``asgi.http_scope``.
    """
    pseudo = {name: value for name, value in headers if name[:1] == b":"}
    regular = [item for item in headers if item[0][:1] != b":"]
    if b":authority" in pseudo:
        regular = [item for item in regular if item[0] != b"host"]
        regular.insert(0, (b"host", pseudo[b":authority"]))
    method, target = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    return http_scope(peer, "2", method, target, regular)


class HTTP2Exchange(Exchange):
    """One stream: its request, its response, and their flow control.

    ``begun_at`` is on trio's clock; ``complete`` is set when the whole response is in
    frames; ``unread`` counts the flow-controlled bytes of the request not yet given
    back to the client.
    """

    def __init__(self, connection: "HTTP2Connection", stream_id: int, scope: Scope) -> None:
        super().__init__(scope)
        self.stream_id = stream_id
        self.begun_at = trio.current_time()
        self.complete = False
        self.unread = 0
        self._connection = connection
        self._codec = connection.codec
        self._chunk: memoryview | None = None
        self._chunk_ends = False
        self._chunk_written = trio.Event()
        self._patience = trio.CancelScope()
        self._taken = 0  # bytes since the patience with the client was renewed

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
            self._connection.writer.park(self)
            return False
        frame, self._chunk = self._chunk[:size], self._chunk[size:]
        self._write_data(frame, end=self._chunk_ends and not self._chunk)
        self._taken += size
        if self._taken >= WRITE_SIZE:
            self._be_patient()
        if self._chunk:
            return True
        self._chunk = None
        self._chunk_written.set()
        return False

    def disconnect(self) -> None:
        self.give_back()
        self._chunk_written.set()
        super().disconnect()

    def close(self) -> None:
        """The application has ended; what waits of its last chunk is dropped."""
        self._chunk = None
        self.give_back()

    def give_back(self) -> None:
        """Let the client send as many body bytes as have left ``received``."""
        if self.unread:
            self._codec.consumed(self.stream_id, self.unread)
            self.unread = 0

    # For Exchange.

    def body_taken(self) -> None:
        self.give_back()
        self._connection.writer.wake()

    async def write_head(self, status: int, headers: Headers, data: bytes, *, end: bool) -> None:
        block = [(b":status", b"%d" % status), date_header()]
        block += [item for item in headers if item[0] not in _CONNECTION_HEADERS]
        bare = end and not data
        self._codec.send_headers(self.stream_id, block, end=bare)
        if bare:
            self._completed()
        self._connection.writer.wake()
        if data:
            await self.write_body(data, end=end)

    async def write_body(self, data: bytes, *, end: bool) -> None:
        if self._connection.writer.may_write_now and self._fits(len(data)):
            self._write_data(data, end=end)
            self._connection.writer.wake()
            return
        await self._wait_for_turn()
        if self.client_gone:
            return
        self._chunk, self._chunk_ends = memoryview(data), end
        self._chunk_written = trio.Event()
        self._connection.writer.enqueue(self)
        await self._wait_for_turn()

    async def write_trailers(self, headers: Headers) -> None:
        await self._wait_for_turn()
        if not self.client_gone:
            self._codec.send_headers(self.stream_id, headers, end=True)
            self._completed()
            self._connection.writer.wake()

    async def _wait_for_turn(self) -> None:
        """Wait until no chunk is waiting; give the client up if it opens no window."""
        if self._chunk is None:
            return
        with trio.CancelScope() as self._patience:
            self._be_patient()
            while self._chunk is not None and not self.client_gone:
                await self._chunk_written.wait()
        if self._patience.cancelled_caught:
            self._codec.reset(self.stream_id, ErrorCodes.CANCEL)
            self._connection.writer.wake()
            self.disconnect()
        if self.client_gone:
            await trio.lowlevel.checkpoint()

    def _be_patient(self) -> None:
        """From now on, the client has the full time to take the next ``WRITE_SIZE``."""
        stall = self._connection.settings.window_stall_timeout
        self._patience.deadline = trio.current_time() + stall
        self._taken = 0

    def _fits(self, size: int) -> bool:
        return (
            self._chunk is None
            and size <= MAX_FRAME_SIZE
            and size <= self._codec.window(self.stream_id)
        )

    def _write_data(self, data: bytes | memoryview, *, end: bool) -> None:
        self._codec.send_data(self.stream_id, data, end=end)
        self._connection.frame_sent()
        if end:
            self._completed()

    def _completed(self) -> None:
        self.complete = True
        self._connection.response_sent(self)

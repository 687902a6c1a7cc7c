"""One HTTP/1.1 connection: requests one after another, read by one task, written by another.

Theory of operation. The reader gives what it reads to the parser, and a request's head to the
front end. While that has not answered, the reader goes on: it takes in the body as far as the
front end keeps up, and notices the client's end, which cancels the request. A client that ends
only its sending half looks the same as one that left, so an answer still has a moment to come.
What is pipelined behind a request waits unparsed until the response has left (`_go_on`).

Nothing here waits for a front end. All waits for the client are dates in one place,
`_next_deadline`.
"""

from math import inf

import trio

from prism.calls.memory import Hold
from prism.server import transport
from prism.server.exchange import Cancelled, FrontEnd, Peer, Phase
from prism.server.http1.exchange import HTTP1Exchange
from prism.server.http1.head import Head
from prism.server.http1.parser import Body, ParserState, Request, RequestParser
from prism.server.http1.websocket import check_handshake
from prism.server.log import from_client, logger
from prism.server.problems import BadRequest, hand_to, refuse
from prism.server.rules import check_request
from prism.server.settings import ServerSettings
from prism.server.transport import LARGE_READ, READ_SIZE
from prism.streams.outlet import Outlet, begin_turn, end_turn, turn_time
from prism.streams.sockets import WRITE_SIZE, receive
from prism.streams.tasks import TaskPool

REQUESTS_AT_ONCE = 64
"""Pipelined requests begun before other tasks get a turn; one read may bring hundreds."""

# Every request comes by these: on Python 3.11 an enum's attribute costs as much as a call.
_WHOLE = ParserState.WHOLE


class HTTP1Connection:
    """One HTTP/1.1 connection; ``run`` serves it to its end.

    ``idle_since`` is ``None`` while a request is open, or one has begun to arrive.
    """

    def __init__(
        self,
        front: FrontEnd,
        stream: trio.abc.Stream,
        peer: Peer,
        settings: ServerSettings,
        tasks: TaskPool,
        received: bytes = b"",
    ) -> None:
        self.settings = settings
        self.tasks = tasks
        self.idle_since: float | None = trio.current_time()
        self._front = front
        self._stream = stream
        self._peer = peer
        self._parser = RequestParser(settings)
        self._received = received
        self._exchange: HTTP1Exchange | None = None
        self._keep_alive = True
        self._out: bytes | bytearray = b""
        self._kept: list[Hold] = []  # of answers that are in the output
        self._leaving: list[Hold] = []  # of those that the outlet has taken
        self._seen = (0.0, 0)  # when ``cancel_stalled`` looked, and what was unsent
        self._outlet = Outlet(stream, self, settings.send_stall_timeout, lambda: True)
        self._draining = False
        self._closing = False  # nothing more is read, and nothing answered
        self._going_on = False
        self._paused = False  # what is pipelined waits until the answers so far have left
        self._to_skip = 0  # bytes of a body that nobody wants, which may still come
        self._may_skip_body = False
        self._head_due = inf
        self._skip_due = inf
        self._gone_at = inf  # when a client that has ended its half counts as gone
        self._request_deadline = inf
        self._reading = trio.CancelScope()
        self._room: trio.Event | None = None
        self._nursery: trio.Nursery

    # -- from the server --------------------------------------------------------

    def drain(self, deadline: float) -> None:
        """Finish the request in flight by ``deadline`` (trio's clock), then close.

        HTTP/1.1 cannot announce a close, and a request may be on its way. So if there is
        none in flight, one more is answered, with ``connection: close``, for a moment.
        """
        self._draining = True
        self._request_deadline = deadline
        if self.idle_since is not None:
            self.idle_since = trio.current_time()
        self._look_up()

    def shed(self) -> None:
        """Close, if idle: the place is needed."""
        if self.idle_since is not None:
            self._close()

    async def run(self) -> None:
        """Serve requests until the connection must close."""
        try:
            await self._run()
        finally:
            self._release()

    async def _run(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._write)
            try:
                await self._read()
            except transport.GONE:
                self._client_gone()
            finally:
                if self._exchange is not None:
                    self._exchange.cancel(Cancelled.CLIENT_LEFT)
            self._outlet.close()
            await self._outlet.closed.wait()
            await transport.linger(self._stream, self.settings.linger_timeout)
            self._nursery.cancel_scope.cancel()

    # -- reading ----------------------------------------------------------------

    async def _read(self) -> None:
        data, self._received = self._received, b""
        if data:
            self._handle(data)
        while not self._closing:
            if self._paused:
                # A client that does not take its answers gets no more of them.
                await self._outlet.wait_flushed()
                await trio.lowlevel.checkpoint()
                self._paused = False
                self._handle(b"")
            size = READ_SIZE
            with trio.CancelScope(deadline=self._next_deadline()) as self._reading:
                while not self._closing and not self._paused:
                    if self._gone_at < inf:
                        await trio.sleep_forever()
                    if self._is_full():
                        await self._wait_for_room()
                    data = await receive(self._stream, size)
                    if data:
                        size = LARGE_READ if len(data) >= READ_SIZE else READ_SIZE
                        self._handle(data)
                    else:
                        self._client_ended()
                    self._look_up()
            self._on_deadline()

    async def _wait_for_room(self) -> None:
        """Wait until the front end has taken of the body, or answered what is pipelined far
        behind; a client that leaves meanwhile is noticed."""
        while not self._closing and self._is_full():
            if transport.peer_has_ended(self._stream):
                self._client_ended()
                self._look_up()
                await trio.sleep_forever()
            if self._room is None:
                self._room = trio.Event()
            # The end of a client that leaves is behind bytes that are not read: look for it.
            with trio.move_on_after(self.settings.half_close_grace):
                await self._room.wait()

    def _is_full(self) -> bool:
        window = self.settings.stream_window
        if len(self._parser.unparsed) >= window:
            return True
        return self._exchange is not None and self._exchange.received >= window

    def _next_deadline(self) -> float:
        """When the reader must look up even if nothing comes."""
        # Mostly compared by hand: it is asked twice for each request, and ``min`` costs a call.
        deadline = self._head_due
        if self._skip_due < deadline:
            deadline = self._skip_due
        if self._gone_at < deadline:
            deadline = self._gone_at
        due = self._request_deadline
        if self._exchange is None:
            if self.idle_since is None:
                return deadline
            settings = self.settings
            allowed = settings.goaway_grace if self._draining else settings.keep_alive_timeout
            due = self.idle_since + allowed
        return min(due, deadline)

    def _look_up(self) -> None:
        """See that the reader looks up in time. Too early does no harm, and is cheaper than
        putting off a deadline with every request."""
        deadline = self._next_deadline()
        if deadline < self._reading.deadline:
            self._reading.deadline = deadline

    def _on_deadline(self) -> None:
        now = trio.current_time()
        exchange = self._exchange
        if now >= self._gone_at:
            self._gone_at = inf
            self._client_gone()
        elif now >= self._head_due:
            self._refuse(BadRequest(408, "the request's header section did not arrive in time"))
        elif now >= self._skip_due:
            self._close()
        elif exchange is not None and now >= self._request_deadline:
            self._request_deadline = inf
            exchange.cancel(Cancelled.STOPPED)
        elif exchange is None and self.idle_since is not None and now >= self._next_deadline():
            self._close()

    def _handle(self, data: bytes) -> None:
        own_turn = begin_turn()
        try:
            if self._exchange is not None and self._exchange.is_websocket:
                self._exchange.feed(data, ended=False)
            elif data:
                self._on_event(self._parser.receive(data))
            if self._exchange is not None and self._exchange.over:
                self._go_on()
        except BadRequest as error:
            self._on_bad_request(error)
        finally:
            if own_turn:
                end_turn()

    def _on_event(self, event: Request | Body | None) -> None:
        exchange = self._exchange
        if type(event) is Request:
            self._head_due = inf
            self.idle_since = None
            self._begin(event)
        elif type(event) is Body:
            if exchange is not None and not exchange.complete:
                exchange.feed(event.data, ended=event.ended)
            else:
                self._skip(len(event.data), ended=event.ended)
        elif exchange is None and self._parser.begun and self._head_due == inf:
            self.idle_since = None
            self._head_due = trio.current_time() + self.settings.header_timeout

    def _begin(self, request: Request) -> None:
        head = request.head
        # What follows a WebSocket's handshake is raw, and the "body" of that.
        ended = request.ended and not head.is_websocket
        peer = self._peer
        if peer.proxies is not None:
            peer = peer.of_request(head.headers)
        exchange = HTTP1Exchange(self, peer, head, request.body, ended=ended)
        self._exchange = exchange
        self._keep_alive = head.keep_alive and not head.is_websocket
        length = head.length
        self._may_skip_body = length is not None and length <= self.settings.max_unread_body
        self._to_skip = self.settings.max_unread_body
        try:
            check_request(head.method, head.target, head.headers)
            if head.is_websocket:
                check_handshake(head)
        except BadRequest as error:
            self._keep_alive = False
            refuse(exchange, error)
            return
        hand_to(self._front, exchange)
        if head.is_websocket and self._parser.unparsed:
            exchange.feed(self._parser.unparsed, ended=False)
            self._parser.unparsed = b""

    def _go_on(self) -> None:
        """Forget a request that is answered, and begin the next one that has come already."""
        if self._going_on:
            return  # further out in this turn: pipelined requests must not nest
        self._going_on = True
        begun = 0
        try:
            while self._exchange is not None and self._exchange.over:
                if (
                    begun >= REQUESTS_AT_ONCE
                    or len(self._out) >= WRITE_SIZE
                    or (self._outlet.unsent and self._parser.unparsed)
                ):
                    self._paused = True
                    self._reading.cancel()
                    return
                begun += 1
                self._exchange = None
                self.body_taken()
                if not self._keep_alive or self._draining:
                    self._close()
                elif self._parser.state is _WHOLE:
                    self.idle_since = turn_time()
                    request = self._parser.next_request()
                    if request is not None or self._parser.unparsed:
                        self._on_event(request)
                    if self._gone_at < inf:
                        self._close_unless_asked()
                elif self._may_skip_body:
                    self._skip_due = trio.current_time() + self.settings.linger_timeout
                else:
                    self._close()
        finally:
            self._going_on = False

    def _close_unless_asked(self) -> None:
        """The client has left: close, if that was all that it has asked for."""
        if self._exchange is None:
            self._close()

    def _skip(self, size: int, *, ended: bool) -> None:
        """More of a body that nobody wants."""
        self._to_skip -= size
        if self._to_skip < 0:
            self._close()
        elif ended and self._exchange is None:
            self._skip_due = inf
            self.idle_since = trio.current_time()
            self._on_event(self._parser.next_request())

    def _on_bad_request(self, error: BadRequest) -> None:
        """What came is no request, or its body breaks a rule."""
        logger.info("a client broke HTTP/1.1", extra=from_client(self._peer.client))
        exchange = self._exchange
        if exchange is None:
            self._refuse(error)
            return
        self._keep_alive = False
        handler = exchange.unwatch()  # what is complete tells nobody that it was cut off
        if exchange.phase is Phase.WAITING:
            self._refuse(error)
        exchange.cancel(Cancelled.CLIENT_LEFT)
        if handler is not None:
            handler.cancelled(Cancelled.CLIENT_LEFT)
        self._close()

    # -- from the exchange --------------------------------------------------------

    def settle(self) -> None:
        """The response is complete, or nobody waits for it any more."""
        if self._going_on:
            return
        try:
            self._go_on()
        except BadRequest as error:
            self._on_bad_request(error)
        self._look_up()

    def must_close(self, status: int) -> bool:
        """Whether the response now beginning is the connection's last.

        It is for an error sent before the body was read, unless the body is short:
        the client may stop there.
        """
        exchange = self._exchange
        if self._draining:
            self._keep_alive = False
        elif status >= 400 and exchange is not None and not exchange.received_all:
            may_stop = exchange.waits_for_continue or not self._may_skip_body
            self._keep_alive = self._keep_alive and not may_stop
        return not self._keep_alive

    def close_after(self) -> bool:
        """The response now beginning ends with the connection. Returns True."""
        self._keep_alive = False
        return True

    def body_taken(self) -> None:
        """The front end has taken what was received: there is room for more."""
        if self._room is not None:
            self._room.set()
            self._room = None

    def send(self, data: bytes) -> None:
        """Put bytes into the output."""
        if self._outlet.closed.is_set():
            self._release()
            return
        if not self._out:
            self._out = data  # a large answer is not copied
        else:
            if isinstance(self._out, bytes):
                self._out = bytearray(self._out)
            self._out += data
        if self._kept:
            self._outlet.rise()  # its task says when all has left
        else:
            self._outlet.wake()

    async def wait_sent(self) -> None:
        """Wait until the client has taken what was put out."""
        if self._outlet.closed.is_set():
            await trio.lowlevel.checkpoint()  # the connection is being closed
        elif self._out or self._outlet.unsent:
            await self._outlet.wait_flushed()

    def break_off(self) -> None:
        """A response that has begun will not be finished."""
        self._client_gone()

    def take(self) -> bytes | bytearray:
        """For the outlet, which has sent all before: what is to be sent next."""
        out, self._out = self._out, b""
        if self._leaving or self._kept:
            for hold in self._leaving:
                hold.release()
            self._leaving, self._kept = self._kept, []
            self._seen = (trio.current_time(), len(out))
        return out

    def keep(self, hold: Hold) -> None:
        """An answer that ``hold`` counts follows."""
        self._kept.append(hold)

    def cancel_stalled(self, since: float) -> None:
        """Cut a client off that holds an answer and has taken little of it since ``since``."""
        if not self._leaving:
            return
        looked, unsent = self._seen
        if looked > since:
            return
        left = self._outlet.left
        self._seen = (trio.current_time(), left)
        if 0 < unsent < left + WRITE_SIZE:
            logger.info(
                "a client reads its response slowly, and its room is needed",
                extra=from_client(self._peer.client),
            )
            self._client_gone()

    def _release(self) -> None:
        for hold in (*self._leaving, *self._kept):
            hold.release()
        self._leaving, self._kept = [], []

    # -- the end --------------------------------------------------------------------

    def _refuse(self, error: BadRequest) -> None:
        """Answer what is no request, and close."""
        self._keep_alive = False
        exchange = self._exchange
        if exchange is None:
            exchange = HTTP1Exchange(self, self._peer, _NO_HEAD, b"", ended=True)
            self._exchange = exchange
        refuse(exchange, error)
        self._close()

    def _close(self) -> None:
        """Read no more; what is in the output still leaves."""
        self._closing = True
        self._reading.cancel()

    def _client_ended(self) -> None:
        """The client sends nothing more. It may wait for its answer, or be gone."""
        exchange = self._exchange
        if exchange is not None and exchange.is_websocket:
            exchange.feed(b"", ended=True)
        if exchange is None or not exchange.received_all:
            self._client_gone()
        else:
            self._gone_at = trio.current_time() + self.settings.half_close_grace

    def _client_gone(self) -> None:
        if self._exchange is not None:
            self._keep_alive = False
            self._exchange.cancel(Cancelled.CLIENT_LEFT)
        self._closing = True
        self._nursery.cancel_scope.cancel()

    async def _write(self) -> None:
        try:
            await self._outlet.run()
        except trio.TooSlowError:
            logger.info(
                "a client does not read its responses; the connection is cut",
                extra=from_client(self._peer.client),
            )
            self._client_gone()
        except transport.GONE:
            self._client_gone()


_NO_HEAD = Head(b"GET", b"/", "1.1", [], 0, False, False, False)
"""Of what is answered though it is no request."""

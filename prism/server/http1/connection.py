"""HTTP/1.1 on h11: requests of one connection, one after another.

hypercorn's H11Protocol is not used here. It feeds the application through a queue
that stops reading when full, so a disconnect goes unseen, and its upgrade, error,
keep-alive and WebSocket paths would each have to be replaced; h11, on which it
stands, already holds the protocol's rules.

While the application runs, a second task reads: the body, as far as the application
keeps up, and after it the client's end of the connection, which cancels the
application. A client that ends only its sending half looks the same as one that left,
so the application still gets a moment to answer.
"""

import h11
import trio

from prism.server import transport
from prism.server.asgi import App, BadRequest, Headers, Peer, http_scope, problem
from prism.server.exchange import Phase
from prism.server.http1.exchange import HTTP1Exchange, response_head
from prism.server.http1.head import check_head, check_raw_head, origin_form
from prism.server.http1.websocket import HTTP1WebSocket, accept_token
from prism.server.log import logger
from prism.server.settings import ServerSettings
from prism.server.upgrade import is_websocket
from prism.server.websocket import WebSocketAdapter
from prism.streams.sockets import Sender, receive

EVENTS_AT_ONCE = 64
"""Pieces of a body handled before other tasks get a turn. One read may bring thousands
of tiny chunks, at some 15 microseconds each."""

_BOTH_DONE = {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}


class HTTP1Connection:
    """One HTTP/1.1 connection; ``run`` serves it to its end."""

    def __init__(
        self,
        app: App,
        stream: trio.abc.Stream,
        peer: Peer,
        settings: ServerSettings,
        received: bytes = b"",
    ) -> None:
        self.settings = settings
        self.idle_since: float | None = trio.current_time()
        self._app = app
        self._websocket = WebSocketAdapter(app, settings.websocket_limits)
        self._stream = stream
        self._peer = peer
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=settings.max_header_size)
        self._pending = received
        self._exchange: HTTP1Exchange | None = None
        self._waiting = trio.CancelScope()
        self._sender = Sender(stream, settings.send_stall_timeout)
        self._draining = False
        self._may_skip_body = False
        self._broken_body: h11.RemoteProtocolError | None = None

    def drain(self, deadline: float) -> None:
        """Finish the request in flight by ``deadline``, then close.

        HTTP/1.1 cannot announce a close, and a request may be on its way. So if there is
        none in flight, one more is answered, with ``connection: close``, for a moment.
        """
        self._draining = True
        if self.idle_since is not None:
            last_call = trio.current_time() + self._idle_patience
            self._waiting.deadline = min(self._waiting.deadline, last_call)
        if self._exchange is not None:
            self._exchange.cancel_scope.deadline = deadline

    def shed(self) -> None:
        """Close, if idle: the place is needed."""
        if self.idle_since is not None:
            self._waiting.cancel()

    async def run(self) -> None:
        """Serve requests until the connection must close.

        Raises one of ``transport.GONE`` or ``trio.TooSlowError`` when the client is
        gone or does not read.
        """
        try:
            while True:
                request = await self._next_request()
                if request is None:
                    break
                await self._handle(request)
                if self._may_skip_body and self._h11.their_state is h11.SEND_BODY:
                    await self._skip_body()
                if self._sender.unsent or self._h11.states != _BOTH_DONE:
                    break
                self._h11.start_next_cycle()
        except h11.RemoteProtocolError as error:
            logger.info("a client broke HTTP/1.1")
            await self._refuse(error.error_status_hint, "the request is not valid HTTP/1.1")
        except BadRequest as error:
            await self._refuse(error.status, error.detail)
        if self._h11.our_state is not h11.IDLE and not self._sender.unsent:
            await transport.linger(self._stream, self.settings.linger_timeout)

    async def _next_request(self) -> h11.Request | None:
        """The next request's head, or ``None`` if the connection shall close instead.

        Raises:
            BadRequest, h11.RemoteProtocolError: what has come is no request.
        """
        now = trio.current_time()
        begun = bool(self._pending or self._h11.trailing_data[0])
        self.idle_since = None if begun else now
        patience = self.settings.header_timeout if begun else self._idle_patience
        with trio.CancelScope(deadline=now + patience) as self._waiting:
            while True:
                check_raw_head(
                    self._h11.trailing_data[0],
                    self.settings.max_header_size,
                    self.settings.max_header_fields,
                )
                event = self._h11.next_event()
                if isinstance(event, h11.Request):
                    return event
                if event is not h11.NEED_DATA:
                    return None
                if not await self._receive():
                    continue
                if not begun:
                    begun, self.idle_since = True, None
                    self._waiting.deadline = trio.current_time() + self.settings.header_timeout
        if begun:
            await self._refuse(408, "the request's header section did not arrive in time")
        return None

    @property
    def _idle_patience(self) -> float:
        return self.settings.goaway_grace if self._draining else self.settings.keep_alive_timeout

    async def _receive(self) -> bytes:
        data, self._pending = self._pending, b""
        if not data:
            data = await receive(self._stream, transport.READ_SIZE)
        self._h11.receive_data(data)
        return data

    async def _skip_body(self) -> None:
        """Read and drop the rest of a body that nobody wanted, within limits."""
        skipped = pieces = 0
        with trio.move_on_after(self.settings.linger_timeout):
            while skipped <= self.settings.max_unread_body:
                event = self._h11.next_event()
                if event is h11.NEED_DATA:
                    await self._receive()
                elif isinstance(event, h11.Data):
                    skipped += len(event.data)
                    pieces += 1
                    if pieces % EVENTS_AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()
                else:
                    return

    async def _handle(self, request: h11.Request) -> None:
        headers: Headers = list(request.headers)
        lengths = [int(value) for name, value in headers if name == b"content-length"]
        self._may_skip_body = bool(lengths) and lengths[0] <= self.settings.max_unread_body
        check_head(request)
        if is_websocket(headers):
            await self._serve_websocket(request, headers)
            return
        target, headers = origin_form(request.target, headers)
        scope = http_scope(
            self._peer, request.http_version.decode(), request.method, target, headers
        )
        self._exchange = exchange = HTTP1Exchange(self, scope)
        try:
            self._feed(exchange)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_body, exchange)
                await exchange.run(self._app)
                nursery.cancel_scope.cancel()
        finally:
            self._exchange = None
        if self._broken_body is not None:
            raise self._broken_body

    async def _serve_websocket(self, request: h11.Request, headers: Headers) -> None:
        """Serve a WebSocket to its end, or refuse it; the connection closes then."""
        if request.method != b"GET" or request.http_version == b"1.0":
            raise BadRequest(400, "a WebSocket begins with a GET of HTTP/1.1")
        if any(name in {b"content-length", b"transfer-encoding"} for name, _ in headers):
            raise BadRequest(400, "a WebSocket's handshake has no body")
        token = accept_token(headers)
        target, headers = origin_form(request.target, headers)
        scope = http_scope(self._peer, "1.1", request.method, target, headers)
        self._exchange = exchange = HTTP1WebSocket(self, scope, token)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_raw, exchange)
                await exchange.run(self._websocket)
                nursery.cancel_scope.cancel()
        finally:
            self._exchange = None

    async def _read_raw(self, exchange: HTTP1WebSocket) -> None:
        """Feed what comes to ``exchange``, as far as it keeps up, until the client's end."""
        self._h11.next_event()  # the end of the request, which has no body
        data = self._h11.trailing_data[0]
        try:
            while True:
                if data:
                    exchange.feed(data)
                while len(exchange.received) >= self.settings.stream_window:
                    if not await self._wait_for_room(exchange):
                        return
                data = await receive(self._stream, transport.READ_SIZE)
                if not data:
                    break
        except transport.GONE:
            pass
        exchange.feed_end()
        await trio.sleep(self.settings.half_close_grace)  # for what came before its end
        exchange.disconnect()

    async def _read_body(self, exchange: HTTP1Exchange) -> None:
        """Read the request's body, then watch for the client's end of the connection.

        A body that breaks the protocol is left to ``_handle``, in ``_broken_body``.
        """
        try:
            while not exchange.client_gone:
                while self._feed(exchange):
                    if len(exchange.received) < self.settings.stream_window:
                        await trio.lowlevel.checkpoint()
                    elif not await self._wait_for_room(exchange):
                        return
                if len(self._h11.trailing_data[0]) > self.settings.stream_window:
                    return  # pipelined far ahead: the end is not looked for behind that
                if not await self._receive() and exchange.received_all:
                    await trio.sleep(self.settings.half_close_grace)
                    exchange.disconnect()
        except h11.RemoteProtocolError as error:
            self._broken_body = error
            exchange.disconnect()
        except transport.GONE:
            exchange.disconnect()

    async def _wait_for_room(self, exchange: HTTP1Exchange) -> bool:
        """Wait until the application takes of what has come; ``False``: the client left.

        The end of a client that leaves meanwhile is behind bytes that are not read, so it
        is looked for; while the application takes some now and then, the client may wait.
        """
        ended = False
        while True:
            with trio.move_on_after(self.settings.half_close_grace):
                await exchange.wait_for_room()
            if len(exchange.received) < self.settings.stream_window:
                return True
            if ended:
                exchange.disconnect()
                return False
            ended = transport.peer_has_ended(self._stream)

    def _feed(self, exchange: HTTP1Exchange) -> bool:
        """Pass on what has been received. Returns whether some is left for another turn.

        What follows the end of the request is not looked at: after one that closes the
        connection, clients may send anything.
        """
        for _ in range(EVENTS_AT_ONCE):
            if exchange.received_all:
                return False
            if len(exchange.received) >= self.settings.stream_window:
                return True
            event = self._h11.next_event()
            if isinstance(event, h11.Data):
                exchange.feed(event.data)
            elif isinstance(event, h11.EndOfMessage):
                exchange.feed_end()
            else:
                return False
        return True

    def must_close(self, status: int) -> bool:
        """Whether the response now beginning is the connection's last.

        It is for an error sent before the body was read, unless the body is short:
        the client may stop there.
        """
        if self._draining or status < 400 or self._h11.their_state is not h11.SEND_BODY:
            return self._draining
        return not self._may_skip_body or self._h11.they_are_waiting_for_100_continue

    async def send_continue(self) -> None:
        """Tell a client that waits for it to send its body (``Expect: 100-continue``)."""
        if self._h11.they_are_waiting_for_100_continue:
            await self.write(h11.InformationalResponse(status_code=100, headers=[]))

    async def write(self, *events: h11.Event) -> None:
        """Send ``events`` in one go. If the client cannot take them, it counts as gone."""
        await self._send(b"".join(self._h11.send(event) or b"" for event in events))

    async def _send(self, data: bytes) -> None:
        try:
            await self._sender.send(data)
        except (*transport.GONE, trio.TooSlowError):
            if self._exchange is None:
                raise
            self._exchange.disconnect()
            await trio.lowlevel.checkpoint()

    async def write_raw(self, data: bytes) -> None:
        """Send bytes that are no longer HTTP's; see ``write``."""
        await self._send(data)

    async def _refuse(self, status: int, detail: str) -> None:
        """Answer without the application, and make this the last response."""
        exchange = self._exchange
        can_answer = self._h11.our_state in {h11.IDLE, h11.SEND_RESPONSE}
        if not can_answer or (exchange is not None and exchange.phase is not Phase.WAITING):
            return
        headers, body = problem(status, detail)
        head = response_head(status, [*headers, (b"connection", b"close")])
        await self.write(head, h11.Data(data=body), h11.EndOfMessage())

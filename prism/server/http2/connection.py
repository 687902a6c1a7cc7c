"""One HTTP/2 connection: who reads, who writes, and how it comes to its end.

One task reads. It never waits for a front end, so a request that leaves its body
unread holds up nobody; only when the client does not take what is written to it
does reading stop too. One task writes (see `writer`). A request has a task only if its front
end starts one. All waits for the client are dates in one place, `_next_deadline`.
How it ends is in `shutdown`.
"""

from math import inf

import trio
from h2.errors import ErrorCodes

from prism.calls.memory import MIB, OVERHEAD, Hold, Memory
from prism.contract.errors import MemoryFull
from prism.server import transport
from prism.server.exchange import Cancelled, FrontEnd, Peer, Phase
from prism.server.http2.codec import MAX_FRAME_SIZE
from prism.server.http2.events import (
    ClientLeaving,
    DataReceived,
    Event,
    PingAnswered,
    Request,
    RequestEnded,
    RequestMalformed,
    StreamReset,
    WindowOpened,
)
from prism.server.http2.implementation import choose
from prism.server.http2.limits import (
    FRAME_CREDIT,
    LARGE_HEAD_COST,
    RAPID,
    RESET_COST,
    RESPONSE_CREDIT,
    ClientError,
)
from prism.server.http2.request import TOO_LARGE
from prism.server.http2.shutdown import Shutdown, ShutdownState
from prism.server.http2.stream import HTTP2Exchange
from prism.server.http2.writer import ResponseWriter
from prism.server.log import from_client, logger
from prism.server.problems import BadRequest, hand_to, refuse
from prism.server.rules import check_request
from prism.server.settings import ServerSettings
from prism.server.transport import LARGE_READ, READ_SIZE
from prism.streams.outlet import begin_turn, end_turn, turn_time
from prism.streams.sockets import receive
from prism.streams.tasks import TaskPool

# Every request comes by these: on Python 3.11 an enum's attribute costs as much as a call.
_OPEN = ShutdownState.OPEN
_CLIENT_LEFT = Cancelled.CLIENT_LEFT
_DONE = Phase.DONE

MAX_UNTAKEN = MIB
"""Bytes of answers that wait for the client, beyond which no further request is begun: it
does not take what it has asked for. What is in flight by then still adds its own."""

TURN_SECONDS = 0.001
"""How long requests of one read are begun before other connections have their turn: some twenty.
Else a client that sends many at a time delays everybody by all of them, refused ones too."""
LOOK_EVERY = 8
"""Requests that are begun between two looks at the clock."""
REFUSED_AT_ONCE = 8
"""Requests that are over as soon as they begin, of one turn. Those that go on are bounded by
limits, and the more of them leave for a plugin together, the better; of those that are refused the
client may send as many again at once."""
REFUSED_IN_FLOOD = 1
"""Likewise, on a connection that has late refusals (``calls.refusals``): it may have so many that
there is no room for more."""


class HTTP2Connection:
    """One HTTP/2 connection; ``run`` serves it to its end.

    ``now`` is when the bytes being handled were received, on trio's clock. ``idle_since`` is
    ``None`` while requests are open.
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
        self.memory = peer.memory or Memory().for_connection()
        # Some of its requests are left for calls that are not refused.
        requests = settings.max_concurrent_streams
        self.memory.most_late = requests - max(1, requests // 8)
        implementation = choose(settings.http2_codec)
        self.codec = implementation.codec(settings, trio.current_time())
        self._streams: dict[int, HTTP2Exchange] = {}
        self.writer = ResponseWriter(self.codec, stream, settings.send_stall_timeout, self._streams)
        self.now = trio.current_time()
        self.idle_since: float | None = self.now
        self._shutdown = Shutdown(self.codec, settings.goaway_grace)
        self._front = front
        self.tasks = tasks
        self._transport = stream
        self._peer = peer
        self._starting: dict[HTTP2Exchange, None] = {}  # not handed to the front end yet
        self._resuming = False
        self._received = received
        self._started = False
        # Each in the order in which they are due.
        self._half_open: dict[int, float] = {}  # answered before the request ended
        self._stalled: dict[HTTP2Exchange, float] = {}  # have a chunk that waits for the client
        self._request_deadline = inf
        self._headers_due = inf
        self._reading = trio.CancelScope()
        self._stop_requests = False
        self._nursery: trio.Nursery

    # From the server.

    def drain(self, deadline: float) -> None:
        """Finish the requests in flight by ``deadline`` (trio's clock), then close."""
        self._request_deadline = deadline
        if self._started:  # else ``run`` first looks which requests have come already
            self._begin_drain()

    def _begin_drain(self) -> None:
        self._shutdown.drain(self._streams, self._request_deadline, trio.current_time())
        self.writer.wake()
        self._look_up()

    def shed(self) -> None:
        """Begin to close: warn the client, serve what is on its way, refuse the rest."""
        self._shutdown.warn(trio.current_time())
        self.writer.wake()
        self._look_up()

    async def run(self) -> None:
        """Serve until the client leaves or the connection is drained."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._write)
            try:
                if self._received:
                    await self._receive(self._received)
                self._started = True
                if self._request_deadline != inf:
                    self._begin_drain()
                await self._read_loop()
            except ClientError as error:
                await self._refuse_connection(error)
            except transport.GONE:
                self._client_gone()
            finally:
                self._disconnect_streams()
                self.memory.answers.waiting.clear()  # a cycle would keep all this
            if self._shutdown.state is not ShutdownState.CLOSED:
                self._shutdown.state = ShutdownState.CLOSED
                self.writer.outlet.close()
                await self.writer.outlet.closed.wait()
                await transport.linger(self._transport, self.settings.linger_timeout)
            self._nursery.cancel_scope.cancel()

    # Reading.

    async def _read_loop(self) -> None:
        """Read until there is nothing more to serve.

        Raises:
            ClientError: the client broke a rule or a limit.
        """
        while self._shutdown.due(streams=bool(self._streams)) > -inf:
            with trio.CancelScope(deadline=self._next_deadline()) as self._reading:
                size = READ_SIZE
                while True:
                    await self.writer.wait_for_room()
                    data = await receive(self._transport, size)
                    if not data:
                        self._client_gone()
                        return
                    size = LARGE_READ if len(data) >= READ_SIZE else READ_SIZE
                    await self._receive(data)
                    self._look_up()
            self._on_deadline()

    def _next_deadline(self) -> float:
        """When the reader must look up even if nothing comes."""
        deadline = self._headers_due
        if self._half_open:
            deadline = min(deadline, next(iter(self._half_open.values())))
        if self._stalled:
            deadline = min(deadline, next(iter(self._stalled.values())))
        if self._streams:
            deadline = min(deadline, self._request_deadline)
        if self._shutdown.state is not _OPEN:
            return min(deadline, self._shutdown.due(streams=bool(self._streams)))
        if self.idle_since is not None:
            deadline = min(deadline, self.idle_since + self.settings.keep_alive_timeout)
        return deadline

    def _look_up(self) -> None:
        """See that the reader looks up in time. Too early does no harm, and is cheaper than
        putting off a deadline with every request."""
        deadline = self._next_deadline()
        if deadline < self._reading.deadline:
            self._reading.deadline = deadline

    def _on_deadline(self) -> None:
        now = trio.current_time()
        if now >= self._headers_due:
            raise ClientError(ErrorCodes.ENHANCE_YOUR_CALM, "headers did not arrive in time")
        for stream_id in [key for key, due in self._half_open.items() if due <= now]:
            del self._half_open[stream_id]
            self.codec.reset(stream_id, ErrorCodes.NO_ERROR)
        for stream in [each for each, due in self._stalled.items() if due <= now]:
            self._reset(stream, ErrorCodes.CANCEL)
        if now >= self._request_deadline:
            self._request_deadline = inf
            self._stop_requests = True
            self._begin_streams()  # first: only what a front end has can be answered
            for stream in list(self._streams.values()):
                stream.cancel(Cancelled.STOPPED)
        if self._shutdown.state is ShutdownState.OPEN and now >= self._next_deadline():
            self._shutdown.warn(now)
        self._shutdown.on_time(now)
        self.writer.wake()

    async def _receive(self, data: bytes) -> None:
        """Handle ``data`` whole, in portions between which other tasks have their turn."""
        while True:
            self.now = trio.current_time()
            events, size = self.codec.receive(data, self.now)
            self._handle(events)
            if size == len(data):
                break
            data = data[size:]
            # A cancellation here would lose the rest, and with it the place in the stream.
            await trio.lowlevel.cancel_shielded_checkpoint()
        if not self.codec.in_header_block:
            self._headers_due = inf
        elif self._headers_due == inf:
            self._headers_due = self.now + self.settings.header_timeout

    def _handle(self, events: list[Event]) -> None:
        """What comes of these bytes, for this client and for plugins, leaves together."""
        own_turn = begin_turn(self.now)
        try:
            for event in events:
                self._on_event(event)
            self._begin_streams()
            self.writer.wake()
        finally:
            if own_turn:
                end_turn()

    def _on_event(self, event: Event) -> None:
        match event:
            case Request():
                self._open_stream(event)
            case DataReceived(stream_id, data):
                stream = self._streams.get(stream_id)
                if stream is None or stream.phase is Phase.DONE:
                    # After its response a request may go on until ``_half_open`` ends it:
                    # some clients read nothing before they have sent all.
                    self.codec.consumed(stream_id, len(data))
                else:
                    stream.feed(data)
            case RequestEnded(stream_id):
                self._half_open.pop(stream_id, None)
                if (stream := self._streams.get(stream_id)) is not None:
                    stream.feed_end()
            case StreamReset(stream_id):
                self._half_open.pop(stream_id, None)
                if (stream := self._streams.get(stream_id)) is not None:
                    if self.now - stream.begun_at > RAPID:
                        self.codec.credit(RESET_COST)
                    stream.cancel(Cancelled.CLIENT_LEFT)
            case RequestMalformed(stream_id, reason) if reason == TOO_LARGE:
                self.codec.charge(LARGE_HEAD_COST)
                self._refuse_large(stream_id)
            case RequestMalformed(stream_id, reason):
                self.codec.charge(RESET_COST)
                self._half_open.pop(stream_id, None)
                if (stream := self._streams.get(stream_id)) is not None:
                    stream.cancel(Cancelled.CLIENT_LEFT)
                logger.info(
                    "a client's HTTP/2 request is refused: %s",
                    reason,
                    extra=from_client(self._peer.client),
                )
            case WindowOpened(0):
                self.writer.unpark_all()
            case WindowOpened(stream_id):
                if (stream := self._streams.get(stream_id)) is not None:
                    self.writer.unpark(stream)
            case PingAnswered(payload):
                self._shutdown.ping_answered(payload, self.now)
            case ClientLeaving():
                self._shutdown.warn(self.now)

    def _open_stream(self, request: Request) -> None:
        shutdown = self._shutdown
        late = shutdown.state is not _OPEN and shutdown.refuses(request.stream_id)
        if late or self._is_full():
            self.codec.charge(1)
            self.codec.reset(request.stream_id, ErrorCodes.REFUSED_STREAM)
            self.codec.consumed(request.stream_id, len(request.body))
            return
        peer = self._peer
        if peer.proxies is not None:
            peer = peer.of_request(request.headers)
        stream = HTTP2Exchange(self, peer, request)
        self._streams[request.stream_id] = stream
        self._starting[stream] = None
        self.idle_since = None

    def _refuse_large(self, stream_id: int) -> None:
        """Answer a request whose header section is too large, of which nothing is known."""
        self._open_stream(Request(stream_id, b"GET", b"/", b"", [], b"", ended=False))
        stream = self._streams.get(stream_id)
        if stream is not None:
            del self._starting[stream]
            settings = self.settings
            refuse(
                stream,
                BadRequest(
                    431,
                    f"a request's header section has at most {settings.max_header_size} bytes "
                    f"and {settings.max_header_fields} fields",
                ),
            )

    def _is_full(self) -> bool:
        """Whether one more stream is too many.

        A stream that the client has reset is closed for it, but takes until its
        task has been cancelled; as many of those as of others are put up with.
        """
        limit = self.settings.max_concurrent_streams
        if len(self._streams) < limit:
            return False
        live = sum(stream.cancelled is None for stream in self._streams.values())
        return live >= limit or len(self._streams) >= 2 * limit

    def _begin_streams(self) -> None:
        """Hand new requests to the front end; those already reset are none of its business.

        None while the client does not take the answers of those before; and only as many as one
        turn has time for: the others follow in the next.
        """
        answers = self.memory.answers
        if answers.used > MAX_UNTAKEN and not self._stop_requests:
            if self._starting and not self._resuming:
                self._resuming = True
                answers.waiting.append(self._answer_taken)
            return
        starting, self._starting = self._starting, {}
        most = REFUSED_IN_FLOOD if self.memory.late else REFUSED_AT_ONCE
        over = 0
        for number, stream in enumerate(starting):
            if (
                number
                and not self._stop_requests
                and (over >= most or (not number % LOOK_EVERY and self._is_late()))
            ):
                rest = list(starting)[number:]
                self._starting = dict.fromkeys([*rest, *self._starting])
                if not self._resuming:
                    self._resuming = True
                    self.tasks.start(self._resume)
                return
            if stream.cancelled is None:
                self._begin(stream)
                if stream.phase is _DONE:
                    over += 1

    def _is_late(self) -> bool:
        """Has this turn taken so long that others should have theirs?"""
        return trio.current_time() - self.now > TURN_SECONDS

    def _begin(self, stream: HTTP2Exchange) -> None:
        try:
            if stream.protocol and not stream.is_websocket:
                raise BadRequest(501, "the :protocol is not known here")
            check_request(stream.method, stream.target, stream.headers)
        except BadRequest as error:
            refuse(stream, error)
            return
        hand_to(self._front, stream)
        if self._stop_requests:
            stream.cancel(Cancelled.STOPPED)

    def settle(self, stream: HTTP2Exchange) -> None:
        """Forget ``stream`` if nothing more is to be done for it."""
        over = stream.complete or stream.cancelled is _CLIENT_LEFT
        if not over or self._streams.get(stream.stream_id) is not stream:
            return
        del self._streams[stream.stream_id]
        if self._starting:
            self._starting.pop(stream, None)
        if stream.received:
            stream.drop()
        self.writer.forget(stream)
        if not self._streams or self._shutdown.state is not _OPEN:
            now = turn_time()
            if not self._streams:
                self.idle_since = now
            self._shutdown.stream_ended(stream.stream_id, now, last=not self._streams)
            self._look_up()

    # From the streams.

    def frames_sent(self, size: int) -> None:
        """DATA frames with ``size`` bytes went out."""
        self.codec.credit(FRAME_CREDIT * (1 + size // MAX_FRAME_SIZE))

    def response_sent(self, stream: HTTP2Exchange) -> None:
        """A response went out whole. If its request is still open, it gets a while to end.

        RST_STREAM ends it otherwise (RFC 9113, 8.1). Sent at once, it makes curl up to
        7.88 forget the response, if that came while curl was sending.
        """
        self.codec.credit(RESPONSE_CREDIT + FRAME_CREDIT)
        if not stream.received_all:
            due = trio.current_time() + self.settings.linger_timeout
            self._half_open[stream.stream_id] = due
            self._look_up()
        self.settle(stream)

    def break_off(self, stream: HTTP2Exchange) -> None:
        """A response that has begun will not be finished."""
        stream.complete = True
        self.codec.reset(stream.stream_id, ErrorCodes.INTERNAL_ERROR)
        self.writer.wake()
        self.settle(stream)

    def begin_stall(self, stream: HTTP2Exchange) -> None:
        """From now on the client has the full time to take the next ``WRITE_SIZE``."""
        self._stalled.pop(stream, None)
        self._stalled[stream] = trio.current_time() + self.settings.window_stall_timeout
        self._look_up()

    def end_stall(self, stream: HTTP2Exchange) -> None:
        """The client has taken all, or needs to take no more."""
        self._stalled.pop(stream, None)

    def keep(self, stream: HTTP2Exchange, size: int) -> bool:
        """Count ``size`` bytes that the client does not take at once. Without room for them the
        stream is reset, and False returned."""
        answers = self.memory.answers
        stream.held = Hold(answers, answers.parent)
        try:
            stream.held.resize(OVERHEAD + size)
        except MemoryFull as full:
            logger.info(
                "a client's HTTP/2 stream is reset: %s", full, extra=from_client(self._peer.client)
            )
            self._reset(stream, ErrorCodes.ENHANCE_YOUR_CALM)
            return False
        return True

    def _answer_taken(self) -> None:
        """The client has taken an answer, or part of a stream, that had to wait for it."""
        self.tasks.start(self._resume)
        self.memory.answers.tell_next()

    async def _resume(self) -> None:
        """Begin the requests that have waited for answers to be taken, or for their turn."""
        await trio.lowlevel.checkpoint()  # a pooled task may have come here in the same one
        self._resuming = False
        self.now = trio.current_time()
        self._handle([])

    def cancel_stalled(self, since: float) -> None:
        """Reset the streams whose client has taken next to nothing since ``since``."""
        latest = since + self.settings.window_stall_timeout
        for stream in [each for each, due in self._stalled.items() if due <= latest]:
            self._reset(stream, ErrorCodes.ENHANCE_YOUR_CALM)

    def _reset(self, stream: HTTP2Exchange, code: ErrorCodes) -> None:
        self.codec.reset(stream.stream_id, code)
        stream.cancel(Cancelled.CLIENT_LEFT)
        self.writer.wake()

    async def _write(self) -> None:
        try:
            await self.writer.outlet.run()
        except trio.TooSlowError:
            logger.info(
                "a client does not read its responses; the connection is cut",
                extra=from_client(self._peer.client),
            )
            self._client_gone()
        except transport.GONE:
            self._client_gone()

    # The end.

    def _client_gone(self) -> None:
        """Cancel every request and end the connection's tasks."""
        self._shutdown.state = ShutdownState.CLOSED
        self._disconnect_streams()
        self._nursery.cancel_scope.cancel()

    def _disconnect_streams(self) -> None:
        for stream in list(self._streams.values()):
            stream.cancel(Cancelled.CLIENT_LEFT)

    async def _refuse_connection(self, error: ClientError) -> None:
        """Tell the client why, if it listens, and close."""
        calm = error.code is ErrorCodes.ENHANCE_YOUR_CALM
        logger.log(
            30 if calm else 20,
            "a client's HTTP/2 connection ends: %s",
            error,
            extra=from_client(self._peer.client),
        )
        self._disconnect_streams()
        self.codec.goaway(self.codec.last_stream_id, error.code)
        self._shutdown.state = ShutdownState.CLOSED
        self.writer.outlet.close()
        with trio.move_on_after(self.settings.linger_timeout):
            await self.writer.outlet.closed.wait()
            await transport.linger(self._transport, self.settings.linger_timeout)

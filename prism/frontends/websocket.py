"""Streams over WebSocket: the same URL, each message one message of the stream.

A text message is JSON, a binary one MessagePack. The first one is the operation's
parameters, unless the URL has them. An empty text message ends the client's side, which
WebSocket has no other way to say. A stream that fails ends with a message whose only
member is ``$error``, and a close code of 4000 plus the gRPC status.

A handshake that is refused is answered like any other request. Once it is accepted, one task
holds the WebSocket open until the call has ended, then says how, and closes.
"""

import logging
from contextlib import suppress
from math import inf

import trio

from prism.access.authentication import Authentication
from prism.access.identity import KeysAwaited
from prism.calls.call import BODY_PAUSE
from prism.calls.json_text import check_params
from prism.calls.router import Router
from prism.calls.stream import ClientStream
from prism.contract.errors import (
    CallCancelled,
    CallError,
    Draining,
    InternalError,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PluginMisbehaved,
)
from prism.contract.messages import StreamRequest, StreamResponse
from prism.contract.names import namespace_name, operation_name
from prism.contract.service import LAST_EVENT_ID_KEY
from prism.frontends.answering import ExchangeCall, Observer
from prism.frontends.headers import RequestHeaders, read_headers
from prism.frontends.query_params import PLACE, query_params
from prism.frontends.web_pages import WebPages
from prism.server.exchange import Cancelled, Exchange, WebSocket, WebSocketClosed
from prism.server.problems import problem
from prism.server.websocket import CLOSE_TIMEOUT

logger = logging.getLogger("prism.frontends")

SERVICE_RESTART = 1012
"""The close code of a stream that the proxy's stop ended (IANA's registry)."""
STATUS_CODES = 4000
"""Plus a gRPC status: the close code of a stream that failed otherwise."""
_GOOD_CLOSES = {1000, 1001, 1005}


class WebSocketApp:
    """A front end for exchanges with a WebSocket."""

    def __init__(
        self,
        router: Router,
        observer: Observer,
        pages: WebPages,
        authentication: Authentication | None = None,
    ) -> None:
        self._router = router
        self._authentication = authentication
        self._observer = observer
        self._pages = pages

    def begin(self, exchange: Exchange) -> None:
        """Serve one WebSocket, or refuse it."""
        assert exchange.websocket is not None  # noqa: S101 - no other comes here
        headers = read_headers(exchange.headers)
        call = WebSocketCall(exchange, exchange.websocket, self._observer, headers)
        try:
            self._begin(call, headers)
        except KeysAwaited as awaited:
            call.begin_later(awaited, lambda: self._begin(call, headers))
        except CallError as error:
            call.end(error)
        except Exception:
            logger.exception("request %s failed", call.request_id)
            call.end(InternalError())

    def _begin(self, call: "WebSocketCall", headers: RequestHeaders) -> None:
        self._understand(call, headers)
        call.start()

    def _understand(self, call: "WebSocketCall", headers: RequestHeaders) -> None:
        """Take over what the handshake asks for. Raises CallError if it is refused."""
        if self._authentication is not None:
            call.authenticate(self._authentication)
        path, _, call.query = call.exchange.target.partition(b"?")
        match path.split(b"/"):
            case [b"", b"v1", raw_namespace, raw_operation]:
                call.namespace = namespace_name(raw_namespace)
                call.operation = operation_name(raw_operation)
            case _:
                raise NotFound("WebSockets are at /v1/{namespace}/{operation}")
        self._pages.check(headers)
        call.target = self._router.find_for(call.namespace, call.identity)
        if headers.has_priority:
            call.priority = headers.priority()
        timeout = headers.timeout()
        call.deadline = inf if timeout is None else call.started + timeout
        if resume_after := headers.last_event_id():
            call.metadata = {LAST_EVENT_ID_KEY: resume_after}
        client = call.exchange.peer.client
        call.client = client[0] if client else ""


class WebSocketCall(ExchangeCall):
    """A stream whose client speaks WebSocket.

    ``query`` is where its params come from; without one they are the first message.
    """

    __slots__ = (
        "_accepted",
        "_close",
        "_ended",
        "_error_message",
        "_messages",
        "_serving",
        "_websocket",
        "query",
    )

    def __init__(
        self,
        exchange: Exchange,
        websocket: WebSocket,
        observer: Observer,
        headers: RequestHeaders,
    ) -> None:
        super().__init__(exchange, observer)
        self.is_call = True
        self.place = "message 1"
        self.query = b""
        self.stream = self._messages = _Messages(self, websocket)
        self._websocket = websocket
        self._accepted = False
        self._serving: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._error_message = ""
        self._close = (1000, "")
        if headers.is_particular:
            self.identify(headers.request_id(), headers.trace())
        else:
            self.identify()

    def start(self) -> None:
        """Have a task accept the WebSocket and serve it."""
        self._serving = self.tasks.start(self.run, self._serve)

    async def _serve(self) -> None:
        if self.done:
            return
        async with self._websocket.accept([(b"x-request-id", self.request_id.encode())]):
            self._accepted = True
            self.http_status = 101
            self.proceed()
            await self._ended.wait()
            if self._error_message:
                await self._websocket.send(self._error_message)
            await self._websocket.close(*self._close)

    # -- its params -------------------------------------------------------------

    def read_params(self, limit: int) -> bool:
        self._messages.limit = limit
        if self.query:
            self.params, self.place = query_params(self.query, limit), PLACE
            return False
        self.precheck()
        self.wait_in_task(self._read_first_message)
        return True

    async def _read_first_message(self) -> None:
        with trio.move_on_after(BODY_PAUSE):
            message = await self._messages.next()
            if isinstance(message, bytes):
                self.raw = message
            else:
                self.params = message.encode()
            return
        raise InvalidRequest(f"no first message came within {BODY_PAUSE:g} s")

    # -- its end ----------------------------------------------------------------

    def cancelled(self, why: Cancelled) -> None:
        left = why is Cancelled.CLIENT_LEFT
        self._messages.closed_well = left and self._websocket.close_code in _GOOD_CLOSES
        super().cancelled(why)
        if self._serving is not None:
            self._serving.deadline = trio.current_time() + CLOSE_TIMEOUT

    def send_error(self, error: CallError) -> None:
        if not self._accepted:
            super().send_error(error)
        self.end_messages(error)

    def send_result(self, result: bytes, content_type: bytes) -> None:
        raise NotImplementedError  # streams have none

    def note(self, error: CallError) -> None:
        if not self._messages.closed_well:
            super().note(error)

    def end_messages(self, error: CallError | None) -> None:
        """Have the task that serves the WebSocket close it, and say why. Never waits."""
        if error is not None:
            restart = isinstance(error, Draining)
            code = SERVICE_RESTART if restart else STATUS_CODES + error.status
            self._close = (code, error.detail)
            if self._accepted and not (self._messages.closed_well or self.exchange.is_gone):
                told = problem(error, self.request_id, self.namespace, self.operation)
                self._error_message = f'{{"$error":{told.body.decode()}}}'
                self.bytes_out += len(self._error_message.encode())
        self._ended.set()


class _Messages(ClientStream):
    """The messages of one call. ``limit`` is theirs, in bytes."""

    one_way = False

    def __init__(self, call: WebSocketCall, websocket: WebSocket) -> None:
        self.limit = 0
        self._call = call
        self._websocket = websocket
        self._taken = 0

    async def next(self) -> str | bytes:
        """What the client says next.

        Raises:
            CallCancelled: it has closed, or left.
            PayloadTooLarge: over the namespace's limit.
        """
        try:
            message = await self._websocket.receive()
        except WebSocketClosed:
            raise CallCancelled("the client closed its WebSocket") from None
        self._taken += 1
        size = len(message.encode()) if isinstance(message, str) else len(message)
        self._call.bytes_in += size
        if size > self.limit:
            raise PayloadTooLarge(self.limit, "a message")
        return message

    async def receive(self) -> StreamRequest | None:
        message = await self.next()
        if isinstance(message, bytes):
            return StreamRequest(params_raw=message)
        if not message:
            self._call.tasks.start(self._drop_rest)
            return None
        return StreamRequest(params_json=check_params(message.encode(), f"message {self._taken}"))

    async def _drop_rest(self) -> None:
        """Take what the client says after its last message: its close comes behind it."""
        with suppress(WebSocketClosed):
            while True:
                await self._websocket.receive()

    async def begin(self) -> None:
        self.begun = True  # the handshake has said it

    async def send(self, response: StreamResponse) -> None:
        self.begun = True
        message: str | bytes = response.result_raw
        size = len(message)
        if response.result_json or not message:
            message = response.result_json or "{}"
            try:
                size = len(message.encode())
            except UnicodeEncodeError:
                raise PluginMisbehaved("the plugin's message is not valid Unicode") from None
        del response  # its text is in the message: the client may take its time
        self._call.bytes_out += size
        await self._websocket.send(message)

    async def end(self, error: CallError | None) -> None:
        self._call.end_messages(error)

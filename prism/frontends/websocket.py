"""Streams over WebSocket: the same URL, each message one message of the stream.

A text message is JSON, a binary one MessagePack. The first one is the operation's
parameters, unless the URL has them. An empty text message ends the client's side, which
WebSocket has no other way to say. A stream that fails ends with a message whose only
member is ``$error``, and a close code of 4000 plus the gRPC status.
"""

import logging
from math import inf

import trio

from prism.calls.json_text import check_params
from prism.calls.request import CallRecord, Params, Request
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
from prism.frontends.body_params import IDLE_SECONDS
from prism.frontends.disconnect import CLIENT_GONE
from prism.frontends.headers import RequestHeaders
from prism.frontends.problems import problem
from prism.frontends.query_params import QueryParams
from prism.frontends.web_pages import WebPages
from prism.observability.access_log import log_access
from prism.observability.metrics import Metrics
from prism.server import CANCELLED, Receive, Scope, Send

logger = logging.getLogger(__name__)

SERVICE_RESTART = 1012
"""The close code of a stream that the proxy's stop ended (IANA's registry)."""
STATUS_CODES = 4000
"""Plus a gRPC status: the close code of a stream that failed otherwise."""
_GOOD_CLOSES = {1000, 1001, 1005}


class WebSocketApp:
    """ASGI application for the protocol ``websocket``."""

    def __init__(self, router: Router, metrics: Metrics, pages: WebPages) -> None:
        self._router = router
        self._metrics = metrics
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket. Cancelling it cancels its call."""
        headers = RequestHeaders(scope["headers"])
        record = CallRecord(trio.current_time(), headers.request_id(), headers.trace())
        record.is_call = True
        await receive()  # websocket.connect
        stream = _WebSocketStream(receive, send, record)
        try:
            await self._serve(scope, headers, record, stream)
        except CANCELLED:
            if not record.is_answered:
                gone = CLIENT_GONE in scope.get("state", {})
                record.fail(CallCancelled("the client left") if gone else Draining("stopped"))
            raise
        finally:
            seconds = trio.current_time() - record.started
            self._metrics.observe(record, seconds)
            log_access(record, seconds)

    async def _serve(
        self, scope: Scope, headers: RequestHeaders, record: CallRecord, stream: "_WebSocketStream"
    ) -> None:
        failure: CallError | None = None
        try:
            request = self._request(scope, headers, record, stream)
            await stream.accept()
            await self._router.call(request)
        except CallError as error:
            failure = error
        except Exception:
            logger.exception("request %s failed", record.request_id)
            failure = InternalError()
        if failure is not None and not stream.was_closed_well:
            record.fail(failure)
        record.is_answered = True
        await stream.end(failure)

    def _request(
        self, scope: Scope, headers: RequestHeaders, record: CallRecord, stream: "_WebSocketStream"
    ) -> Request:
        """The call that the handshake asks for.

        Raises:
            CallError: it is refused; no WebSocket comes of it.
        """
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        match path.split(b"/"):
            case [b"", b"v1", raw_namespace, raw_operation]:
                record.namespace = namespace_name(raw_namespace)
                record.operation = operation_name(raw_operation)
            case _:
                raise NotFound("WebSockets are at /v1/{namespace}/{operation}")
        self._pages.check(headers)
        record.target = self._router.find(record.namespace)
        timeout = headers.timeout()
        metadata = record.metadata()
        if resume_after := headers.last_event_id():
            metadata["prism-last-event-id"] = resume_after
        query: bytes = scope.get("query_string", b"")
        client = scope.get("client")
        return Request(
            namespace=record.namespace,
            operation=record.operation,
            params=QueryParams(query) if query else _FirstMessage(stream),
            metadata=metadata,
            principal=record.principal,
            deadline=inf if timeout is None else record.started + timeout,
            record=record,
            client=client[0] if client else "",
            stream=stream,
        )


class _FirstMessage(Params):
    """The stream's first message, as its parameters."""

    place = "message 1"

    def __init__(self, stream: "_WebSocketStream") -> None:
        self._stream = stream

    async def read(self, limit: int) -> bytes:
        self._stream.limit = limit
        with trio.move_on_after(IDLE_SECONDS):
            message = await self._stream.next_message()
            if isinstance(message, bytes):
                self.raw = message
                return b""
            return message.encode()
        raise InvalidRequest(f"no first message came within {IDLE_SECONDS:g} s")


class _WebSocketStream(ClientStream):
    """The stream's messages."""

    one_way = False

    def __init__(self, receive: Receive, send: Send, record: CallRecord) -> None:
        self.limit = 0
        self.was_closed_well = False
        self._accepted = False
        self._taken = 0
        self._receive = receive
        self._send = send
        self._record = record

    async def accept(self) -> None:
        """Let the WebSocket begin."""
        self._accepted = True
        self._record.http_status = 101
        request_id = (b"x-request-id", self._record.request_id.encode("ascii"))
        await self._send({"type": "websocket.accept", "headers": [request_id]})

    async def next_message(self) -> str | bytes:
        """What the client says next.

        Raises:
            CallCancelled: it has closed, or left.
            PayloadTooLarge: over the namespace's limit.
        """
        message = await self._receive()
        if message["type"] != "websocket.receive":
            self.was_closed_well = message.get("code", 1005) in _GOOD_CLOSES
            raise CallCancelled("the client closed its WebSocket")
        text: str | None = message.get("text")
        said: bytes = message["bytes"] if text is None else text.encode()
        self._taken += 1
        self._record.bytes_in += len(said)
        if self.limit and len(said) > self.limit:
            raise PayloadTooLarge(self.limit, "a message")
        return said if text is None else text

    async def receive(self) -> StreamRequest | None:
        said = await self.next_message()
        if isinstance(said, bytes):
            return StreamRequest(params_raw=said)
        if not said:
            return None
        return StreamRequest(params_json=check_params(said.encode(), f"message {self._taken}"))

    async def begin(self) -> None:
        """Nothing: the handshake has said it."""

    async def send(self, response: StreamResponse) -> None:
        if response.result_raw and not response.result_json:
            self._record.bytes_out += len(response.result_raw)
            await self._send({"type": "websocket.send", "bytes": response.result_raw})
        else:
            await self._say(response.result_json or "{}")

    async def end(self, failure: CallError | None) -> None:
        """Close; before the WebSocket began, refuse it as any request is refused."""
        if not self._accepted:
            assert failure is not None  # noqa: S101 - else it would have been accepted
            await self._refuse(failure)
            return
        code, reason = 1000, ""
        if failure is not None:
            draining = isinstance(failure, Draining)
            code = SERVICE_RESTART if draining else STATUS_CODES + failure.status
            reason = failure.detail
            if not self.was_closed_well:
                body = problem(failure, self._record).body
                await self._say(f'{{"$error":{body.decode()}}}')
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _say(self, text: str) -> None:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise PluginMisbehaved("the plugin's message is not valid Unicode") from None
        self._record.bytes_out += size
        await self._send({"type": "websocket.send", "text": text})

    async def _refuse(self, failure: CallError) -> None:
        status, headers, body = problem(failure, self._record)
        headers.append((b"x-request-id", self._record.request_id.encode("ascii")))
        headers.append((b"content-length", b"%d" % len(body)))
        self._record.http_status = status
        start = {"type": "websocket.http.response.start", "status": status, "headers": headers}
        await self._send(start)
        await self._send({"type": "websocket.http.response.body", "body": body})

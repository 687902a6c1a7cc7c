"""The data plane's ASGI application. Runs on Prism's own server and on any other.

POST /v1/{namespace}/{operation}    call: params in, result out; or a stream, if asked for
GET  /v1/{namespace}/{operation}    an event stream, for browsers
GET  /v1/{namespace}                describe a namespace
GET  /v1                            list the namespaces
GET  /healthz, /readyz              probes
"""

import logging
from math import inf

import trio

from prism.calls.request import CallRecord, Params, Request
from prism.calls.router import Router
from prism.contract.errors import (
    CallCancelled,
    CallError,
    Draining,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)
from prism.contract.names import namespace_name, operation_name
from prism.frontends.body_params import BodyParams
from prism.frontends.disconnect import CLIENT_GONE, DisconnectWatch, server_cancels
from prism.frontends.lifespan import decline_protocol
from prism.frontends.probes import PROBES, answer_probe, check_get
from prism.frontends.problems import problem
from prism.frontends.query_params import QueryParams
from prism.frontends.responses import Response, json_response, send_response
from prism.frontends.rest.describe import description, summary
from prism.frontends.rest.incoming import Incoming
from prism.frontends.rest.streams import (
    EventStream,
    HTTPStream,
    RequestLines,
    StreamFormat,
    choose_format,
)
from prism.frontends.web_pages import WebPages, preflight
from prism.observability.access_log import log_access
from prism.observability.metrics import Metrics
from prism.server import CANCELLED, Receive, Scope, Send
from prism.server.asgi import REQUEST_ID

logger = logging.getLogger(__name__)

_CLIENT_LEFT = CallCancelled("the client left")
_STOPPED = Draining("the proxy stopped")
_HINT = "POST /v1/{namespace}/{operation} makes a call, GET /v1 lists the namespaces"


class RestApp:
    """ASGI application. Set ``draining`` when the proxy begins to stop: calls still run."""

    def __init__(self, router: Router, metrics: Metrics, pages: WebPages | None = None) -> None:
        self._router = router
        self._metrics = metrics
        self._pages = pages or WebPages(frozenset())
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Cancelling it cancels the call, which is logged as such."""
        if scope["type"] != "http":
            await decline_protocol(scope, receive, send)
            return
        incoming = Incoming.from_scope(scope, receive, send)
        headers = incoming.headers
        if headers.foreign_origin():
            send = self._pages.answering(headers, send)
            incoming = incoming._replace(send=send)
        record = CallRecord(trio.current_time(), headers.request_id(), headers.trace())
        scope.setdefault("state", {})[REQUEST_ID] = record.request_id
        try:
            response = await (
                self._answer(incoming, record)
                if server_cancels(scope)
                else self._answer_while_client_stays(incoming, record)
            )
            if response is None:
                return
            record.bytes_out = len(response.body)
            response.headers.append((b"x-request-id", record.request_id.encode("ascii")))
            await send_response(send, response, head=incoming.method == "HEAD")
        except CANCELLED:
            gone = CLIENT_GONE in scope.get("state", {})
            if not record.is_answered:
                record.fail(_CLIENT_LEFT if gone else _STOPPED)
            raise
        finally:
            self._observe(record, incoming.path)

    async def _answer_while_client_stays(
        self, incoming: Incoming, record: CallRecord
    ) -> Response | None:
        watch = DisconnectWatch(incoming.receive)
        watched = incoming._replace(receive=watch.receive)
        response = await watch.run(lambda: self._answer(watched, record))
        if response is None and not record.is_answered:
            record.fail(_CLIENT_LEFT)
        return response

    async def _answer(self, incoming: Incoming, record: CallRecord) -> Response | None:
        """The response, whatever happens; ``None`` when it was a stream and is sent."""
        try:
            response = await self._dispatch(incoming, record)
            if response is not None:
                record.http_status = response.status
            return response
        except CallError as error:
            failure = error
        except Exception:
            logger.exception("request %s failed", record.request_id)
            failure = InternalError()
        record.fail(failure)
        return problem(failure, record)

    async def _dispatch(self, incoming: Incoming, record: CallRecord) -> Response | None:
        method, path = incoming.method, incoming.path
        if incoming.headers.foreign_origin():
            self._pages.check(incoming.headers)
            if method == "OPTIONS" and incoming.headers.is_preflight():
                return preflight()
        match path.split(b"/"):
            case [b"", b"v1", raw_namespace, raw_operation]:
                record.is_call = True
                record.namespace = namespace_name(raw_namespace)
                record.operation = operation_name(raw_operation)
                kind = self._format(incoming, record)
                if method != "POST" and not (method == "GET" and kind is EventStream):
                    hint = ", or GET with accept: text/event-stream" if method == "GET" else ""
                    raise MethodNotAllowed(method, path.decode("ascii"), ("POST",), hint)
                if kind is not None:
                    await self._stream(incoming, record, kind())
                    return None
                return await self._call(incoming, record)
            case [b"", b"v1", raw_namespace]:
                record.namespace = namespace_name(raw_namespace)
                check_get(method, path.decode("ascii"))
                return json_response(200, description(self._router.find(record.namespace)))
            case [b"", b"v1"]:
                check_get(method, "/v1")
                namespaces = [summary(namespace) for namespace in self._router.namespaces()]
                return json_response(200, {"namespaces": namespaces})
        if path in PROBES:
            check_get(method, path.decode("ascii"))
            return answer_probe(path, self._router, draining=self.draining)
        raise NotFound(f"nothing is at this path; {_HINT}")

    async def _call(self, incoming: Incoming, record: CallRecord) -> Response:
        headers = incoming.headers
        namespace = record.target = self._router.find(record.namespace)
        if incoming.query:
            raise InvalidRequest("a call takes no query string; put parameters into the JSON body")
        headers.check_call()
        deadline = namespace.deadline(record.started, headers.timeout())
        request = Request(
            namespace=record.namespace,
            operation=record.operation,
            params=BodyParams(incoming.receive, headers.content_length(), deadline, record),
            metadata=record.metadata(),
            principal=record.principal,
            deadline=deadline,
            record=record,
        )
        reply = await self._router.call(request)
        return Response(200, [(b"content-type", reply.content_type)], reply.body)

    def _format(self, incoming: Incoming, record: CallRecord) -> type[StreamFormat] | None:
        """How the answer is written: as a stream, or ``None``."""
        instance = self._router.find(record.namespace).slot.current
        declared = instance.operations.get(record.operation) if instance is not None else None
        streaming = declared is not None and declared.streaming
        return choose_format(incoming.headers.accept(), streaming=streaming)

    async def _stream(self, incoming: Incoming, record: CallRecord, form: StreamFormat) -> None:
        headers = incoming.headers
        record.target = self._router.find(record.namespace)
        headers.check_call()
        timeout = headers.timeout()
        deadline = inf if timeout is None else record.started + timeout
        lines = None
        if incoming.method == "GET":
            params: Params = QueryParams(incoming.query)
        elif incoming.query:
            raise InvalidRequest("a POST takes no query string; put parameters into the body")
        elif headers.sends_lines():
            params = lines = RequestLines(incoming.receive, record)
        else:
            params = BodyParams(incoming.receive, headers.content_length(), deadline, record)
        stream = HTTPStream(incoming.send, record, form, lines)
        metadata = record.metadata()
        if resume_after := headers.last_event_id():
            metadata["prism-last-event-id"] = resume_after
        request = Request(
            namespace=record.namespace,
            operation=record.operation,
            params=params,
            metadata=metadata,
            principal=record.principal,
            deadline=deadline,
            record=record,
            client=incoming.client,
            stream=stream,
        )
        failure: CallError | None = None
        try:
            await self._router.call(request)
        except CallError as error:
            if not stream.begun:
                raise
            failure = error
        except Exception:
            if not stream.begun:
                raise
            logger.exception("request %s failed", record.request_id)
            failure = InternalError()
        if failure is not None:
            record.fail(failure)
            record.http_status = 200
        await stream.end(failure)

    def _observe(self, record: CallRecord, path: bytes) -> None:
        seconds = trio.current_time() - record.started
        if record.is_call:
            self._metrics.observe(record, seconds)
        if path not in PROBES:  # they come every few seconds and would drown the rest
            log_access(record, seconds)

"""The data plane over HTTP.

POST /v1/{namespace}/{operation}    call: params in, result out; or a stream, if asked for
GET  /v1/{namespace}/{operation}    an event stream, for browsers
GET  /v1/{namespace}                describe a namespace
GET  /v1/{namespace}/openapi.json   describe its operations as OpenAPI does
GET  /v1                            list the namespaces
GET  /healthz, /readyz              probes
"""

import logging
from math import inf
from typing import NamedTuple

import trio

from prism.access.authentication import Authentication
from prism.access.identity import KeysAwaited
from prism.calls.call import BODY_PAUSE
from prism.calls.json_text import UNSTREAMED
from prism.calls.router import Router
from prism.contract.errors import (
    CallError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestTimeout,
)
from prism.contract.names import namespace_name, operation_name
from prism.contract.service import LAST_EVENT_ID_KEY
from prism.frontends.answering import ExchangeCall, Observer
from prism.frontends.headers import RequestHeaders, read_headers
from prism.frontends.probes import PROBES, answer_probe, check_get
from prism.frontends.query_params import PLACE, query_params
from prism.frontends.responses import Response, json_response
from prism.frontends.rest.describe import description, summary
from prism.frontends.rest.openapi import OPENAPI, openapi
from prism.frontends.rest.streams import (
    EventStream,
    HTTPStream,
    RequestLines,
    StreamFormat,
    choose_format,
)
from prism.frontends.web_pages import WebPages, preflight
from prism.server.exchange import Exchange

logger = logging.getLogger("prism.frontends")

_HINT = "POST /v1/{namespace}/{operation} makes a call, GET /v1 lists the namespaces"
_ADMIN_HINT = "metrics and administration are on a port of their own (admin.port)"
_REMEMBERED = 4096
"""How many request targets are remembered ..."""
_MEMORABLE = 128
"""... and up to how many bytes each."""


class RequestTarget(NamedTuple):
    """A request's target, taken apart. ``path`` is the one on the wire, before
    percent-decoding, which would give names a second spelling; the names are empty where it
    has none."""

    path: bytes
    query: bytes
    namespace: str = ""
    operation: str = ""
    is_openapi: bool = False


class RestCall(ExchangeCall):
    """A request over plain HTTP. ``query`` and ``lines`` are where a stream's params come from,
    if it is not the whole body."""

    __slots__ = ("lines", "path", "query")

    def __init__(self, exchange: Exchange, observer: Observer, headers: RequestHeaders) -> None:
        super().__init__(exchange, observer)
        self.path = b""
        self.query: bytes | None = None
        self.lines: RequestLines | None = None
        if headers.is_particular:
            self.identify(headers.request_id(), headers.trace())
        else:
            self.identify()

    def read_params(self, limit: int) -> bool:
        if self.query is not None:
            self.params, self.place = query_params(self.query, limit), PLACE
            return False
        if self.lines is not None:
            self.precheck()
            self.wait_in_task(lambda: self._read_line(limit))
            return True
        return super().read_params(limit)

    async def _read_line(self, limit: int) -> None:
        assert self.lines is not None  # noqa: S101 - else this is not called
        with trio.move_on_after(BODY_PAUSE):
            self.params = await self.lines.first(limit)
            self.place = self.lines.place
            return
        raise RequestTimeout(f"no first line came within {BODY_PAUSE:g} s")

    def send_result(self, result: bytes, content_type: bytes) -> None:
        self.http_status = 200
        self.bytes_out = len(result)
        self.respond(200, [(b"content-type", content_type)], result)

    def answer(self, response: Response) -> None:
        """Answer what is no call of a plugin's."""
        self.close()
        self.http_status = response.status
        self.bytes_out = len(response.body)
        self.respond(*response)
        self.observe()

    def observe(self) -> None:
        if self.is_call or self.observer is None:
            super().observe()
        elif self.path not in PROBES:  # they come every few seconds and would drown the rest
            self.observer.log(self)


class RestApp:
    """A front end. Set ``draining`` when the proxy begins to stop: calls still run."""

    def __init__(
        self,
        router: Router,
        observer: Observer,
        pages: WebPages | None = None,
        authentication: Authentication | None = None,
    ) -> None:
        self._router = router
        self._authentication = authentication
        self._observer = observer
        self._pages = pages or WebPages(frozenset())
        self._targets: dict[bytes, RequestTarget] = {}
        self.draining = False

    def begin(self, exchange: Exchange) -> None:
        """Answer one request."""
        self.answer(exchange, read_headers(exchange.headers))

    def answer(self, exchange: Exchange, headers: RequestHeaders) -> None:
        """Answer one request, whose headers were read."""
        call = RestCall(exchange, self._observer, headers)
        try:
            self._dispatch(call, exchange, headers)
        except KeysAwaited as awaited:
            self._dispatch_later(awaited, call, exchange, headers)
        except CallError as error:
            call.end(error)
        except Exception:
            logger.exception("request %s failed", call.request_id)
            call.end(InternalError())

    # A method of its own: a closure in a compiled one costs all calls, also those without any.

    def _dispatch_later(
        self, awaited: KeysAwaited, call: RestCall, exchange: Exchange, headers: RequestHeaders
    ) -> None:
        call.begin_later(awaited, lambda: self._dispatch(call, exchange, headers))

    def _dispatch(self, call: RestCall, exchange: Exchange, headers: RequestHeaders) -> None:
        if headers.foreign_origin():
            call.extra_headers = self._pages.readable(headers)
            self._pages.check(headers)
            if exchange.method == b"OPTIONS" and headers.is_preflight():
                call.answer(preflight())
                return
        target = self._targets.get(exchange.target)
        is_operation = target is not None and target.operation
        if self._authentication is not None and (is_operation or not _is_probe(exchange.target)):
            call.is_call = True  # who is refused here is counted
            call.authenticate(self._authentication)
            call.is_call = False
        if target is None:
            target = self._take_apart(exchange.target, call)
        call.path = target.path
        call.namespace = target.namespace
        if target.operation:
            call.is_call = True
            call.operation = target.operation
            self._call(call, exchange, headers, target.query)
        else:
            call.answer(self._own_answer(call, exchange, target))

    def _take_apart(self, raw: bytes, call: RestCall) -> RequestTarget:
        path, _, query = raw.partition(b"?")
        if path.endswith(b"/") and path != b"/":
            there = path.rstrip(b"/")[:_MEMORABLE].decode("ascii")
            raise NotFound(f"nothing is at this path; without the slash at its end: {there}")
        match path.split(b"/"):
            case [b"", b"v1", raw_namespace, last] if last == OPENAPI.encode():
                target = RequestTarget(path, query, namespace_name(raw_namespace), is_openapi=True)
            case [b"", b"v1", raw_namespace, raw_operation]:
                call.is_call = True
                call.namespace = namespace_name(raw_namespace)
                target = RequestTarget(path, query, call.namespace, operation_name(raw_operation))
            case [b"", b"v1", raw_namespace]:
                target = RequestTarget(path, query, namespace_name(raw_namespace))
            case _:
                target = RequestTarget(path, query)
        if not query and len(raw) <= _MEMORABLE:
            if len(self._targets) >= _REMEMBERED:
                self._targets.clear()
            self._targets[raw] = target
        return target

    def _own_answer(self, call: RestCall, exchange: Exchange, target: RequestTarget) -> Response:
        """What the proxy itself answers."""
        method, path = exchange.method.decode("ascii"), target.path.decode("ascii")
        if target.namespace:
            check_get(method, path)
            namespace = self._router.find_for(target.namespace, call.identity)
            if target.is_openapi:
                described = openapi(namespace, call.identity, self._authentication)
                return json_response(200, described)
            return json_response(200, description(namespace, call.identity))
        if target.path == b"/v1":
            check_get(method, path)
            found = self._router.namespaces_for(call.identity)
            listed = [summary(namespace, call.identity) for namespace in found]
            return json_response(200, {"namespaces": listed})
        if target.path in PROBES:
            check_get(method, path)
            return answer_probe(target.path, self._router, draining=self.draining)
        is_admins = path == "/metrics" or path.startswith("/admin/")
        raise NotFound(f"nothing is at this path; {_ADMIN_HINT if is_admins else _HINT}")

    def _call(
        self, call: RestCall, exchange: Exchange, headers: RequestHeaders, query: bytes
    ) -> None:
        namespace = self._router.find_for(call.namespace, call.identity)
        declared = namespace.slot.operations.get(call.operation)
        kind = choose_format(headers.accept(), declared is not None and declared.streaming)
        may_stream = declared is not None and (declared.streaming or declared.also_streaming)
        method = exchange.method
        if method != b"POST" and not (method == b"GET" and kind is EventStream):
            may_get = method == b"GET" and may_stream
            hint = ", or GET with accept: text/event-stream" if may_get else ""
            raise MethodNotAllowed(method.decode(), call.path.decode(), ("POST",), hint)
        call.target = namespace
        call.declared = headers.content_length
        if headers.has_priority:
            call.priority = headers.priority()
        if kind is EventStream and headers.has_seen_the_end():
            call.answer(Response(204, [], b""))
            return
        if kind is not None:
            self._stream(call, exchange, headers, kind(), query)
        elif query:
            raise InvalidRequest("a call takes no query string; put parameters into the JSON body")
        else:
            headers.check_call()
            call.deadline = namespace.deadline(call.started, headers.timeout())
            if may_stream and headers.sends_lines:
                call.place = UNSTREAMED
        call.proceed()

    def _stream(
        self,
        call: RestCall,
        exchange: Exchange,
        headers: RequestHeaders,
        form: StreamFormat,
        query: bytes,
    ) -> None:
        headers.check_call()
        timeout = headers.timeout()
        call.deadline = inf if timeout is None else call.started + timeout
        if exchange.method == b"GET":
            call.query = query
        elif query:
            raise InvalidRequest("a POST takes no query string; put parameters into the body")
        elif headers.sends_lines:
            call.lines = RequestLines(call)
        call.stream = HTTPStream(call, form, call.lines)
        if resume_after := headers.last_event_id():
            call.metadata = {LAST_EVENT_ID_KEY: resume_after}
        client = exchange.peer.client
        call.client = client[0] if client else ""


def _is_probe(target: bytes) -> bool:
    """Probes are of load balancers, which show no credentials, and are told next to nothing."""
    return target.partition(b"?")[0] in PROBES

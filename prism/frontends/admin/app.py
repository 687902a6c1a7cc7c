"""The admin port's front end: admit, find the route, understand, answer, note."""

import logging
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import trio

from prism.contract.errors import CallError, InvalidRequest, PayloadTooLarge
from prism.contract.json_words import in_json_words
from prism.frontends.admin.access import Access, Right
from prism.frontends.admin.call import AdminCall, Administered
from prism.frontends.admin.openapi import OPENAPI
from prism.frontends.admin.routes import OPENAPI_PATH, Route, find_route
from prism.frontends.answering import ExchangeCall
from prism.frontends.probes import check_get
from prism.frontends.responses import Response, json_response
from prism.server.exchange import Exchange
from prism.streams.addresses import bracketed

logger = logging.getLogger("prism.admin")

MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 10.0
"""For the whole of a body, which is a line of JSON."""
MAX_QUERY_KEYS = 16
HTTPS_ONLY = [(b"strict-transport-security", b"max-age=31536000")]
"""RFC 6797: a browser does not speak to this host without TLS any more, for a year."""


class AdminRequest(ExchangeCall):
    """One request to the admin port. It is noted where it changes something, or is refused."""

    __slots__ = ("path",)

    def __init__(self, exchange: Exchange, path: str) -> None:
        super().__init__(exchange, observer=None)
        self.path = path
        self.identify()

    def send_result(self, result: bytes, content_type: bytes) -> None:
        """No plugin answers it."""

    def note(self, error: CallError) -> None:
        super().note(error)
        method = self.exchange.method.decode("ascii")
        if not self.exchange.is_gone and (
            method not in ("GET", "HEAD") or error.http_status in (401, 403)
        ):
            logger.warning(
                "%s %.200s is refused: %s",
                method,
                self.path,
                error,
                extra={"fields": self.facts() | {"reason": error.reason}},
            )

    def facts(self) -> dict[str, str]:
        """Who asked and from where, for the log."""
        client = self.exchange.peer.client
        found = {"request_id": self.request_id, "principal": self.principal}
        if client is not None:
            found["peer"] = f"{bracketed(client[0])}:{client[1]}"
        return found


class AdminApp:
    """A front end for the proxy ``proxy``, open to whom ``access`` admits.

    ``https_only``: browsers are told to speak to this host with TLS alone. That is for all of its
    ports, so the data port must have TLS, too.
    ``stopping`` is set when the port closes, so that what is followed ends.
    """

    def __init__(
        self, proxy: Administered, access: Access | None = None, *, https_only: bool = False
    ) -> None:
        self._proxy = proxy
        self._headers = HTTPS_ONLY if https_only else []
        self.access = access or Access()
        self.stopping = trio.Event()

    def begin(self, exchange: Exchange) -> None:
        """Answer one request, in a task."""
        path = exchange.target.partition(b"?")[0]
        request = AdminRequest(exchange, path.decode("latin-1"))
        request.extra_headers = self._headers
        request.wait_for(request.tasks.start(request.run, lambda: self._answer(request)))

    async def _answer(self, request: AdminRequest) -> None:
        exchange, path = request.exchange, request.path
        method = exchange.method.decode("ascii")
        headers = dict(exchange.headers)
        peer = exchange.peer
        identity = await self.access.recognize(peer, exchange.headers)
        request.principal = self.access.identify(peer, headers, identity)
        if path == OPENAPI_PATH:
            self.access.admit(peer, headers, Right.READ, identity)
            check_get(method, OPENAPI_PATH)
            _respond(request, json_response(200, OPENAPI))
            return
        try:
            route, values = find_route(method, path.encode("latin-1"))
        except CallError:
            self.access.admit(peer, headers, Right.READ, identity)  # strangers learn of no paths
            raise
        self.access.admit(peer, headers, route.right, identity)
        call = AdminCall(
            proxy=self._proxy,
            request=request,
            headers=headers,
            values=values,
            query=_query(route, exchange.target.partition(b"?")[2]),
            body=await _body(route, request),
            may_read=lambda: self.access.may_read(peer, headers, identity),
            stopping=self.stopping,
        )
        if route.right > Right.READ:
            _note_change(request, call)  # before it: who asked may leave, and it goes on
        if route.follow is not None and getattr(call.query, "follow", True):
            if method == "HEAD":
                _respond(request, Response(200, [], b""))
            else:
                await route.follow(call)
            return
        answer = await route.handler(call)
        _respond(
            request,
            answer if isinstance(answer, Response) else json_response(route.status, answer),
        )


def _respond(request: AdminRequest, response: Response) -> None:
    request.http_status = response.status
    request.respond(*response)


def _note_change(request: AdminRequest, call: AdminCall) -> None:
    named = getattr(call.body, "namespace", None)
    logger.info(
        "%s%s is asked for by %s",
        request.path,
        f" of namespace {named:.100}" if named else "",
        request.principal,
        extra={"fields": request.facts()},
    )


def _query(route: Route, raw: bytes) -> Any:
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(raw),
            max_num_fields=MAX_QUERY_KEYS,
        )
    except ValueError:
        raise InvalidRequest("the query is not key=value pairs joined by &") from None
    given = dict(pairs)
    if len(given) < len(pairs):
        raise InvalidRequest("a key of the query is given twice")
    try:
        return msgspec.convert(given, route.query, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the query does not fit: {in_json_words(str(error))}") from None


async def _body(route: Route, request: AdminRequest) -> Any:
    if route.body is None:
        return None
    with trio.move_on_after(BODY_SECONDS):
        content = await _whole_body(request)
        try:
            return msgspec.json.decode(content or b"{}", type=route.body)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"the body does not fit: {in_json_words(str(error))}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"the body is not JSON: {error}") from None
    raise InvalidRequest(f"the body did not come within {BODY_SECONDS:g} s")


async def _whole_body(request: AdminRequest) -> bytes:
    content = bytearray()
    while part := await request.exchange.read():
        content += part
        if len(content) > MAX_BODY_BYTES:
            raise PayloadTooLarge(MAX_BODY_BYTES, whose=", the admin port's")
    return bytes(content)

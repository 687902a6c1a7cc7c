"""The ASGI vocabulary, and the parts of a request's scope that both HTTP versions share."""

import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

import msgspec
import trio

from prism.calls.ids import random_hex
from prism.server.log import logger

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

CANCELLED = (trio.Cancelled, BaseExceptionGroup)
"""What a cancelled application raises. A nursery inside it makes a group of it, in which
there is nothing else: an application answers, or logs, every ``Exception`` of its own."""

T = TypeVar("T")

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_TARGET = re.compile(rb"/[\x21-\x7e]*")  # origin form; RFC 3986 leaves no other bytes
_HOST = re.compile(rb"(?:[-\w.~%!$&'()*+,;=]*|\[[0-9A-Fa-f:.]+\])(?::\d*)?")  # RFC 3986, 3.2.2
_has_forbidden = re.compile(rb"[\r\n\0]").search

_REMEMBERED = 256
"""How many values each judgement on a part of a head is remembered for ..."""
_MEMORABLE = 128
"""... and up to how many bytes: requests repeat the parts of those before them."""

REQUEST_ID = "prism.request_id"
"""Where in ``scope["state"]`` an application leaves the id that it gave a request."""

_KINDS = {
    400: ("INVALID_ARGUMENT", "invalid_request"),
    408: ("DEADLINE_EXCEEDED", "request_timeout"),
    426: ("UNIMPLEMENTED", "not_served"),
    431: ("INVALID_ARGUMENT", "headers_too_large"),
    500: ("INTERNAL", "internal"),
    501: ("UNIMPLEMENTED", "not_served"),
    503: ("UNAVAILABLE", "draining"),
    505: ("UNIMPLEMENTED", "not_served"),
}
"""The gRPC status and the reason, as ``prism.contract.errors`` has them for the rest."""
_RETRYABLE = {408}  # what was stopped by the end of a drain may have run


class BadRequest(Exception):
    """The request cannot be passed to the application; ``status`` answers it."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


class Peer(NamedTuple):
    """The facts about a connection that every request on it shares.

    ``client`` and ``server`` are (host, port), or ``None`` on a Unix socket;
    ``state`` is copied into each request's ``scope["state"]``.
    """

    scheme: str
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    state: dict[str, Any]


def http_scope(
    peer: Peer, version: str, method: bytes, target: bytes, headers: Headers
) -> dict[str, Any]:
    """The ASGI scope of one request (ASGI 3, HTTP 2.4).

    Raises:
        BadRequest: the method or target is malformed, or the method is not served.
    """
    text = _method(method)
    whole_server = target == b"*" and method == b"OPTIONS"  # RFC 9110, 9.3.7
    path, raw_path, query = ("*", b"*", b"") if whole_server else _target(target)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": version,
        "method": text,
        "scheme": peer.scheme,
        "path": path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": peer.client,
        "server": peer.server,
        "state": dict(peer.state),
        "extensions": _EXTENSIONS_2 if version == "2" else _EXTENSIONS_1,
    }


def _remembered(judge: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """``judge``, which then is seldom asked twice about the same short value."""
    known = lru_cache(_REMEMBERED)(judge)

    def ask(value: bytes) -> T:
        return known(value) if len(value) <= _MEMORABLE else judge(value)

    return ask


@_remembered
def _method(method: bytes) -> str:
    if not _TOKEN.fullmatch(method):
        raise BadRequest(400, "the request method is not a valid token")
    if method == b"CONNECT":
        raise BadRequest(501, "CONNECT is not supported")
    return method.decode("ascii")


@_remembered
def _target(target: bytes) -> tuple[str, bytes, bytes]:
    """``path``, ``raw_path`` and ``query_string``."""
    if not _TARGET.fullmatch(target):
        raise BadRequest(400, "the request target must be an ASCII path that begins with /")
    raw_path, _, query = target.partition(b"?")
    return unquote(raw_path.decode("ascii")), raw_path, query


# A request whose client goes away has its task cancelled; says so to the application.
_EXTENSIONS_1: dict[str, dict[str, object]] = {"prism.cancels_on_disconnect": {}}
_EXTENSIONS_2: dict[str, dict[str, object]] = {"http.response.trailers": {}, **_EXTENSIONS_1}


@_remembered
def is_host(value: bytes) -> bool:
    """Whether ``value`` may stand in ``host`` or ``:authority``: a host, and perhaps a port."""
    return _HOST.fullmatch(value) is not None


def checked_headers(headers: Iterable[Iterable[bytes]]) -> Headers:
    """An application's headers, names in lower case.

    Raises:
        ValueError: a name is not a token, or a value holds CR, LF or NUL.
    """
    checked = []
    for name, value in headers:
        if _has_forbidden(value):
            raise ValueError("the application sent an invalid header")
        checked.append((_lower_name(name), bytes(value)))
    return checked


@_remembered
def _lower_name(name: bytes) -> bytes:
    if not _TOKEN.fullmatch(name):
        raise ValueError("the application sent an invalid header")
    return bytes(name).lower()


def problem(status: int, detail: str, request_id: str = "") -> tuple[Headers, bytes]:
    """Headers and body of an error that the server itself answers (RFC 9457).

    It has all that the application's errors have. Without an application there is no
    line in the access log for ``request_id``, so the answer is logged here.
    """
    code, reason = _KINDS.get(status, ("UNKNOWN", "not_served"))
    if not request_id:
        request_id = random_hex(32)
        fields = {"request_id": request_id, "http_status": status, "reason": reason}
        logger.info("a request is refused: %s", detail, extra={"fields": fields})
    body = msgspec.json.encode(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "code": code,
            "reason": reason,
            "detail": detail,
            "request_id": request_id,
            "retryable": status in _RETRYABLE,
        }
    )
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode("ascii")),
    ]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    elif status == 426:  # RFC 6455, 4.4
        headers += [(b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")]
    return headers, body


_date: tuple[int, tuple[bytes, bytes]] = (0, (b"date", b""))


def date_header() -> tuple[bytes, bytes]:
    """``date`` for a response (RFC 9110, 6.6.1), formatted once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, (b"date", formatdate(now, usegmt=True).encode("ascii")))
    return _date[1]

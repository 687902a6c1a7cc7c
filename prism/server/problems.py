"""The one place that turns errors into answers for clients (RFC 9457).

``type`` is ``about:blank``: the members ``code`` (gRPC status) and ``reason``
say for programs what went wrong, ``detail`` for people.
"""

import math
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

import msgspec

from prism.calls.ids import random_hex
from prism.contract.errors import CallError, Forbidden, MethodNotAllowed, Unauthenticated
from prism.contract.status import StatusCode
from prism.server.exchange import Exchange, FrontEnd, Headers, Phase
from prism.server.log import client_name, log_failures, logger

RETRY_AFTER_SECONDS = 1
"""What 429 and 503 advise, unless the error knows better. Bursts are mostly over by then."""

_PROBLEM = (b"content-type", b"application/problem+json")
_CHALLENGE = b'Bearer realm="prism"'  # RFC 6750, 3
_INVALID_TOKEN = _CHALLENGE + b', error="invalid_token"'
_INSUFFICIENT = _CHALLENGE + b', error="insufficient_scope"'
_TITLES = {int(status): status.phrase for status in HTTPStatus} | {499: "Client Closed Request"}
_WEBSOCKET_OF_13 = [(b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")]  # RFC 6455, 4.4

encode_json = msgspec.json.Encoder().encode


class BadRequest(CallError):
    """A request that the server itself refuses, before any front end has seen it."""

    _KINDS = {
        400: (StatusCode.INVALID_ARGUMENT, "invalid_request"),
        408: (StatusCode.DEADLINE_EXCEEDED, "request_timeout"),
        426: (StatusCode.UNIMPLEMENTED, "not_served"),
        431: (StatusCode.INVALID_ARGUMENT, "headers_too_large"),
        500: (StatusCode.INTERNAL, "internal"),
        501: (StatusCode.UNIMPLEMENTED, "not_served"),
        503: (StatusCode.UNAVAILABLE, "draining"),
        505: (StatusCode.UNIMPLEMENTED, "not_served"),
    }

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.reason = self._KINDS[status]
        self.http_status = status
        self.retryable = status == 408  # what was stopped by the end of a drain may have run


class Problem(NamedTuple):
    """An error as a response: the headers lack ``content-length`` and ``x-request-id``."""

    status: int
    headers: Headers
    body: bytes


def problem(error: CallError, request_id: str, namespace: str = "", operation: str = "") -> Problem:
    """The response for ``error``, in which the request ended."""
    status = error.http_status
    detail = error.detail
    if not detail.isascii():
        detail = detail.encode(errors="replace").decode()
    members = error.members()
    # Refusals come by the thousand, and differ in little: the rest is encoded once.
    body = b"".join(
        (
            _beginning(status, int(error.status), error.reason),
            encode_json(detail),
            b',"request_id":',
            encode_json(request_id),
            _end(error.retryable, namespace, operation),
            b"," + encode_json(members)[1:] if members else b"}",
        )
    )
    headers = [_PROBLEM]
    known = error.retry_after
    if known is not None or status in {429, 503}:
        seconds = RETRY_AFTER_SECONDS if known is None else known
        if seconds != math.inf:  # else nobody knows
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(seconds))))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allowed).encode("ascii")))
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", _INVALID_TOKEN if error.shown else _CHALLENGE))
    if isinstance(error, Forbidden) and error.shown:
        headers.append((b"www-authenticate", _INSUFFICIENT))
    if status == 426:
        headers += _WEBSOCKET_OF_13
    return Problem(status, headers, body)


@lru_cache(256)
def _beginning(status: int, code: int, reason: str) -> bytes:
    """A problem's JSON up to its detail."""
    members = {
        "type": "about:blank",
        "title": _TITLES[status],
        "status": status,
        "code": StatusCode(code).name,
        "reason": reason,
    }
    return encode_json(members)[:-1] + b',"detail":'


@lru_cache(1024)
def _end(retryable: bool, namespace: str, operation: str) -> bytes:
    """What stands behind the request's id, up to further members."""
    members: dict[str, object] = {"retryable": retryable}
    if namespace:
        members["namespace"] = namespace
    if operation:
        members["operation"] = operation
    return b"," + encode_json(members)[1:-1]


BROKEN = BadRequest(500, "internal error; the proxy's log has the cause")


def hand_to(front: FrontEnd, exchange: Exchange) -> None:
    """Have ``front`` answer. A bug in it costs this response, and nothing else."""
    try:
        front.begin(exchange)
    except Exception as error:
        log_failures("the front end", error)
        if exchange.phase is Phase.WAITING:
            refuse(exchange, BROKEN)
        else:
            exchange.abort()


def refuse(exchange: Exchange, error: CallError) -> None:
    """Answer in the front end's place. Without one there is no line in the access log, so the
    answer is logged here."""
    request_id = random_hex(32)
    status, headers, body = problem(error, request_id)
    fields = {"request_id": request_id, "http_status": status, "reason": error.reason}
    if exchange.peer.client is not None:
        fields["client"] = client_name(exchange.peer.client)
    logger.info("a request is refused: %s", error.detail, extra={"fields": fields})
    exchange.respond(status, [*headers, (b"x-request-id", request_id.encode("ascii"))], body)

"""The one place that turns errors into answers for clients (RFC 9457).

``type`` is ``about:blank``: the members ``code`` (gRPC status) and ``reason``
say for programs what went wrong, ``detail`` for people.
"""

import math
from http import HTTPStatus

from prism.calls.request import CallRecord
from prism.config.errors import ConfigProblem
from prism.contract.errors import CallError, MethodNotAllowed, Unauthenticated
from prism.control.live_config import InvalidConfig
from prism.frontends.responses import Response, encode_json

RETRY_AFTER_SECONDS = 1
"""What 429 and 503 advise, unless the error knows better. Bursts are mostly over by then."""

_PROBLEM = (b"content-type", b"application/problem+json")
_TITLES = {int(status): status.phrase for status in HTTPStatus} | {499: "Client Closed Request"}


def problem(error: CallError, record: CallRecord) -> Response:
    """The response for ``error``, in which the call of ``record`` ended."""
    status = error.http_status
    members: dict[str, object] = {
        "type": "about:blank",
        "title": _TITLES[status],
        "status": status,
        "code": error.status.name,
        "reason": error.reason,
        "detail": error.detail.encode(errors="replace").decode(),
        "request_id": record.request_id,
        "retryable": error.retryable,
    }
    if record.namespace:
        members["namespace"] = record.namespace
    if record.operation:
        members["operation"] = record.operation
    if isinstance(error, InvalidConfig):
        members["problems"] = [_config_problem(found) for found in error.problems]
    headers = [_PROBLEM]
    if status in {429, 503}:
        pause = getattr(error, "retry_after", None) or RETRY_AFTER_SECONDS
        headers.append((b"retry-after", b"%d" % math.ceil(pause)))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allowed).encode("ascii")))
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    return Response(status, headers, encode_json(members))


def _config_problem(problem: ConfigProblem) -> dict[str, object]:
    names = ("file", "line", "column", "path", "message")
    return {name: getattr(problem, name) for name in names}

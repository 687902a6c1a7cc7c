"""A whole response of the proxy's own."""

from typing import Any, NamedTuple

from prism.server.exchange import Headers
from prism.server.problems import encode_json

JSON = (b"content-type", b"application/json")


class Response(NamedTuple):
    """Status, headers but content-length, and body."""

    status: int
    headers: Headers
    body: bytes


def json_response(status: int, content: Any) -> Response:
    """``content`` as a JSON response."""
    return Response(status, [JSON], encode_json(content))

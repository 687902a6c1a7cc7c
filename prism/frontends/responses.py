"""A whole response, and how it goes out through ASGI."""

from typing import Any, NamedTuple

import msgspec

from prism.server import Send

JSON = (b"content-type", b"application/json")

encode_json = msgspec.json.Encoder().encode


class Response(NamedTuple):
    """Status, headers but content-length, and body."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def json_response(status: int, content: Any) -> Response:
    """``content`` as a JSON response."""
    return Response(status, [JSON], encode_json(content))


async def send_response(send: Send, response: Response, *, head: bool = False) -> None:
    """Send ``response``; with ``head`` (the answer to HEAD) all but its body."""
    status, headers, body = response
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})

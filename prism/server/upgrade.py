"""Which protocol a client wants: the HTTP/2 preface, ``Upgrade: h2c``, WebSocket."""

import base64
import binascii
import re

import trio

from prism.server.asgi import BadRequest, Headers
from prism.server.transport import READ_SIZE

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""How an HTTP/2 client opens a connection (RFC 9113, 3.4)."""

_SETTING_SIZE = 6  # RFC 9113, 6.5.1
_FOREIGN_LINE = re.compile(rb"[^ \r\n]+ [^ \r\n]+ (?!(?i:HTTP/))[^ \r\n]+\r?\n")


async def read_opening(stream: trio.abc.ReceiveStream) -> bytes:
    """Read until it is clear whether the client speaks HTTP/2; empty if it said nothing."""
    opening = b""
    while len(opening) < len(PREFACE) and PREFACE.startswith(opening):
        data = await stream.receive_some(READ_SIZE)
        if not data:
            break
        opening += data
    return opening


def is_foreign(opening: bytes) -> bool:
    """Whether the client speaks a protocol whose requests only look like HTTP's.

    RTSP, SIP, or HTTP/2 with a broken preface, which ends the connection (RFC 9113,
    3.4): an answer in HTTP/1.1 would be noise to all of them.
    """
    return _FOREIGN_LINE.match(opening) is not None


def is_websocket(headers: Headers) -> bool:
    """Whether the request asks for a WebSocket (RFC 6455, 4.1)."""
    return b"websocket" in _tokens(headers, b"upgrade")


def h2c_settings(headers: Headers) -> bytes | None:
    """The client's SETTINGS payload if the request asks for h2c (RFC 7540, 3.2), else ``None``.

    A request with a body stays in HTTP/1.1, which the RFC allows: its whole body would
    have to be held first.

    Raises:
        BadRequest: it asks for h2c, but ``HTTP2-Settings`` is missing or malformed.
    """
    if b"h2c" not in _tokens(headers, b"upgrade"):
        return None
    if b"upgrade" not in _tokens(headers, b"connection"):
        return None
    if any(name in {b"content-length", b"transfer-encoding"} for name, _ in headers):
        return None
    values = [value for name, value in headers if name == b"http2-settings"]
    if len(values) != 1:
        raise BadRequest(400, "an upgrade to h2c needs exactly one HTTP2-Settings header")
    padded = values[0] + b"=" * (-len(values[0]) % 4)
    try:
        payload = base64.b64decode(padded, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(400, "HTTP2-Settings is not base64url") from error
    if len(payload) % _SETTING_SIZE:
        raise BadRequest(400, "HTTP2-Settings holds half a setting")
    return payload


def _tokens(headers: Headers, name: bytes) -> set[bytes]:
    values = b",".join(value for key, value in headers if key == name)
    return {token.strip().lower() for token in values.split(b",")}

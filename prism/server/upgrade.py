"""Which protocol a client wants: HTTP/2, by its preface, HTTP/1.1, or a WebSocket on that.

``Upgrade: h2c``, which RFC 9113 (3.1) dropped, is ignored: that client is answered over HTTP/1.1.
"""

import re

import trio

from prism.server.exchange import Headers
from prism.server.transport import READ_SIZE

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""How an HTTP/2 client opens a connection (RFC 9113, 3.4)."""

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


def _tokens(headers: Headers, name: bytes) -> set[bytes]:
    values = b",".join(value for key, value in headers if key == name)
    return {token.strip().lower() for token in values.split(b",")}

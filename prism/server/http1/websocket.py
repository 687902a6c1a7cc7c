"""The handshake of a WebSocket on an HTTP/1.1 connection (RFC 6455, 4)."""

import base64
import binascii
import hashlib

from prism.server.exchange import Headers
from prism.server.http1.head import Head
from prism.server.problems import BadRequest

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION = b"13"


def check_handshake(head: Head) -> None:
    """See that a request that asks for a WebSocket may.

    Raises:
        BadRequest: it is no handshake of this version.
    """
    if head.method != b"GET" or head.version == "1.0":
        raise BadRequest(400, "a WebSocket begins with a GET of HTTP/1.1")
    if head.length != 0:
        raise BadRequest(400, "a WebSocket's handshake has no body")
    accept_token(head.headers)


def accept_token(headers: Headers) -> bytes:
    """The answer to the handshake's key.

    Raises:
        BadRequest: it is no handshake of this version.
    """
    fields = dict(headers)
    if fields.get(b"sec-websocket-version") != _VERSION:
        raise BadRequest(426, "the version of WebSocket spoken here is 13")
    key = fields.get(b"sec-websocket-key", b"")
    try:
        is_key = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        is_key = False
    if not is_key:
        raise BadRequest(400, "sec-websocket-key is not 16 bytes in base64")
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())

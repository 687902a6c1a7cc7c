"""A WebSocket on an HTTP/1.1 connection: the handshake, and raw bytes after it (RFC 6455, 4)."""

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING

import h11

from prism.server.asgi import BadRequest, Headers, Scope
from prism.server.http1.exchange import HTTP1Exchange

if TYPE_CHECKING:
    from prism.server.http1.connection import HTTP1Connection

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION = b"13"


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


class HTTP1WebSocket(HTTP1Exchange):
    """The exchange of a handshake. A response of 200 is the acceptance, and leaves as 101;
    what follows it, in both directions, is raw."""

    def __init__(self, connection: "HTTP1Connection", scope: Scope, token: bytes) -> None:
        super().__init__(connection, scope)
        self.accepted = False
        self._token = token

    async def write_head(self, status: int, headers: Headers, data: bytes, *, end: bool) -> None:
        if status != 200:
            close = [item for item in headers if item[0] != b"connection"]
            close.append((b"connection", b"close"))
            await super().write_head(status, close, data, end=end)
            return
        self.accepted = True
        switch = [
            (b"upgrade", b"websocket"),
            (b"connection", b"upgrade"),
            (b"sec-websocket-accept", self._token),
            *headers,
        ]
        await self._connection.write(h11.InformationalResponse(status_code=101, headers=switch))

    async def write_body(self, data: bytes, *, end: bool) -> None:
        if self.accepted:
            await self._connection.write_raw(data)
        else:
            await super().write_body(data, end=end)

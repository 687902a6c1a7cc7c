"""An HTTP request as it arrived, its body apart."""

from typing import NamedTuple

from prism.frontends.headers import RequestHeaders
from prism.server import Receive, Scope, Send


class Incoming(NamedTuple):
    """The parts of an ASGI scope that the REST front end reads, ``receive`` and ``send``.

    ``path`` is the one on the wire, before percent-decoding, which would give
    names a second spelling.
    """

    method: str
    path: bytes
    query: bytes
    headers: RequestHeaders
    client: str
    receive: Receive
    send: Send

    @classmethod
    def from_scope(cls, scope: Scope, receive: Receive, send: Send) -> "Incoming":
        """The request in ``scope``. A server without ``raw_path`` has decoded the path."""
        return cls(
            scope["method"],
            scope.get("raw_path") or scope["path"].encode(),
            scope.get("query_string", b""),
            RequestHeaders(scope["headers"]),
            client[0] if (client := scope.get("client")) else "",
            receive,
            send,
        )

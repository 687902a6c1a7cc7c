"""An HTTP request as it arrived, its body apart."""

from typing import NamedTuple

from prism.frontends.rest.headers import RequestHeaders
from prism.frontends.server import Receive, Scope


class Incoming(NamedTuple):
    """The parts of an ASGI scope that the REST front end reads, and ``receive``.

    ``path`` is the one on the wire, before percent-decoding, which would give
    names a second spelling.
    """

    method: str
    path: bytes
    query: bytes
    headers: RequestHeaders
    receive: Receive

    @classmethod
    def from_scope(cls, scope: Scope, receive: Receive) -> "Incoming":
        """The request in ``scope``. A server without ``raw_path`` has decoded the path."""
        return cls(
            scope["method"],
            scope.get("raw_path") or scope["path"].encode(),
            scope.get("query_string", b""),
            RequestHeaders(scope["headers"]),
            receive,
        )

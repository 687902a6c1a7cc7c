"""Which web pages may call the data port: CORS (WHATWG Fetch, 3.3), and the same for WebSocket.

A browser lets any page send requests, with its user's address, to a proxy on that user's
machine or network. So a page of another origin than the proxy's own is refused, unless
``listen.web_origins`` names it. Clients that are no browsers send no ``Origin``; where a
browser sends none, its ``Sec-Fetch-Site`` tells that another site asks.
"""

from prism.contract.errors import ForeignOrigin
from prism.frontends.headers import RequestHeaders
from prism.frontends.responses import Response
from prism.server.exchange import Headers

_PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, POST"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, last-event-id, prism-priority, prism-timeout, traceparent, "
        b"tracestate, x-request-id",
    ),
    (b"access-control-max-age", b"600"),
]
_EXPOSED = (
    b"access-control-expose-headers",
    b"prism-attempts, ratelimit, ratelimit-policy, retry-after, x-request-id",
)


class WebPages:
    """The pages that may call. ``origins``, in lower case, are beside the proxy's own."""

    def __init__(self, origins: frozenset[str]) -> None:
        self._origins = origins

    def check(self, headers: RequestHeaders) -> None:
        """Let the request pass if it is of no page, or of one that may call.

        Raises:
            ForeignOrigin: it may not.
        """
        origin = headers.foreign_origin()
        if origin and origin not in self._origins:
            raise ForeignOrigin(origin)

    def readable(self, headers: RequestHeaders) -> Headers:
        """What an answer says beside, so that the request's page may read it, if it may."""
        origin = headers.foreign_origin()
        if not origin or origin not in self._origins:
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"vary", b"origin"),
            _EXPOSED,
        ]


def preflight() -> Response:
    """The answer to a browser that asks, for a page that may call, what it may send."""
    return Response(200, list(_PREFLIGHT), b"")

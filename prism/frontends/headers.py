"""The request headers that calls are made of; all others are ignored.

Nothing a client sends becomes metadata for a plugin by itself: headers that
imitate ``prism-principal`` and its like have no effect at all.
"""

import re
from collections.abc import Iterable

from prism.calls.ids import random_hex
from prism.calls.timeout import parse_timeout
from prism.calls.trace import Trace, new_trace, parse_trace
from prism.contract.errors import InvalidRequest

_READ = frozenset(
    {
        b"accept",
        b"access-control-request-method",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"host",
        b"last-event-id",
        b"origin",
        b"prism-timeout",
        b"sec-fetch-mode",
        b"sec-fetch-site",
        b"traceparent",
        b"tracestate",
        b"x-request-id",
    }
)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch
_MAX_EVENT_ID = 1024
HIDDEN_ORIGIN = "a site that its browser does not name"
"""What ``foreign_origin`` returns for a page's request without ``Origin``: a GET in the mode
``no-cors``, as of an image (WHATWG Fetch; Fetch Metadata has the headers that give it away)."""


_NO_PAGE = (b"none", b"same-origin")


class RequestHeaders:
    """The headers that matter, by lower-case name.

    A header given twice counts as its values joined by a comma (RFC 9110, 5.3),
    which no value but those of lists survives.
    """

    __slots__ = ("_values",)

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        values: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _READ:
                values[name] = values[name] + b"," + value if name in values else value
        self._values = values

    def request_id(self) -> str:
        """The client's ``x-request-id``, if it is fit for logs; else a new one."""
        given = self._values.get(b"x-request-id")
        if given is not None and _REQUEST_ID(given):
            return given.decode("ascii")
        return random_hex(32)

    def trace(self) -> Trace:
        """The client's trace context; else a new one."""
        parent = self._values.get(b"traceparent")
        if parent is None:
            return new_trace()
        return parse_trace(parent, self._values.get(b"tracestate", b"")) or new_trace()

    def timeout(self) -> float | None:
        """Seconds in ``prism-timeout``.

        Raises:
            InvalidRequest: the value has none of the accepted forms.
        """
        given = self._values.get(b"prism-timeout")
        return None if given is None else parse_timeout(given.decode("latin-1"))

    def content_length(self) -> int | None:
        """The declared size of the body, if there is one that can be read."""
        given = self._values.get(b"content-length", b"")
        return int(given) if given.isdigit() and len(given) < 20 else None

    def accept(self) -> bytes:
        """What the client takes; empty when it does not say."""
        return self._values.get(b"accept", b"")

    def sends_lines(self) -> bool:
        """Whether the body is newline-delimited JSON."""
        given = self._values.get(b"content-type", b"")
        return given.partition(b";")[0].strip().lower() == b"application/x-ndjson"

    def last_event_id(self) -> str:
        """Where the client wants a stream resumed; empty for its beginning, which is also
        where a message without a position stands.

        Raises:
            InvalidRequest: it is no text, or longer than any id given out.
        """
        given = self._values.get(b"last-event-id", b"")
        try:
            text = given.decode()
        except UnicodeDecodeError:
            raise InvalidRequest("last-event-id is not UTF-8") from None
        if len(given) > _MAX_EVENT_ID:
            raise InvalidRequest(f"last-event-id is longer than {_MAX_EVENT_ID} bytes")
        return "" if text.startswith("#") else text

    def foreign_origin(self) -> str:
        """The origin, in lower case, of the web page that asks; empty if it is the proxy's
        own, or it is no page that asks."""
        given = self._values.get(b"origin")
        if given is None:
            site = self._values.get(b"sec-fetch-site", b"none")
            if site in _NO_PAGE or self._values.get(b"sec-fetch-mode") == b"navigate":
                return ""
            return HIDDEN_ORIGIN
        origin = given.decode("latin-1").lower()
        own = self._values.get(b"host", b"").decode("latin-1").lower()
        return "" if own and origin.partition("://")[2] == own else origin

    def is_preflight(self) -> bool:
        """Whether a browser asks what a page may send (WHATWG Fetch, 3.3.2)."""
        return b"access-control-request-method" in self._values

    def check_call(self) -> None:
        """See that the body is plain.

        Raises:
            InvalidRequest: it is compressed.
        """
        encoding = self._values.get(b"content-encoding", b"identity").strip().lower()
        if encoding != b"identity":
            raise InvalidRequest(
                "send the body without content-encoding: Prism does not decompress"
            )

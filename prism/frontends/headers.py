"""The request headers that calls are made of; all others are ignored.

Nothing a client sends becomes metadata for a plugin by itself: headers that
imitate ``prism-principal`` and its like have no effect at all.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import chain

from prism.calls.overload import HIGH, parse_priority
from prism.calls.timeout import parse_timeout
from prism.calls.trace import Trace, parse_trace
from prism.contract.errors import InvalidRequest, UnsupportedContentType
from prism.frontends.stream_text import END_ID, LINES, position_of
from prism.server.exchange import Headers

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
        b"prism-priority",
        b"prism-timeout",
        b"sec-fetch-mode",
        b"sec-fetch-site",
        b"traceparent",
        b"tracestate",
        b"x-request-id",
    }
)
_PARTICULAR = frozenset({b"x-request-id", b"traceparent", b"tracestate", b"last-event-id"})
"""Headers that differ from request to request."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch
MAX_EVENT_ID = 3 * 1024
"""Bytes of an id: a position of 1 KiB, every byte of it percent-encoded."""
_IS_NOT_JSON = re.compile(
    rb"multipart/.*|(?:image|audio|video)/.*|.*/(?:.*\+)?xml"
    rb"|application/(?:x-|vnd\.)?(?:msgpack|cbor|yaml|google\.protobuf|protobuf)"
).fullmatch
HIDDEN_ORIGIN = "a site that its browser does not name"
"""What ``foreign_origin`` returns for a page's request without ``Origin``: a GET in the mode
``no-cors``, as of an image (WHATWG Fetch; Fetch Metadata has the headers that give it away)."""


_GRPC = (b"application/grpc", b"application/grpc+proto")
_NO_PAGE = (b"none", b"same-origin")


class RequestHeaders:
    """The headers that matter, by lower-case name.

    A header given twice counts as its values joined by a comma (RFC 9110, 5.3),
    which no value but those of lists survives.

    ``content_length`` is the declared size of the body, if there is one that can be read;
    ``has_priority`` whether there is a ``prism-priority``, ``is_grpc`` whether the body is gRPC's,
    ``sends_lines`` whether it is newline-delimited JSON.
    """

    __slots__ = (
        "_foreign_origin",
        "_is_plain",
        "_priority",
        "_timeout",
        "_values",
        "content_length",
        "has_priority",
        "is_grpc",
        "is_particular",
        "sends_lines",
    )

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        values: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _READ:
                values[name] = values[name] + b"," + value if name in values else value
        self._values = values
        self.is_particular = not _PARTICULAR.isdisjoint(values)
        length = values.get(b"content-length", b"")
        self.content_length = int(length) if length.isdigit() and len(length) < 20 else None
        kind = self._media_type()
        self.is_grpc = kind in _GRPC
        self.sends_lines = kind == LINES
        # Judged once: requests of one client have the same headers, and share this object.
        self._foreign_origin: str | None = None
        self._is_plain = False
        self._timeout: float | None = None
        self.has_priority = b"prism-priority" in values
        self._priority: int | None = None

    @staticmethod
    def is_particular_of(values: Mapping[bytes, bytes]) -> bool:
        """Is any of the headers there that differ from request to request?"""
        return not _PARTICULAR.isdisjoint(values)

    def request_id(self) -> str:
        """The client's ``x-request-id``, if it is fit for logs; else empty."""
        given = self._values.get(b"x-request-id")
        return given.decode("ascii") if given is not None and _REQUEST_ID(given) else ""

    def trace(self) -> Trace | None:
        """The client's trace context, if it has a good one."""
        parent = self._values.get(b"traceparent")
        if parent is None:
            return None
        return parse_trace(parent, self._values.get(b"tracestate", b""))

    def timeout(self) -> float | None:
        """Seconds in ``prism-timeout``.

        Raises:
            InvalidRequest: the value has none of the accepted forms.
        """
        given = self._values.get(b"prism-timeout")
        if given is None:
            return None
        if self._timeout is None:
            self._timeout = parse_timeout(given.decode("latin-1"))
        return self._timeout

    def priority(self) -> int:
        """What ``prism-priority`` asks for, the highest if it is not there.

        Raises:
            InvalidRequest: the value is none of the words.
        """
        if self._priority is None:
            given = self._values.get(b"prism-priority")
            self._priority = HIGH if given is None else parse_priority(given.decode("latin-1"))
        return self._priority

    def accept(self) -> bytes:
        """What the client takes; empty when it does not say."""
        return self._values.get(b"accept", b"")

    def _media_type(self) -> bytes:
        return self._values.get(b"content-type", b"").partition(b";")[0].strip().lower()

    def has_seen_the_end(self) -> bool:
        """Whether an event stream is asked for again that had ended."""
        return self._values.get(b"last-event-id") == END_ID

    def last_event_id(self) -> str:
        """Where the client wants a stream resumed; empty for its beginning, which is also
        where a message without a position stands.

        Raises:
            InvalidRequest: it is no text, or longer than any id given out.
        """
        given = self._values.get(b"last-event-id", b"")
        if len(given) > MAX_EVENT_ID:
            raise InvalidRequest(f"last-event-id is longer than {MAX_EVENT_ID} bytes")
        try:
            return position_of(given)
        except UnicodeDecodeError:
            raise InvalidRequest("last-event-id is not UTF-8, percent-encoded") from None

    def foreign_origin(self) -> str:
        """The origin, in lower case, of the web page that asks; empty if it is the proxy's
        own, or it is no page that asks."""
        if self._foreign_origin is None:
            self._foreign_origin = self._judge_origin()
        return self._foreign_origin

    def _judge_origin(self) -> str:
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
        """See that the body can be JSON, and is plain. What says nothing, or nothing certain, as
        ``curl -d`` does, is taken at its word by the check of the body.

        Raises:
            InvalidRequest: it is compressed.
            UnsupportedContentType: it is another format.
        """
        if self._is_plain:
            return
        encoding = self._values.get(b"content-encoding", b"identity").strip().lower()
        if encoding != b"identity":
            raise InvalidRequest(
                "send the body without content-encoding: Prism does not decompress"
            )
        kind = self._media_type()
        if _IS_NOT_JSON(kind):
            raise UnsupportedContentType(kind[:100].decode("latin-1"))
        self._is_plain = True


_REMEMBERED = 2048
"""How many header sections are remembered ..."""
_MEMORABLE = 4096
"""... and up to how many bytes each: those of ordinary clients, not what anybody may send."""
_known: dict[tuple[tuple[bytes, bytes], ...], RequestHeaders] = {}


def read_headers(headers: Headers) -> RequestHeaders:
    """What ``headers`` say: the object of an earlier request, if that had the same ones."""
    key = tuple(headers)
    known = _known.get(key)
    if known is None:
        known = RequestHeaders(headers)
        if not known.is_particular and sum(map(len, chain(*key))) <= _MEMORABLE:
            if len(_known) >= _REMEMBERED:
                _known.clear()
            _known[key] = known
    return known

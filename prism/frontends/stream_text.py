"""How streams over HTTP are written: server-sent events, and JSON values on lines.

Of the formats alone; who streams what is in ``rest.streams`` and ``admin.follow``.
"""

from urllib.parse import quote, unquote_to_bytes

EVENTS = b"text/event-stream"
LINES = b"application/x-ndjson"

HEARTBEAT_SECONDS = 15.0
"""Of silence before an event stream gets a comment. Proxies and load balancers give a
silent connection up after 30 to 60 seconds."""

BEAT = b": still here\n\n"
END_ID = b"#end"
END_EVENT = b"id: %b\nevent: end\ndata: {}\n\n" % END_ID
"""An event of its own, since a browser's EventSource connects again unless its page closes it. It
then comes with this id, and is told by 204 that there is no more (WHATWG HTML, 9.2.1)."""

_BREAKS_TO_SPACES = bytes.maketrans(b"\r\n", b"  ")


def event(data: bytes, *, number: bytes = b"", kind: bytes = b"") -> bytes:
    """One event (WHATWG HTML, 9.2); ``number`` is its id, ``kind`` its type."""
    head = (b"id: %b\n" % number if number else b"") + (b"event: %b\n" % kind if kind else b"")
    return b"%b%b\n" % (head, b"".join(b"data: %b\n" % line for line in data.splitlines()))


_IN_IDS = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


def position_id(position: str) -> bytes:
    """The id of an event at ``position``, which may be any text.

    Percent-encoded (RFC 3986, 2.1) is what an id or a header may not have, or would lose: all but
    printable ASCII, and a ``#`` in front, which is for numbers.
    """
    encoded = quote(position, safe=_IN_IDS, errors="replace")
    return ("%23" + encoded[1:] if encoded.startswith("#") else encoded).encode("ascii")


def position_of(event_id: bytes) -> str:
    """The position that an event's id stands for; empty for a number's, which is none.

    Raises:
        UnicodeDecodeError: it is no text.
    """
    return "" if event_id.startswith(b"#") else unquote_to_bytes(event_id).decode()


def line(value: bytes) -> bytes:
    """One JSON value on a line: a break within it is white space; in strings it is escaped."""
    if b"\n" in value or b"\r" in value:  # hardly ever, and looking is cheaper
        value = value.translate(_BREAKS_TO_SPACES)
    return value + b"\n"


def stream_headers(content_type: bytes, request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers of a response that goes on."""
    return [
        (b"content-type", content_type),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),  # nginx holds responses back otherwise
        (b"x-request-id", request_id.encode("ascii")),
    ]

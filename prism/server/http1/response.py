"""HTTP/1.1's sending side: responses as bytes (RFC 9112, 4, 6 and 7).

Nothing is checked here: names and values of headers were, where they came from.
"""

from http import HTTPStatus

from prism.server.exchange import Headers, date_header

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_STATUS_LINES = {status: b"HTTP/1.1 %d \r\n" % status for status in range(100, 600)}
_STATUS_LINES |= {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode("ascii"))
    for status in HTTPStatus
}


def response_head(
    status: int, headers: Headers, *, close: bool = False, chunked: bool = False
) -> bytes:
    """A response's head, with ``date``.

    ``close``: the connection ends with it. ``chunked``: its body is sent by ``chunk``, as one
    must be whose length is not known, unless the client is one of HTTP/1.0.
    """
    lines = [b"%b: %b\r\n" % field for field in (*headers, date_header())]
    if chunked:
        lines.append(b"transfer-encoding: chunked\r\n")
    if close:
        lines.append(b"connection: close\r\n")
    return b"%b%b\r\n" % (_STATUS_LINES[status], b"".join(lines))


def switching_protocols(headers: Headers) -> bytes:
    """The head after which the connection is no longer HTTP's (RFC 9110, 15.2.2)."""
    return b"%b%b\r\n" % (
        _STATUS_LINES[101],
        b"".join([b"%b: %b\r\n" % field for field in headers]),
    )


def chunk(data: bytes) -> bytes:
    """``data``, which must not be empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)

"""What a proxy must refuse in a request's head though h11 takes it.

Where a head can be read in two ways, another server before this one may choose the
other, and take for a request's body what this one takes for the next request.
"""

import re

import h11

from prism.server.asgi import BadRequest, Headers, is_host

_END = re.compile(rb"\n\r?\n")  # where h11 ends a head
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]+)([/?][^#]*)?")


def check_raw_head(received: bytes, max_size: int, max_fields: int) -> None:
    """Check the bytes of a head, of which more may be to come, before h11 parses them.

    h11 spends some microseconds on each field, so that their number counts, not only
    their size, which it looks at only until the end has come; and it takes lines that end
    with LF alone, or go on in the next line.

    Raises:
        BadRequest: it is too large, there are too many fields, or there are lines that
            others may end elsewhere (RFC 9112, 2.2 and 5.2).
    """
    end = _END.search(received)
    head = received[: end.end()] if end else received
    if len(head) > max_size:
        raise BadRequest(431, f"a request's head has at most {max_size} bytes")
    lines = head.count(b"\n")
    if lines > max_fields + 2:  # the request line and the empty one
        raise BadRequest(431, f"a request has at most {max_fields} header fields")
    if lines != head.count(b"\r\n"):
        raise BadRequest(400, "each line of a request's head must end with CRLF")
    if b"\n " in head or b"\n\t" in head:
        raise BadRequest(400, "a header field must be on one line")


def check_head(request: h11.Request) -> None:
    """See that there is one way to read ``request``.

    Raises:
        BadRequest: it is of another HTTP, its ``host`` is no host (RFC 9112, 3.2), or
            its body's length is given twice (RFC 9112, 6.1).
    """
    if not request.http_version.startswith(b"1."):
        raise BadRequest(505, "with this syntax, only HTTP/1.0 and HTTP/1.1 are served")
    names = set()
    for name, value in request.headers:
        names.add(name)
        if name == b"host" and not is_host(value):
            raise BadRequest(400, "the host header is not a host and port")
    if b"transfer-encoding" not in names:
        return
    if b"content-length" in names:
        raise BadRequest(400, "a request has content-length or transfer-encoding, not both")
    if request.http_version == b"1.0":
        raise BadRequest(400, "HTTP/1.0 has no transfer-encoding")


def origin_form(target: bytes, headers: Headers) -> tuple[bytes, Headers]:
    """The path and query that ``target`` asks for, and the headers that go with it.

    A client that takes this server for its proxy sends a whole URL, which must be
    accepted, and whose authority stands in for ``host`` (RFC 9112, 3.2.2).
    """
    url = _ABSOLUTE.fullmatch(target)
    if url is None or not is_host(url[1]):
        return target, headers
    path = url[2] or b"/"
    if path.startswith(b"?"):
        path = b"/" + path
    return path, [(b"host", url[1]), *(item for item in headers if item[0] != b"host")]

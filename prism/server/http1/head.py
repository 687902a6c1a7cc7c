"""A request's head: what it says, and what a proxy must refuse in it (RFC 9112, 2 to 6).

Where a head can be read in two ways, another server before this one may choose the
other, and take for a request's body what this one takes for the next request.
"""

import re

import msgspec

from prism.server.exchange import Headers
from prism.server.http1.fields import FieldParser, MalformedFields
from prism.server.problems import BadRequest
from prism.server.rules import is_host

_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]+)([/?][^#]*)?")
_REQUEST_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([0-9])\r\n"
)
_is_of_another_version = re.compile(rb"[^ ]+ [^ ]+ HTTP/[02-9]\.[0-9]\r\n").match
_continues_line = re.compile(rb"\n[ \t]").search
_is_length = re.compile(rb"[0-9]{1,18}").fullmatch
_JUDGED = frozenset(
    {b"connection", b"content-length", b"expect", b"host", b"transfer-encoding", b"upgrade"}
)
_ELEMENTS = re.compile(rb"[ \t]*,[ \t]*").split  # of a list (RFC 9110, 5.6.1)


class Head(msgspec.Struct, frozen=True, gc=False):
    """A request's head, well formed.

    ``target`` is in origin form, unless it is nothing that is served; ``version`` is ``1.0`` or
    ``1.1``, for a later one too (RFC 9110, 2.5). Names of ``headers`` are in lower case, and
    ``host`` is among them, except in HTTP/1.0; a ``transfer-encoding`` that is undone here is not.
    ``length`` is the body's, ``None`` if it comes in chunks. ``keep_alive``: the connection may go
    on. HTTP/1.0's never does, though its clients may ask for it.
    """

    method: bytes
    target: bytes
    version: str
    headers: Headers
    length: int | None
    keep_alive: bool
    expects_continue: bool
    is_websocket: bool


def read_head(raw: bytes, parser: FieldParser) -> Head:
    """The head in ``raw``, which ``check_lines`` has passed, and which ends with it.

    Raises:
        BadRequest: it is malformed, or not to be served. The words are the same for all parsers.
    """
    line = _REQUEST_LINE.match(raw)
    if line is None:
        if _is_of_another_version(raw):
            raise BadRequest(505, "with this syntax, only HTTP/1.0 and HTTP/1.1 are served")
        raise BadRequest(400, "the request does not begin with method, target and HTTP version")
    method, target, minor = line.groups()
    version = "1.0" if minor == b"0" else "1.1"
    fields = raw[line.end() :]
    try:
        headers = parser.parse(fields)
    except MalformedFields as error:
        # If one of the rules here is broken, that says more.
        _judge(method, target, version, _roughly(fields))
        raise BadRequest(400, "a header field is malformed") from error
    return _judge(method, target, version, headers)


def _roughly(fields: bytes) -> Headers:
    parted = [line.partition(b":") for line in fields[:-4].split(b"\r\n")]
    return [(name.strip().lower(), value.strip(b" \t")) for name, _, value in parted]


def _judge(method: bytes, target: bytes, version: str, headers: Headers) -> Head:
    host = length = encoding = None
    keep_alive = version != "1.0"
    expects_continue = is_websocket = False
    for name, value in headers:
        if name not in _JUDGED:
            continue
        match name:
            case b"host":
                if host is not None:
                    raise BadRequest(400, "a request has one host header")
                if not is_host(value):
                    raise BadRequest(400, "the host header is not a host and port")
                host = value
            case b"content-length":
                if length is not None:
                    raise BadRequest(400, "a request has one content-length")
                if not _is_length(value):
                    raise BadRequest(400, "content-length is not a number of bytes")
                length = int(value)
            case b"transfer-encoding":
                encoding = value.lower() if encoding is None else encoding + b", " + value
            case b"connection":
                keep_alive = keep_alive and b"close" not in _elements(value)
            case b"expect":
                expects_continue = version != "1.0" and b"100-continue" in _elements(value)
            case b"upgrade":
                is_websocket = is_websocket or b"websocket" in _elements(value)
    if host is None and version != "1.0":
        raise BadRequest(400, "a request needs a host header")
    if encoding is not None:
        if length is not None:
            raise BadRequest(400, "a request has content-length or transfer-encoding, not both")
        if version == "1.0":
            raise BadRequest(400, "HTTP/1.0 has no transfer-encoding")
        if encoding != b"chunked":
            raise BadRequest(501, "the only transfer-encoding served is chunked")
        headers = [field for field in headers if field[0] != b"transfer-encoding"]
    else:
        length = length or 0
    if not target.startswith(b"/"):
        target, headers = origin_form(target, headers)
    return Head(
        method, target, version, headers, length, keep_alive, expects_continue, is_websocket
    )


def _elements(value: bytes) -> list[bytes]:
    return _ELEMENTS(value.lower())


def check_lines(head: bytes, max_size: int, max_fields: int) -> None:
    """Check a head, whole or as much of it as has come, before anything is made of it.

    A parser spends some microseconds on each field, so that their number counts, not only
    their size.

    Raises:
        BadRequest: it is too large, there are too many fields, or there are lines that
            others may end elsewhere (RFC 9112, 2.2 and 5.2).
    """
    lines = head.count(b"\n")
    if lines != head.count(b"\r\n"):
        raise BadRequest(400, "each line of a request's head must end with CRLF")
    if _continues_line(head):
        raise BadRequest(400, "a header field must be on one line")
    if len(head) > max_size:
        raise BadRequest(431, f"a request's head has at most {max_size} bytes")
    if lines > max_fields + 2:  # the request line and the empty one
        raise BadRequest(431, f"a request has at most {max_fields} header fields")


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

"""What makes a request's header section well formed (RFC 9113, 8.2 and 8.3; RFC 8441, 4).

For the h2 codec; native/nghttp2/head.c has the same rules, in the same order, for the other. A
broken rule concerns one stream. The libraries' own checks are off: h2 would end the whole
connection, and nghttp2's depend on its version.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from prism.server.exchange import Headers

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_FORBIDDEN_IN_VALUE = re.compile(rb"[\0\r\n]").search
_LENGTH = re.compile(rb"[0-9]{1,18}").fullmatch
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":protocol", b":authority"})
_OF_A_CONNECTION = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_COMMON = frozenset(
    {
        *(b"accept", b"accept-encoding", b"authorization", b"content-encoding", b"content-type"),
        *(
            b"grpc-timeout",
            b"prism-priority",
            b"prism-timeout",
            b"traceparent",
            b"user-agent",
            b"x-request-id",
        ),
    }
)
"""Names that need no check, and no treatment either."""

TOO_LARGE = "the header section is too large"
WRONG_LENGTH = "the body is not as long as content-length says"
TOO_LONG = "the body is longer than content-length says"


class Malformed(Exception):
    """A rule is broken; the reason quotes nothing that the client sent."""


def is_too_large(fields: Sequence[tuple[bytes, bytes]], max_size: int, max_fields: int) -> bool:
    """Whether a header section is over the limits. A cookie cut into fields counts as one."""
    if sum(len(name) + len(value) + 32 for name, value in fields) > max_size:  # RFC 9113, 6.5.2
        return True
    if len(fields) <= max_fields:
        return False
    crumbs = sum(name == b"cookie" for name, _ in fields)
    return len(fields) - max(0, crumbs - 1) > max_fields


class Head(NamedTuple):
    """See ``events.Request``. ``content_length`` is ``None`` if it is not declared."""

    method: bytes
    target: bytes
    protocol: bytes
    headers: Headers
    content_length: int | None


def read_head(fields: Iterable[tuple[bytes, bytes]], *, ended: bool) -> Head:
    """A request's fields, pseudo headers first.

    Raises:
        Malformed: always for the first rule that is broken.
    """
    pseudo: dict[bytes, bytes] = {}
    headers: Headers = []
    cookies: list[bytes] = []
    host = length = None
    regular = False
    for name, value in fields:
        if name[:1] == b":":
            if regular:
                raise Malformed("a pseudo header after a regular one")
            if name not in _PSEUDO:
                raise Malformed("an unknown pseudo header")
            if name in pseudo:
                raise Malformed("a pseudo header twice")
            _check_value(value)
            pseudo[name] = value
            continue
        regular = True
        _check_field(name, value)
        if name in _COMMON:
            headers.append((name, value))
        elif name == b"content-length":
            if length is not None:
                raise Malformed("content-length twice")
            if not _LENGTH(value):
                raise Malformed("an invalid content-length")
            length = int(value)
            headers.append((name, value))
        elif name == b"cookie":
            cookies.append(value)
            headers.append((name, value))
        elif name == b"host":
            if host is not None:
                raise Malformed("host twice")
            host = value
        else:
            headers.append((name, value))
    _check_whole(pseudo, host)
    if ended and length:
        raise Malformed(WRONG_LENGTH)
    if len(cookies) > 1:  # cut up for better compression (RFC 9113, 8.2.3)
        headers = [field for field in headers if field[0] != b"cookie"]
        headers.append((b"cookie", b"; ".join(cookies)))
    headers.insert(0, (b"host", pseudo.get(b":authority", host or b"")))
    return Head(
        pseudo[b":method"],
        pseudo.get(b":path", b""),
        pseudo.get(b":protocol", b""),
        headers,
        length,
    )


def check_trailers(fields: Iterable[tuple[bytes, bytes]]) -> None:
    """See that a request's trailers are well formed.

    Raises:
        Malformed: they are not.
    """
    for name, value in fields:
        if name[:1] == b":":
            raise Malformed("a pseudo header among the trailers")
        _check_field(name, value)


def _check_field(name: bytes, value: bytes) -> None:
    if name not in _COMMON and not _NAME(name):
        raise Malformed("an invalid header name")
    _check_value(value)
    if name in _OF_A_CONNECTION or (name == b"te" and value.lower() != b"trailers"):
        raise Malformed("a header that belongs to a connection")


def _check_value(value: bytes) -> None:
    if len(value.strip(b" \t")) != len(value) or _FORBIDDEN_IN_VALUE(value):
        raise Malformed("an invalid header value")


def _check_whole(pseudo: dict[bytes, bytes], host: bytes | None) -> None:
    method = pseudo.get(b":method")
    if method is None:
        raise Malformed("no :method")
    connect = method == b"CONNECT"
    if b":protocol" in pseudo and not connect:
        raise Malformed(":protocol without CONNECT")
    authority = pseudo.get(b":authority")
    if connect and b":protocol" not in pseudo:
        if b":scheme" in pseudo or b":path" in pseudo:
            raise Malformed("CONNECT with :scheme or :path")
        if authority is None:
            raise Malformed("CONNECT without :authority")
    elif b":scheme" not in pseudo:
        raise Malformed("no :scheme")
    elif not pseudo.get(b":path"):
        raise Malformed("no :path")
    if authority is None and host is None:
        raise Malformed("neither :authority nor host")
    if authority is not None and host is not None and authority != host:
        raise Malformed(":authority and host differ")

"""What both HTTP versions ask of a request's method, target and host, and of a header."""

import re
from functools import lru_cache

from prism.server.exchange import Headers
from prism.server.problems import BadRequest

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_TARGET = re.compile(rb"/[\x21-\x7e]*")  # origin form; RFC 3986 leaves no other bytes
_HOST = re.compile(rb"(?:[-\w.~%!$&'()*+,;=]*|\[[0-9A-Fa-f:.]+\])(?::\d*)?")  # RFC 3986, 3.2.2

_REMEMBERED = 1024
"""How many judgements are remembered ..."""
_MEMORABLE = 256
"""... on how many bytes each: requests repeat what those before them said."""


def check_request(method: bytes, target: bytes, headers: Headers) -> None:
    """See that a request can be handed to a front end. ``host``, if it is there, comes first.

    Raises:
        BadRequest: the method, the target or the host is malformed, or the method not served.
    """
    host = headers[0][1] if headers and headers[0][0] == b"host" else b""
    short = len(method) + len(target) + len(host) <= _MEMORABLE
    refusal = (_known_refusal if short else _refusal)(method, target, host)
    if refusal is not None:
        raise BadRequest(*refusal)


def _refusal(method: bytes, target: bytes, host: bytes) -> tuple[int, str] | None:
    if not _TOKEN.fullmatch(method):
        return 400, "the request method is not a valid token"
    if method == b"CONNECT":
        return 501, "CONNECT is not supported"
    is_star = target == b"*" and method == b"OPTIONS"  # RFC 9110, 9.3.7
    if not (is_star or _TARGET.fullmatch(target)):
        return 400, "the request target must be an ASCII path that begins with /"
    if not is_host(host):
        return 400, "the authority is not a host and port"
    return None


_known_refusal = lru_cache(_REMEMBERED)(_refusal)


def is_host(value: bytes) -> bool:
    """Whether ``value`` may stand in ``host`` or ``:authority``: a host, and perhaps a port."""
    return _HOST.fullmatch(value) is not None

"""What both HTTP versions ask of a request's method, target and host, and of a header."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from prism.server.exchange import Headers
from prism.server.problems import BadRequest

T = TypeVar("T")

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_TARGET = re.compile(rb"/[\x21-\x7e]*")  # origin form; RFC 3986 leaves no other bytes
_HOST = re.compile(rb"(?:[-\w.~%!$&'()*+,;=]*|\[[0-9A-Fa-f:.]+\])(?::\d*)?")  # RFC 3986, 3.2.2

_REMEMBERED = 256
"""How many values each judgement on a part of a head is remembered for ..."""
_MEMORABLE = 128
"""... and up to how many bytes: requests repeat the parts of those before them."""


def _remembered(judge: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """``judge``, which then is seldom asked twice about the same short value."""
    known = lru_cache(_REMEMBERED)(judge)

    def ask(value: bytes) -> T:
        return known(value) if len(value) <= _MEMORABLE else judge(value)

    return ask


def check_request(method: bytes, target: bytes, headers: Headers) -> None:
    """See that a request can be handed to a front end. ``host``, if it is there, comes first.

    Raises:
        BadRequest: the method, the target or the host is malformed, or the method not served.
    """
    if refusal := _method(method):
        raise BadRequest(*refusal)
    if not _is_target(target) and not (target == b"*" and method == b"OPTIONS"):  # 9110, 9.3.7
        raise BadRequest(400, "the request target must be an ASCII path that begins with /")
    if headers and headers[0][0] == b"host" and not is_host(headers[0][1]):
        raise BadRequest(400, "the authority is not a host and port")


@_remembered
def _method(method: bytes) -> tuple[int, str] | None:
    if not _TOKEN.fullmatch(method):
        return 400, "the request method is not a valid token"
    if method == b"CONNECT":
        return 501, "CONNECT is not supported"
    return None


@_remembered
def _is_target(target: bytes) -> bool:
    return _TARGET.fullmatch(target) is not None


@_remembered
def is_host(value: bytes) -> bool:
    """Whether ``value`` may stand in ``host`` or ``:authority``: a host, and perhaps a port."""
    return _HOST.fullmatch(value) is not None

"""What a line of the access log says, and how what clients make up is shown in it.

Apart from ``access_log``, which is compiled: mypyc drops what a class statement says beside its
bases, such as ``omit_defaults``.
"""

from functools import lru_cache
from typing import NamedTuple

import msgspec

from prism.server.log import client_name

MAX_USER_AGENT = 256
MAX_PATH = 512
MAX_LINE_DETAIL = 512
"""Bytes, and characters, of what a client makes up that a line has at most."""


class AccessLine(msgspec.Struct, omit_defaults=True, gc=False):
    """A whole line: what every log line has, then its own facts. Those that have a default are
    left out where they have it."""

    time: str
    level: str
    logger: str
    message: str
    pid: int
    namespace: str
    operation: str
    status: str
    http_status: int
    duration_ms: float
    plugin_ms: float
    principal: str
    request_id: str
    trace_id: str
    instance: str
    bytes_in: int
    bytes_out: int
    client: str = ""
    method: str = ""
    path: str = ""
    protocol: str = ""
    user_agent: str = ""
    certificate: str = ""
    attempts: int = 1
    hedged: bool = False
    reason: str = ""
    detail: str = ""


class RequestPart(NamedTuple):
    """Who asked for what: the part of a line that is the request's."""

    client: str = ""
    method: str = ""
    path: str = ""
    protocol: str = ""
    user_agent: str = ""
    certificate: str = ""


_PRINTABLE = bytes(range(0x20, 0x7F))

NOBODY = RequestPart()
"""Of a call that came over no exchange."""


@lru_cache(1024)
def asked_by(
    client: tuple[str, int] | None,
    method: bytes,
    target: bytes,
    version: str,
    agent: bytes,
    certificate: bytes | None,
) -> RequestPart:
    """What a line says of a request; ``target`` and ``agent`` are cut to their ``MAX_``."""
    return RequestPart(
        "" if client is None else client_name(client),
        _text(method),
        _text(target.partition(b"?")[0]),
        _PROTOCOLS.get(version, ""),
        _text(agent),
        "" if certificate is None else _subject(certificate),
    )


_PROTOCOLS = {"1.0": "HTTP/1.0", "1.1": "HTTP/1.1", "2": "HTTP/2"}


def _text(value: bytes) -> str:
    """Bytes of a request, fit for a terminal: what is not printable is escaped."""
    return printable(value.decode(errors="backslashreplace"))


def printable(text: str) -> str:
    """``text`` with escapes in place of what is not printable."""
    # As nearly all are. Looked at in one go: character by character is what a refusal can cost.
    if text.isascii() and not text.encode().translate(None, _PRINTABLE):
        return text
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


@lru_cache(256)
def _subject(certificate: bytes) -> str:
    """Whom a certificate (DER) names, as RFC 4514 writes it."""
    from cryptography import x509  # here: it takes memory, which is for client certificates alone

    try:
        return printable(x509.load_der_x509_certificate(certificate).subject.rfc4514_string())
    except (ValueError, x509.InvalidVersion):
        return ""

"""Which library takes a request's header fields apart: httptools (llhttp, in C) or h11.

What a library is trusted with is what both are good at: which bytes make a name and a value. The
request line, the ends of lines, a body's length and its chunks are judged in `head`, `parser` and
`chunks`, by rules of our own, because there the libraries are lenient, each in its way and from
version to version: llhttp skips spaces in the request line and knows a closed list of methods,
h11 takes lines that end in LF alone, folded lines and two equal lengths, and both pass over what
stands behind a chunk's size. A proxy must not be: where a request can be read in two ways,
another server before this one may choose the other, and take for a request's body what this one
takes for the next request. httptools, moreover, does not tell where a message has ended, and so
could not let the requests behind it wait.

httptools serves where it is there. ``ServerSettings.http1_parser`` decides otherwise, and
``PRISM_HTTP1_PARSER`` is its default. Asking for a parser that is not there is an error, not a
silent second best.
"""

import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import NamedTuple

import h11

from prism.contract.errors import PrismError
from prism.server.exchange import Headers
from prism.server.settings import PARSER_VARIABLE

_REQUEST_LINE = b"GET / HTTP/1.0\r\n"
"""Before the fields there must be one; HTTP/1.0 asks least of them (no ``host``)."""

# What h11 takes, and is not to be taken: control characters in a value, and a list of equal
# lengths, of which it makes one.
_lenient = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?im:^content-length:.*,)").search


class MalformedFields(Exception):
    """The library refuses them; its reason is the cause. It may quote what the client sent."""


class FieldParser(NamedTuple):
    """A library. ``str()`` names it with its version.

    ``parse`` takes the fields of one head, each ending with CRLF, up to and with the empty line.
    Their names come in lower case, values without the blanks around them, in the order received.
    It raises ``MalformedFields``, and never quietly drops or joins any of them.
    """

    name: str
    version: str
    parse: Callable[[bytes], Headers]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class ParserUnavailable(PrismError):
    """The parser asked for is not there."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{PARSER_VARIABLE}={self.name}: {self.reason}; unset it, or set it to h11, "
            "which is always there"
        )


class _Fields:
    """What httptools tells the fields to."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: Headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        # llhttp leaves blanks at the end of a value.
        self.headers.append((name.lower(), value.strip(b" \t")))


def on_httptools() -> FieldParser:
    """The parser on httptools, which is llhttp.

    Raises:
        ImportError: httptools is not there.
    """
    from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

    def parse(fields: bytes) -> Headers:
        found = _Fields()
        try:
            # One for each head: nothing that one request says can colour how the next is read.
            HttpRequestParser(found).feed_data(_REQUEST_LINE + fields)
        except HttpParserUpgrade:
            pass  # raised behind the last field, where there is an ``upgrade`` among them
        except HttpParserError as error:
            raise MalformedFields from error
        return found.headers

    return FieldParser("httptools", version("httptools"), parse)


def on_h11() -> FieldParser:
    """The parser on h11."""

    def parse(fields: bytes) -> Headers:
        if _lenient(fields):
            raise MalformedFields("a control character, or a list of lengths")
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * len(fields) + 100)
        connection.receive_data(_REQUEST_LINE + fields)
        try:
            request = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise MalformedFields from error
        headers = list(request.headers) if isinstance(request, h11.Request) else []
        if len(headers) != fields.count(b"\r\n") - 1:
            raise MalformedFields("a length given twice")  # h11 makes one of equal ones
        return headers

    return FieldParser("h11", version("h11"), parse)


@cache
def choose(wanted: str = "") -> FieldParser:
    """The parser called ``wanted``; if that is empty, the fastest that is there.

    Raises:
        ParserUnavailable: it is not there, or there is none of that name.
    """
    if wanted == "h11":
        return on_h11()
    if wanted not in {"", "httptools"}:
        raise ParserUnavailable(wanted, "there is no such parser")
    try:
        return on_httptools()
    except ImportError as error:
        if wanted:
            raise ParserUnavailable(wanted, str(error)) from error
        return on_h11()

"""HTTP/1.1's receiving side, sans-I/O: bytes in, cut anywhere, requests out, one after another.

An ordinary request, whose body has come together with its head, is one event. At the end of a
request the parser stops: what the client has sent behind it (pipelining) waits unparsed until the
response to this one is under way and ``next_request`` is called, so that a client cannot have
more than one request at work, whatever it sends.

The parser never looks at what follows a request that ends the connection, nor at what follows the
head of a WebSocket's handshake: ``unparsed`` gives it away as it came.
"""

import re
from enum import Enum, auto

import msgspec

from prism.server.http1.chunks import ChunkedBody
from prism.server.http1.fields import choose
from prism.server.http1.head import Head, check_lines, read_head
from prism.server.problems import BadRequest
from prism.server.settings import ServerSettings

_begins_request = re.compile(rb"[\n!#$%&'*+\-.^_`|~0-9A-Za-z\r]").match


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request has begun. ``body`` came with its head, and is all of it if it has ``ended``."""

    head: Head
    body: bytes
    ended: bool


class Body(msgspec.Struct, frozen=True, gc=False):
    """More of the body; empty at most with its end."""

    data: bytes
    ended: bool


class ParserState(Enum):
    """What is received next."""

    HEAD = auto()
    BODY = auto()
    WHOLE = auto()  # the request; what follows it is kept


# Every request comes by these: on Python 3.11 an enum's attribute costs as much as a call.
_HEAD = ParserState.HEAD
_BODY = ParserState.BODY
_WHOLE = ParserState.WHOLE

MEMORABLE = 1024
"""Bytes of a head that is kept, as it was judged, for the next request: clients repeat theirs."""


class RequestParser:
    """The requests of one connection.

    ``unparsed`` are the bytes received that no event has told of yet. After ``BadRequest`` no
    more can be said about them: the connection must end.
    """

    __slots__ = (
        "_chunks",
        "_last_head",
        "_last_raw",
        "_left",
        "_max_fields",
        "_max_size",
        "_parser",
        "state",
        "unparsed",
    )

    def __init__(self, settings: ServerSettings) -> None:
        self.state = _HEAD
        self.unparsed = b""
        self._parser = choose(settings.http1_parser)
        self._max_size = settings.max_header_size
        self._max_fields = settings.max_header_fields
        self._left: int | None = 0  # of the body; None: it comes in chunks
        self._chunks: ChunkedBody
        self._last_raw = b""
        self._last_head: Head

    def receive(self, data: bytes) -> Request | Body | None:
        """Take in what was received next; ``None`` if nothing is complete with it.

        Raises:
            BadRequest: it is no request, or beyond a limit.
        """
        state = self.state
        if state is _HEAD:
            return self._receive_head(self.unparsed + data if self.unparsed else data)
        if state is _WHOLE:
            self.unparsed += data
            return None
        body = self._receive_body(data)
        ended = self.state is _WHOLE
        return Body(body, ended) if body or ended else None

    def next_request(self) -> Request | None:
        """Go on after a whole request, with what has come behind it.

        Raises:
            BadRequest: as ``receive``.
        """
        self.state = _HEAD
        return self._receive_head(self.unparsed) if self.unparsed else None

    @property
    def begun(self) -> bool:
        """Whether a request is under way, at least a byte of its head."""
        return self.state is not _HEAD or self.unparsed not in {b"", b"\r"}

    def _receive_head(self, data: bytes) -> Request | None:
        start = 0
        while data.startswith(b"\r\n", start):  # RFC 9112, 2.2: some clients end a body so
            start += 2
        if start:
            data = data[start:]
        if data and not _begins_request(data):
            # Another protocol, TLS perhaps, whose bytes may never come to the end of a head.
            raise BadRequest(400, "the request does not begin with method, target and HTTP version")
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            check_lines(data, self._max_size, self._max_fields)
            self.unparsed = data
            return None
        raw = data[:end]
        if raw == self._last_raw:
            head = self._last_head
        else:
            check_lines(raw, self._max_size, self._max_fields)
            head = read_head(raw, self._parser)
            if len(raw) <= MEMORABLE:
                self._last_raw, self._last_head = raw, head
        self.unparsed = b""
        self._left = head.length
        if head.length is None:
            self._chunks = ChunkedBody(self._max_size, self._max_fields)
        self.state = _BODY
        body = self._receive_body(data[end:])
        return Request(head, body, self.state is _WHOLE)

    def _receive_body(self, data: bytes) -> bytes:
        left = self._left
        if left is None:
            body = self._chunks.decode(data)
            if self._chunks.ended:
                self.state = _WHOLE
                self.unparsed = self._chunks.rest
            return body
        size = len(data)
        if size < left:
            self._left = left - size
            return data
        self.state = _WHOLE
        if size == left:
            return data
        self.unparsed = data[left:]
        return data[:left]

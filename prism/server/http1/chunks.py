"""A request's body in chunks, taken apart (RFC 9112, 7.1).

Strictly as the grammar has it: a size is hexadecimal digits and nothing else, each line ends in
CRLF, and so does each chunk. What others make of a space, a sign or a lone LF in these places is
how requests are smuggled. Of the grammar only "bad whitespace" before an extension is left out.
"""

import re
from enum import Enum, auto

from prism.server.problems import BadRequest

MAX_EXTENSIONS = 16 * 1024
"""Bytes behind the sizes of one body's chunks, as Node has it. Nobody uses them, so that all
they can do is cost."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TEXT = rb"[\t\x20-\x7e\x80-\xff]*"
_QUOTED = rb'"(?:[\t\x20-\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_EXTENSION = rb";%b(?:=(?:%b|%b))?" % (_TOKEN, _TOKEN, _QUOTED)
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})((?:%b)*)\r\n" % _EXTENSION)
_begins_size_line = re.compile(rb"(?:[0-9A-Fa-f]{1,15}(?:;%b)?\r?)?" % _TEXT).fullmatch
_are_trailers = re.compile(rb"(?:%b:%b\r\n)+\r\n" % (_TOKEN, _TEXT)).fullmatch
_DIGITS = b"0123456789abcdefABCDEF"


class _Expected(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()  # the CRLF after a chunk's data
    TRAILERS = auto()  # the last chunk was there
    NOTHING = auto()


class ChunkedBody:
    """Decodes one body, cut anywhere.

    ``rest`` is what was received and not decoded; once the body has ``ended``, what follows it.
    """

    __slots__ = ("_expected", "_extensions", "_left", "_max_fields", "_max_trailers", "rest")

    def __init__(self, max_trailers: int, max_fields: int) -> None:
        self.rest = b""
        self._expected = _Expected.SIZE
        self._left = 0  # of a chunk's data
        self._extensions = 0
        self._max_trailers = max_trailers
        self._max_fields = max_fields

    @property
    def ended(self) -> bool:
        """Has all of the body come?"""
        return self._expected is _Expected.NOTHING

    def decode(self, data: bytes) -> bytes:
        """What ``data``, which was received next, brings of the body. Trailers are dropped.

        Raises:
            BadRequest: these are no chunks, or there is too much between them.
        """
        if self.rest:
            data = self.rest + data
        pieces, at, end = [], 0, len(data)
        while at < end:
            expected = self._expected
            if expected is _Expected.SIZE:
                line = _SIZE_LINE.match(data, at)
                if line is None:
                    self._check_begun_line(data[at:])
                    break
                if line[2]:
                    self._extensions = self._with_extension(len(line[2]))
                at = line.end()
                size = int(line[1], 16)
                if size and data.startswith(b"\r\n", at + size):  # all of the chunk is here
                    pieces.append(data[at : at + size])
                    at += size + 2
                    continue
                self._left = size
                self._expected = _Expected.DATA if size else _Expected.TRAILERS
            elif expected is _Expected.DATA:
                pieces.append(data[at : at + self._left])
                at += len(pieces[-1])
                self._left -= len(pieces[-1])
                if not self._left:
                    self._expected = _Expected.DATA_END
            elif expected is _Expected.DATA_END:
                if data[at : at + 2] == b"\r\n":
                    at += 2
                    self._expected = _Expected.SIZE
                elif data[at:] == b"\r":
                    break
                else:
                    raise BadRequest(400, "a chunk must be as long as its size says")
            elif expected is _Expected.TRAILERS:
                length = self._trailers(data[at:])
                if not length:
                    break
                at += length
                self._expected = _Expected.NOTHING
            else:
                break
        self.rest = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _with_extension(self, size: int) -> int:
        total = self._extensions + size
        if total > MAX_EXTENSIONS:
            raise BadRequest(400, f"chunk extensions have at most {MAX_EXTENSIONS} bytes")
        return total

    def _check_begun_line(self, line: bytes) -> None:
        if not _begins_size_line(line):
            raise BadRequest(400, "a chunk must begin with a line that holds its size")
        self._with_extension(len(line.lstrip(_DIGITS).rstrip(b"\r")))

    def _trailers(self, data: bytes) -> int:
        """The length of the trailers at the beginning of ``data``; 0 if they go on."""
        if data.startswith(b"\r\n"):
            return 2
        end = data.find(b"\r\n\r\n") + 4
        trailers = data if end < 4 else data[:end]
        lines = trailers.count(b"\n")
        if len(trailers) > self._max_trailers or lines > self._max_fields + 1:
            raise BadRequest(431, "the trailers are larger than a request's head may be")
        if lines != trailers.count(b"\r\n") or (end >= 4 and not _are_trailers(trailers)):
            raise BadRequest(400, "a trailer field is malformed")
        return end if end >= 4 else 0

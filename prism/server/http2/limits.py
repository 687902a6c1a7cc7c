"""What a client may send before it counts as a flood.

The guard looks only at frame headers (and a pad length), before the codec spends any work
on a frame. It stops frames that announce more than they may, and keeps an account: frames
that cost work and carry none draw from it, time and the responses sent fill it up again.

This guard is part of the h2 codec; native/nghttp2/guard.c is the same in C, in the other.
"""

from typing import NoReturn

from h2.errors import ErrorCodes

from prism.server.http2.codec import MAX_FRAME_SIZE
from prism.server.settings import ServerSettings

PREFACE_SIZE = 24
_HEADER_SIZE = 9
_DATA, _HEADERS, _RST_STREAM, _CONTINUATION = 0, 1, 3, 9
_END_STREAM, _END_HEADERS, _PADDED = 0x1, 0x4, 0x8

FRAMES_AT_ONCE = 128
"""Frames handled before other tasks get a turn. One read may bring thousands of tiny
ones, at some 50 microseconds each. A client that has many requests to send may send all of
their heads before the first body: 64 fit, so that bodies come with their heads. In C, where
frames cost less, twice as many do."""

RESET_COST = 2
"""A reset throws away a request already begun (CVE-2023-44487), so it counts more."""

LARGE_HEAD_COST = 8
"""A header section over the limit is decoded, and answered: in h2, that is some milliseconds."""

RAPID = 0.05
"""Seconds. A request reset later than this gets its cost back: that is a client whose
own deadline passed, and when a backend hangs, all its requests do that at once."""

FRAME_CREDIT = 2
"""Per DATA frame sent: the client answers it with up to two WINDOW_UPDATEs."""

STUB = 256
"""Bytes. A DATA frame that the client's window cut down to less earns it nothing: else
windows of one byte would pay for themselves, a frame for each byte."""

RESPONSE_CREDIT = 4
"""Per response sent whole: a gRPC client adds a PING and WINDOW_UPDATEs to each call."""


class ClientError(Exception):
    """The client broke HTTP/2: the connection ends with GOAWAY ``code``."""

    def __init__(self, code: ErrorCodes, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code.name}: {self.reason}"


class FrameGuard:
    """Follows one connection's incoming frames; sans-I/O, ``now`` is passed in."""

    def __init__(self, settings: ServerSettings, now: float) -> None:
        # Compressed, it is smaller than max_header_size counts it: twice is plenty.
        self._max_header_block = 2 * settings.max_header_size
        self._header_block = 0
        self._budget = settings.flood_budget
        self._refill = settings.flood_refill
        self._balance = float(self._budget)
        self._refilled_at = now
        self._to_skip = PREFACE_SIZE
        self._padded_length = 0  # of a DATA frame whose pad length is the next byte
        self._header = b""
        self._in_headers = False
        self._headers_follow = False

    @property
    def in_header_block(self) -> bool:
        """Whether a request's header section has begun and not ended."""
        return self._headers_follow or (self._in_headers and self._to_skip > 0)

    def inspect(self, data: bytes, now: float) -> int:
        """Account for received bytes, cut anywhere, up to ``FRAMES_AT_ONCE`` frames.

        Returns how many bytes those are; what follows them is to be inspected next.

        Raises:
            ClientError: a frame or header section is too large, or the account is empty.
        """
        self._balance = min(self._budget, self._balance + (now - self._refilled_at) * self._refill)
        self._refilled_at = now
        position, size, frames = 0, len(data), 0
        while position < size and (self._to_skip or frames < FRAMES_AT_ONCE):
            if self._to_skip:
                if self._padded_length:
                    if data[position] + 1 >= self._padded_length:
                        self.charge(1)  # all padding
                    self._padded_length = 0
                step = min(self._to_skip, size - position)
                self._to_skip -= step
                position += step
                continue
            step = min(_HEADER_SIZE - len(self._header), size - position)
            self._header += data[position : position + step]
            position += step
            if len(self._header) == _HEADER_SIZE:
                header, self._header = self._header, b""
                self._frame(int.from_bytes(header[:3], "big"), header[3], header[4])
                frames += 1
        return position

    def charge(self, cost: int) -> None:
        """Draw from the account.

        Raises:
            ClientError: it is empty.
        """
        self._balance -= cost
        if self._balance < 0:
            self._calm()

    def credit(self, amount: int) -> None:
        """Work was done for the client: fill the account up, at most to the budget."""
        self._balance = min(self._budget, self._balance + amount)

    def _frame(self, length: int, kind: int, flags: int) -> None:
        if length > MAX_FRAME_SIZE:
            raise ClientError(ErrorCodes.FRAME_SIZE_ERROR, "a frame is larger than announced")
        self._to_skip = length
        self._in_headers = kind in {_HEADERS, _CONTINUATION}
        if self._in_headers:
            self._headers_follow = not flags & _END_HEADERS
            if kind == _CONTINUATION:
                self.charge(1)
            else:
                self._header_block = 0
            self._header_block += length
            if self._header_block > self._max_header_block:
                raise ClientError(ErrorCodes.ENHANCE_YOUR_CALM, "a header section is too large")
        elif kind == _DATA:
            if flags & _END_STREAM:
                return
            if length == 0:
                self.charge(1)
            elif flags & _PADDED:
                self._padded_length = length
        elif kind == _RST_STREAM:
            self.charge(RESET_COST)
        else:
            self.charge(1)

    def _calm(self) -> NoReturn:
        raise ClientError(ErrorCodes.ENHANCE_YOUR_CALM, "too many frames that carry nothing")

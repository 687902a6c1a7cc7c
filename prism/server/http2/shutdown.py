"""How a connection comes to its end without losing a request (RFC 9113, 6.8). Sans-I/O.

::

    OPEN ──drain──▶ FINISHING
      │                │ those streams answered and PING too, or half of the time gone
      ├── idle, client's GOAWAY ──▶ WARNED ──PING answered──▶ LEAVING ──▶ CLOSED
      │                                                       no streams    ▲
      └────────────── client gone, protocol error, flood ───────────────────┘

FINISHING has told the client nothing: httpx gives up the responses that it has not
dealt with when it reads GOAWAY, even those read with it. So the streams open when the drain
began are answered first; then it waits, not for long, for a moment without any, and
for PING to show that the client has read all answers. WARNED has sent GOAWAY(2^31-1) and still
serves new requests; LEAVING has sent GOAWAY with the true last id and refuses later
ones with REFUSED_STREAM, which is safe to retry.
"""

from collections.abc import Collection
from enum import Enum, auto
from math import inf

from h2.errors import ErrorCodes

from prism.server.http2.codec import HTTP2Codec

_HIGHEST_STREAM_ID = 2**31 - 1
_LAST_CALL = b"lastcall"


class ShutdownState(Enum):
    """Where a connection is on its way to its end; drawn above."""

    OPEN = auto()
    FINISHING = auto()
    WARNED = auto()
    LEAVING = auto()
    CLOSED = auto()


class Shutdown:
    """One connection's way to its end; ``state`` is where it is.

    ``grace`` is how many seconds a client has to answer PING, and how long a moment without
    any stream is waited for. What is to be sent is left in ``codec``.
    """

    def __init__(self, codec: HTTP2Codec, grace: float) -> None:
        self.state = ShutdownState.OPEN
        self._codec = codec
        self._grace = grace
        self._finishing: set[int] = set()  # open when the drain began, and still
        self._goaway_at = inf  # the next of the two
        self._last_served = _HIGHEST_STREAM_ID

    def refuses(self, stream_id: int) -> bool:
        """Whether this new stream is too late. One that came in the same read as the answer to
        our PING is not: GOAWAY has counted it among those that are served."""
        return stream_id > self._last_served or self.state is ShutdownState.CLOSED

    def drain(self, streams: Collection[int], deadline: float, now: float) -> None:
        """The server stops: finish ``streams``, and whatever follows, by ``deadline``."""
        if not streams:
            self.warn(now)
        elif self.state is ShutdownState.OPEN:
            self.state = ShutdownState.FINISHING
            self._finishing = set(streams)
            # The other half is for clients that have more to ask, and go on after GOAWAY.
            self._goaway_at = now + (deadline - now) / 2

    def warn(self, now: float) -> None:
        """Tell the client to open no more streams; serve those that are on their way."""
        if self.state is ShutdownState.OPEN or self.state is ShutdownState.FINISHING:
            self.state = ShutdownState.WARNED
            # In this order: python-h2 takes no PING after GOAWAY. They leave as one.
            self._codec.ping(_LAST_CALL)
            self._codec.goaway(_HIGHEST_STREAM_ID, ErrorCodes.NO_ERROR)
            self._goaway_at = now + self._grace

    def stream_ended(self, stream_id: int, now: float, *, last: bool) -> None:
        """A stream is done with; ``last``: no other is open."""
        if self.state is not ShutdownState.FINISHING:
            return
        self._finishing.discard(stream_id)
        if not self._finishing:
            self._goaway_at = min(self._goaway_at, now + self._grace)
            if last:
                self._codec.ping(self._all_answered())

    def ping_answered(self, payload: bytes, now: float) -> None:
        """The client has read everything up to that PING of ours."""
        if self.state is ShutdownState.WARNED and payload == _LAST_CALL:
            self._leave()
        elif self.state is ShutdownState.FINISHING and payload == self._all_answered():
            self.warn(now)

    def due(self, *, streams: bool) -> float:
        """When to call ``on_time`` at the latest; ``streams``: whether any is open."""
        if self.state is ShutdownState.FINISHING or self.state is ShutdownState.WARNED:
            return self._goaway_at
        if self.state is ShutdownState.CLOSED or (
            self.state is ShutdownState.LEAVING and not streams
        ):
            return -inf
        return inf

    def on_time(self, now: float) -> None:
        """Do what is due."""
        if now < self._goaway_at:
            return
        if self.state is ShutdownState.WARNED:
            self._leave()
        elif self.state is ShutdownState.FINISHING:
            self.warn(now)

    def _leave(self) -> None:
        self.state = ShutdownState.LEAVING
        self._last_served = self._codec.last_stream_id
        self._codec.goaway(self._last_served, ErrorCodes.NO_ERROR)

    def _all_answered(self) -> bytes:
        """The PING that follows the answer to the last request so far."""
        return self._codec.last_stream_id.to_bytes(8)

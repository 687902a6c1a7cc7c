"""The HTTP/2 wire format behind one interface: bytes in, events out; calls in, bytes out.

Two implementations: `h2_codec` on the h2 library, which is always there, and `_nghttp2`
(native/nghttp2) on nghttp2, in C. The connection does not notice which one it has; tests drive
both with the same frames. `implementation` chooses.
"""

from collections.abc import Sequence
from typing import Protocol

from prism.server.http2.events import Event

MAX_FRAME_SIZE = 16 * 1024
"""Of DATA both ways, HTTP/2's default."""

MAX_BURST = 4 * MAX_FRAME_SIZE
"""Bytes of a body that are put into frames at once."""


class HTTP2Codec(Protocol):
    """One server-side HTTP/2 connection, sans-I/O.

    Nothing is sent before ``take``. A stream that is closed already, or a codec that has
    raised ``ClientError``, lets every call pass without an effect, but ``goaway`` and
    ``take`` always do what they say. All parameters are positional.
    """

    @property
    def backlog(self) -> int:
        """Bytes produced and not yet taken."""

    @property
    def last_stream_id(self) -> int:
        """The highest stream the client has opened."""

    @property
    def in_header_block(self) -> bool:
        """Whether a request's header section has begun and not ended."""

    def take(self) -> bytes | bytearray:
        """All bytes that are to be sent now."""

    def receive(self, data: bytes, now: float, /) -> tuple[list[Event], int]:
        """Take in bytes, cut anywhere, up to ``limits.FRAMES_AT_ONCE`` frames.

        PING and SETTINGS are answered. Returns what the client did, and how many bytes were
        taken; what follows them is to be received next. ``now`` is in seconds, on any clock.

        Raises:
            ClientError: the client broke the protocol or a limit; GOAWAY is not yet sent.
        """

    def charge(self, cost: int, /) -> None:
        """The client caused work in vain: count it as so many frames that carry nothing.

        Raises:
            ClientError: they are too many.
        """

    def credit(self, amount: int, /) -> None:
        """Work was done for the client: so many frames that carry nothing are forgiven."""

    def widen(self, stream_id: int, size: int, /) -> None:
        """From now on the client may send ``size`` bytes ahead of ``consumed`` on an open stream:
        more than it could so far."""

    def consumed(self, stream_id: int, size: int, /) -> None:
        """``size`` bytes of ``Request.body`` or ``DataReceived.data`` were used or dropped.

        The client may send more in exchange: on a stream already closed, on others only.
        """

    def window(self, stream_id: int, /) -> int:
        """How many body bytes the client takes now on an open stream."""

    def send_headers(
        self, stream_id: int, headers: Sequence[tuple[bytes, bytes]], end: bool, /
    ) -> None:
        """A head (``:status`` first) or trailers; names in lower case, checked before."""

    def send_data(self, stream_id: int, data: bytes | memoryview, end: bool, /) -> None:
        """DATA frames: at most ``MAX_BURST`` bytes, and within the window.

        An empty one, which must have ``end``, fits into any window.
        """

    def send_response(
        self, stream_id: int, headers: Sequence[tuple[bytes, bytes]], data: bytes, end: bool, /
    ) -> bool:
        """A head, and ``data`` if all of it fits into a burst and the window.

        Returns whether it fitted; otherwise only the head is sent.
        """

    def reset(self, stream_id: int, code: int, /) -> None:
        """RST_STREAM; no ``StreamReset`` comes of it."""

    def ping(self, payload: bytes, /) -> None:
        """PING with eight bytes."""

    def goaway(self, last_stream_id: int, code: int, /) -> None:
        """GOAWAY. It changes nothing else: requests above the id still come as events."""

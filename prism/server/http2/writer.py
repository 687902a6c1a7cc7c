"""The writing half of a connection: streams by turns, and one outlet for what they write.

Streams that have a chunk of body to write stand in a queue; each writes one frame, or a few where
it is nearly alone, when its turn comes and goes to the back. A stream whose window is shut is
parked until the client opens it.
"""

from collections import deque
from collections.abc import Sized

import trio

from prism.server.http2.codec import MAX_BURST, MAX_FRAME_SIZE, HTTP2Codec
from prism.server.http2.stream import HTTP2Exchange
from prism.streams.outlet import Outlet
from prism.streams.sockets import WRITE_SIZE

_MAX_BACKLOG = 4 * WRITE_SIZE
"""Unsent bytes beyond which the connection reads no more: answers to what a client
sends (PING, short responses) must not pile up if it does not take them."""


_ENOUGH = 2 * WRITE_SIZE
"""Bytes of chunks that are put into frames for one send; with the last burst it is more."""

_SHARES = (MAX_BURST, MAX_BURST // 2, MAX_FRAME_SIZE)
"""How much a stream writes in its turn, by how many others wait for theirs."""
_LAST_SHARE = len(_SHARES) - 1


class ResponseWriter:
    """Sends what the codec holds, through ``outlet``. ``streams`` are the open ones."""

    __slots__ = ("_codec", "_parked", "_ready", "_room", "outlet", "wake")

    def __init__(
        self, codec: HTTP2Codec, stream: trio.abc.SendStream, stall: float, streams: Sized
    ) -> None:
        self._codec = codec
        self._ready: deque[HTTP2Exchange] = deque()
        self._parked: dict[HTTP2Exchange, None] = {}
        self._room: trio.Event | None = None
        # A stream that is alone has nobody to wait for.
        self.outlet = Outlet(stream, self, stall, lambda: len(streams) <= 1)
        self.wake = self.outlet.wake

    def take(self) -> bytes | bytearray:
        """For the outlet: what is to be sent next."""
        codec, ready = self._codec, self._ready
        while ready and codec.backlog < _ENOUGH:
            stream = ready.popleft()
            if stream.write_some(_SHARES[min(len(ready), _LAST_SHARE)]):
                ready.append(stream)
        data = codec.take() if codec.backlog else b""
        if self._room is not None:
            self._room.set()
            self._room = None
        return data

    @property
    def may_write_now(self) -> bool:
        """Whether a stream may write a frame without waiting for its turn."""
        return not self._ready and self._codec.backlog < WRITE_SIZE

    def enqueue(self, stream: HTTP2Exchange) -> None:
        """``stream`` has a chunk to write, one frame whenever its turn comes."""
        self._ready.append(stream)
        self.outlet.rise()

    def park(self, stream: HTTP2Exchange) -> None:
        """``stream`` cannot write before the client opens a window."""
        self._parked[stream] = None

    def unpark(self, stream: HTTP2Exchange) -> None:
        """The client opened the window of ``stream``."""
        if stream in self._parked:
            del self._parked[stream]
            self.enqueue(stream)

    def unpark_all(self) -> None:
        """The client opened the connection's window, or every stream's."""
        if self._parked:
            self._ready.extend(self._parked)
            self._parked.clear()
            self.outlet.rise()

    def forget(self, stream: HTTP2Exchange) -> None:
        """``stream`` has ended."""
        if self._parked:
            self._parked.pop(stream, None)

    async def wait_for_room(self) -> None:
        """Wait until the client has taken enough for more to be read from it."""
        while self._codec.backlog > _MAX_BACKLOG:
            if self._room is None:
                self._room = trio.Event()
            await self._room.wait()

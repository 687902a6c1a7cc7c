"""The writing half of a connection: one task, one send per pass, streams by turns.

Streams that have a chunk of body to write stand in a queue; each writes one frame
when its turn comes and goes to the back. A stream whose window is shut is parked
until the client opens it.
"""

from collections import deque
from collections.abc import Sized

import trio

from prism.server.http2.codec import Codec
from prism.server.http2.stream import HTTP2Exchange
from prism.streams.sockets import WRITE_SIZE, Sender

_MAX_BACKLOG = 4 * WRITE_SIZE
"""Unsent bytes beyond which the connection reads no more: answers to what a client
sends (PING, short responses) must not pile up if it does not take them."""


class Writer:
    """Sends what the codec holds. ``done`` is set when ``run`` has ended.

    ``streams`` are the open ones.
    """

    def __init__(
        self, codec: Codec, stream: trio.abc.SendStream, stall: float, streams: Sized
    ) -> None:
        self.done = trio.Event()
        self._codec = codec
        self._sender = Sender(stream, stall)
        self._streams = streams
        self._ready: deque[HTTP2Exchange] = deque()
        self._parked: dict[HTTP2Exchange, None] = {}
        self._closing = False
        self._asleep = False
        self._bed = trio.lowlevel.ParkingLot()
        self._taken = trio.Event()

    def wake(self) -> None:
        """Send what there is, once those who are about to add to it have done so.

        A stream that is alone has nobody to wait for.
        """
        if self._asleep and self._codec.backlog:
            if len(self._streams) <= 1 and self._sender.send_now(self._codec.take()):
                return
            self._rise()

    def _rise(self) -> None:
        if self._asleep:
            self._asleep = False
            self._bed.unpark()

    def close(self) -> None:
        """Send what there is, then end."""
        self._closing = True
        self._rise()

    @property
    def may_write_now(self) -> bool:
        """Whether a stream may write a frame without waiting for its turn."""
        return not self._ready and self._codec.backlog < WRITE_SIZE

    def enqueue(self, stream: HTTP2Exchange) -> None:
        """``stream`` has a chunk to write, one frame whenever its turn comes."""
        self._ready.append(stream)
        self._rise()

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
            self._rise()

    def forget(self, stream: HTTP2Exchange) -> None:
        """``stream`` has ended."""
        if self._parked:
            self._parked.pop(stream, None)

    async def wait_for_room(self) -> None:
        """Wait until the client has taken enough for more to be read from it."""
        while self._codec.backlog > _MAX_BACKLOG:
            self._taken = trio.Event()
            await self._taken.wait()

    async def run(self) -> None:
        """Send until ``close``.

        Raises one of ``transport.GONE`` or ``trio.TooSlowError``.
        """
        try:
            while True:
                while self._ready and self._codec.backlog < WRITE_SIZE:
                    stream = self._ready.popleft()
                    if stream.write_frame():
                        self._ready.append(stream)
                if self._codec.backlog or self._sender.unsent:
                    data = self._codec.take()
                    self._taken.set()
                    await self._sender.send(data)
                    if self._ready:  # a client that takes all must not have all turns
                        await trio.lowlevel.checkpoint()
                elif self._closing:
                    return
                else:
                    self._asleep = True
                    await self._bed.park()
        finally:
            self.done.set()

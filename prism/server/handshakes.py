"""TLS handshakes, so many at a time.

When a fleet of clients connects again at once (a network that came back, a restart), a
thousand handshakes want seven milliseconds of one core each. Begun all together they
would all end late, after many clients have given up, and the requests of those
already connected would wait behind them. So a few have a turn, first come, first served.
"""

import select

import trio

from prism.server.statistics import ServerStatistics

TURN = 0.5
"""Seconds that one handshake counts. It may take longer, but a client that is slow, or
means to be, holds nobody up; two round trips around the world fit."""

_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Handshakes:
    """The handshakes of one server, of which ``limit`` have a turn."""

    def __init__(self, limit: int, statistics: ServerStatistics) -> None:
        self._limit = limit
        self._statistics = statistics
        self._begun: dict[trio.SSLStream[trio.SocketStream], float] = {}  # in order
        self._queue = trio.Lock()  # fair
        self._turn_over = trio.Event()

    async def perform(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        """Wait for a turn, then shake hands. If cancelled, the stream is of no more use.

        Raises:
            trio.BrokenResourceError: the client is gone, or TLS could not be agreed on.
        """
        self._statistics.handshakes_waiting += 1
        try:
            await self._wait_for_turn()
        finally:
            self._statistics.handshakes_waiting -= 1
        self._begun[stream] = trio.current_time()
        done = False
        try:
            if _is_gone(stream.transport_stream.socket):
                raise trio.BrokenResourceError from ConnectionError("the client gave up")
            await stream.do_handshake()
            done = True
        finally:
            self._statistics.handshakes_failed += not done
            self._end_turn(stream)

    async def _wait_for_turn(self) -> None:
        async with self._queue:
            while len(self._begun) >= self._limit:
                first, begun = next(iter(self._begun.items()))
                if self._turn_over.is_set():
                    self._turn_over = trio.Event()
                with trio.move_on_at(begun + TURN) as turn:
                    await self._turn_over.wait()
                if turn.cancelled_caught:
                    self._end_turn(first)

    def _end_turn(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        if self._begun.pop(stream, None) is not None:
            self._turn_over.set()


def _is_gone(sock: trio.socket.SocketType) -> bool:
    """Whether the client has closed, though what it sent before is still unread."""
    poll = select.poll()
    poll.register(sock.fileno(), _GONE)
    return bool(poll.poll(0))

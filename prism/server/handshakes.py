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
        self._turns = trio.Semaphore(limit)  # fair
        self._statistics = statistics

    async def perform(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        """Wait for a turn, then shake hands. If cancelled, the stream is of no more use.

        Raises:
            trio.BrokenResourceError: the client is gone, or TLS could not be agreed on.
        """
        self._statistics.handshakes_waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._statistics.handshakes_waiting -= 1
        failure: trio.BrokenResourceError | None = None
        done = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_turn)
                try:
                    if _is_gone(stream.transport_stream.socket):
                        raise trio.BrokenResourceError from ConnectionError("the client gave up")
                    await stream.do_handshake()
                    done = True
                except trio.BrokenResourceError as error:
                    failure = error  # the nursery would put it into a group
                nursery.cancel_scope.cancel()
        finally:
            self._statistics.handshakes_failed += not done
        if failure is not None:
            raise failure

    async def _end_turn(self) -> None:
        """Give the turn back after ``TURN``, or when the handshake has ended before."""
        try:
            await trio.sleep(TURN)
        finally:
            self._turns.release()


def _is_gone(sock: trio.socket.SocketType) -> bool:
    """Whether the client has closed, though what it sent before is still unread."""
    poll = select.poll()
    poll.register(sock.fileno(), _GONE)
    return bool(poll.poll(0))

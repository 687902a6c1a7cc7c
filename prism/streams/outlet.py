"""What leaves on one stream: one task writes, and one send carries all that a turn has put there.

Theory of operation. What is to be sent is given to a *source* (a codec, a frame
connection, a buffer); then ``wake`` is called. Bytes leave in one of three ways, the first
that applies:

- Within a *turn* (``begin_turn``, ``end_turn``: a reader handles what one read has brought)
  nothing is sent at once. At the turn's end each outlet that was woken in it sends all it has,
  with one system call. So sixty answers that come together leave together.
- The outlet is told that it is alone (``alone``: one stream, one call): there is nobody to
  wait for, so it sends at once.
- Otherwise the writer's task is woken; when it runs, everybody who ran before it has added
  what they had.

Nobody but the outlet touches the stream's sending side, so no cancellation can tear what is
sent. What the kernel does not take at once is kept and sent by the task, which gives up a peer
that takes nothing for ``stall`` seconds.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from prism.streams.sockets import WRITE_SIZE, write_now
from prism.wire.parts import Pieces


class Source(Protocol):
    """Where an outlet's bytes come from."""

    def take(self) -> bytes | bytearray | Pieces:
        """What is to be sent next; empty if there is nothing now. Of pieces some dozens at most."""


class Flushable(Protocol):
    """What is to be flushed at the end of a turn: an outlet, or the access log."""

    def flush(self) -> None:
        """Pass on what was collected."""


class _Turn:
    """What was woken in the turn that an event loop has; None outside of turns."""

    __slots__ = ("began", "woken")

    def __init__(self) -> None:
        self.woken: list[Flushable] | None = None
        self.began = 0.0


class _Turns(threading.local):
    """Each thread has an event loop, and turns, of its own."""

    def __init__(self) -> None:
        self.turn = _Turn()


_this_thread = _Turns()


def begin_turn(now: float | None = None) -> bool:
    """Collect what is sent from here to ``end_turn``, which must be reached without waiting.

    ``now`` is the time on trio's clock, where it is known. Returns whether a turn begins; within
    another one, none does.
    """
    turn = _this_thread.turn
    if turn.woken is not None:
        return False
    turn.woken = []
    turn.began = trio.current_time() if now is None else now
    return True


def end_turn() -> None:
    """Send what was collected."""
    turn = _this_thread.turn
    woken, turn.woken = turn.woken, None
    for outlet in woken or ():
        outlet.flush()


def turn_time() -> float:
    """The time on trio's clock; within a turn, when that began, which is as good and costs less."""
    turn = _this_thread.turn
    return trio.current_time() if turn.woken is None else turn.began


def at_turn_end(flushable: Flushable) -> None:
    """Have it flushed at the end of this turn; at once, if there is none."""
    woken = _this_thread.turn.woken
    if woken is None:
        flushable.flush()
    else:
        woken.append(flushable)


class _Nothing:
    """The source of an outlet that is closed."""

    def take(self) -> bytes:
        return b""


def _never() -> bool:
    return False


class Outlet:
    """The sending side of ``stream``. ``run`` must run while something may be sent.

    ``unsent`` is what the kernel has not taken. ``alone`` is asked, outside of turns, whether
    nothing else can be about to add to what there is.
    """

    __slots__ = (
        "_alone",
        "_asleep",
        "_closing",
        "_flushed",
        "_in_turn",
        "_sleeper",
        "_socket",
        "_source",
        "_stall",
        "_stream",
        "_turn",
        "closed",
        "unsent",
    )

    def __init__(
        self,
        stream: trio.abc.SendStream,
        source: Source,
        stall: float,
        alone: Callable[[], bool] = _never,
    ) -> None:
        self.unsent: Sequence[memoryview] = ()
        self.closed = trio.Event()
        self._stream = stream
        self._socket = stream if isinstance(stream, trio.SocketStream) else None
        self._turn = _this_thread.turn
        self._source = source
        self._stall = stall
        self._alone = alone
        self._asleep = False
        self._closing = False
        self._in_turn = False
        self._sleeper = trio.lowlevel.ParkingLot()
        self._flushed = trio.lowlevel.ParkingLot()

    @property
    def left(self) -> int:
        """How many bytes are unsent."""
        return sum(map(len, self.unsent))

    def wake(self) -> None:
        """The source may have something. Plain code; call it as often as you like."""
        if self._in_turn:
            return
        woken = self._turn.woken
        if woken is not None:
            self._in_turn = True
            woken.append(self)
        elif self._asleep:
            if self._alone():
                self.flush()
            else:
                self.rise()

    def flush(self) -> None:
        """Send what the kernel takes now; the task sends the rest, and finds a peer gone."""
        self._in_turn = False
        if not self._asleep:
            return  # the task is about to look, or has bytes before these
        try:
            data = self._source.take()
        except Exception:  # this may be another connection's turn: its own task shall meet it
            self.rise()
            return
        if not data:
            return
        taken = 0
        if self._socket is not None:
            try:
                taken = write_now(self._socket, data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                taken = 0  # the task meets the same error, and raises it
            if type(data) is not tuple and taken == len(data):
                return
        self.unsent = _rest(data, taken)
        if self.unsent:
            self.rise()

    def rise(self) -> None:
        """Have the task send what there is."""
        if self._asleep:
            self._asleep = False
            self._sleeper.unpark()

    def close(self) -> None:
        """Send what there is, then end ``run``."""
        self._closing = True
        self.rise()

    async def wait_flushed(self) -> None:
        """Wait until the source is empty and all of it was sent, or can be sent no more.

        ``run`` must run, or be about to. The caller sets the deadline. Cancelling changes
        nothing.
        """
        self.rise()
        while not self._asleep and not self.closed.is_set():
            await self._flushed.park()

    async def run(self) -> None:
        """Send until ``close``. Cancelling may leave a part of what was taken unsent.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: the peer is gone.
            trio.TooSlowError: it did not take one ``WRITE_SIZE`` within ``stall`` seconds.
        """
        try:
            while True:
                if not self.unsent:
                    data = self._source.take()
                    if data:
                        await self._send(data)
                        continue
                    if self._closing:
                        return
                    self._asleep = True
                    self._flushed.unpark_all()
                    try:
                        await self._sleeper.park()
                    finally:
                        self._asleep = False
                else:
                    await self._send_unsent()
        finally:
            self.closed.set()
            self._flushed.unpark_all()
            # The source holds this outlet: a cycle would keep both, and what they hold, until
            # the next search for cycles.
            self._source, self._alone = _Nothing(), _never

    async def _send(self, data: bytes | bytearray | Pieces) -> None:
        taken = 0
        if self._socket is not None:
            taken = write_now(self._socket, data)
        self.unsent = _rest(data, taken)
        if self.unsent:
            await self._send_unsent()
        else:
            # A peer that takes all must not have every turn.
            await trio.lowlevel.checkpoint()

    async def _send_unsent(self) -> None:
        while self.unsent:
            with trio.fail_after(self._stall):
                await self._send_some()

    async def _send_some(self) -> None:
        """Send one ``WRITE_SIZE`` at least, or all."""
        if self._socket is None:
            first = self.unsent[0][:WRITE_SIZE]
            # If this is cancelled midway, a TLS stream of trio's takes no more.
            await self._stream.send_all(bytes(first))
            self.unsent = _rest(self.unsent, len(first))
            return
        sent = 0
        while self.unsent and sent < WRITE_SIZE:
            await trio.lowlevel.wait_writable(self._socket.socket)  # it was full before
            taken = write_now(self._socket, self.unsent)
            self.unsent = _rest(self.unsent, taken)
            sent += taken


def _rest(
    data: bytes | bytearray | Pieces | Sequence[memoryview], taken: int
) -> Sequence[memoryview]:
    """What is left of ``data`` behind its first ``taken`` bytes. Nothing is kept of what is not:
    a view of nothing would still keep the whole."""
    if isinstance(data, bytes | bytearray):
        return (memoryview(data)[taken:],) if taken < len(data) else ()
    rest = []
    for piece in data:
        if taken < len(piece):
            rest.append(memoryview(piece)[taken:])
        taken = max(0, taken - len(piece))
    return rest

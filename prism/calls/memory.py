"""Bytes that requests and answers take in this process: counted, and bounded.

Theory of operation. There are two kinds: bytes of *requests*, from their arrival to their call's
end, and bytes of *answers* that their clients have not taken yet. Each kind has an account for
the proxy, for every namespace and for every connection; a ``Hold`` is what one request, or one
answer, has in the three of them.

What does not fit is refused at once and not made to wait: bodies that wait for one another's room
would wait for ever, and a plugin whose answers are not read would hold up its other callers. One
that is alone always fits, so that no limit shuts out what another one allows. Before a newcomer
is refused, those that have held the room for ``GRACE`` seconds without getting on give way
(``reclaim``): a client that is slow on purpose can take the room, but not keep it.

Only a stream waits for room (``Hold.wait_room``), between two of its messages: it holds none then,
and those that do wait for nothing but their clients, so that they get on or give way.

What costs next to nothing is not counted: a request that came whole and has at most
``UNCOUNTED`` bytes, of which ``max_in_flight`` bounds the number, and an answer that the client's
window takes at once.
"""

from collections import deque
from collections.abc import Callable

import trio

from prism.contract.errors import AnswerDropped, MemoryFull

MIB = 1024 * 1024

UNCOUNTED = 4096
"""Bytes of a request that is not counted if it came whole."""

OVERHEAD = 4096
"""Bytes that are counted for what a request or an answer takes beside its own, at a guess."""

GRACE = 5.0
"""Seconds after which what does not get on gives way to others, once there is no room."""


class Account:
    """Bytes that one holder has, and may have. ``of`` names it in messages.

    ``reclaim``, of those without a parent, is called when there is no room, and frees what it can.
    ``waiting`` are to be called, the first of them, once bytes have become free.
    """

    __slots__ = ("limit", "of", "parent", "reclaim", "refused", "used", "waiting")

    def __init__(self, of: str, limit: int, parent: "Account | None" = None) -> None:
        self.of = of
        self.limit = limit
        self.parent = parent
        self.used = 0
        self.refused = 0
        self.reclaim: Callable[[], None] | None = None
        self.waiting: deque[Callable[[], None]] = deque()

    def make_room(self) -> None:
        """Have what does not get on give way."""
        reclaim = (self.parent or self).reclaim
        if reclaim is not None:
            reclaim()

    def tell_next(self) -> None:
        """There may be room for the one that waits for longest."""
        if self.waiting:
            self.waiting.popleft()()

    async def wait_freed(self, *, again: bool) -> None:
        """Wait until bytes have become free, or others may have to give way. Who waits ``again``,
        since they were too few, keeps its place."""
        freed = trio.Event()
        tell = freed.set
        if again:
            self.waiting.appendleft(tell)
        else:
            self.waiting.append(tell)
        try:
            with trio.move_on_after(GRACE):
                await freed.wait()
        finally:
            if not freed.is_set():
                self.waiting.remove(tell)


class Hold:
    """What one request, or one answer, has in several accounts."""

    __slots__ = ("accounts", "size")

    def __init__(self, *accounts: Account | None) -> None:
        self.accounts = [account for account in accounts if account is not None]
        self.size = 0

    def resize(self, size: int) -> None:
        """Have ``size`` bytes, instead of those so far.

        Raises:
            MemoryFull: they do not fit; nothing has changed.
        """
        more = size - self.size
        if more > 0:
            for account in self.accounts:
                if self._is_too_much(account, more):
                    account.make_room()
                    if self._is_too_much(account, more):
                        account.refused += 1
                        raise MemoryFull(account.of, account.limit)
        self.force(size)

    def force(self, size: int) -> None:
        """As ``resize``, whether it fits or not: the bytes are there already."""
        more = size - self.size
        for account in self.accounts:
            account.used += more
            if more < 0 and account.waiting:
                account.tell_next()
        self.size = size

    async def wait_room(self, size: int) -> None:
        """Have ``size`` bytes once there is room for them, and nothing until then: those who wait
        hold up nobody. Cancelling leaves nothing, unless there was room in that moment."""
        self.release()
        last: Account | None = None
        while (full := self._without_room(size)) is not None:
            full.make_room()
            if self._without_room(size) is not None:
                await full.wait_freed(again=full is last)
                last = full
        self.force(size)
        for account in self.accounts:
            account.tell_next()  # there may be more room than this

    def release(self) -> None:
        """Have nothing."""
        self.force(0)

    def _without_room(self, size: int) -> Account | None:
        more = size - self.size
        return next((each for each in self.accounts if self._is_too_much(each, more)), None)

    def _is_too_much(self, account: Account, more: int) -> bool:
        return account.used + more > account.limit and account.used > self.size


class AnswerHold(Hold):
    """What an answer, or the messages of a stream, has: where they do not fit, they are dropped."""

    __slots__ = ()

    def resize(self, size: int) -> None:
        """Have ``size`` bytes, instead of those so far.

        Raises:
            AnswerDropped: they do not fit; nothing has changed.
        """
        try:
            super().resize(size)
        except MemoryFull as full:
            raise AnswerDropped(size, full.of, full.limit) from None


class ConnectionMemory:
    """The accounts of one connection; their parents are the proxy's. ``answers`` wait for the
    client; ``streams`` is for what plugins are about to say there. ``watches`` counts the
    streams on it that only wait for changes, ``late`` the requests whose refusal is not told yet
    (``calls.refusals``), of which there may be ``most_late``."""

    __slots__ = ("answers", "late", "most_late", "requests", "streams", "watches")

    def __init__(self, requests: Account, answers: Account, streams: Account) -> None:
        self.requests = requests
        self.answers = answers
        self.streams = streams
        self.watches = 0
        self.late = 0
        self.most_late = 1  # of HTTP/1.1, which has one request at a time


class Memory:
    """The accounts of the whole proxy. ``of_connection`` are the limits of one connection."""

    def __init__(
        self,
        requests: int = 128 * MIB,
        answers: int = 128 * MIB,
        connection_requests: int = 32 * MIB,
        connection_answers: int = 32 * MIB,
    ) -> None:
        self.requests = Account("all clients' requests", requests)
        self.answers = Account("all answers that wait for their clients", answers)
        self._connection_requests = connection_requests
        self._connection_answers = connection_answers

    def for_connection(self) -> ConnectionMemory:
        """Accounts for a new connection."""
        return ConnectionMemory(
            Account("this connection's requests", self._connection_requests, self.requests),
            Account(
                "this connection's answers that wait for its client",
                self._connection_answers,
                self.answers,
            ),
            Account(
                "the messages of this connection's streams", self._connection_answers, self.answers
            ),
        )

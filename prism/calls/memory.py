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

What costs next to nothing is not counted: a request that came whole and has at most
``UNCOUNTED`` bytes, of which ``max_in_flight`` bounds the number, and an answer that the client's
window takes at once.
"""

from collections.abc import Callable

from prism.contract.errors import MemoryFull

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
    """

    __slots__ = ("limit", "of", "parent", "reclaim", "refused", "used")

    def __init__(self, of: str, limit: int, parent: "Account | None" = None) -> None:
        self.of = of
        self.limit = limit
        self.parent = parent
        self.used = 0
        self.refused = 0
        self.reclaim: Callable[[], None] | None = None

    def make_room(self) -> None:
        """Have what does not get on give way."""
        reclaim = (self.parent or self).reclaim
        if reclaim is not None:
            reclaim()


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
        self.size = size

    def release(self) -> None:
        """Have nothing."""
        self.force(0)

    def _is_too_much(self, account: Account, more: int) -> bool:
        return account.used + more > account.limit and account.used > self.size


class ConnectionMemory:
    """The accounts of one connection; their parents are the proxy's. ``watches`` counts the
    streams on it that only wait for changes."""

    __slots__ = ("answers", "requests", "watches")

    def __init__(self, requests: Account, answers: Account) -> None:
        self.requests = requests
        self.answers = answers
        self.watches = 0


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
        )

"""What a proxy takes of a limit that others share: leases, as plain values.

Theory of operation. The store has one bucket for each key (``gcra``), on its own clock. A proxy
asks it for the calls that wait now, all of a key's at once, and, where that is worth it, for some
more that it may *hold*: those cost no round trip when they come. An ask is one round trip however
many keys and calls it is for.

Held units must not let more through than the limit says, although they are used later than they
were counted. So they are counted ahead: as if they were used at the end of the ``HOLD_SECONDS``
for which they may be held. If a proxy holds E units at a time s, the bucket's level was at least
``per_second * HOLD_SECONDS`` when the last of them was added, so it is E at s, at least; what is
counted from then to e is ``burst - E + per_second * (e - s)`` at most, and with the E that is the
bound that holds without leases. Calls that wait are counted as they are, so that a full burst is
there for them. What is held and not used is lost, and not given back: the bucket has flowed off
meanwhile, and to take from it again would let more through than was kept back.

So what is held should be little more than what is used. A key's first calls are asked for singly;
a proxy that uses up what it holds takes twice as much the next time, up to ``LEASE_SECONDS`` worth
of the rate, and one that does not, as much as it used. Rates under ``1 / LEASE_SECONDS`` are thus
always asked singly.

What the store says is left is remembered: that can grow by no more than the rate, so that what is
certain to be refused is refused without asking.
"""

from collections import deque
from math import inf
from typing import Protocol

from prism.limits.gcra import Bucket, Rate

HOLD_SECONDS = 0.1
"""For how long units are held, from when they were asked for."""
LEASE_SECONDS = 0.05
"""Worth of a rate that is held at most: a bit less than is good for its time."""


class Waiter(Protocol):
    """A call that waits for units."""

    cost: int
    is_gone: bool

    def granted(self) -> None:
        """It has its units."""

    def refused(self, wait: float) -> None:
        """There are none for ``wait`` seconds."""

    def undecided(self) -> None:
        """The store cannot be asked."""


class Ask:
    """A question to the store about one key, made from the calls that wait by now.

    ``demand`` are the units that they need, ``least`` those of the cheapest among them, ``extra``
    those to hold, for ``HOLD_SECONDS``. ``level`` is what this proxy has let through by its own
    count: the store may have lost what it knew.
    """

    __slots__ = ("demand", "extra", "lease", "least", "level", "waiting")

    def __init__(self, lease: "Lease", now: float) -> None:
        self.lease = lease
        self.waiting, lease.waiting = lease.waiting, deque()
        self.demand = 0
        self.least = 0
        for waiter in self.waiting:
            if not waiter.is_gone:
                self.demand += waiter.cost
                if not self.least or waiter.cost < self.least:
                    self.least = waiter.cost
        self.extra = lease.next_extra(now)
        self.level = lease.bucket.level_at(lease.rate, now)


class Lease:
    """What this proxy has of one key of a shared limit.

    ``held`` units are good ``until`` that time. ``left`` are what the bucket may have had at most
    at ``left_at``. ``waiting`` are the calls to ask for.
    """

    __slots__ = (
        "bucket",
        "held",
        "is_asked",
        "key",
        "left",
        "left_at",
        "rate",
        "taken",
        "until",
        "waiting",
    )

    def __init__(self, key: str, rate: Rate, bucket: Bucket) -> None:
        self.key = key
        self.rate = rate
        self.bucket = bucket
        self.held = 0
        self.taken = 0
        self.until = -inf
        self.left = inf
        self.left_at = 0.0
        self.waiting: deque[Waiter] = deque()
        self.is_asked = False

    def take(self, cost: int, now: float) -> bool:
        """Use ``cost`` of what is held, if it is there; calls that wait come first."""
        if self.held < cost or now >= self.until or self.waiting:
            return False
        self.held -= cost
        return True

    def left_now(self, now: float) -> float:
        """What the bucket may have at most now, beside what is held here."""
        rate = self.rate
        left = self.left + (now - self.left_at) * rate.per_second
        return min(rate.burst, left)

    def wait(self, cost: int, now: float) -> float:
        """Seconds for which ``cost`` is certain not to be there; 0 where the store must say."""
        over = cost - self.left_now(now)
        return over / self.rate.per_second if over > 0.0 else 0.0

    def next_extra(self, now: float) -> int:
        """How many units to hold beside those that are asked for now."""
        wanted = self.taken - self.held
        if now < self.until and not self.held:  # it was too little
            wanted = max(1, 2 * self.taken)
        return min(wanted, int(self.rate.per_second * LEASE_SECONDS))

    def answered(self, ask: Ask, granted: int, extra: int, left: float, sent: float) -> None:
        """The store has answered what was ``sent`` then: ``granted`` are for calls, ``extra`` to
        hold, ``left`` is what more there is.

        Calls get theirs in the order in which they came. One that has left meanwhile leaves its
        to those behind; what then fits nobody is lost.
        """
        self.held = self.taken = extra
        self.until = sent + HOLD_SECONDS
        self.left, self.left_at = left, sent
        for waiter in ask.waiting:
            if waiter.is_gone:
                continue
            if waiter.cost <= granted:
                granted -= waiter.cost
                waiter.granted()
            else:
                over = waiter.cost - left
                waiter.refused(over / self.rate.per_second if over > 0.0 else 0.0)
        while self.waiting and (self.waiting[0].is_gone or self.waiting[0].cost <= granted):
            waiter = self.waiting.popleft()
            if not waiter.is_gone:
                granted -= waiter.cost
                waiter.granted()

    def undecided(self, ask: Ask | None = None) -> None:
        """The store cannot be asked: the calls that wait are told. What is held is forgotten."""
        self.held = self.taken = 0
        self.left = inf
        waiting, self.waiting = self.waiting, deque()
        if ask is not None:
            ask.waiting.extend(waiting)
            waiting = ask.waiting
        for waiter in waiting:
            if not waiter.is_gone:
                waiter.undecided()

"""Which of a namespace's calls run now, which wait, and which are refused. No I/O, no clock.

Theory of operation. ``Admission`` counts the calls *inside*, and lets no more in than the limit.
A call that comes asks for a ``Ticket``: it is inside at once, or it is *queued*, or it is refused.
Who takes a call out (``leave``) then asks for the ``next`` ones, until there is none: one place
may become many, and a call that is let in may be over at once, so that is a loop of the caller's
and not a recursion in here.

**Order.** The earliest deadline goes first. A call that would wait until its deadline by an
estimate (the calls before it, and how long calls have stayed lately) is refused at once; one whose
deadline passes in the queue is taken out as one that never ran.

**Shares.** With fair shares each principal's calls are a ``_Share`` of their own, and a free place
goes to the one with the fewest calls inside; without, all are one. A full queue takes a call in
of a principal that has less than others, by taking out the last one of that which has most.
Without a queue nobody waits, so that a principal with many calls would find each free place before
others do: one that is refused while it has less than its share (the limit, divided by who is here)
has a *claim* to places. As many as are claimed are kept free from those that have their share, for
``CLAIM_SECONDS`` after they were last made use of.

Every waiting ticket is in exactly one list, of its share, by deadline. ``_ready`` is a heap of
shares by (calls inside, deadline of the first that waits). Entries that are not true any more are
passed over: whatever changes one of the two puts in another entry.
"""

from bisect import bisect_left, insort
from collections import Counter
from heapq import heapify, heappop, heappush
from typing import Protocol

from prism.calls.gradient import Gradient
from prism.contract.errors import CallError, QueueTooLong, TooManyInFlight

CLAIM_SECONDS = 2.0
"""Longer than clients wait that come again after the ``Retry-After`` of a refusal, one second."""
SERVICE_MEMORY = 32
"""Calls that the estimate of how long one stays inside is made of, about."""
STALE_ENTRIES = 64
"""Entries of the heap beyond twice the queue at which it is made anew."""

WAITING = "waiting"
INSIDE = "inside"
GONE = "gone"


class Caller(Protocol):
    """A call, as far as it matters here."""

    def proceed(self) -> None:
        """It is inside: go on."""

    def end(self, error: CallError) -> None:
        """It is refused."""


class Ticket:
    """One call here. ``state`` is WAITING, INSIDE or GONE, ``since`` when that began; ``most`` the
    calls inside when it came in, itself included."""

    __slots__ = ("call", "deadline", "most", "namespace", "number", "share", "since", "state")

    def __init__(
        self,
        call: Caller,
        deadline: float,
        number: int,
        share: "_Share",
        now: float,
        namespace: str,
    ) -> None:
        self.call = call
        self.deadline = deadline
        self.number = number
        self.share = share
        self.since = now
        self.namespace = namespace
        self.most = 0
        self.state = WAITING

    def cancel(self) -> None:
        """From the call, which has ended. Its policies were left, so that it is out already."""

    def too_late(self) -> CallError:
        """What the call ends with whose deadline has passed in the queue."""
        return QueueTooLong(
            f"the call waited in the queue of namespace {self.namespace!r} until its deadline; "
            "it never ran"
        )


_Waiting = tuple[float, int, Ticket]
"""A ticket by its deadline and number, both negative: who comes first is the last of a list."""


class _Share:
    """One principal's calls: the number ``inside``, and those ``waiting``.

    ``wanted``: the calls inside that it has a claim to be able to have, until ``due``; ``peak``:
    the most that it had meanwhile.
    """

    __slots__ = ("due", "inside", "name", "peak", "waiting", "wanted")

    def __init__(self, name: str) -> None:
        self.name = name
        self.inside = 0
        self.waiting: list[_Waiting] = []
        self.wanted = 0
        self.peak = 0
        self.due = 0.0

    @property
    def claim(self) -> int:
        """Places that are to be kept for it."""
        return max(0, self.wanted - self.inside)


class Admission:
    """The calls of ``namespace``; ``inside`` of them were let in before there was this.

    Public counts: ``inside``, ``queued``; ``refused`` by cause (``in_flight``, ``queue_full``,
    ``too_long``, ``fair_share``, ``displaced``), ``dequeued`` by what became of those that were
    queued (``admitted``, ``expired``, ``left``, ``displaced``), ``queue_seconds`` of all of these.
    ``service`` is how many seconds calls have stayed inside lately, None while that is unknown.
    """

    def __init__(self, namespace: str, inside: int = 0) -> None:
        self.namespace = namespace
        self.inside = inside
        self.queued = 0
        self.refused: Counter[str] = Counter()
        self.dequeued: Counter[str] = Counter()
        self.queue_seconds = 0.0
        self.service: float | None = None
        self.gradient: Gradient | None = None
        self.max_queued = 0
        self.fair = False
        self._max_inside = 0
        self._number = 0
        self._shares: dict[str, _Share] = {}
        # The last that was forgotten: where calls come one by one, each would make it anew.
        self._idle: _Share | None = None
        self._waiting_shares = 0
        self._ready: list[tuple[int, float, int, _Share]] = []
        self._claimants: dict[str, _Share] = {}  # by when their claims are due
        self._claims = 0

    def configure(
        self, max_inside: int, max_queued: int, *, fair: bool, adaptive: tuple[int, int] | None
    ) -> None:
        """Other limits; ``adaptive`` is the least and the greatest one. Nobody is put out; ask for
        the ``next`` afterwards."""
        self._max_inside = max_inside
        self.max_queued = max_queued
        self.fair = fair
        if adaptive is None:
            self.gradient = None
        elif self.gradient is None:
            self.gradient = Gradient(*adaptive)
        else:
            self.gradient.configure(*adaptive)
        if max_queued or not fair:
            for share in list(self._claimants.values()):
                self._set_wanted(share, 0)

    @property
    def limit(self) -> int:
        """Calls that may be inside now."""
        gradient = self.gradient
        return self._max_inside if gradient is None else min(self._max_inside, gradient.limit)

    @property
    def principals(self) -> int:
        """Those that the places are shared between; 1 at most without fair shares."""
        return len(self._shares)

    # -- coming in -------------------------------------------------------------

    def check(self, principal: str, deadline: float, now: float) -> None:
        """See that a call would not be refused, without letting it in.

        Raises:
            TooManyInFlight, QueueTooLong: it would be.
        """
        self._judge(principal if self.fair else "", deadline, now)

    def ask(
        self, call: Caller, principal: str, deadline: float, now: float
    ) -> tuple[Ticket, Ticket | None]:
        """The call's ticket, inside or waiting, and the one that lost its place in the queue for
        it, whose call is to be ended.

        Raises:
            TooManyInFlight: there are as many inside as may be, and in the queue.
            QueueTooLong: its deadline would pass in the queue.
        """
        name = principal if self.fair else ""
        is_free, victim = self._judge(name, deadline, now)
        displaced = None if victim is None else self._displace(victim, now)
        share = self._shares.get(name)
        if share is None:
            share, self._idle = self._idle, None
            if share is None or share.name != name:
                share = _Share(name)
            self._shares[name] = share
        self._number += 1
        ticket = Ticket(call, deadline, self._number, share, now, self.namespace)
        if is_free:
            self._let_in(ticket)
        else:
            if not share.waiting:
                self._waiting_shares += 1
            insort(share.waiting, (-deadline, -ticket.number, ticket))
            self.queued += 1
            if share.waiting[-1][2] is ticket:
                self._list(share)
        return ticket, displaced

    def _judge(self, name: str, deadline: float, now: float) -> tuple[bool, "_Share | None"]:
        """Is there a place, and if not, who must give one up in the queue? Raises the refusal."""
        limit = self.limit
        if self.inside < limit and not self.queued:
            if self._claims:
                self._expire_claims(now)
            if self._claims and self._is_kept(self._shares.get(name), limit):
                raise self._too_many("fair_share", limit)
            return True, None
        if not self.max_queued:
            if self.fair:
                self._make_claim(name, limit, now)
            raise self._too_many("in_flight", limit)
        share = self._shares.get(name)
        victim = None
        if self.queued >= self.max_queued:
            victim = self._victim(share, limit)
            if victim is None:
                raise self._too_many("queue_full", limit)
        wait = self.estimate(share, deadline)
        if now + wait >= deadline:
            self.refused["too_long"] += 1
            raise QueueTooLong(
                f"namespace {self.namespace!r} has {self.inside} calls in flight and {self.queued} "
                f"in its queue; the call would wait for some {wait:.3g} s, and may take "
                f"{max(0.0, deadline - now):.3g} s",
                wait,
            )
        return False, victim

    def estimate(self, share: "_Share | None", deadline: float) -> float:
        """Seconds until a call of ``share`` would be let in, as things go. Rather too few where
        that cannot be said: who waits in vain can still be taken out later."""
        if self.service is None:
            return 0.0
        before = 0
        if share is not None and share.waiting:
            # Those with an earlier deadline, or the same: it is the last of these.
            before = len(share.waiting) - bisect_left(share.waiting, -deadline, key=_deadline_of)
        limit = max(1, self.limit)
        if self.fair and self._waiting_shares:
            # They take turns, but for those who have less than the others: these catch up.
            here = len(self._shares) + (share is None)
            inside = 0 if share is None else share.inside
            if inside + before >= limit // here:
                others = self._waiting_shares - (share is not None and bool(share.waiting))
                before = min(self.queued, before + (before + 1) * others)
        above = max(0, self.inside - limit)
        return (before + 1 + above) * self.service / limit

    def _too_many(self, cause: str, limit: int) -> TooManyInFlight:
        self.refused[cause] += 1
        error = TooManyInFlight(self.namespace, limit, self.queued, cause)
        if self.service is not None and self.max_queued:
            error.retry_after = (self.queued + 1) * self.service / max(1, limit)
        return error

    def _let_in(self, ticket: Ticket) -> None:
        share = ticket.share
        claim = share.claim
        self.inside += 1
        share.inside += 1
        ticket.state = INSIDE
        ticket.most = self.inside
        if share.wanted:
            share.peak = max(share.peak, share.inside)
            self._claims += share.claim - claim

    # -- going out -------------------------------------------------------------

    def leave(self, ticket: Ticket, now: float) -> None:
        """The call of ``ticket`` has ended, wherever it is. Ask for the ``next`` afterwards."""
        share = ticket.share
        if ticket.state == GONE:
            return
        if ticket.state == WAITING:
            share.waiting.pop(
                bisect_left(share.waiting, (-ticket.deadline, -ticket.number, ticket))
            )
            self._taken_out(ticket, now, "expired" if ticket.deadline <= now else "left")
            if share.waiting:
                self._list(share)
        else:
            seconds = now - ticket.since
            if self.service is None:
                self.service = seconds
            else:
                self.service += (seconds - self.service) / SERVICE_MEMORY
            claim = share.claim
            self.inside -= 1
            share.inside -= 1
            if share.wanted:
                self._claims += share.claim - claim
            if share.waiting:
                self._list(share)
        ticket.state = GONE
        self._forget(share)

    def leave_unknown(self) -> None:
        """One of those has ended that were let in before there was this."""
        self.inside -= 1

    def next(self, now: float) -> Ticket | None:
        """The next ticket of the queue: inside now, or GONE if its deadline has passed, so that its
        call is to be ended. None if nobody waits, or there is no place."""
        while self.queued and self.inside < self.limit:
            inside, _, number, share = heappop(self._ready)
            if not share.waiting or share.inside != inside:
                continue
            ticket = share.waiting[-1][2]
            if ticket.number != number:
                continue
            share.waiting.pop()
            if ticket.deadline <= now:
                self._taken_out(ticket, now, "expired")
                self._forget(share)
            else:
                self._taken_out(ticket, now, "admitted")
                ticket.since = now
                self._let_in(ticket)
            if share.waiting:
                self._list(share)
            return ticket
        return None

    def _taken_out(self, ticket: Ticket, now: float, outcome: str) -> None:
        ticket.state = GONE
        self.queued -= 1
        if not ticket.share.waiting:
            self._waiting_shares -= 1
        self.dequeued[outcome] += 1
        self.queue_seconds += max(0.0, now - ticket.since)

    def _list(self, share: _Share) -> None:
        """Put ``share``, in which some wait, into the heap as it is now."""
        ticket = share.waiting[-1][2]
        if len(self._ready) > 2 * self.queued + STALE_ENTRIES:
            self._ready = [
                (each.inside, each.waiting[-1][2].deadline, each.waiting[-1][2].number, each)
                for each in self._shares.values()
                if each.waiting
            ]
            heapify(self._ready)
        else:
            heappush(self._ready, (share.inside, ticket.deadline, ticket.number, share))

    def _forget(self, share: _Share) -> None:
        if not share.inside and not share.waiting and not share.wanted:
            del self._shares[share.name]
            self._idle = share

    # -- shares ----------------------------------------------------------------

    def _victim(self, share: "_Share | None", limit: int) -> "_Share | None":
        """Who has so much more than ``share``, inside and waiting, that one of its waiting calls
        should give way; None if nobody has."""
        if not self.fair:
            return None
        own = 0 if share is None else share.inside + len(share.waiting)
        here = len(self._shares) + (share is None)
        if own >= (limit + self.queued) // here:
            return None  # nobody needs to be looked for
        most, found = own + 1, None
        for each in self._shares.values():
            if each.waiting and each.inside + len(each.waiting) > most:
                most, found = each.inside + len(each.waiting), each
        return found

    def _displace(self, share: _Share, now: float) -> Ticket:
        """Take the last one of ``share`` out of the queue."""
        ticket = share.waiting.pop(0)[2]
        self._taken_out(ticket, now, "displaced")
        self.refused["displaced"] += 1
        self._forget(share)
        return ticket

    def _fair_share(self, share: "_Share | None", limit: int) -> int:
        return max(1, limit // (len(self._shares) + (share is None)))

    def _is_kept(self, share: "_Share | None", limit: int) -> bool:
        """Are all free places kept for others than ``share``?"""
        inside, claim = (0, 0) if share is None else (share.inside, share.claim)
        if inside < self._fair_share(share, limit):
            return False
        return limit - self.inside <= self._claims - claim

    def _make_claim(self, name: str, limit: int, now: float) -> None:
        """A call is refused for want of a place: if that is less than its share, it has a claim."""
        self._expire_claims(now)
        share = self._shares.get(name)  # only now: that may have been forgotten with its claim
        most = self._fair_share(share, limit)
        if (0 if share is None else share.inside) >= most:
            return
        if share is None:
            if len(self._claimants) >= limit:
                return
            share = self._shares[name] = _Share(name)
        share.due = now + CLAIM_SECONDS
        share.peak = max(share.peak, share.inside)
        self._set_wanted(share, min(most, max(share.wanted, share.inside) + 1))

    def _expire_claims(self, now: float) -> None:
        """Claims are to as much as was made use of since they were made, or asked for. Who has
        nothing else is forgotten with one: no ``_Share`` is to be kept across this."""
        while self._claimants:
            share = next(iter(self._claimants.values()))
            if share.due > now:
                return
            share.due = now + CLAIM_SECONDS
            peak, share.peak = share.peak, share.inside
            self._set_wanted(share, peak)

    def _set_wanted(self, share: _Share, wanted: int) -> None:
        claim = share.claim
        share.wanted = wanted
        self._claims += share.claim - claim
        self._claimants.pop(share.name, None)
        if wanted:
            self._claimants[share.name] = share
        else:
            share.peak = 0
            self._forget(share)


def _deadline_of(waiting: _Waiting) -> float:
    return waiting[0]

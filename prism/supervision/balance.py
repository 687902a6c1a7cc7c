"""Which of a namespace's replicas gets the next call. No I/O: the clock and the dice are given.

Theory of operation. Of two replicas drawn at random, the one with fewer calls in flight gets the
call: that finds the ones that are slow or hang, and unlike "the least loaded of all" it sends no
herd to one that has just come. What it does not see is a replica that answers fast because it
fails: it looks idle, and would attract calls. So outcomes are watched, and a replica that is far
worse than the others is *ejected* for a while: it keeps its connection and its calls, and gets
no new ones. A bound holds at every moment, not only when one is ejected: of those that are present
at least one stays, and no more than a share is out; as others go away, the ejected come back.

What fails everywhere is not the replica's fault, but that of what is behind it: nobody is ejected
who has nobody better beside it. Time out grows with each ejection, and what was good service for
as long is forgiven.

A replica that is new, or back, gets a share that grows (*slow start*): its caches are cold. The
shares are relative: where all are new, none is.

Where zones are known, calls stay in the proxy's own while enough of its replicas are there
(``ENOUGH``); with fewer, a part of the calls that grows with what is missing goes to the others.
"""

import math
import random
from collections.abc import Callable, Iterator
from typing import Literal

from prism.config.plugin_types import BalanceConfig
from prism.contract.status import StatusCode
from prism.supervision.canary import PLUGIN_AT_FAULT
from prism.supervision.instance import Instance

HALF_WINDOW = 5.0
"""Seconds; errors are judged over the present half window and the one before."""
MIN_CALLS = 20
"""Calls in the window before a rate of errors means anything."""
SHORTEST = 0.1
"""Seconds that an instance must have had for a missed deadline to count, here and for its circuit
breaker: else a client with deadlines of a millisecond could have it shut out for everybody."""
LEAST_WEIGHT = 0.1
"""The share, relative to a full one, that slow start begins with."""
ENOUGH = 1 / 1.4
"""Of the replicas in the proxy's zone: as long as so many are there, no call leaves it."""

# On every call's way: on Python 3.11 an enum's attribute costs a call.
_OK, _CANCELLED = StatusCode.OK, StatusCode.CANCELLED
_DEADLINE_EXCEEDED = StatusCode.DEADLINE_EXCEEDED

Happening = Literal["ejected", "returned"]
OnEvent = Callable[["Replica", Happening, str], None]
"""Called with what became of a replica, and why, in words."""


def ignore(_replica: "Replica", _what: Happening, _why: str) -> None:
    """Tell nobody."""


class Replica:
    """One replica as the balance sees it.

    ``instance`` is None while it has none. Times are on the balance's clock: ``since`` is when it
    came, or came back, and its slow start began, ``ejected_until`` is 0 while it is not ejected.
    ``ejections`` counts all, ``level`` those that are not forgiven, ``failures`` failed calls in a
    row.
    """

    def __init__(self, balance: "Balance", name: str, zone: str = "") -> None:
        self.name = name
        self.zone = zone
        self.instance: Instance | None = None
        self.since = -math.inf
        self.ejected_until = 0.0
        self.ejections = 0
        self.level = 0
        self.failures = 0
        self.last_ejection = 0.0
        self._balance = balance
        self._window = -math.inf
        self._calls = self._errors = self._calls_before = self._errors_before = 0

    def take(self, seconds: float, status: StatusCode) -> None:
        """A call to its instance ended with ``status``."""
        balance = self._balance
        now = balance.now()
        self._turn(now)
        if status is _OK:
            self._calls += 1
            self.failures = 0
            return
        if status is _DEADLINE_EXCEEDED and seconds < SHORTEST:
            return
        if status not in PLUGIN_AT_FAULT:
            # Cancelled by its client, it says neither this nor that.
            if status is not _CANCELLED:
                self._calls += 1
                self.failures = 0
            return
        self._calls += 1
        self._errors += 1
        self.failures += 1
        balance.judge(self, now)

    def counts(self, now: float) -> tuple[int, int]:
        """The calls, and the failed ones among them, of the window."""
        self._turn(now)
        return self._calls + self._calls_before, self._errors + self._errors_before

    def forget(self) -> None:
        """Its calls so far say nothing about those to come."""
        self.failures = 0
        self._window = -math.inf
        self._calls = self._errors = self._calls_before = self._errors_before = 0

    def _turn(self, now: float) -> None:
        if now < self._window + HALF_WINDOW:
            return
        is_next = now < self._window + 2 * HALF_WINDOW
        self._calls_before = self._calls if is_next else 0
        self._errors_before = self._errors if is_next else 0
        self._calls = self._errors = 0
        self._window = now


class Balance:
    """Chooses among replicas. ``zone`` is the proxy's own; ``now`` gives seconds of a clock that
    only goes forward, ``rand`` numbers from 0 to below 1."""

    def __init__(
        self,
        config: BalanceConfig,
        zone: str,
        now: Callable[[], float],
        rand: Callable[[], float] = random.random,
        on_event: OnEvent = ignore,
    ) -> None:
        self.config = config
        self.zone = zone
        self.now = now
        self.replicas: dict[str, Replica] = {}
        self._rand = rand
        self._on_event = on_event
        self._near: list[Replica] = []
        self._far: list[Replica] = []
        self._spill = 0.0
        self._ramping = False
        self._due = math.inf

    # -- who is there -------------------------------------------------------------------

    def configure(self, config: BalanceConfig) -> None:
        """Use other settings; what is known of the replicas stays."""
        self.config = config
        self._arrange(self.now())

    def add(self, name: str, zone: str = "") -> Replica:
        """A replica that has no instance yet."""
        replica = self.replicas[name] = Replica(self, name, zone)
        self._arrange(self.now())
        return replica

    def remove(self, replica: Replica) -> None:
        """It gets no more calls."""
        if self.replicas.get(replica.name) is replica:
            del self.replicas[replica.name]
            self._arrange(self.now())

    def fill(self, replica: Replica, instance: Instance) -> None:
        """``instance`` serves as ``replica`` from now on, and is as good as any."""
        now = self.now()
        if replica.instance is not None:
            replica.instance.replica = None
        replica.instance = instance
        instance.replica = replica
        replica.since = now
        replica.forget()
        if replica.ejected_until:
            self._let_back(replica, now, "it has a new instance")
        self._arrange(now)

    def clear(self, replica: Replica) -> None:
        """It has no instance any more; how the calls end that it has, is not its doing."""
        if replica.instance is not None:
            replica.instance.replica = None
        replica.instance = None
        replica.ejected_until = 0.0
        self._arrange(self.now())

    # -- which one ----------------------------------------------------------------------

    def choose(self, avoid: Instance | None = None) -> Instance | None:
        """The instance for the next call: another than ``avoid``, if there is one that takes it.

        None: no replica has an instance.
        """
        if self._due < math.inf:
            now = self.now()
            if now >= self._due:
                self._arrange(now)
        pool = self._near
        if self._spill and self._rand() < self._spill:
            pool = self._far
        number = len(pool)
        if number == 0:
            return None
        if number == 1:
            chosen = pool[0]
        elif self._ramping:
            chosen = self._draw_weighted(pool)
        else:
            # The first of the two is any, the second any other.
            one = int(self._rand() * number)
            other = int(self._rand() * (number - 1))
            chosen, second = pool[one], pool[other + 1 if other >= one else other]
            if _leases(second) < _leases(chosen):
                chosen = second
        instance = chosen.instance
        if (
            instance is None
            or instance is avoid
            or not instance.takes_calls
            or (instance.breaker is not None and instance.is_open(self.now()))
        ):
            return self._best(avoid)
        return instance

    def _draw_weighted(self, pool: list[Replica]) -> Replica:
        """As without weights, but a replica is drawn by its weight. Not weighed are the calls in
        flight: where several are new at a time, the old ones must not get all the rest."""
        now = self.now()
        weights = [self._ramp(replica, now) for replica in pool]
        one = self._draw(weights)
        weights[one] = 0.0
        chosen, second = pool[one], pool[self._draw(weights)]
        return second if _leases(second) < _leases(chosen) else chosen

    def _draw(self, weights: list[float]) -> int:
        left = self._rand() * sum(weights)
        last = 0
        for number, weight in enumerate(weights):
            if weight > 0:
                last = number
                left -= weight
                if left < 0:
                    break
        return last

    def _best(self, avoid: Instance | None) -> Instance | None:
        """The one that there is least against: for when the dice have brought one to avoid."""
        now = self.now()
        best: Instance | None = None
        least: tuple[bool, bool, bool, bool, bool, int] | None = None
        for replica in self.replicas.values():
            instance = replica.instance
            if instance is None:
                continue
            against = (
                not instance.takes_calls,
                instance.is_open(now),  # it would refuse the call, which the one to avoid may not
                instance is avoid,
                replica.ejected_until > 0,
                replica not in self._near,
                instance.leases,
            )
            if least is None or against < least:
                best, least = instance, against
        return best

    # -- what is against one --------------------------------------------------------------

    def judge(self, replica: Replica, now: float) -> None:
        """A call to ``replica`` has failed: eject it, if that is the case and may be."""
        if replica.ejected_until or replica.instance is None:
            return
        others = [
            other for other in self._present() if other is not replica and not other.ejected_until
        ]
        reason = self._why_worse(replica, others, now)
        if reason and len(others) and self._ejected() < self._allowed():
            self._eject(replica, now, reason)

    def _why_worse(self, replica: Replica, others: list[Replica], now: float) -> str:
        config = self.config
        in_a_row = config.eject_after_failures
        # What fails everywhere would not be better elsewhere: somebody has to do well.
        does_well = any(not other.failures for other in others)
        if in_a_row and replica.failures >= in_a_row and does_well:
            return f"{replica.failures} calls in a row have failed"
        calls, errors = replica.counts(now)
        if not config.eject_error_rate or calls < MIN_CALLS:
            return ""
        counts = [other.counts(now) for other in others]
        all_calls, all_errors = sum(c for c, _ in counts), sum(e for _, e in counts)
        theirs = all_errors / all_calls if all_calls else 0.0
        rate = errors / calls
        if rate - theirs > config.eject_error_rate:
            return f"{rate:.0%} of {calls} calls have failed (of the others': {theirs:.0%})"
        return ""

    def _eject(self, replica: Replica, now: float, reason: str) -> None:
        config = self.config
        if replica.last_ejection:  # service for as long as the last one took forgives one
            good = now - replica.since
            replica.level = max(0, replica.level - int(good / replica.last_ejection))
        seconds = min(
            config.ejection_seconds * 2.0 ** min(replica.level, 30), config.max_ejection_seconds
        )
        replica.level += 1
        replica.ejections += 1
        replica.last_ejection = seconds
        replica.ejected_until = now + seconds
        self._arrange(now)
        self._on_event(replica, "ejected", f"for {seconds:g} s: {reason}")

    def _let_back(self, replica: Replica, now: float, reason: str) -> None:
        replica.ejected_until = 0.0
        replica.since = now
        replica.forget()
        self._on_event(replica, "returned", reason)

    def _present(self) -> list[Replica]:
        return [replica for replica in self.replicas.values() if replica.instance is not None]

    def _ejected(self) -> int:
        return sum(replica.ejected_until > 0 for replica in self._present())

    def _allowed(self) -> int:
        """How many of those present may be out: one of two, where any; never the last."""
        present = len(self._present())
        share = self.config.max_ejected
        if not share:
            return 0
        return min(max(1, int(share * present)), max(0, present - 1))

    # -- what follows from it -------------------------------------------------------------

    def _arrange(self, now: float) -> None:
        """Who gets calls from now on, and until when that holds."""
        present = self._present()
        out = sorted(
            (replica for replica in present if replica.ejected_until),
            key=lambda replica: replica.ejected_until,
        )
        while out and (out[0].ejected_until <= now or len(out) > self._allowed()):
            is_due = out[0].ejected_until <= now
            self._let_back(out.pop(0), now, "its time is up" if is_due else "too few are left")
        good = [replica for replica in present if not replica.ejected_until]
        near = [replica for replica in good if replica.zone == self.zone] if self.zone else []
        self._near, self._far, self._spill = near or good, [], 0.0
        if near and len(near) < len(good):
            here = sum(replica.zone == self.zone for replica in self.replicas.values())
            share = min(1.0, len(near) / here / ENOUGH)
            if share < 1:
                self._far = [replica for replica in good if replica.zone != self.zone]
                self._spill = 1 - share
        ends = [replica.since + self.config.slow_start_seconds for replica in good]
        to_come = [end for end in ends if end > now]
        self._ramping = bool(to_come)
        self._due = min([*to_come, *(replica.ejected_until for replica in out)], default=math.inf)

    def _ramp(self, replica: Replica, now: float) -> float:
        """What slow start leaves of a full share: ``LEAST_WEIGHT`` to 1."""
        window = self.config.slow_start_seconds
        return min(1.0, max(LEAST_WEIGHT, (now - replica.since) / window)) if window else 1.0

    def shares(self) -> Iterator[tuple[Replica, float]]:
        """Each replica, and the share of the calls (0 to 1) that it gets while all are idle."""
        now = self.now()
        if now >= self._due:
            self._arrange(now)
        weights: dict[str, float] = {}
        for pool, part in ((self._near, 1 - self._spill), (self._far, self._spill)):
            ramps = [self._ramp(replica, now) for replica in pool]
            for replica, ramp in zip(pool, ramps, strict=True):
                weights[replica.name] = part * ramp / sum(ramps)
        for name, replica in self.replicas.items():
            yield replica, weights.get(name, 0.0)


def _leases(replica: Replica) -> int:
    instance = replica.instance
    return 0 if instance is None else instance.leases

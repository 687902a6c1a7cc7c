"""Who is refused all the time is told so a little later each time.

A refusal is cheap for who gets it: a client that asks again at once, from many calls at a time,
has the proxy's one core refuse calls, while everybody else waits for it. What a client has that
waits for its answers is a number of calls in flight; so it comes the more slowly the longer these
take. Kafka delays the answers of a client that is over its quota, and HAProxy has its tarpit, for
the same reason.

Theory of operation. Each namespace may have ``per_second`` refusals told in a second, and a tenth
of that at once (``limits.gcra``); these are told at once, so that nobody notices any of this whose
calls are refused now and then. What is beyond is *late*: as late as that rate has it, by ``LATEST``
at most, and never later than its deadline. What the call held is let go before, and nothing that
could still be admitted waits here: it is decided, and only its answer is to come. Late refusals are
told in groups, at ticks of the clock, so that those of one connection leave together, and what
comes of them comes together.

Not late is who must not wait: a call with a large body on its way (its client could stop sending),
one that was ever with a plugin, and all of them while the proxy stops. Nor what there is no room
for: ``MOST_LATE`` in all, and of a connection seven of eight requests that it may have at a
time, so that its other calls find a place.
"""

from collections.abc import Iterable
from math import ceil, inf
from typing import TYPE_CHECKING

from prism.calls.deadlines import Alarm, Alarms
from prism.calls.memory import ConnectionMemory
from prism.limits.gcra import Bucket, Rate, Recent
from prism.streams.outlet import turn_time

if TYPE_CHECKING:
    from prism.calls.call import Call

LATEST = 1.0
"""Seconds. What ``Retry-After`` asks for at least, so that a client that heeds it loses nothing."""
TICK = 0.02
"""Seconds between two groups: at the default rate, twenty refusals, which take less than a
millisecond."""
MOST_LATE = 4096
"""Refusals that are late at a time: some kilobytes each."""
ALL_NAMESPACES = 2.0
"""Times the rate of one: at which the late refusals of all namespaces together are told."""
NOBODY = ""
"""Whose refusals those are that name no namespace that there is, or nobody who may call."""


class Refusals(Alarm):
    """When refusals are told: ``per_second`` of a namespace, or all at once (None).

    ``held`` of them are late now, ``late`` were so far.
    """

    __slots__ = (
        "_alarms",
        "_all",
        "_buckets",
        "_groups",
        "_rate",
        "_stopped",
        "_total",
        "held",
        "late",
    )

    def __init__(self, alarms: Alarms, per_second: float | None) -> None:
        super().__init__(inf)
        self._alarms = alarms
        rate = per_second or inf
        self._rate = Rate(rate, max(1.0, rate / 10))
        self._total = Rate(rate * ALL_NAMESPACES, max(1.0, rate / 10))
        self._buckets: Recent[Bucket] = Recent(LATEST + 1.0)
        self._all = Bucket(0.0)
        # By the tick at which they are told.
        self._groups: dict[int, list[tuple[Call, ConnectionMemory | None]]] = {}
        self._stopped = per_second is None
        self.held = 0
        self.late = 0

    def hold(self, call: "Call", memory: ConnectionMemory | None) -> bool:
        """Is ``call``, which has ended, told so later? ``memory`` is its connection's."""
        if self._stopped:
            return False
        now = turn_time()
        name = NOBODY if call.target is None else call.namespace
        bucket = self._buckets.get(name, now)
        if bucket is None:
            bucket = Bucket(now)
            self._buckets.put(name, bucket)
        wait = _take(bucket, self._rate, now)
        if not wait:
            return False
        wait = min(max(wait, _take(self._all, self._total, now)), LATEST)
        tick = ceil((now + wait) / TICK)
        if tick * TICK >= (call.deadline or inf) or self.held >= MOST_LATE:
            return False
        if memory is not None:
            if memory.late >= memory.most_late:
                return False
            memory.late += 1
        group = self._groups.get(tick)
        if group is None:
            self._groups[tick] = [(call, memory)]
            self._set()
        else:
            group.append((call, memory))
        self.held += 1
        self.late += 1
        return True

    def ring(self) -> None:
        """Tell those whose time has come."""
        now = turn_time()
        due = [tick for tick in self._groups if tick * TICK <= now]
        self._tell(due)
        self._set()

    def stop(self) -> None:
        """The proxy stops: tell all of them now, and each that follows at once."""
        self._stopped = True
        self._alarms.forget(self)
        self._tell(list(self._groups))

    def _set(self) -> None:
        if self._groups:
            self.due = min(self._groups) * TICK
            self._alarms.add(self)

    def _tell(self, ticks: Iterable[int]) -> None:
        for tick in ticks:
            for call, memory in self._groups.pop(tick):
                self.held -= 1
                if memory is not None:
                    memory.late -= 1
                call.tell_refusal()  # or it was told before, as its client has left


def _take(bucket: Bucket, rate: Rate, now: float) -> float:
    """Seconds until ``rate`` allows one more; it is used in any case, up to what ``LATEST`` lets
    come back: a flood must not be felt for longer than that."""
    wait = bucket.wait(rate, 1.0, now)
    bucket.use(rate, 1.0, now)
    most = rate.burst + rate.per_second * LATEST
    if bucket.level > most:
        bucket.level = most
    return wait

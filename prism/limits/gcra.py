"""How much of a rate is used: the generic cell rate algorithm, as plain values.

Theory of operation. A bucket has a *level*, which every call raises by its cost and which falls
by ``per_second`` each second, never below 0. A call passes if the level stays within ``burst``.
That is GCRA in its second form, the leaky bucket as a meter (ITU-T I.371, annex A, has both and
shows them to be equal). The first, one theoretical arrival time instead of a level and a time,
would be a number less; but a level is in units of calls: it stays right when the rate changes,
and whole costs add up without rounding, so that the last call of a burst is not lost to it.

Why it holds: in any window of t seconds the level falls by at most ``per_second * t`` and ends at
``burst`` at most, so what raised it within the window is at most ``per_second * t + burst``. There
is no edge of a window at which twice as much could pass, as with counters for each minute.

Times are seconds of a clock that never jumps.
"""

from typing import Generic, TypeVar

V = TypeVar("V")

MAX_KEYS = 20_000
"""Keys of one limit that are known at a time: some megabytes."""
CROWDS = 256
"""Buckets for all others, while there are as many: each has some strangers in it."""


class Rate:
    """``per_second`` come back each second, and ``burst`` can be used at once."""

    __slots__ = ("burst", "per_second")

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second = per_second
        self.burst = burst

    @property
    def refill_seconds(self) -> float:
        """After this time a full bucket is empty: as if it had never been there."""
        return self.burst / self.per_second


class Bucket:
    """What is used of a rate: ``level``, as it was ``at`` that time."""

    __slots__ = ("at", "level")

    def __init__(self, at: float) -> None:
        self.at = at
        self.level = 0.0

    def level_at(self, rate: Rate, now: float) -> float:
        """The level now. A ``now`` before the last one counts as that."""
        passed = now - self.at
        if passed <= 0.0:
            return self.level
        level = self.level - passed * rate.per_second
        return max(0.0, level)

    def wait(self, rate: Rate, cost: float, now: float) -> float:
        """Seconds until ``cost`` fits, 0 if it fits now. Changes nothing."""
        over = self.level_at(rate, now) + cost - rate.burst
        return over / rate.per_second if over > 0.0 else 0.0

    def take(self, rate: Rate, cost: float, now: float) -> float:
        """Use ``cost`` if it fits, and return 0; else the seconds until it does."""
        level = self.level_at(rate, now) + cost
        over = level - rate.burst
        if over > 0.0:
            return over / rate.per_second
        self.level = level
        if now > self.at:
            self.at = now
        return 0.0

    def use(self, rate: Rate, cost: float, now: float) -> None:
        """Use ``cost``, whether it fits or not."""
        self.level = self.level_at(rate, now) + cost
        if now > self.at:
            self.at = now


class Recent(Generic[V]):
    """What is known of each key, as long as it may matter: for ``keep`` seconds after its use.

    Two tables: what is used moves into the first; once in ``keep`` seconds the second is dropped,
    and the first becomes the second. So forgetting costs nothing by the key, and what is forgotten
    was not used for ``keep`` seconds at least.
    """

    __slots__ = ("_before", "_now", "_turns_at", "keep")

    def __init__(self, keep: float) -> None:
        self.keep = keep
        self._now: dict[str, V] = {}
        self._before: dict[str, V] = {}
        self._turns_at = 0.0

    def __len__(self) -> int:
        return len(self._now) + len(self._before)

    def get(self, key: str, now: float) -> V | None:
        """What is known of ``key``, which is used now."""
        if now >= self._turns_at:
            self._turn(now)
        found = self._now.get(key)
        if found is None and self._before:
            found = self._before.get(key)
            if found is not None:
                del self._before[key]
                self._now[key] = found
        return found

    def put(self, key: str, value: V) -> bool:
        """Know ``value`` of ``key``, which was not found. Returns whether there was room."""
        if len(self._now) + len(self._before) >= MAX_KEYS:
            return False
        self._now[key] = value
        return True

    def _turn(self, now: float) -> None:
        if now >= self._turns_at + self.keep:  # both have not been used for as long
            self._before = {}
        else:
            self._before = self._now
        self._now = {}
        self._turns_at = now + self.keep

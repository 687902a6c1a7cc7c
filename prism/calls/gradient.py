"""How many calls at a time do a plugin good: found from how long they take. No I/O, no clock.

Theory of operation. Calls that take longer the more of them run are waiting for each other, in the
plugin or its backend, and could as well wait (or be refused) here. So what calls take now is set
against their *baseline*, what they take while few run: per operation, since a mixture of slow and
fast ones says nothing by itself. Every ``WINDOW_CALLS`` calls, ``WINDOW_SECONDS`` at least, and
what a call takes, so that calls have met the limit that they tell of, the limit follows:

- up to ``TOLERANCE`` times the baseline it grows by its square root, if it is made use of;
- beyond that it shrinks in proportion, by a quarter a window at most, and grows by nothing. (A
  constant share for a queue, as in Gradient2, makes it creep upwards under a modest overload.)

A call is *calm* if no more than half of the limit ran when it began and when it ended. Only calm
calls teach the baseline, slowly and in both directions; those that ran into their deadline never
do, else a plugin that answers nothing in time would be taken for one that is as slow as that by
nature. A namespace that is not busy has calm calls all the time. Where there were none for
``PROBE_EVERY`` seconds, or the limit has shrunk since, or an operation is not known yet, there is
a *probe*: the limit is halved for a moment. It is not set to the minimum, as in Envoy, which
refuses most of what comes meanwhile: where calls wait in line for each other, a limit at which they
take ``TOLERANCE`` times their baseline is less than twice of what runs without waiting. At the
minimum all calls are calm, so that what has become slower by nature is learnt there.
"""

import random
from collections.abc import Callable
from math import sqrt

WINDOW_CALLS = 10
WINDOW_SECONDS = 0.1
TOLERANCE = 1.5
"""How many times the baseline calls may take."""
SMOOTHING = 0.5
"""The share of a shrinkage that one window brings about."""
MOST_SHRINKAGE = 0.5
"""To which part of itself the limit would shrink, of which a window brings about its share."""
FIRST = 20
"""The limit that a namespace begins with, within its bounds."""
CALM_CALLS = 5
"""Calm calls of an operation before it has a baseline."""
MEMORY = 16
"""Calm calls that a baseline is made of, about."""
PROBE_EVERY = 30.0
PROBE_CALLS = 10
"""Calm calls that end a probe."""
PROBE_SECONDS = 0.2
"""How long a probe lasts at least, if it comes to less; and ``PROBE_TIMES`` the calls' own time."""
PROBE_TIMES = 3.0
PROBE_SHARE = 0.1
"""The share of time that probes may have at most."""
PROBE_BELOW = 0.8
"""A limit that has become less than this share of what it was at the last probe is probed again."""
MOST_OPERATIONS = 256
"""Operations that are told apart; what a plugin offers beyond counts as one."""


class _Operation:
    """One operation's calls: ``baseline`` seconds from ``calm`` of them; this window's ``calls``,
    which took ``seconds``, ``late`` of these those that were not answered in time."""

    __slots__ = ("baseline", "calls", "calm", "late", "seconds")

    def __init__(self) -> None:
        self.baseline = 0.0
        self.calm = 0
        self.calls = 0
        self.seconds = 0.0
        self.late = 0.0


class Gradient:
    """A limit between ``minimum`` (at least 1) and ``maximum``, by the samples that it is told.

    ``jitter`` (0 to 1) keeps several proxies from probing one backend at the same time.
    """

    def __init__(
        self, minimum: int, maximum: int, jitter: Callable[[], float] = random.random
    ) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._jitter = jitter
        self._limit = float(min(max(FIRST, minimum), maximum))
        self._operations: dict[str, _Operation] = {}
        self._window_began: float | None = None
        self._calls = 0  # in this window
        self._took = 0.0  # by these
        self._most = 0  # at a time, in this window
        self._calm = 0  # since the last probe, or the last time that there was no need of one
        self._probe_due: float | None = None
        self._probe_ends: float | None = None
        self._probe_began = 0.0
        self._probed_at = self._limit
        self._pause_ends = 0.0  # before which no probe begins

    @property
    def limit(self) -> int:
        """Calls that may run now."""
        limit = int(self._limit)
        return limit if self._probe_ends is None else self._half(limit)

    @property
    def is_probing(self) -> bool:
        """Is the limit halved for a moment?"""
        return self._probe_ends is not None

    def configure(self, minimum: int, maximum: int) -> None:
        """Other bounds; what was learnt stays."""
        self._minimum = minimum
        self._maximum = maximum
        self._limit = min(max(self._limit, float(minimum)), float(maximum))

    def sample(
        self, operation: str, seconds: float, most: int, now: float, *, timed_out: bool = False
    ) -> None:
        """A call took the plugin ``seconds``. ``most``: the calls that ran when it began, or when
        it ended, whichever are more. ``timed_out``: it would have taken longer."""
        known = self._operations.get(operation)
        if known is None:
            if len(self._operations) >= MOST_OPERATIONS:
                operation = ""
            known = self._operations.setdefault(operation, _Operation())
        if most <= self._half(int(self._limit)) and not timed_out:
            known.calm += 1
            known.baseline += (seconds - known.baseline) / min(known.calm, MEMORY)
            self._calm += 1
        if self._probe_due is None:
            self._probe_due = self._next_probe(now)
        is_over = self._probe_ends is not None and now >= self._probe_ends
        if is_over or self._calm >= PROBE_CALLS:
            self._end_probe(now)
        if self._probe_ends is not None:
            return  # what is halved says nothing of the whole
        if self._window_began is None:
            self._window_began = now
        known.calls += 1
        known.seconds += seconds
        if timed_out:
            known.late += seconds
        self._calls += 1
        self._most = max(self._most, most)
        self._took += seconds
        lasts = now - self._window_began
        if (
            self._calls >= WINDOW_CALLS
            and lasts >= WINDOW_SECONDS
            and lasts * self._calls >= self._took  # at least what a call takes
        ):
            self._follow(now)

    def _half(self, limit: int) -> int:
        return max(self._minimum, limit // 2)

    def _next_probe(self, now: float) -> float:
        return now + PROBE_EVERY * (0.9 + 0.2 * self._jitter())

    def _end_probe(self, now: float) -> None:
        """There is a probe no more, or no need of one."""
        lasted = 0.0 if self._probe_ends is None else now - self._probe_began
        self._calm = 0
        self._probe_ends = None
        self._pause_ends = now + lasted / PROBE_SHARE
        self._probe_due = self._next_probe(now)

    def _follow(self, now: float) -> None:
        """A window is over: what its calls took, against what they should have taken."""
        took, expected, unknown = self._took, 0.0, 0.0
        for operation in self._operations.values():
            if operation.calm >= CALM_CALLS:
                expected += operation.calls * operation.baseline
            else:
                expected += operation.seconds - operation.late
                unknown += operation.seconds - operation.late
        was_used = self._most >= self._limit / 2
        mean = took / self._calls
        for operation in self._operations.values():
            operation.calls, operation.seconds, operation.late = 0, 0.0, 0.0
        self._window_began, self._calls, self._took, self._most = None, 0, 0.0, 0
        if not was_used:
            return
        if took <= TOLERANCE * expected:
            limit = self._limit
            if unknown <= took / 2:
                limit += sqrt(limit)
        else:
            shrinkage = max(MOST_SHRINKAGE, TOLERANCE * expected / took)
            limit = self._limit * (1 - SMOOTHING + SMOOTHING * shrinkage)
        self._limit = min(max(limit, float(self._minimum)), float(self._maximum))
        is_due = (
            unknown > took / 2
            or self._limit < PROBE_BELOW * self._probed_at
            or (self._probe_due is not None and now >= self._probe_due)
        )
        if is_due and now >= self._pause_ends and int(self._limit) > self._minimum:
            self._calm = 0
            self._probe_began = now
            self._probed_at = self._limit
            self._probe_ends = now + max(PROBE_SECONDS, PROBE_TIMES * mean)

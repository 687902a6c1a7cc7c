"""A circuit breaker: an instance that fails most of its calls gets none for a while.

Theory of operation. Sans-I/O: it is told of each call's begin and end, and of the time. While it
is CLOSED it counts how the calls end, in a window that slides; once enough of them failed, or
were slow, it is OPEN, and calls are refused. When that has lasted its time the next call is let
through as a *probe* (HALF_OPEN): one at a time, so that a backend that comes back is not met by all
its clients at once. Several good probes in a row close it; one bad probe opens it again, for
longer. Everything that decides what may follow what is in ``TRANSITIONS``.

A call knows with which *period* it began: the time from one transition to the next, or from one
probe to the next. What comes of it counts in that period alone: a call that was sent before the
breaker opened, and fails a minute later, says nothing of how the instance is now, and a probe that
was given up gives nobody the place of the one that is tried now.
"""

import random
from collections.abc import Callable
from enum import StrEnum, auto
from math import inf
from typing import Final

from prism.config.types import BreakerConfig
from prism.supervision.lifecycle import IllegalTransition

BUCKETS = 10
"""Parts of the window: it slides by a tenth of its length, and takes as much memory for one call
as for a million."""
GROWTH = 2.0
"""By how much longer it is open each time that it opens again."""
LONGEST = 12.0
"""... up to this many times ``open_seconds``: a minute, where that is 5."""
JITTER = 0.2
"""Share of the time by which that is longer or shorter, at random: several proxies before one
backend do not all try it at the same moment."""


class CircuitState(StrEnum):
    """Where a breaker stands."""

    CLOSED = auto()  # calls pass, and are counted
    OPEN = auto()  # calls are refused
    HALF_OPEN = auto()  # one call at a time passes, to see how it goes; all others are refused


class CircuitTrigger(StrEnum):
    """What moves a breaker on."""

    TRIPPED = auto()  # too many calls failed, or were slow
    DUE = auto()  # it was open for its time, and a call has come
    PROVEN = auto()  # enough probes in a row were good
    FAILED = auto()  # a probe was not
    RESET = auto()  # an operator has it begin anew


class Outcome(StrEnum):
    """What the end of a call says of the instance."""

    GOOD = auto()
    BAD = auto()
    NOTHING = auto()  # as the client left, or the call never began


_S = CircuitState
_T = CircuitTrigger

TRANSITIONS: Final[dict[CircuitState, dict[CircuitTrigger, CircuitState]]] = {
    _S.CLOSED: {
        _T.TRIPPED: _S.OPEN,
        _T.RESET: _S.CLOSED,
    },
    _S.OPEN: {
        _T.DUE: _S.HALF_OPEN,
        _T.RESET: _S.CLOSED,
    },
    _S.HALF_OPEN: {
        _T.PROVEN: _S.CLOSED,
        _T.FAILED: _S.OPEN,
        _T.RESET: _S.CLOSED,
    },
}

# On every call's way: on Python 3.11 an enum's attribute costs a call.
_CLOSED, _OPEN, _HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
_BAD, _NOTHING = Outcome.BAD, Outcome.NOTHING

OnTransition = Callable[[CircuitState, CircuitState, str], None]
"""Called with the state before, the one after, and the reason."""


class Window:
    """How the calls of the last ``seconds`` ended, to within a tenth of that.

    ``calls`` are all of them, ``bad`` those that failed, ``slow`` those that took too long; one
    may be both.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.calls = self.bad = self.slow = 0
        self._width = seconds / BUCKETS
        self._newest = -1
        self._calls = [0] * BUCKETS
        self._bad = [0] * BUCKETS
        self._slow = [0] * BUCKETS

    def add(self, now: float, *, bad: bool, slow: bool) -> None:
        """Count a call that ends ``now``."""
        self.slide(now)
        place = self._newest % BUCKETS
        self.calls += 1
        self._calls[place] += 1
        if bad:
            self.bad += 1
            self._bad[place] += 1
        if slow:
            self.slow += 1
            self._slow[place] += 1

    def slide(self, now: float) -> None:
        """Forget what is older than ``seconds``."""
        newest = int(now / self._width)
        passed = newest - self._newest
        if passed <= 0:
            return
        for number in range(newest - min(passed, BUCKETS) + 1, newest + 1):
            place = number % BUCKETS
            self.calls -= self._calls[place]
            self.bad -= self._bad[place]
            self.slow -= self._slow[place]
            self._calls[place] = self._bad[place] = self._slow[place] = 0
        self._newest = newest


class Breaker:
    """The breaker of one instance. ``period`` counts its transitions and probes, ``reason`` says
    why the last transition was made; ``open_until`` is when it may be tried again.

    ``now`` is a time on any clock that never runs backwards; ``rand`` gives 0 to 1.
    """

    def __init__(
        self,
        config: BreakerConfig,
        on_transition: OnTransition = lambda _before, _after, _reason: None,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self.config = config
        self.state = CircuitState.CLOSED
        self.reason = ""
        self.period = 1
        self.open_until = -inf
        self.window = Window(config.window_seconds)
        self.good_probes = 0
        self._on_transition = on_transition
        self._rand = rand
        self._probe_until = -inf  # until then a probe is awaited
        self._open_for = 0.0  # seconds of its last time open
        self._times = 0  # that it opened without having been well for long in between
        self._closed_at = -inf

    def configure(self, config: BreakerConfig) -> None:
        """Go by ``config`` from now on; the state stays."""
        if config.window_seconds != self.window.seconds:
            self.window = Window(config.window_seconds)
        self.config = config

    def refused_for(self, now: float) -> float | None:
        """Seconds for which a call that comes now is refused; None if it may pass."""
        state = self.state
        if state is _CLOSED:
            return None
        until = self.open_until if state is _OPEN else self._probe_until
        return until - now if until > now else None

    def begin(self, now: float) -> int:
        """A call that may pass begins. Returns what ``end`` is to be told of it."""
        if self.state is not _CLOSED:
            if self.state is _OPEN:
                self.good_probes = 0
                self._move(CircuitTrigger.DUE, "a call is let through, to see how it goes")
            # One that hangs must not keep others from trying for as long as it may take. It is over
            # for the breaker when the next one begins.
            self.period += 1
            self._probe_until = now + self.config.open_seconds
        return self.period

    def end(self, period: int, outcome: Outcome, seconds: float, now: float) -> None:
        """A call that began in ``period``, and took ``seconds``, has ended now."""
        if period != self.period:
            return
        config = self.config
        slow = config.slow_seconds is not None and seconds >= config.slow_seconds
        if self.state is _HALF_OPEN:
            self._end_probe(outcome, seconds, slow, now)
        elif outcome is not _NOTHING or slow:
            # Nothing but slow: clients that give up one that hangs must not keep it closed.
            window = self.window
            window.add(now, bad=outcome is _BAD, slow=slow)
            if outcome is _BAD or slow:
                self._judge(now)

    def reset(self) -> None:
        """Begin anew: closed, and with nothing counted."""
        self.window = Window(self.config.window_seconds)
        self._times = 0
        self._closed_at = -inf
        self._move(CircuitTrigger.RESET, "an operator has reset it")

    def _end_probe(self, outcome: Outcome, seconds: float, slow: bool, now: float) -> None:
        self._probe_until = -inf
        if outcome is _BAD or slow:
            self._open(CircuitTrigger.FAILED, _why_bad(outcome, seconds), now)
        elif outcome is not _NOTHING:
            self.good_probes += 1
            if self.good_probes >= self.config.probes:
                self.window = Window(self.config.window_seconds)
                self._closed_at = now
                self._move(CircuitTrigger.PROVEN, f"{self.good_probes} calls in a row went well")

    def _judge(self, now: float) -> None:
        config, window = self.config, self.window
        calls = window.calls
        if calls < config.min_calls:
            return
        within = f"of {calls} calls within {config.window_seconds:g} s"
        if window.bad >= config.error_rate * calls:
            share = window.bad / calls
            said = f"{window.bad} {within} failed ({share:.0%}, opens at {config.error_rate:.0%})"
            self._open(CircuitTrigger.TRIPPED, said, now)
        elif config.slow_seconds is not None and window.slow >= config.slow_rate * calls:
            share = window.slow / calls
            took = f"took {config.slow_seconds:g} s or longer"
            said = f"{window.slow} {within} {took} ({share:.0%}, opens at {config.slow_rate:.0%})"
            self._open(CircuitTrigger.TRIPPED, said, now)

    def _open(self, trigger: CircuitTrigger, reason: str, now: float) -> None:
        # One that closes and fails again at once is not well: it would flap at full speed.
        healthy_for = now - self._closed_at
        if trigger is CircuitTrigger.TRIPPED and healthy_for > max(
            self._open_for, self.config.window_seconds
        ):
            self._times = 0
        longer = min(GROWTH**self._times, LONGEST)
        self._times = min(self._times + 1, 16)
        self._open_for = self.config.open_seconds * longer * (1 + JITTER * (2 * self._rand() - 1))
        self.open_until = now + self._open_for
        self._move(trigger, reason, f"; {tried_again(self._open_for)}")

    def _move(self, trigger: CircuitTrigger, reason: str, plan: str = "") -> None:
        before = self.state
        try:
            after = TRANSITIONS[before][trigger]
        except KeyError:
            raise IllegalTransition(f"{trigger} means nothing in {before}") from None
        self.period += 1
        self._probe_until = -inf
        self.state, self.reason = after, reason
        if after is not before:
            self._on_transition(before, after, reason + plan)


def tried_again(seconds: float) -> str:
    """When an open one is, in words."""
    return f"it is tried again in {seconds:.3g} s"


def _why_bad(outcome: Outcome, seconds: float) -> str:
    how = "failed" if outcome is _BAD else f"took {seconds:.3g} s"
    return f"the call that was let through {how}"

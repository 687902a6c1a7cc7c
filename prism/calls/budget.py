"""How many further attempts the calls of a namespace may cost its plugin.

A plugin that is down, or slow because it is overloaded, must not be sent more for it. So a further
attempt is paid for: each call of the last seconds has brought a share of one, and a few a second
are allowed beside, so that a namespace that is seldom called can repeat a call too.
"""

from math import inf

from prism.streams.outlet import turn_time

WINDOW = 10.0
"""Seconds for which what a call brings can be used, at most: what was saved over a quiet hour
would be a storm when the plugin goes down."""
FLOOR = 1.0
"""Attempts a second that are allowed however few calls there are; as many as ``WINDOW`` brings may
come at once."""

_HALF = WINDOW / 2
_NEARLY_ONE = 1 - 1e-9
"""Ten times a tenth is a little less than one."""


class Budget:
    """Of ``calls`` calls in ``seconds`` seconds, at most ``share * calls + FLOOR * (seconds +
    WINDOW)`` are given one attempt more; ``used`` have been so far.

    What calls bring is kept in two parts, the last five seconds' and what is up to as much older,
    which is forgotten when the next five seconds begin.
    """

    __slots__ = ("_filled", "_next", "_older", "_recent", "_reserve", "refused", "share", "used")

    def __init__(self) -> None:
        self.share = 0.0
        self.refused = 0
        self.used = 0
        self._recent = 0.0
        self._older = 0.0
        self._next = -inf  # when the recent part becomes the older one
        self._reserve = 0.0
        self._filled = -inf  # when the reserve was

    def add_call(self) -> None:
        """There is one more call."""
        now = turn_time()
        if now >= self._next:
            self._pass_time(now)
        self._recent += self.share

    def take(self) -> bool:
        """Take what an attempt costs; False if there is not enough, which is counted."""
        self._look(turn_time())
        missing = _NEARLY_ONE
        if self._older + self._recent + self._reserve < missing:
            self.refused += 1
            return False
        # What would be forgotten first goes first; the reserve comes again by itself.
        used = min(self._older, missing)
        self._older -= used
        missing -= used
        used = min(self._recent, missing)
        self._recent -= used
        self._reserve = max(0.0, self._reserve - (missing - used))
        self.used += 1
        return True

    def give_back(self) -> None:
        """The attempt that was paid for was not made."""
        self._recent += 1.0
        self.used -= 1

    @property
    def left(self) -> float:
        """Attempts that could be made now."""
        self._look(turn_time())
        return self._older + self._recent + self._reserve

    def _look(self, now: float) -> None:
        if now >= self._next:
            self._pass_time(now)
        self._reserve = min(FLOOR * WINDOW, self._reserve + FLOOR * (now - self._filled))
        self._filled = now

    def _pass_time(self, now: float) -> None:
        self._older = self._recent if now < self._next + _HALF else 0.0
        self._recent = 0.0
        self._next = now + _HALF

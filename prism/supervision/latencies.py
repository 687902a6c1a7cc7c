"""How long calls took: counts in buckets that grow by a fifth, of all of them or of the last."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

BUCKETS_PER_DOUBLING = 4
"""Latencies are kept to within a fifth: enough to tell versions, and slow calls, apart."""
SMALLEST = 1e-5
"""Seconds; shorter calls count as this long."""
_BUCKETS: Final = 96
_LIMITS: Final[Sequence[float]] = [
    SMALLEST * 2 ** (n / BUCKETS_PER_DOUBLING) for n in range(_BUCKETS)
]


class Latencies:
    """The latencies of ``count`` calls: of all, or, with ``keep``, of the last ones, as many as
    that or half of it.

    A call costs it one search in a short list.
    """

    __slots__ = ("_counts", "_keep", "_older", "_recent", "count")

    def __init__(self, keep: int = 0) -> None:
        self.count = 0
        self._keep = keep
        self._recent = 0  # how many of them are in ``_counts``; the others are in ``_older``
        self._counts = [0] * _BUCKETS
        self._older = [0] * _BUCKETS

    def take(self, seconds: float) -> None:
        """Count a call that took ``seconds``."""
        self._counts[min(bisect_left(_LIMITS, seconds), _BUCKETS - 1)] += 1
        self.count += 1
        self._recent += 1
        if self._recent * 2 == self._keep:
            self.count, self._recent = self._recent, 0
            self._older, self._counts = self._counts, [0] * _BUCKETS

    def percentile(self, share: float) -> float:
        """Seconds within which ``share`` of the calls ended: 0.95 gives the 95th percentile."""
        wanted = share * self.count
        seen = 0
        for limit, recent, older in zip(_LIMITS, self._counts, self._older, strict=True):
            number = recent + older
            seen += number
            if number and seen >= wanted:
                return limit
        return 0.0

"""A latency histogram for one thread: no locks, one bisection per observation.

All calls run in trio's thread, so the locks of prometheus_client's own
Histogram would cost several times what the counting does.
"""

from bisect import bisect_left
from itertools import accumulate

BOUNDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Upper bounds in seconds: from a cached read in a local plugin to the default deadline."""

_LABELS = (*map(str, BOUNDS), "+Inf")


class Histogram:
    """Counts of durations in seconds, by ``BOUNDS``."""

    __slots__ = ("_counts", "sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts, as ``HistogramMetricFamily.add_metric`` takes them."""
        return list(zip(_LABELS, accumulate(self._counts), strict=True))

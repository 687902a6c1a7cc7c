"""A sample of an instance's calls: how many failed, and how long they took.

Kept only while two instances are compared; a call costs it one search in a short list.
"""

from bisect import bisect_left
from collections.abc import Sequence

from prism.contract.status import StatusCode

BUCKETS_PER_DOUBLING = 4
"""Latencies are kept to within a fifth: enough to tell one version from another."""
SMALLEST = 1e-5
"""Seconds; shorter calls count as this long."""
_BUCKETS = 96
_LIMITS: Sequence[float] = [SMALLEST * 2 ** (n / BUCKETS_PER_DOUBLING) for n in range(_BUCKETS)]

PLUGIN_AT_FAULT = frozenset(
    {
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
        StatusCode.UNIMPLEMENTED,
    }
)
"""Statuses that speak against a version; the others may be the caller's own doing."""


class Sample:
    """Counts calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.errors = 0
        self._latencies = [0] * _BUCKETS

    def take(self, seconds: float, status: StatusCode) -> None:
        """Count a call that the plugin took ``seconds`` for and that ended with ``status``."""
        self.calls += 1
        self.errors += status in PLUGIN_AT_FAULT
        self._latencies[min(bisect_left(_LIMITS, seconds), _BUCKETS - 1)] += 1

    @property
    def error_rate(self) -> float:
        """The share of calls that failed, 0 to 1."""
        return self.errors / self.calls if self.calls else 0.0

    def latency(self, share: float) -> float:
        """Seconds within which ``share`` of the calls ended: 0.95 gives the 95th percentile."""
        wanted = share * self.calls
        seen = 0
        for limit, number in zip(_LIMITS, self._latencies, strict=True):
            seen += number
            if number and seen >= wanted:
                return limit
        return 0.0

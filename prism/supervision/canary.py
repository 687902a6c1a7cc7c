"""Is a new version that gets a share of the calls as good as the old one?

Plain values and no clock: the caller says how much time has passed. The rules are
few and can be read off a receipt: enough calls, for long enough; not more errors than
the old version, and not much slower.
"""

import math
from dataclasses import dataclass
from enum import Enum, auto

from prism.contract.status import StatusCode
from prism.supervision.latencies import Latencies

PERCENTILE = 0.95
"""Of the latencies that are compared; the mean would hide what a few callers feel."""
SLACK_SECONDS = 0.005
"""Latency differences below this are the machine's, not the version's."""

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
    """An instance's calls, counted: how many failed, and how long they took.

    Kept only while two instances are compared.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.errors = 0
        self._latencies = Latencies()

    def take(self, seconds: float, status: StatusCode) -> None:
        """Count a call that the plugin took ``seconds`` for and that ended with ``status``."""
        self.calls += 1
        self.errors += status in PLUGIN_AT_FAULT
        self._latencies.take(seconds)

    @property
    def error_rate(self) -> float:
        """The share of calls that failed, 0 to 1."""
        return self.errors / self.calls if self.calls else 0.0

    def latency(self, share: float) -> float:
        """Seconds within which ``share`` of the calls ended: 0.95 gives the 95th percentile."""
        return self._latencies.percentile(share)


class CanaryVerdict(Enum):
    """What to do now."""

    WAIT = auto()
    PROMOTE = auto()
    ROLL_BACK = auto()


@dataclass(frozen=True, kw_only=True)
class Canary:
    """How a new version is tried on a part of the calls.

    Args:
        share: of the calls that go to the new version, above 0 and below 1.
        min_calls: that the new version must have answered before it can be promoted.
        min_seconds: that it must have been on trial.
        max_seconds: after which it is rolled back if it had too few calls to be judged.
        max_error_increase: by which its share of errors may be above the old version's.
        max_latency_factor: by which its 95th percentile may be above the old version's.
    """

    share: float = 0.1
    min_calls: int = 100
    min_seconds: float = 30.0
    max_seconds: float = 600.0
    max_error_increase: float = 0.01
    max_latency_factor: float = 1.5

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: a number makes no sense; the message says which.
        """
        if not 0 < self.share < 1:
            raise ValueError(
                f"share must be above 0% and below 100%, and is {self.share * 100:g}%"
                " (10% is written 10%, or 0.1)"
            )
        if self.min_calls < 1:
            raise ValueError("min_calls must be at least 1")
        if not 0 <= self.min_seconds <= self.max_seconds:
            raise ValueError(
                f"min_seconds ({self.min_seconds:g}) must be from 0"
                f" to max_seconds ({self.max_seconds:g})"
            )
        if self.max_error_increase < 0 or self.max_latency_factor < 1:
            raise ValueError("max_error_increase must be at least 0, max_latency_factor at least 1")


def judge(canary: Canary, old: Sample, new: Sample, seconds: float) -> tuple[CanaryVerdict, str]:
    """The verdict after ``seconds`` of trial, and its reason in words.

    Errors are judged as soon as they could not be chance: a version that fails
    should not go on failing until the time is up.
    """
    excess = new.error_rate - old.error_rate
    # Three standard errors of the new version's rate: a handful of calls proves nothing.
    rate = min(max(new.error_rate, 1 / max(new.calls, 1)), 0.5)
    noise = 3 * math.sqrt(rate * (1 - rate) / max(new.calls, 1))
    enough = new.calls >= canary.min_calls
    compared = (
        f"errors {new.error_rate:.1%} of {new.calls} calls (old: {old.error_rate:.1%} of "
        f"{old.calls}), 95% within {_ms(new)} (old: {_ms(old)})"
    )
    if excess > canary.max_error_increase and (excess > noise or enough):
        return CanaryVerdict.ROLL_BACK, f"it fails more often: {compared}"
    if not enough or seconds < canary.min_seconds:
        if seconds >= canary.max_seconds:
            return CanaryVerdict.ROLL_BACK, (
                f"only {new.calls} of the {canary.min_calls} calls needed came within "
                f"{canary.max_seconds:g} s"
            )
        return CanaryVerdict.WAIT, compared
    allowed = canary.max_latency_factor * old.latency(PERCENTILE) + SLACK_SECONDS
    if old.calls and new.latency(PERCENTILE) > allowed:
        return CanaryVerdict.ROLL_BACK, f"it is slower: {compared}"
    return CanaryVerdict.PROMOTE, f"it is as good: {compared}"


def _ms(sample: Sample) -> str:
    return f"{sample.latency(PERCENTILE) * 1000:.3g} ms"

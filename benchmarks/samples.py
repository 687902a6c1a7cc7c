"""Samples, taken in turns, and what is made of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import msgspec

SHARES = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
"""The quantiles that a sample keeps of its latencies."""
NO_LATENCIES = (0.0,) * len(SHARES)
"""Those of a sample of messages, which have none."""


RATE = 1000.0
"""Calls a second where they come at a fixed rate."""


class Load(NamedTuple):
    """What one measurement asks of a side.

    ``in_flight`` calls are open at any time, spread over ``connections``. ``body``
    is the size in bytes of what is sent and comes back; 0 leaves it to the side.
    """

    in_flight: int
    connections: int = 1
    http1: bool = False
    body: int = 0

    def __str__(self) -> str:
        if self == PACED:
            return f"{RATE:,.0f} a second"
        version = "HTTP/1.1, " if self.http1 else ""
        spread = "" if self.connections == 1 else f" on {self.connections} connections"
        return f"{version}{self.in_flight} in flight{spread}"


PACED = Load(0)
"""Stands for a fixed rate where the others have a number of calls in flight."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One side under one load, once. Times are seconds, CPU times of the whole sample.

    ``cpu`` is the calling or serving process, ``peer_cpu`` the one behind it,
    ``load_cpu`` the load generator. ``quantiles`` are the latencies at ``SHARES``.
    """

    calls: int
    seconds: float
    quantiles: tuple[float, ...]
    cpu: float = 0.0
    peer_cpu: float = 0.0
    load_cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds

    @property
    def p50(self) -> float:
        """The latency that half of the calls did not exceed."""
        return self.quantiles[SHARES.index(0.5)]

    @property
    def p99(self) -> float:
        """The latency that 99 of 100 calls did not exceed."""
        return self.quantiles[SHARES.index(0.99)]


Side = Callable[[Load, float], Sample]
"""Loads one side for some seconds."""
Value = Callable[[Sample], float]


class SideFailed(Exception):
    """A side gave no sample: it ended, or answered something else."""


class Results:
    """All samples of one comparison, by side and load, one for each round.

    ``failed`` says why a side is not, or not everywhere, among them.
    """

    def __init__(self) -> None:
        self._samples: dict[tuple[str, Load], list[Sample]] = {}
        self.failed: dict[str, str] = {}

    def add(self, side: str, load: Load, sample: Sample) -> None:
        self._samples.setdefault((side, load), []).append(sample)

    def has(self, side: str, load: Load) -> bool:
        """Whether ``side`` was measured under ``load``."""
        return (side, load) in self._samples

    def median(self, side: str, load: Load, value: Value) -> float:
        """The middle one of the rounds."""
        return median(value(sample) for sample in self._samples[side, load])

    def ratio(self, side: str, other: str, load: Load, value: Value) -> float | None:
        """``side`` / ``other``, the middle one of the rounds' ratios.

        Compared round by round, since what disturbs a shared machine for seconds
        disturbs both. ``None`` if one of them was not measured.
        """
        pairs = self._pairs(side, other, load, value)
        return median(mine / theirs for mine, theirs in pairs) if pairs else None

    def difference(self, side: str, other: str, load: Load, value: Value) -> float | None:
        """``side`` - ``other``, compared as in ``ratio``."""
        pairs = self._pairs(side, other, load, value)
        return median(mine - theirs for mine, theirs in pairs) if pairs else None

    def _pairs(self, side: str, other: str, load: Load, value: Value) -> list[tuple[float, float]]:
        mine, theirs = self._samples.get((side, load), []), self._samples.get((other, load), [])
        return [(value(a), value(b)) for a, b in zip(mine, theirs, strict=False)]


def take_turns(
    sides: Mapping[str, Side],
    loads: Sequence[Load],
    *,
    rounds: int,
    seconds: float,
    runs: Callable[[str, Load], bool] = lambda _side, _load: True,
) -> Results:
    """``rounds`` rounds of every side under every load: A B, B A, A B, ...

    A side that fails takes part no longer; ``Results.failed`` has the reason.
    """
    results = Results()

    def measure(name: str, load: Load, seconds: float) -> Sample | None:
        if name in results.failed or not runs(name, load):
            return None
        try:
            return sides[name](load, seconds)
        except SideFailed as error:
            results.failed[name] = str(error)
            return None

    for name in sides:  # to warm up
        measure(name, next(load for load in loads if runs(name, load)), min(seconds, 0.3))
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for load in loads:
            for name in order:
                if sample := measure(name, load, seconds):
                    results.add(name, load, sample)
    return results


def quantiles(latencies: Iterable[float]) -> tuple[float, ...]:
    """The latencies at ``SHARES``; there must be one at least."""
    ordered = sorted(latencies)
    return tuple(percentile(ordered, share) for share in SHARES)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of ``ordered``, which is sorted, do not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

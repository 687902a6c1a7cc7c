"""Samples, taken in turns, and what is made of them."""

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Load(NamedTuple):
    """What one measurement asks of a side."""

    in_flight: int
    http1: bool = False


class Sample(msgspec.Struct, frozen=True):
    """One side under one load, once. Times are seconds, CPU times of the whole sample.

    ``cpu`` is the calling or serving process, ``peer_cpu`` the one behind it.
    """

    calls: int
    seconds: float
    p50: float
    p99: float
    cpu: float = 0.0
    peer_cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


Side = Callable[[Load, float], Sample]
"""Loads one side for some seconds."""


class Results:
    """All samples of one comparison, by side and load, one for each round."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, Load], list[Sample]] = {}

    def add(self, side: str, load: Load, sample: Sample) -> None:
        self._samples.setdefault((side, load), []).append(sample)

    def median(self, side: str, load: Load, value: Callable[[Sample], float]) -> float:
        """The middle one of the rounds."""
        return median(value(sample) for sample in self._samples[side, load])

    def ratio(self, side: str, other: str, load: Load, value: Callable[[Sample], float]) -> float:
        """``side`` / ``other``, the middle one of the rounds' ratios.

        Compared round by round, since what disturbs a shared machine for seconds
        disturbs both.
        """
        pairs = zip(self._samples[side, load], self._samples[other, load], strict=True)
        return median(value(mine) / value(theirs) for mine, theirs in pairs)


def take_turns(
    sides: Mapping[str, Side],
    loads: Sequence[Load],
    *,
    rounds: int,
    seconds: float,
    runs: Callable[[str, Load], bool] = lambda _side, _load: True,
) -> Results:
    """``rounds`` rounds of every side under every load: A B, B A, A B, ..."""
    for name, side in sides.items():
        side(next(load for load in loads if runs(name, load)), min(seconds, 0.3))
    results = Results()
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(list(sides)[::-1])
        for load in loads:
            for name in order:
                if runs(name, load):
                    results.add(name, load, sides[name](load, seconds))
    return results


def percentile(values: Iterable[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of ``values`` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far, in nanosecond steps.

    The clock's number is what clock_getcpuclockid(3) computes on Linux.
    """
    return time.clock_gettime((~pid << 3) | 2)


def resident_bytes(pid: int) -> int:
    """The resident set of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


class Bystanders:
    """How much of the machine everyone else used, from here to ``__str__``."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._before = self._seconds()

    @staticmethod
    def _seconds() -> float:
        """CPU seconds of all programs but this one and those that it started and reaped."""
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        idle, waiting = ticks[3:5]
        busy = (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")
        return busy - sum(os.times()[:4])

    def __str__(self) -> str:
        cores = (self._seconds() - self._before) / (time.monotonic() - self._since)
        return f"Other programs kept {max(0.0, cores):.1f} cores busy meanwhile."


def machine() -> str:
    """Where and when: for the page that quotes the numbers."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    today = datetime.now(UTC).date().isoformat()
    return (
        f"{today}, {cores} cores of {model}, Linux {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}"
    )

"""The picture that most questions share."""

from collections.abc import Iterable, Sequence

from benchmarks.report.plots import Axis, line_plot
from benchmarks.samples import PACED, Load, Results

_TICKS = [(float(number), str(number)) for number in (1, 4, 16, 64, 256)]


def rate_plot(title: str, results: Results, sides: Iterable[str], loads: Sequence[Load]) -> str:
    """Calls a second of every side, by calls in flight (HTTP/1.1 is left out)."""
    lines = {
        name: [
            (load.in_flight, results.median(name, load, lambda sample: sample.rate))
            for load in loads
            if results.has(name, load) and not load.http1 and load != PACED
        ]
        for name in sides
    }
    across = Axis("calls in flight", logarithmic=True, ticks=_TICKS)
    return line_plot(title, across, Axis("calls/s", logarithmic=True), lines)

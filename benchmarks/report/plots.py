"""Line plots as SVG, drawn here: some kilobytes each, readable in a diff, in light and dark."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 760, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 230, 56, 48
_LABEL_GAP = 15
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#a05195")
"""Okabe and Ito's, which people who see few colours can tell apart, and two more."""
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 14px }
.grid { stroke: #d0d7de; stroke-width: 1 }
.line { fill: none; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .grid { stroke: #3d444d }
}
"""


class Axis(NamedTuple):
    """An axis: what it shows, and how. ``ticks`` are values and their names.

    ``logarithmic`` values are above 0.
    """

    label: str
    logarithmic: bool = False
    ticks: Sequence[tuple[float, str]] = ()


def line_plot(title: str, x: Axis, y: Axis, lines: Mapping[str, Points]) -> str:
    """An SVG picture with one line for each of ``lines``, labelled at its end."""
    drawn = {name: points for name, points in lines.items() if points}
    across = _Scale(x, [at for points in drawn.values() for at, _ in points], _LEFT, _plot_right())
    up = _Scale(y, [to for points in drawn.values() for _, to in points], _plot_bottom(), _TOP)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'role="img" aria-label="{escape(title)}">',
            f"<style>{_STYLE}</style>",
            f'<text class="title" x="{_LEFT}" y="20">{escape(title)}</text>',
            *_grid(across, up),
            *_curves(drawn, across, up),
            "</svg>\n",
        ]
    )


class _Scale:
    """Where the values of one axis lie, in pixels from ``start`` to ``stop``."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, stop: float) -> None:
        self.axis = axis
        self._start, self._stop = start, stop
        low, high = min(values, default=1.0), max(values, default=10.0)
        if axis.ticks:
            low, high = min(low, axis.ticks[0][0]), max(high, axis.ticks[-1][0])
        elif axis.logarithmic:
            low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
        else:
            low = 0.0
            high = _round_up(high)
        if low == high:
            high = low * 10 if axis.logarithmic else low + 1
        self._low, self._high = low, high

    def ticks(self) -> Sequence[tuple[float, str]]:
        if self.axis.ticks:
            return self.axis.ticks
        if self.axis.logarithmic:
            first, last = round(math.log10(self._low)), round(math.log10(self._high))
            return [(10.0**power, _short(10.0**power)) for power in range(first, last + 1)]
        steps = 5
        return [
            (self._high * step / steps, _short(self._high * step / steps))
            for step in range(steps + 1)
        ]

    def __call__(self, value: float) -> float:
        low, high = self._low, self._high
        if self.axis.logarithmic:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return self._start + (value - low) / (high - low) * (self._stop - self._start)


def _grid(across: _Scale, up: _Scale) -> Iterator[str]:
    right, bottom = _plot_right(), _plot_bottom()
    for value, name in up.ticks():
        at = f"{up(value):.1f}"
        yield f'<line class="grid" x1="{_LEFT}" y1="{at}" x2="{right}" y2="{at}"/>'
        yield f'<text x="{_LEFT - 8}" y="{at}" dy="4" text-anchor="end">{escape(name)}</text>'
    for value, name in across.ticks():
        at = f"{across(value):.1f}"
        yield f'<line class="grid" x1="{at}" y1="{_TOP}" x2="{at}" y2="{bottom}"/>'
        yield f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{escape(name)}</text>'
    middle = (_LEFT + right) / 2
    yield (
        f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">'
        f"{escape(across.axis.label)}</text>"
    )
    yield f'<text x="8" y="{_TOP - 14}">{escape(up.axis.label)}</text>'


def _curves(lines: Mapping[str, Points], across: _Scale, up: _Scale) -> Iterator[str]:
    ends = {name: up(points[-1][1]) for name, points in lines.items()}
    labels = _apart(ends)
    for number, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        dashes = ' stroke-dasharray="6 4"' if number >= len(_COLOURS) else ""
        path = " ".join(f"{across(at):.1f},{up(to):.1f}" for at, to in points)
        yield f'<polyline class="line" stroke="{colour}"{dashes} points="{path}"/>'
        for at, to in points:
            yield f'<circle cx="{across(at):.1f}" cy="{up(to):.1f}" r="3" fill="{colour}"/>'
        end = across(points[-1][0])
        yield (
            f'<line stroke="{colour}" x1="{end + 4:.1f}" y1="{ends[name]:.1f}" '
            f'x2="{_plot_right() + 8}" y2="{labels[name]:.1f}"/>'
        )
        yield f'<text x="{_plot_right() + 12}" y="{labels[name]:.1f}" dy="4">{escape(name)}</text>'


def _apart(ends: Mapping[str, float]) -> dict[str, float]:
    """Places for labels beside ``ends``, none over another, inside the picture."""
    placed: dict[str, float] = {}
    lowest = -math.inf
    for name, end in sorted(ends.items(), key=lambda item: item[1]):
        lowest = max(end, lowest + _LABEL_GAP)
        placed[name] = lowest
    over = max(0.0, lowest - _plot_bottom())
    return {name: place - over for name, place in placed.items()}


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5, 10 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * 0.999)


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _plot_right() -> int:
    return _WIDTH - _RIGHT


def _plot_bottom() -> int:
    return _HEIGHT - _BOTTOM

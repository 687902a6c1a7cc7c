"""Markdown tables of results, and lines that say which targets are met."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.samples import Load, Results, Sample

SATURATED = 0.9
"""Share of a core from which on a load generator may have been what was measured."""
_MARK = " †"
NOTE = f"{_MARK.strip()} the load generator was busy all the time: the side could do more."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def verdict(
    what: str, measured: float | None, target: float, *, at_least: bool, unit: str = ""
) -> str:
    """A line that says whether a target is met. ``None`` has not been measured."""
    bound = f"target: {'at least' if at_least else 'at most'} {target:g}{unit}"
    if measured is None:
        return f"- {what}: not measured ({bound})"
    met = measured >= target if at_least else measured <= target
    return f"- {what}: **{measured:.2f}{unit}** ({bound}; {'met' if met else 'missed'})"


def added(results: Results, side: str, other: str, load: Load, targets: Mapping[str, float]) -> str:
    """Lines that say what ``side`` adds to the latency of ``other``; ``targets`` are milliseconds,
    by the quantile's name."""
    lines = []
    for quantile, target in targets.items():
        more = results.difference(side, other, load, lambda s, q=quantile: getattr(s, q) * 1e3)
        what = f"{quantile} that the proxy adds to {other}, {load}, {side}"
        lines.append(verdict(what, more, target, at_least=False, unit=" ms"))
    return "\n".join(lines)


def absent(missing: Mapping[str, str]) -> list[str]:
    """Lines about the sides that are not in the table."""
    return [f"- {name}: not measured ({reason})" for name, reason in missing.items()]


def microseconds_each(value: Callable[[Sample], float]) -> Callable[[Sample], float]:
    """``value``, in seconds for a whole sample, as microseconds for each call."""
    return lambda sample: value(sample) / sample.calls * 1e6


def load_table(
    results: Results,
    sides: Iterable[str],
    loads: Iterable[Load],
    reference: str | None = None,
    *,
    servers: tuple[str, str] = ("server", "plugin"),
    says: Callable[[Load], str] = str,
) -> str:
    """Rates, latencies and CPU times of every side under every load.

    Rates are shown as multiples of the ``reference`` side's, too, if there is one.
    ``servers`` name the process that is called and the one behind it; an empty
    second name leaves that column out.
    """
    names = list(sides)
    front, behind = servers
    head = [
        *("load: side", "calls/s", *([f"x {reference}"] if reference else [])),
        *("p50 ms", "p99 ms", f"{front} CPU µs", *([f"{behind} CPU µs"] if behind else [])),
    ]
    rows, saturated = [], False
    for load in loads:
        for name in names:
            if not results.has(name, load):
                continue
            busy = results.median(name, load, lambda sample: sample.load_cpu / sample.seconds)
            saturated |= busy >= SATURATED
            rate = f"{results.median(name, load, lambda sample: sample.rate):,.0f}"
            row = [f"{says(load)}: {name}", rate + (_MARK if busy >= SATURATED else "")]
            if reference:
                ratio = results.ratio(name, reference, load, lambda sample: sample.rate)
                row.append("" if ratio is None else f"{ratio:.2f}")
            for value, form in (
                (lambda sample: sample.p50 * 1e3, ".2f"),
                (lambda sample: sample.p99 * 1e3, ".2f"),
                (microseconds_each(lambda sample: sample.cpu), ",.1f"),
                *([(microseconds_each(lambda sample: sample.peer_cpu), ",.1f")] if behind else []),
            ):
                measured = results.median(name, load, value)
                row.append(format(measured, form) if measured else "")  # 0 is what nobody measured
            rows.append(row)
    text = table(head, rows)
    return f"{text}\n\n{NOTE}" if saturated else text

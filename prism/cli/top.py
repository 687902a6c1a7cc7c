"""``prism top``: what the namespaces of a running proxy have to do now, in a table that stays.

The proxy tells counters (``/admin/traffic``); all rates and percentiles are made here, of the
differences of two answers of one process. One that is replaced, or cannot be reached for a while,
costs the table as much time as it is away, and one interval.
"""

import json
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

import click

from prism.cli.connection import Admin, Number, admin_options
from prism.cli.output import (
    GAP,
    ReaderGone,
    end_on_interrupt,
    harmless,
    output_option,
    print_line,
)
from prism.cli.screen import ENDED, RESUMED, Screen

PATH = "/admin/traffic"
LONGEST = 5.0
"""Seconds for one answer, after which the proxy counts as gone."""
FAULTS = ("UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
"""What is not the client's doing: the errors that are counted."""
REFUSED = "RESOURCE_EXHAUSTED"
"""What a limit has refused."""

Sample = dict[str, Any]
"""An answer of the admin port: ``Traffic`` in ``prism.frontends.admin.messages``."""
Row = dict[str, Any]
"""A namespace in the interval between two of them."""

SORTS = {
    "rate": "calls_per_second",
    "p50": "p50_seconds",
    "p99": "p99_seconds",
    "errors": "errors_per_second",
    "refused": "refused_per_second",
    "in-flight": "in_flight",
    "name": "namespace",
}
HEAD = ["NAMESPACE", "CALLS/S", "P50 MS", "P99 MS", "ERR/S", "IN FLIGHT", "QUEUED"]
"""The columns that all tables have, the most useful first: what there is no room for is left out
at the end. ``FIRST`` come next, where there are any, ``TAIL``, and what else policies show."""
FIRST = ["breaker", "replicas"]
TAIL = ["REFUSED/S", "STREAMS", "WAITING"]
COUNTED = {"rate": "refused", "retries": "used", "hedging": "sent"}
"""Of what a policy shows, the counter of which the table has how often a second it was."""
ADMISSION = "concurrency"
"""The policy that all have: what it shows is in columns of its own."""
KEYS = {
    "r": "rate",
    "5": "p50",
    "9": "p99",
    "e": "errors",
    "f": "refused",
    "i": "in-flight",
    "n": "name",
}

EPILOG = """\b
Examples:
  prism top
  prism top --sort p99 --interval 5
  prism top --once --rows 10
  prism top --output json | jq '.namespaces[0].calls_per_second'

\b
Keys: r 5 9 e f i n sort by rate, p50, p99, errors, refusals, calls in flight, or name; q ends.
Errors are the calls that ended with a status that is not the client's doing: UNKNOWN,
DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE or DATA_LOSS; refused those with RESOURCE_EXHAUSTED.
Percentiles are read from a histogram: exact to its bucket, and at most 30 seconds.
"""


@click.command(epilog=EPILOG)
@click.option("--once", is_flag=True, help="One interval; also where no terminal is written to.")
@click.option(
    "--interval",
    type=Number(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option(
    "--sort", type=click.Choice(list(SORTS)), default="rate", show_default=True, help="By what."
)
@click.option(
    "--rows", type=click.IntRange(1), help="Namespaces at most; else as many as there is room for."
)
@output_option
@admin_options
def top(
    once: bool, interval: float, sort: str, rows: int | None, output: str, admin: Admin
) -> None:
    """Watch what the namespaces have to do: rates, latencies, errors.

    With --output json or yaml each interval, also that of --once, is a line of JSON, or a YAML
    document.
    """
    board = Board(admin.address, sort, rows)
    if output == "table" and not once and sys.stdout.isatty():
        board.take(admin.get(PATH))
        sys.exit(_live(board, admin, interval))
    end_on_interrupt()
    board.take(admin.get(PATH))
    try:
        _print(board, admin, interval, output, once=once or output == "table")
    except ReaderGone:
        return


def _print(board: "Board", admin: Admin, interval: float, output: str, *, once: bool) -> None:
    """Print one interval, or one after the other."""
    while True:
        time.sleep(interval)
        told = board.trouble
        answer = (admin.get(PATH), "") if once else admin.attempt(PATH, LONGEST)
        if not board.take(*answer):
            if board.trouble and not told:
                click.echo(f"prism: {board.trouble}; trying again", err=True)
            continue
        if output == "table":
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            for line in board.lines(sys.maxsize, width):
                print_line(line)
        else:
            print_line(_line(board.record(), output))
        if once:
            return


def _line(record: Mapping[str, Any], output: str) -> str:
    if output == "json":
        return json.dumps(record)
    import yaml

    text: str = yaml.safe_dump(record, explicit_start=True, sort_keys=False)
    return text.rstrip("\n")


def _live(board: "Board", admin: Admin, interval: float) -> int:
    """Keep the table on the terminal until somebody ends it; the exit status."""
    samples: SimpleQueue[tuple[Sample | None, str]] = SimpleQueue()
    with Screen() as screen:

        def ask() -> None:
            while True:
                time.sleep(interval)
                samples.put(admin.attempt(PATH, LONGEST))
                screen.wake()

        # Of a kind that need not be waited for: it may wait for a proxy that does not answer.
        threading.Thread(target=ask, daemon=True).start()
        while True:
            width, height = screen.size()
            screen.draw(board.lines(height, width))
            for key in screen.wait():
                if key in ("q", ENDED):
                    return 0
                if key in KEYS:
                    board.sort = KEYS[key]
                if key == RESUMED:
                    board.forget()  # or all of the pause would be one interval
            while not samples.empty():
                board.take(*samples.get())


class Board:
    """What is shown, of the samples that were taken.

    ``sort`` is one of ``SORTS``. ``trouble`` says why the last sample could not be had; the rows
    of the interval before it stay.
    """

    def __init__(self, address: str, sort: str = "rate", most: int | None = None) -> None:
        self.sort = sort
        self.trouble = ""
        self._address = address
        self._most = most
        self._before: Sample | None = None
        self._seconds = 0.0
        self._rows: list[Row] = []

    def forget(self) -> None:
        """The next sample is the first of an interval."""
        self._before = None

    def take(self, sample: Sample | None, trouble: str = "") -> bool:
        """Go on with ``sample``, or without, for the reason ``trouble``. Returns whether it ends
        an interval: the one before is there, and of the same process."""
        self.trouble = trouble
        before, self._before = self._before, sample
        if before is None or sample is None or before["pid"] != sample["pid"]:
            return False
        self._seconds = sample["clock"] - before["clock"]
        self._rows = differences(before, sample)
        return True

    def record(self) -> dict[str, Any]:
        """The interval, for programs."""
        pid = self._before["pid"] if self._before is not None else 0
        rows = in_order(self._rows, self.sort)[: self._most]
        return {"pid": pid, "seconds": self._seconds, "namespaces": rows}

    def lines(self, height: int, width: int | None = None) -> list[str]:
        """The table, of at most ``height`` lines and ``width`` columns."""
        shown = self._rows
        busy = sum(row["calls_per_second"] > 0 for row in shown)
        total = sum(row["calls_per_second"] for row in shown)
        errors = sum(row["errors_per_second"] for row in shown)
        rates = f"{total:,.0f} calls/s, {errors:,.1f} errors/s"
        busy_ones = f"{busy:,} of {len(shown):,} namespaces have calls; by {self.sort}"
        said = [f"{self._address}: {rates}, {busy_ones}", f"{rates}, {busy_ones}", rates]
        if self.trouble:
            said = [f"{self.trouble}; trying again"]
        elif not self._seconds:
            said = [f"{self._address}: a moment, for an interval"]
        heading = _heading(said, width)
        # The lines above, one empty, the head, and one for the rest.
        room = max(height - 3 - len(heading), 1)
        most = room if self._most is None else min(room, self._most)
        rows = in_order(shown, self.sort)
        lines = [*heading, "", *table(rows[:most], width)]
        if len(rows) > most:
            lines.append(f"... and {len(rows) - most:,} more")
        return [harmless(line[:width]) for line in lines[:height]]


def _heading(said: Sequence[str], width: int | None) -> list[str]:
    """The first of ``said`` that there is room for, or the last on two lines."""
    fitting = [each for each in said if width is None or len(each) <= width]
    room = width or 80
    cut = "..."[:room]
    return fitting[:1] or textwrap.wrap(said[-1], room, max_lines=2, placeholder=cut)


def differences(before: Sample, after: Sample) -> list[Row]:
    """What each namespace of ``after`` has had to do since ``before``, which is of the same
    process."""
    earlier = {each["namespace"]: each for each in before["namespaces"]}
    seconds = after["clock"] - before["clock"]
    return [
        _row(earlier.get(each["namespace"], {}), each, after["bounds"], seconds)
        for each in after["namespaces"]
    ]


def _row(before: Sample, after: Sample, bounds: Sequence[float], seconds: float) -> Row:
    calls = after.get("calls", {})
    ended = {
        status: max(count - before.get("calls", {}).get(status, 0), 0)
        for status, count in calls.items()
    }
    durations = after.get("durations", [])
    known = before.get("durations") or [0] * len(durations)
    counts = [max(now - then, 0) for now, then in zip(durations, known, strict=True)]
    earlier = before.get("policies", {})
    admission = after.get("policies", {}).get(ADMISSION, {})
    return {
        "namespace": after["namespace"],
        "ready": after["ready"],
        "calls_per_second": sum(ended.values()) / seconds,
        "p50_seconds": percentile(bounds, counts, 0.5),
        "p99_seconds": percentile(bounds, counts, 0.99),
        "errors_per_second": sum(ended.get(status, 0) for status in FAULTS) / seconds,
        "refused_per_second": ended.get(REFUSED, 0) / seconds,
        "in_flight": after.get("in_flight", 0),
        "max_in_flight": admission.get("limit", after.get("max_in_flight", 0)),
        "queued": admission.get("queued", 0),
        **{name: after.get(name, 0) for name in ("open_streams", "waiting")},
        "replicas": after.get("replicas", 1),
        "replicas_ready": after.get("replicas_ready", int(after["ready"])),
        "policies": after.get("policies", {}),
        "used_per_second": {
            name: max(_used(name, state) - _used(name, earlier.get(name, state)), 0) / seconds
            for name, state in after.get("policies", {}).items()
            if name in COUNTED
        },
    }


def _used(policy: str, state: Mapping[str, Any]) -> int:
    """How often a policy has done what it is there for."""
    limits = state.values() if policy == "rate" else [state]
    return sum(each.get(COUNTED[policy], 0) for each in limits if isinstance(each, dict))


def percentile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Seconds that ``share`` (0 to 1) of the calls did not exceed; None if there are none.

    ``counts`` are those of the buckets that ``bounds`` tells apart, and of what is longer, of
    which the last bound is said. Within a bucket they count as evenly spread.
    """
    total = sum(counts)
    if not total:
        return None
    rank, below, lower = share * total, 0, 0.0
    for upper, count in zip(bounds, counts, strict=False):
        if count and below + count >= rank:
            return lower + (upper - lower) * (rank - below) / count
        below, lower = below + count, upper
    return bounds[-1]


def in_order(rows: Iterable[Row], sort: str) -> list[Row]:
    """The rows by what ``SORTS`` says, the largest first; equal ones, and names, as the alphabet
    has them."""
    name = SORTS[sort]
    if name == "namespace":
        return sorted(rows, key=lambda row: str(row["namespace"]))
    return sorted(rows, key=lambda row: (-(row[name] or 0), row["namespace"]))


def table(rows: Sequence[Row], width: int | None = None) -> list[str]:
    """A line for the head, and one for each row. There is a column for replicas, and one for each
    policy, where one of the rows has them; as many columns as ``width`` has room for."""
    more = {name for row in rows for name in row["policies"]} - {ADMISSION}
    if any(row["replicas"] > 1 for row in rows):
        more.add("replicas")
    first = [name for name in FIRST if name in more]
    last = sorted(more - {*FIRST})
    head = [*HEAD, *map(str.upper, first), *TAIL]
    left = {0, *range(len(HEAD), len(HEAD) + len(first)), *range(len(head), len(head) + len(last))}
    head += [name.replace("_", " ").upper() for name in last]
    cells = [head]
    for row in rows:
        states = [_more(row, name) for name in [*first, *last]]
        cells.append([*_cells(row), *states[: len(first)], *_tail(row), *states[len(first) :]])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    # Closer together where the useful ones would else have no room.
    gap, shown = GAP, _fitting(widths, GAP, width)
    if shown < len(HEAD) + len(first):
        gap, shown = " ", _fitting(widths, " ", width)
    return [
        gap.join(
            text.ljust(width) if place in left else text.rjust(width)
            for place, (text, width) in enumerate(zip(line[:shown], widths[:shown], strict=True))
        ).rstrip()
        for line in cells
    ]


def _fitting(widths: Sequence[int], gap: str, width: int | None) -> int:
    """How many columns there is room for."""
    if width is None:
        return len(widths)
    used = 0
    for shown, each in enumerate(widths):
        used += each
        if used > width:
            return max(shown, 1)
        used += len(gap)
    return len(widths)


def _cells(row: Row) -> list[str]:
    return [
        row["namespace"] if row["ready"] else f"{row['namespace']} (no plugin)",
        f"{row['calls_per_second']:,.1f}",
        _milliseconds(row["p50_seconds"]),
        _milliseconds(row["p99_seconds"]),
        f"{row['errors_per_second']:,.1f}",
        f"{row['in_flight']}/{row['max_in_flight']}",
        str(row["queued"]),
    ]


def _tail(row: Row) -> list[str]:
    return [f"{row['refused_per_second']:,.1f}", str(row["open_streams"]), str(row["waiting"])]


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.1f}"


def _more(row: Row, name: str) -> str:
    """A cell of a column that not all tables have."""
    if name == "replicas":
        return f"{row['replicas_ready']}/{row['replicas']}"
    state = row["policies"].get(name)
    if state is None:
        return "-"
    if name in COUNTED:
        often = row["used_per_second"].get(name, 0.0)
        return f"{often:,.1f}/s" if often else "-"
    if name == "breaker":
        return _breaker(state)
    if name == "shedding":
        refusing = state.get("refusing", "nothing")
        return "-" if refusing == "nothing" else str(refusing)
    if name == "record":
        return "trouble" if state.get("trouble") else str(state.get("written", 0))
    if name == "shadow":
        return f"{state.get('different', 0)} differ"
    shown = state.get("state")  # of all that a policy shows, what it does
    return shown if isinstance(shown, str) else "yes"


def _breaker(state: Mapping[str, Any]) -> str:
    """Where it stands, or how many of several are not closed."""
    instances = [state, *state.get("instances", [])]
    found = [str(each["state"]).replace("_", "-") for each in instances if each.get("state")]
    bad = [each for each in found if each != "closed"]
    if len({*found}) <= 1:
        return found[0] if found else "-"
    return f"{len(bad)} of {len(found)} {'open' if 'open' in bad else bad[0]}"

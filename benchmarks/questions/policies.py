"""What do limits, breakers and the like cost the calls that they let pass, and those they refuse?

The same load on a proxy without any, on one for each of them, and on one with all, so wide that
none refuses anything. Then calls that are refused, whole: read, refused and answered. Limits of a
thousand namespaces, beside those of one. And calls of a namespace beside one that is flooded.
"""

import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.effort import Effort
from benchmarks.lineup import Lineup
from benchmarks.load.target import Target
from benchmarks.processes import children
from benchmarks.report.page import Section
from benchmarks.report.tables import absent, load_table, microseconds_each, verdict
from benchmarks.samples import Load, Sample, take_turns
from benchmarks.sides import prism

BUSY = Load(64)
WIDE = {"calls_per_second": 1e6, "burst": 1_000_000}
"""A rate that nobody reaches."""
POLICIES: dict[str, dict[str, Any]] = {
    "rate limit": {"limits": {"rate": WIDE}},
    "queue and fair shares": {"limits": {"max_queued": 256, "fair_shares": True}},
    "adaptive limit": {"limits": {"adaptive": {"min": 2 * BUSY.in_flight}}},
    "breaker": {"breaker": {}},
    "retries": {"retries": {}},
    "shedding": {"shedding": {"loop_lag_seconds": 10}},
    "hedging": {"hedging": {"after": 5}},  # of no call: that would be another call
}
"""What a namespace has, for each of them, or the proxy (``OF_THE_PROXY``)."""
NONE, ALL = "no policy", "all of them"
MOST_OF_ALL = 1.1
"""Times a proxied call's CPU time: what all of them may cost together."""
REFUSED: dict[str, dict[str, Any]] = {
    "rate limit": {"limits": {"rate": {"calls_per_second": 0.01, "burst": 1}}},
    # The first call that takes a millisecond opens it, as most of many at a time do.
    "breaker": {
        "breaker": {"slow_seconds": 0.001, "slow_rate": 0.01, "min_calls": 1, "open_seconds": 3600}
    },
}
REFUSAL = {"rate limit": b"429", "breaker": b"503"}
AT_ONCE: dict[str, Any] = {"listen": {"limits": {"refusals_per_second": None}}}
OF_THE_PROXY = ("shedding", "listen")
MOST_OF_REFUSAL = 25.0
"""Microseconds."""
LIMITED = {"limits": {**POLICIES["rate limit"]["limits"], "max_queued": 256, "fair_shares": True}}
MANY = 1_000
FEW = 20
"""Namespaces in a quick run."""
MOST_OF_FLOODED = 4
FLOODED = {"limits": {"max_in_flight": MOST_OF_FLOODED, "max_queued": 8}}
FLOOD = Load(256, connections=4)
MOST_OF_FLOOD = 2.0
"""Times the 99th percentile of a namespace's calls while another one is flooded."""


def measure(effort: Effort) -> Section:
    parts = [_passing(effort), _refused(effort), _many(effort), _flooded(effort)]
    failed = {name: why for part in parts for name, why in part.failed.items()}
    return Section("\n\n".join(part.text for part in parts), failed=failed)


def _passing(effort: Effort) -> Section:
    """Calls to a spawned plugin, of which none is refused."""
    sides = {NONE: {}, **POLICIES, ALL: _together(list(POLICIES.values()))}
    with Lineup() as lineup:
        for compiled in (False, True):
            for name, settings in sides.items():
                lineup.add(_named(name, compiled=compiled), _proxy(settings, compiled=compiled))
        results = take_turns(lineup.sides, [BUSY], rounds=effort.rounds, seconds=effort.seconds)
    spent = microseconds_each(lambda sample: sample.cpu)
    text = [
        load_table(results, lineup.sides, [BUSY], servers=("proxy", "plugin")),
        "",
        *absent(lineup.missing | results.failed),
    ]
    for compiled in (False, True):
        none, everything = _named(NONE, compiled=compiled), _named(ALL, compiled=compiled)
        for name in POLICIES:
            side = _named(name, compiled=compiled)
            found = results.ratio(side, none, BUSY, spent)
            if found is not None:
                text.append(f"- CPU time of the proxy per call, {side} / {none}: **{found:.2f}**")
        what = f"CPU time of the proxy per call, {everything} / {none}"
        found = results.ratio(everything, none, BUSY, spent)
        text.append(verdict(what, found, MOST_OF_ALL, at_least=False))
    return Section("\n".join(text), failed=results.failed)


def _named(what: str, *, compiled: bool) -> str:
    """How the tables call a proxy that does ``what``."""
    return f"{what}, compiled" if compiled else what


def _together(settings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One namespace with all of ``settings``."""
    found: dict[str, Any] = {}
    for each in settings:
        found = _with(found, each)
    return found


def _with(namespace: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    limits = {**namespace.get("limits", {}), **settings.get("limits", {})}
    return {**namespace, **settings, "limits": limits}


def configured(
    namespace: dict[str, Any], settings: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """``namespace`` with ``settings``, and what of these is the proxy's."""
    found = _with(namespace, settings)
    return found, {name: found.pop(name) for name in OF_THE_PROXY if name in found}


@contextmanager
def _proxy(
    settings: dict[str, Any], answers: bytes = b"200", *, compiled: bool = False
) -> Iterator[Target]:
    """A proxy before a spawned echo plugin, in a namespace with ``settings``."""
    namespace, outside = configured(prism.echo("echo", prism.SPAWNED), settings)
    with (
        tempfile.TemporaryDirectory() as folder,
        prism.prism(
            Path(folder), [namespace], prism.fastest_codec(), outside, compiled=compiled
        ) as (pid, url),
    ):
        (spawned,) = children(pid, prism.ECHO_PLUGIN)
        yield Target(f"{url}/v1/echo/echo", [pid], [spawned], answers=answers)


def _refused(effort: Effort) -> Section:
    """Calls that are refused, and told so at once: late ones would be fewer, not cheaper."""
    with Lineup() as lineup:
        for compiled in (False, True):
            for name, settings in REFUSED.items():
                side = _named(f"refused: {name}", compiled=compiled)
                proxy = _proxy({**settings, **AT_ONCE}, REFUSAL[name], compiled=compiled)
                lineup.add(side, proxy)
        results = take_turns(lineup.sides, [BUSY], rounds=effort.rounds, seconds=effort.seconds)
    spent = microseconds_each(lambda sample: sample.cpu)
    text = [
        load_table(results, lineup.sides, [BUSY], servers=("proxy", "plugin")),
        "",
        *absent(lineup.missing | results.failed),
    ]
    text += [
        verdict(
            f"CPU time of the proxy for a call, {name}, read and answered",
            results.median(name, BUSY, spent) if results.has(name, BUSY) else None,
            MOST_OF_REFUSAL,
            at_least=False,
            unit=" µs",
        )
        for name in lineup.sides
    ]
    return Section("\n".join(text), failed=results.failed)


def _many(effort: Effort) -> Section:
    """Calls that go round all namespaces of a proxy, with limits of their own and without."""
    counts = (1, FEW if effort.quick else MANY)
    names = {
        (count, limited): f"{count:,} namespace{'s' if count > 1 else ''}, "
        f"{'with limits' if limited else 'no limits'}"
        for count in counts
        for limited in (False, True)
    }
    with Lineup() as lineup:
        for (count, limited), name in names.items():
            lineup.add(name, _namespaces(count, LIMITED if limited else {}))
        results = take_turns(lineup.sides, [BUSY], rounds=effort.rounds, seconds=effort.seconds)
    spent = microseconds_each(lambda sample: sample.cpu)
    extra = [
        results.difference(names[count, True], names[count, False], BUSY, spent) for count in counts
    ]
    one, many = extra
    more = None if one is None or many is None else many - one
    text = [
        "Calls that go round all namespaces, in-process plugins.",
        "",
        load_table(results, lineup.sides, [BUSY], servers=("proxy", "")),
        "",
        *absent(lineup.missing | results.failed),
        verdict(
            f"What limits cost a call more with {counts[1]:,} namespaces than with one",
            more,
            1,
            at_least=False,
            unit=" µs",
        ),
    ]
    return Section("\n".join(text), failed=results.failed)


def _flooded(effort: Effort) -> Section:
    """Calls of one namespace while another has more than it takes, and while it has none."""
    calm: list[Sample] = []
    beside: list[Sample] = []
    namespaces = [
        prism.echo("calm", prism.SPAWNED),
        _with(prism.echo("flooded", prism.SPAWNED), FLOODED),
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        prism.prism(Path(folder), namespaces, prism.fastest_codec()) as (pid, url),
    ):
        target = Target(f"{url}/v1/calm/echo", [pid])
        flooded = Target(f"{url}/v1/flooded/echo", [], answers=b"429")
        target(BUSY, effort.seconds)  # to warm up
        for _ in range(effort.rounds):
            calm.append(target(BUSY, effort.seconds))
            with _flood(flooded, effort.seconds):
                beside.append(target(BUSY, effort.seconds))
    ratio = median(b.p99 / a.p99 for a, b in zip(calm, beside, strict=True))
    without, beside_it = (median(each.p99 for each in found) * 1e3 for found in (calm, beside))
    text = [
        f"Calls of one namespace ({BUSY}), and of another that may have {MOST_OF_FLOODED} at a "
        f"time and gets more ({FLOOD}): p99 of the first {without:.1f} ms without, "
        f"{beside_it:.1f} ms with.",
        "",
        verdict("p99 beside a flood / without", ratio, MOST_OF_FLOOD, at_least=False),
    ]
    return Section("\n".join(text))


@contextmanager
def _flood(target: Target, seconds: float) -> Iterator[None]:
    """Calls of ``target`` within the block, and for as long at least."""
    thread = threading.Thread(target=target, args=(FLOOD, seconds))
    thread.start()
    try:
        yield
    finally:
        thread.join()


@contextmanager
def _namespaces(count: int, settings: dict[str, Any]) -> Iterator[Target]:
    names = [f"echo-{number}" for number in range(count)]
    namespaces = [_with(prism.echo(name, prism.IN_PROCESS), settings) for name in names]
    with (
        tempfile.TemporaryDirectory() as folder,
        prism.prism(Path(folder), namespaces, prism.fastest_codec()) as (pid, url),
    ):
        yield Target([f"{url}/v1/{name}/echo" for name in names], [pid])

"""How do costs grow with streams, connections, namespaces and bodies?

CPU time per call tells it best: it does not depend on how busy the machine is.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.effort import Effort
from benchmarks.lineup import Lineup
from benchmarks.load.target import Target
from benchmarks.report.page import Section
from benchmarks.report.plots import Axis, line_plot
from benchmarks.report.tables import absent, load_table, microseconds_each, verdict
from benchmarks.samples import Load, Results, take_turns
from benchmarks.sides import envoy, prism

ENVOY = "Envoy"
SERVERS = ("proxy", "plugin or upstream")
STREAMS = [Load(number) for number in (1, 4, 16, 64, 128)]
CONNECTIONS = [Load(number, connections=number) for number in (4, 16, 64, 256)]
BUSY = Load(64)
NAMESPACES = [1, 10, 100, 1000]
FEW_NAMESPACES = [1, 10]
SIZES = ("100 B", "1 KB", "10 KB", "100 KB", "1 MB", "10 MB")
BODIES = [Load(4, body=10**power) for power in range(2, 8)]
SHOWN_BODY = Load(4, body=10_000)
LARGE_BODY = Load(4, body=1_000_000)
ROOM = dict.fromkeys(
    (
        "request_memory_bytes",
        "request_memory_bytes_per_connection",
        "answer_memory_bytes",
        "answer_memory_bytes_per_connection",
    ),
    256 * 1024 * 1024,
)
"""For the largest bodies, all on one connection: by default that has 32 MiB, and of four calls
with 10 MB one is refused."""
LEAST_SECONDS_OF_LARGE = 1.0
"""A sample of calls with large bodies has too few of them in less."""


def measure(effort: Effort) -> Section:
    parts = [_spread(effort), _namespaces(effort), _bodies(effort)]
    plots = {name: plot for part in parts for name, plot in part.plots.items()}
    failed = {name: why for part in parts for name, why in part.failed.items()}
    return Section("\n\n".join(part.text for part in parts), plots, failed)


def _spread(effort: Effort) -> Section:
    """Calls in flight as streams of one connection, and as connections with one each."""
    loads = [*effort.some(STREAMS, BUSY), *effort.some(CONNECTIONS, CONNECTIONS[0])]
    with Lineup() as lineup:
        lineup.add(ENVOY, envoy.before_an_upstream())
        for codec in prism.CODECS:
            lineup.add(prism.side_name("in-process", codec), _local(codec))
        results = take_turns(lineup.sides, loads, rounds=effort.rounds, seconds=effort.seconds)
    lines = {}
    for name in lineup.sides:
        lines[f"{name}: streams"] = _costs(results, name, STREAMS)
        lines[f"{name}: connections"] = _costs(results, name, [STREAMS[0], *CONNECTIONS])
    ticks = [(float(number), str(number)) for number in (1, 4, 16, 64, 256)]
    plot = line_plot(
        "CPU time of the proxy for each call",
        Axis("calls in flight", logarithmic=True, ticks=ticks),
        Axis("µs", logarithmic=True),
        lines,
    )
    text = [
        "Streams and connections: many calls on one connection, or one on each of many.",
        "",
        load_table(results, lineup.sides, loads, servers=SERVERS),
        "",
        *absent(lineup.missing | results.failed),
    ]
    return Section("\n".join(text), {"growth-with-streams-and-connections": plot}, results.failed)


def _namespaces(effort: Effort) -> Section:
    """Calls that go round all namespaces of a proxy."""
    counts = FEW_NAMESPACES if effort.quick else NAMESPACES
    names = {count: f"{count:,} namespace{'s' if count > 1 else ''}" for count in counts}
    with Lineup() as lineup:
        for count in counts:
            lineup.add(names[count], _many_namespaces(count))
        results = take_turns(lineup.sides, [BUSY], rounds=effort.rounds, seconds=effort.seconds)
    text = [
        f"Namespaces: calls that go round all of them, {BUSY}, in-process plugins.",
        "",
        load_table(results, lineup.sides, [BUSY], servers=("proxy", ""), says=lambda _: "Prism"),
        "",
        *absent(lineup.missing | results.failed),
    ]
    return Section("\n".join(text), failed=results.failed)


def _bodies(effort: Effort) -> Section:
    """Echoes of bodies of growing size."""
    loads = effort.some(BODIES, SHOWN_BODY)
    sides = [
        prism.side_name(way, codec) for codec in prism.CODECS for way in (prism.LOCAL, prism.SPAWN)
    ]
    with Lineup() as lineup:
        lineup.add(ENVOY, envoy.before_an_echo())
        for codec in prism.CODECS:
            names = [name for name in sides if name.endswith(codec)]
            lineup.add_all(names, _echoes(codec, names))
        seconds = effort.seconds if effort.quick else max(effort.seconds, LEAST_SECONDS_OF_LARGE)
        results = take_turns(lineup.sides, loads, rounds=effort.rounds, seconds=seconds)
    side = prism.side_name(prism.SPAWN, prism.NGHTTP2)
    lines = {
        name: [(load.body, _cost(results, name, load)) for load in loads if results.has(name, load)]
        for name in lineup.sides
    }
    ticks = [(float(load.body), size) for load, size in zip(BODIES, SIZES, strict=True)]
    plot = line_plot(
        "CPU time of the proxy for each echoed body",
        Axis("body, bytes there and as many back", logarithmic=True, ticks=ticks),
        Axis("µs", logarithmic=True),
        lines,
    )
    text = [
        f"Bodies: echoed whole, {SHOWN_BODY.in_flight} in flight. Envoy's upstream is nghttpd.",
        "",
        load_table(
            results,
            lineup.sides,
            loads,
            servers=SERVERS,
            says=lambda load: SIZES[BODIES.index(load)],
        ),
        "",
        *absent(lineup.missing | results.failed),
        verdict(
            f"CPU time of the proxy for a body of 1 MB, {side} / {ENVOY}",
            results.ratio(side, ENVOY, LARGE_BODY, microseconds_each(lambda sample: sample.cpu)),
            3,
            at_least=False,
        ),
    ]
    return Section("\n".join(text), {"growth-with-bodies": plot}, results.failed)


@contextmanager
def _local(codec: str) -> Iterator[Target]:
    with prism.echoes(codec) as targets:
        yield targets[prism.side_name(prism.LOCAL, codec)]


@contextmanager
def _echoes(codec: str, names: Iterable[str]) -> Iterator[dict[str, Target]]:
    with prism.echoes(codec, settings={"listen": {"limits": ROOM}}) as targets:
        yield {name: targets[name] for name in names}


@contextmanager
def _many_namespaces(count: int) -> Iterator[Target]:
    names = [f"echo-{number}" for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        namespaces = [prism.echo(name, prism.IN_PROCESS) for name in names]
        with prism.prism(Path(folder), namespaces, prism.fastest_codec()) as (pid, url):
            yield Target([f"{url}/v1/{name}/echo" for name in names], [pid])


def _cost(results: Results, side: str, load: Load) -> float:
    return results.median(side, load, microseconds_each(lambda sample: sample.cpu))


def _costs(results: Results, side: str, loads: list[Load]) -> list[tuple[float, float]]:
    return [
        (load.in_flight, _cost(results, side, load)) for load in loads if results.has(side, load)
    ]

"""The whole proxy, from HTTP to the plugin and back, beside a bare hypercorn."""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.callers.meter import PARAMS
from benchmarks.load import GENERATOR, Target
from benchmarks.measure import Load, Results, Side, take_turns
from benchmarks.prism_server import IN_PROCESS, SPAWNED, echo_namespace, prism
from benchmarks.processes import Caller, children, server
from benchmarks.report import table, verdict

BARE = "bare hypercorn"
LOCAL, SPAWN = "echo, in-process", "echo, spawned"
GET, SET = "SQLite get", "SQLite set"
DIRECT = "spawned echo, called directly"
SERVERS = (BARE, LOCAL, SPAWN, GET, SET)
LOADS = [Load(1), Load(16), Load(64), Load(16, http1=True)]

HEAD = (
    "load: side",
    "requests/s",
    "x hypercorn",
    "p50 ms",
    "p99 ms",
    "server CPU µs",
    "plugin CPU µs",
)


def runs(side: str, load: Load) -> bool:
    """Whether ``side`` is measured under ``load``."""
    return side != DIRECT or load == Load(1)


def measure(*, rounds: int, seconds: float) -> str:
    """The section of the page, as Markdown."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = _start(stack, folder)
        results = take_turns(sides, LOADS, rounds=rounds, seconds=seconds, runs=runs)
    return "\n".join(
        [
            f"Load from {GENERATOR}; {rounds} rounds of {seconds:g} s.",
            "",
            table(HEAD, [_row(results, name, load) for load in LOADS for name in SERVERS]),
            "",
            *_verdicts(results),
            "",
            "One call at a time over HTTP/2, what each part adds:",
            "",
            table(
                ("side", "p50 ms", "p99 ms", "p50 above the direct call", "p99 above it"),
                [_added(results, name) for name in (DIRECT, BARE, LOCAL, SPAWN)],
            ),
        ]
    )


def _start(stack: ExitStack, folder: Path) -> dict[str, Side]:
    bare_pid, bare_url = stack.enter_context(
        server([sys.executable, "-m", "benchmarks.bare_hypercorn"], "(http:.*)")
    )
    namespaces = [
        echo_namespace("local", IN_PROCESS),
        echo_namespace("spawned", SPAWNED),
        {"name": "sqlite", "backend": "sqlite", "config": {"path": str(folder / "bench.db")}},
    ]
    pid, url = stack.enter_context(prism(folder, namespaces))
    (plugin,) = children(pid)
    store = Target(f"{url}/v1/sqlite/set", PARAMS, pid)
    store(Load(1), 0.1)  # so that get finds something
    return {
        BARE: Target(bare_url, PARAMS, bare_pid, attempts=5),
        LOCAL: Target(f"{url}/v1/local/echo", PARAMS, pid),
        SPAWN: Target(f"{url}/v1/spawned/echo", PARAMS, pid, plugin),
        GET: Target(f"{url}/v1/sqlite/get", '{"key":"user:123"}', pid),
        SET: store,
        DIRECT: stack.enter_context(Caller("framed", "trio", "msgpack")),
    }


def _row(results: Results, name: str, load: Load) -> list[str]:
    def each(value: str) -> str:
        return f"{results.median(name, load, lambda s: getattr(s, value) / s.calls * 1e6):,.0f}"

    version = "HTTP/1.1" if load.http1 else "HTTP/2"
    return [
        f"{version}, {load.in_flight} in flight: {name}",
        f"{results.median(name, load, lambda sample: sample.rate):,.0f}",
        f"{results.ratio(name, BARE, load, lambda sample: sample.rate):.2f}",
        f"{results.median(name, load, lambda sample: sample.p50) * 1e3:.2f}",
        f"{results.median(name, load, lambda sample: sample.p99) * 1e3:.2f}",
        each("cpu"),
        each("peer_cpu") if name == SPAWN else "",
    ]


def _verdicts(results: Results) -> list[str]:
    return [
        verdict(
            f"Requests per second, {name} / {BARE}, {load.in_flight} in flight"
            f"{' (HTTP/1.1)' if load.http1 else ''}",
            results.ratio(name, BARE, load, lambda sample: sample.rate),
            0.8,
            at_least=True,
        )
        for load in LOADS
        for name in (LOCAL, SPAWN)
    ]


def _added(results: Results, name: str) -> list[str]:
    load = Load(1)
    p50, p99 = (
        results.median(name, load, lambda sample: sample.p50) * 1e3,
        results.median(name, load, lambda sample: sample.p99) * 1e3,
    )
    direct_p50 = results.median(DIRECT, load, lambda sample: sample.p50) * 1e3
    direct_p99 = results.median(DIRECT, load, lambda sample: sample.p99) * 1e3
    difference = ["", ""]
    if name != DIRECT:
        difference = [f"{p50 - direct_p50:+.2f} ms", f"{p99 - direct_p99:+.2f} ms"]
    return [name, f"{p50:.2f}", f"{p99:.2f}", *difference]

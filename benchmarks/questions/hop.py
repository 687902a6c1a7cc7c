"""What of it is the hop from the proxy to the plugin, beside gRPC and the bare socket?"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.effort import Effort
from benchmarks.lineup import Lineup, Unavailable
from benchmarks.processes import Caller
from benchmarks.report.page import Section
from benchmarks.report.rates import rate_plot
from benchmarks.report.tables import absent, microseconds_each, table, verdict
from benchmarks.samples import Load, Sample, Side, take_turns

FLOOR = "bare socketpair"
GRPC = "grpc.aio"
PRISM = "Prism, trio, MessagePack"
WASM = "Prism, WebAssembly, MessagePack"
SIDES = {
    FLOOR: ("raw_socket",),
    GRPC: ("grpc_unary",),
    PRISM: ("framed", "trio", "msgpack"),
    "Prism, trio, JSON": ("framed", "trio", "json"),
    "Prism, asyncio, MessagePack": ("framed", "asyncio", "msgpack"),
    "Prism, asyncio, JSON": ("framed", "asyncio", "json"),
    WASM: ("framed", "wasm", "msgpack"),
}
ALONE, BUSY = Load(1), Load(64)
LOADS = [ALONE, Load(16), BUSY, Load(256)]

MAX_WASM = 60
"""Microseconds."""

HEAD = (
    "calls in flight: side",
    "calls/s",
    "x grpc.aio",
    "p50 µs",
    "p99 µs",
    "caller CPU µs",
    "plugin CPU µs",
)


def measure(effort: Effort) -> Section:
    loads = [ALONE, BUSY] if effort.quick else LOADS
    with Lineup() as lineup:
        for name, call in SIDES.items():
            lineup.add(name, _caller(*call))
        results = take_turns(
            lineup.sides,
            loads,
            rounds=effort.rounds,
            seconds=effort.seconds,
            runs=lambda side, load: side != FLOOR or load == ALONE,
        )

    def row(name: str, load: Load) -> list[str]:
        ratio = results.ratio(name, GRPC, load, lambda sample: sample.rate)
        return [
            f"{load.in_flight}: {name}",
            f"{results.median(name, load, lambda sample: sample.rate):,.0f}",
            "" if ratio is None else f"{ratio:.1f}",
            f"{results.median(name, load, lambda sample: sample.p50) * 1e6:,.1f}",
            f"{results.median(name, load, lambda sample: sample.p99) * 1e6:,.1f}",
            f"{results.median(name, load, microseconds_each(lambda s: s.cpu)):,.1f}",
            f"{results.median(name, load, microseconds_each(lambda s: s.peer_cpu)):,.1f}",
        ]

    rows = [row(name, load) for load in loads for name in SIDES if results.has(name, load)]
    rate = results.ratio(PRISM, GRPC, BUSY, lambda sample: sample.rate)
    cost = results.ratio(GRPC, PRISM, BUSY, microseconds_each(_both))
    delay = results.ratio(PRISM, GRPC, ALONE, lambda sample: sample.p50)
    text = [
        table(HEAD, rows),
        "",
        *absent(lineup.missing | results.failed),
        verdict(f"Calls per second, {PRISM} / {GRPC}, {BUSY}", rate, 10, at_least=True),
        verdict(f"p50, {PRISM} / {GRPC}, {ALONE}", delay, 0.5, at_least=False),
    ]
    if cost is not None:
        text.append(
            f"- CPU time per call, both processes, {GRPC} / {PRISM}, {BUSY}: **{cost:.2f}**"
        )
    alone, hosted = (
        results.median(name, BUSY, microseconds_each(lambda s: s.peer_cpu))
        if results.has(name, BUSY)
        else None
        for name in (PRISM, WASM)
    )
    if alone is not None and hosted is not None:
        added = hosted - alone
        text.append(
            f"- CPU time per call that a WebAssembly module adds to a plugin's process, {BUSY}: "
            f"**{added:.0f} µs** (target: at most {MAX_WASM} µs)"
        )
    shown = [name for name in SIDES if name != FLOOR]
    plot = rate_plot("The hop to a plugin", results, shown, loads)
    return Section("\n".join(text), {"plugin-hop": plot}, results.failed)


@contextmanager
def _caller(name: str, *arguments: str) -> Iterator[Side]:
    """A caller of ``benchmarks.callers``.

    Raises:
        Unavailable: it needs grpcio, or wasmtime, which is not installed.
    """
    if name == "grpc_unary" and importlib.util.find_spec("grpc") is None:
        raise Unavailable("not installed; pip install grpcio grpcio-tools")
    if "wasm" in arguments and importlib.util.find_spec("wasmtime") is None:
        raise Unavailable("not installed; pip install wasmtime")
    with Caller(name, *arguments) as caller:
        yield caller


def _both(sample: Sample) -> float:
    return sample.cpu + sample.peer_cpu

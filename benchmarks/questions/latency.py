"""What delay does the proxy add, at a load that it can bear?

1,000 calls a second, evenly spaced, whether or not earlier ones have been answered.
A latency counts from the time at which the call was due, so that whatever holds up
one call also counts for those that wait behind it. The same generator calls the
backends directly: the difference is what the proxy adds.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.effort import Effort
from benchmarks.lineup import Lineup
from benchmarks.load.generator import Order
from benchmarks.load.target import Target, generate, paced_sample
from benchmarks.report.page import Section
from benchmarks.report.plots import Axis, line_plot
from benchmarks.report.tables import absent, microseconds_each, table, verdict
from benchmarks.samples import (
    PACED,
    RATE,
    SHARES,
    Load,
    Results,
    Sample,
    Side,
    percentile,
    take_turns,
)
from benchmarks.sides import envoy, grpc_aio, hypercorn, prism

SAMPLE_SECONDS = 3.0

PLUGIN = "plugin, called directly"
UPSTREAM = "upstream, called directly"
SERVICE = "grpc.aio service, called directly"
ENVOY, GRPC, HYPERCORN = "Envoy", "grpc.aio relay", "stock hypercorn, a constant"
HEAD = (
    "side",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "adds at p50",
    "adds at p99",
    "proxy CPU µs",
    "backend CPU µs",
)


def measure(effort: Effort) -> Section:
    late: list[float] = []
    with Lineup() as lineup:
        backend_of = _start(lineup, late)
        results = take_turns(
            lineup.sides,
            [PACED],
            rounds=effort.rounds,
            seconds=effort.seconds if effort.quick else SAMPLE_SECONDS,
        )
    measured = [name for name in lineup.sides if results.has(name, PACED)]
    late.sort()
    text = [
        table(HEAD, [_row(results, name, backend_of.get(name)) for name in measured]),
        "",
        f"The generator itself sent half of the calls at most {percentile(late, 0.5) * 1e6:.0f} µs "
        f"late, 99 % at most {percentile(late, 0.99) * 1e6:.0f} µs; that is part of every latency.",
        "",
        *absent(lineup.missing | results.failed),
        *_verdicts(results, backend_of),
    ]
    return Section(
        "\n".join(text),
        {"latency-at-1000-calls-a-second": _plot(results, measured)},
        results.failed,
    )


def _start(lineup: Lineup, late: list[float]) -> dict[str, str]:
    """The sides; gives the backend that stands behind each proxy among them."""

    def paced(target: Target) -> Side:
        def run(_load: Load, seconds: float) -> Sample:
            sample, outcome = target.at_fixed_rate(RATE, seconds)
            late.extend(outcome.late)
            return sample

        return run

    def call_plugin(_load: Load, seconds: float) -> Sample:
        outcome = generate(Order(RATE, seconds))
        late.extend(outcome.late)
        return paced_sample(outcome, seconds, 0.0, outcome.peer_cpu)

    @contextmanager
    def with_upstream() -> Iterator[dict[str, Side]]:
        with envoy.direct_response() as upstream, envoy.proxy_to(upstream) as proxy:
            yield {UPSTREAM: paced(upstream.as_peer()), ENVOY: paced(proxy)}

    @contextmanager
    def with_service() -> Iterator[dict[str, Side]]:
        with grpc_aio.service() as service, grpc_aio.relay_to(service) as relay:
            yield {SERVICE: paced(service.as_peer()), GRPC: paced(relay)}

    @contextmanager
    def echoes(codec: str) -> Iterator[dict[str, Side]]:
        with prism.echoes(codec) as targets:
            yield {name: paced(target) for name, target in targets.items()}

    @contextmanager
    def bare() -> Iterator[Side]:
        with hypercorn.hypercorn() as target:
            yield paced(target)

    lineup.sides[PLUGIN] = call_plugin
    prisms = {codec: [prism.side_name(way, codec) for way in prism.WAYS] for codec in prism.CODECS}
    for codec, names in prisms.items():
        lineup.add_all(names, echoes(codec))
    lineup.add_all([UPSTREAM, ENVOY], with_upstream())
    lineup.add_all([SERVICE, GRPC], with_service())
    lineup.add(HYPERCORN, bare())
    behind = {name: PLUGIN for names in prisms.values() for name in names}
    return behind | {ENVOY: UPSTREAM, GRPC: SERVICE}


def _p50(sample: Sample) -> float:
    return sample.p50


def _p99(sample: Sample) -> float:
    return sample.p99


def _row(results: Results, name: str, backend: str | None) -> list[str]:
    def median_ms(share: float) -> str:
        at = SHARES.index(share)
        return f"{results.median(name, PACED, lambda sample: sample.quantiles[at]) * 1e3:.2f}"

    added = ["", ""]
    if backend is not None:
        differences = [results.difference(name, backend, PACED, value) for value in (_p50, _p99)]
        added = ["" if more is None else f"{more * 1e3:+.2f} ms" for more in differences]
    spent = [
        results.median(name, PACED, microseconds_each(value))
        for value in (lambda sample: sample.cpu, lambda sample: sample.peer_cpu)
    ]
    return [
        name,
        *(median_ms(share) for share in (0.5, 0.99, 0.999)),
        *added,
        *(f"{cpu:,.0f}" if cpu else "" for cpu in spent),
    ]


def _verdicts(results: Results, backend_of: dict[str, str]) -> Iterator[str]:
    for codec in prism.CODECS:
        side = prism.side_name(prism.SPAWN, codec)
        for label, value, target in (("p50", _p50, 0.25), ("p99", _p99, 0.6)):
            added = results.difference(side, backend_of[side], PACED, value)
            yield verdict(
                f"{label} added by {side}",
                None if added is None else added * 1e3,
                target,
                at_least=False,
                unit=" ms",
            )


def _plot(results: Results, names: list[str]) -> str:
    """Latencies by the share of calls that exceed them."""
    lines = {
        name: [
            (
                1 / (1 - share),
                results.median(name, PACED, lambda sample, at=at: sample.quantiles[at]) * 1e3,
            )
            for at, share in enumerate(SHARES)
        ]
        for name in names
    }
    ticks = [(2.0, "50 %"), (10.0, "90 %"), (100.0, "99 %"), (1000.0, "99.9 %")]
    return line_plot(
        "Latency at 1,000 calls a second",
        Axis("share of the calls", logarithmic=True, ticks=ticks),
        Axis("ms, at most", logarithmic=True),
        lines,
    )

"""What does a call to a plugin cost, and what at other proxies?

A POST that Prism passes on to an echo plugin, which decodes and encodes it; that
Envoy passes on to an HTTP/2 upstream (another Envoy, which answers a constant); that
a relay on grpc.aio passes on to an echo service on grpc.aio. Prism
also runs with its calls compiled.
"""

from benchmarks.effort import Effort
from benchmarks.lineup import Lineup
from benchmarks.questions.constant import HYPERCORN
from benchmarks.report.page import Section
from benchmarks.report.rates import rate_plot
from benchmarks.report.tables import absent, load_table, microseconds_each, verdict
from benchmarks.samples import Load, Results, Sample, take_turns
from benchmarks.sides import envoy, grpc_aio, hypercorn, prism

ENVOY, GRPC = "Envoy", "grpc.aio relay"
ONE, SOME, BUSY, MANY = Load(1), Load(16), Load(64), Load(256, connections=4)
HTTP1 = Load(16, http1=True)
LOADS = [ONE, SOME, BUSY, MANY, HTTP1]
SPAWNED, LOCAL = (prism.side_name(way, prism.NGHTTP2) for way in (prism.SPAWN, prism.LOCAL))
TARGETS = [
    *(
        (SPAWNED, load, least)
        for load, least in ((ONE, 0.85), (SOME, 1.3), (BUSY, 1.3), (MANY, 1.3))
    ),
    (LOCAL, BUSY, 2.5),
    (SPAWNED, HTTP1, 1.0),
]
"""Calls a second as multiples of Envoy's: the side, the load, the least that is aimed at."""


def measure(effort: Effort) -> Section:
    loads = effort.some(LOADS, BUSY)
    with Lineup() as lineup:
        lineup.add(HYPERCORN, hypercorn.hypercorn())
        lineup.add(ENVOY, envoy.before_an_upstream())
        lineup.add(GRPC, grpc_aio.relay())
        for codec in prism.CODECS:
            lineup.add_all([prism.side_name(way, codec) for way in prism.WAYS], prism.echoes(codec))
        names = [prism.side_name(way, prism.NGHTTP2, compiled=True) for way in prism.WAYS]
        lineup.add_all(names, prism.echoes(prism.NGHTTP2, compiled=True))
        results = take_turns(
            lineup.sides,
            loads,
            rounds=effort.rounds,
            seconds=effort.seconds,
            runs=lambda side, load: not (side == GRPC and load.http1),
        )

    servers = ("proxy", "plugin or upstream")
    text = [
        load_table(results, lineup.sides, loads, ENVOY, servers=servers),
        "",
        *absent(lineup.missing | results.failed),
    ]
    text += [
        verdict(
            f"Calls per second, {load}, {side} / {ENVOY}",
            results.ratio(side, ENVOY, load, lambda sample: sample.rate),
            least,
            at_least=True,
        )
        for side, load, least in TARGETS
    ]
    text.append(
        verdict(
            f"CPU time of the proxy per call, {SPAWNED}, {HTTP1} / the same over HTTP/2",
            _over_http1(results),
            1.5,
            at_least=False,
        )
    )
    for side, load in ((SPAWNED, BUSY), (LOCAL, BUSY), (SPAWNED, HTTP1)):
        spent = results.ratio(f"{side}, compiled", side, load, microseconds_each(lambda s: s.cpu))
        if spent is not None:
            text.append(
                f"- CPU time of the proxy per call, {side}, {load}, compiled / not: **{spent:.2f}**"
            )
    for codec in prism.CODECS:
        side = prism.side_name(prism.SPAWN, codec)
        spent = results.ratio(side, ENVOY, BUSY, microseconds_each(_all_cpu))
        if spent is not None:
            text.append(
                f"- CPU time per call of proxy and backend together, {BUSY}, "
                f"{side} / {ENVOY}: **{spent:.2f}**"
            )
    plot = rate_plot("Passing a call on", results, lineup.sides, loads)
    return Section("\n".join(text), {"proxied-calls": plot}, results.failed)


def _over_http1(results: Results) -> float | None:
    """The proxy's CPU time per call over HTTP/1.1, by that over HTTP/2."""
    if not (results.has(SPAWNED, HTTP1) and results.has(SPAWNED, SOME)):
        return None
    each = microseconds_each(lambda sample: sample.cpu)
    return results.median(SPAWNED, HTTP1, each) / results.median(SPAWNED, SOME, each)


def _all_cpu(sample: Sample) -> float:
    return sample.cpu + sample.peer_cpu

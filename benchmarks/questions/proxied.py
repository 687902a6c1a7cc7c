"""What does a call to a plugin cost, and what at other proxies?

A POST that Prism passes on to an echo plugin, which decodes and encodes it; that
Envoy passes on to an HTTP/2 upstream (another Envoy, which answers a constant); that
a relay on grpc.aio passes on to an echo service on grpc.aio.
"""

from benchmarks.effort import Effort
from benchmarks.lineup import Lineup
from benchmarks.questions.constant import HYPERCORN
from benchmarks.report.page import Section
from benchmarks.report.rates import rate_plot
from benchmarks.report.tables import absent, load_table, microseconds_each, verdict
from benchmarks.samples import Load, Sample, take_turns
from benchmarks.sides import envoy, grpc_aio, hypercorn, prism

ENVOY, GRPC = "Envoy", "grpc.aio relay"
BUSY = Load(64)
LOADS = [Load(1), Load(16), BUSY, Load(256, connections=4), Load(16, http1=True)]


def measure(effort: Effort) -> Section:
    loads = effort.some(LOADS, BUSY)
    with Lineup() as lineup:
        lineup.add(HYPERCORN, hypercorn.hypercorn())
        lineup.add(ENVOY, envoy.before_an_upstream())
        lineup.add(GRPC, grpc_aio.relay())
        for codec in prism.CODECS:
            lineup.add_all([prism.side_name(way, codec) for way in prism.WAYS], prism.echoes(codec))
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
    for codec in prism.CODECS:
        side = prism.side_name(prism.SPAWN, codec)
        rate = results.ratio(side, ENVOY, BUSY, lambda sample: sample.rate)
        bare = results.ratio(side, HYPERCORN, BUSY, lambda sample: sample.rate)
        spent = results.ratio(side, ENVOY, BUSY, microseconds_each(_all_cpu))
        what = f"Calls per second, {BUSY}, {side}"
        text += [
            verdict(f"{what} / {ENVOY}", rate, 1.2, at_least=True),
            verdict(f"{what} / {HYPERCORN} with a constant", bare, 0.8, at_least=True),
        ]
        if spent is not None:
            text.append(
                f"- CPU time per call of proxy and backend together, {BUSY}, "
                f"{side} / {ENVOY}: **{spent:.2f}**"
            )
    plot = rate_plot("Passing a call on", results, lineup.sides, loads)
    return Section("\n".join(text), {"proxied-calls": plot}, results.failed)


def _all_cpu(sample: Sample) -> float:
    return sample.cpu + sample.peer_cpu

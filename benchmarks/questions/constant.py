"""What can the HTTP server do, with an application that does nothing?

A POST with a small body, answered with a constant of the same size: by stock
hypercorn and Granian, which run one ASGI application; by Prism's server with a front end
that does the same; and by Envoy itself, which is left out over HTTP/1.1: there it closes the
connection after a direct response to a POST.
"""

from benchmarks.effort import Effort
from benchmarks.lineup import Lineup
from benchmarks.report.page import Section
from benchmarks.report.rates import rate_plot
from benchmarks.report.tables import absent, load_table, verdict
from benchmarks.samples import Load, take_turns
from benchmarks.sides import envoy, granian, hypercorn, prism

HYPERCORN, GRANIAN, ENVOY = "stock hypercorn", "Granian", "Envoy"
NGHTTP2, H2 = (prism.side_name("", codec) for codec in prism.CODECS)
BUSY = Load(64)
LOADS = [Load(1), Load(16), BUSY, Load(256, connections=4), Load(16, http1=True)]


def measure(effort: Effort) -> Section:
    loads = effort.some(LOADS, BUSY)
    with Lineup() as lineup:
        lineup.add(HYPERCORN, hypercorn.hypercorn())
        lineup.add(GRANIAN, granian.granian())
        lineup.add(ENVOY, envoy.direct_response())
        for codec in prism.CODECS:
            lineup.add(prism.side_name("", codec), prism.constant(codec))
        results = take_turns(
            lineup.sides,
            loads,
            rounds=effort.rounds,
            seconds=effort.seconds,
            runs=lambda side, load: not (side == ENVOY and load.http1),
        )

    def target(side: str, other: str, at_least: float) -> str:
        ratio = results.ratio(side, other, BUSY, lambda sample: sample.rate)
        what = f"Calls per second, {BUSY}, {side} / {other}"
        return verdict(what, ratio, at_least, at_least=True)

    text = [
        load_table(results, lineup.sides, loads, HYPERCORN, servers=("server", "")),
        "",
        *absent(lineup.missing | results.failed),
        target(NGHTTP2, ENVOY, 0.8),
        target(NGHTTP2, HYPERCORN, 15),
        target(H2, HYPERCORN, 3.5),
    ]
    plot = rate_plot("Answering with a constant", results, lineup.sides, loads)
    return Section("\n".join(text), {"constant-answers": plot}, results.failed)

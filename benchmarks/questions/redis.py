"""And on Redis, beside other ways to reach it over HTTP?

Prism is called over HTTP/2, and over HTTP/1.1 as the others, which know no other. ``the driver``
is the plugin's own, called without a proxy by a process that does nothing else; redis-benchmark is
the limit.
"""

from contextlib import ExitStack

from benchmarks.effort import Effort
from benchmarks.lineup import Lineup, Unavailable
from benchmarks.processes import Caller
from benchmarks.report.page import Section
from benchmarks.report.rates import rate_plot
from benchmarks.report.tables import absent, added, load_table, verdict
from benchmarks.samples import PACED, Load, take_turns
from benchmarks.sides import redis

BUSY, BUSY1, ALONE = Load(64), Load(64, http1=True), Load(1)
LOADS = [ALONE, PACED, BUSY]
DRIVER = "the driver, get"
SPAWNED, INSIDE, ECHO = "Prism, spawned, get", "Prism, in-process, get", "Prism, spawned, echo"
FASTAPI, FASTAPI_SET, WEBDIS = "FastAPI, get", "FastAPI, set", "webdis, get"
REDIS_BENCHMARK = "redis-benchmark, get"


def measure(effort: Effort) -> Section:
    loads = [*effort.some(LOADS, BUSY), BUSY1]
    with ExitStack() as stack, Lineup() as lineup:
        try:
            server = stack.enter_context(redis.redis_server())
        except Unavailable as reason:
            return Section(f"- not measured ({reason})")
        prisms = [
            f"Prism, {way}, {what}" for way in ("spawned", "in-process") for what in ("get", "set")
        ]
        lineup.add_all([*prisms, ECHO], redis.behind_prism(server))
        for name in prisms:  # so that get finds something
            if name in lineup.sides and name.endswith("set"):
                lineup.sides[name](ALONE, 0.1)
        lineup.add(DRIVER, Caller("redis_driver", *map(str, server)))
        lineup.add_all([FASTAPI, FASTAPI_SET], redis.fastapi(server))
        if FASTAPI_SET in lineup.sides:
            lineup.sides[FASTAPI_SET](Load(1, http1=True), 0.1)
        lineup.add_all([WEBDIS], redis.webdis(server))
        lineup.add(REDIS_BENCHMARK, redis.redis_benchmark(server))
        results = take_turns(
            lineup.sides,
            loads,
            rounds=effort.rounds,
            seconds=effort.seconds,
            runs=_runs,
        )

    def compared(side: str, load: Load, other: str, other_load: Load, at_least: float) -> str:
        """A ratio over two loads: what the others cannot take is over HTTP/2."""
        measured = None
        if results.has(side, load) and results.has(other, other_load):
            measured = results.median(side, load, lambda s: s.rate) / results.median(
                other, other_load, lambda s: s.rate
            )
        what = f"Calls per second, 64 in flight, {side} / {other}"
        return verdict(what, measured, at_least, at_least=True)

    text = [
        load_table(results, lineup.sides, loads, servers=("server", "plugin")),
        "",
        *absent(lineup.missing | results.failed),
        compared(SPAWNED, BUSY, FASTAPI, BUSY1, 2),
        compared(SPAWNED, BUSY, WEBDIS, BUSY1, 1.5),
        compared(SPAWNED, BUSY, ECHO, BUSY, 0.8),
        added(results, SPAWNED, DRIVER, PACED, {"p50": 0.28, "p99": 1.0}),
    ]
    plot = rate_plot("Get and set on Redis", results, lineup.sides, loads)
    return Section("\n".join(text), {"redis-calls": plot}, results.failed)


def _runs(side: str, load: Load) -> bool:
    """At a fixed rate, only what the proxy adds is asked for."""
    if load == PACED:
        return side in (SPAWNED, DRIVER)
    if side in (DRIVER, REDIS_BENCHMARK):
        return not load.http1
    return load.http1 or side.startswith("Prism")

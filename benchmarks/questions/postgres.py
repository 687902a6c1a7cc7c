"""And on PostgreSQL, beside a service that one would write?

Prism is called over HTTP/2, and over HTTP/1.1 as FastAPI, which knows no other. ``the driver`` is
the plugin's own, called without a proxy by a process that does nothing else; pgbench is the limit.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.effort import Effort
from benchmarks.lineup import Lineup, Unavailable
from benchmarks.processes import Caller
from benchmarks.report.page import Section
from benchmarks.report.rates import rate_plot
from benchmarks.report.tables import absent, added, load_table, verdict
from benchmarks.samples import PACED, Load, Side, take_turns
from benchmarks.sides import postgres

BUSY, BUSY1, ALONE = Load(64), Load(64, http1=True), Load(1)
LOADS = [ALONE, PACED, BUSY]
DRIVER, PGBENCH = "the driver, get", "pgbench, query"
SPAWNED = "Prism, spawned, "
FASTAPI = "FastAPI, "


def measure(effort: Effort) -> Section:
    loads = [*effort.some(LOADS, BUSY), BUSY1]
    with ExitStack() as stack, Lineup() as lineup:
        try:
            server = stack.enter_context(postgres.postgres_server())
        except Unavailable as reason:
            return Section(f"- not measured ({reason})")
        prisms = [
            f"Prism, {way}, {what}" for way in ("spawned", "in-process") for what in postgres.WHATS
        ]
        lineup.add_all(prisms, postgres.behind_prism(server))
        for name in prisms:  # so that get finds something
            if name in lineup.sides and name.endswith("set"):
                lineup.sides[name](ALONE, 0.1)
        lineup.add(DRIVER, Caller("postgres_driver", str(server.pid), str(server.port)))
        services = [FASTAPI + what for what in postgres.WHATS]
        lineup.add_all(services, postgres.fastapi(server))
        lineup.add(PGBENCH, _pgbench(server))
        results = take_turns(
            lineup.sides,
            loads,
            rounds=effort.rounds,
            seconds=effort.seconds,
            runs=_runs,
        )

    def compared(what: str) -> str:
        """A ratio over two loads: Prism's is over HTTP/2."""
        side, other = SPAWNED + what, FASTAPI + what
        measured = None
        if results.has(side, BUSY) and results.has(other, BUSY1):
            measured = results.median(side, BUSY, lambda s: s.rate) / results.median(
                other, BUSY1, lambda s: s.rate
            )
        return verdict(
            f"Calls per second, 64 in flight, {side} / {other}", measured, 2, at_least=True
        )

    text = [
        load_table(results, lineup.sides, loads, servers=("server", "plugin")),
        "",
        *absent(lineup.missing | results.failed),
        *map(compared, postgres.WHATS),
        added(results, f"{SPAWNED}get", DRIVER, PACED, {"p50": 0.28, "p99": 1.0}),
    ]
    plot = rate_plot("Get, set and query on PostgreSQL", results, lineup.sides, loads)
    return Section("\n".join(text), {"postgres-calls": plot}, results.failed)


def _runs(side: str, load: Load) -> bool:
    """At a fixed rate, only what the proxy adds is asked for."""
    if load == PACED:
        return side in (f"{SPAWNED}get", DRIVER)
    if side in (DRIVER, PGBENCH):
        return not load.http1
    return load.http1 or side.startswith("Prism")


@contextmanager
def _pgbench(server: postgres.DebianPostgreSQL) -> Iterator[Side]:
    yield postgres.PgBench(server)

"""And with real work behind it: get and set on SQLite?

``set`` is durable: it returns after ``fsync``, which calls in flight together share.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.effort import Effort
from benchmarks.lineup import Lineup
from benchmarks.load.target import Target
from benchmarks.report.page import Section
from benchmarks.report.rates import rate_plot
from benchmarks.report.tables import absent, load_table
from benchmarks.samples import Load, take_turns
from benchmarks.sides import prism

GET, SET = "get", "set"
BUSY = Load(64)
LOADS = [Load(1), Load(16), BUSY, Load(256, connections=4)]


def measure(effort: Effort) -> Section:
    loads = effort.some(LOADS, BUSY)
    with Lineup() as lineup:
        for codec in prism.CODECS:
            lineup.add_all([prism.side_name(what, codec) for what in (GET, SET)], _sqlite(codec))
        results = take_turns(lineup.sides, loads, rounds=effort.rounds, seconds=effort.seconds)
    text = [
        load_table(results, lineup.sides, loads, servers=("proxy", "")),
        "",
        *absent(lineup.missing | results.failed),
    ]
    plot = rate_plot("Get and set on SQLite", results, lineup.sides, loads)
    return Section("\n".join(text), {"sqlite-calls": plot}, results.failed)


@contextmanager
def _sqlite(codec: str) -> Iterator[dict[str, Target]]:
    """A proxy with a namespace on SQLite: a side for each operation."""
    with tempfile.TemporaryDirectory() as name:
        namespaces = [prism.sqlite("store", Path(name, "store.db"))]
        with prism.prism(Path(name), namespaces, codec) as (pid, url):
            store = Target(f"{url}/v1/store/set", [pid])
            store(Load(1), 0.1)  # so that get finds something
            fetch = Target(
                f"{url}/v1/store/get", [pid], make_body=lambda _size: b'{"key":"user:123"}'
            )
            yield {prism.side_name(GET, codec): fetch, prism.side_name(SET, codec): store}

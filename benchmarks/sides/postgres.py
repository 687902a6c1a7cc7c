"""PostgreSQL, and what stands before it: Prism, and FastAPI with asyncpg on uvicorn; and pgbench.

Usage: python -m benchmarks.sides.postgres URL PORT; it serves FastAPI.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from benchmarks.lineup import Unavailable
from benchmarks.load.target import Target
from benchmarks.processes import children, module, quiet_server
from benchmarks.samples import NO_LATENCIES, Load, Sample, SideFailed
from benchmarks.sides import prism
from tests.services.postgres import PASSWORD, USER, DebianPostgreSQL
from tests.services.server import Missing

KEY, VALUE = "user:123", '{"name":"Ada"}'
GET, SET, QUERY = "get", "set", "query"
WHATS = (GET, SET, QUERY)
SELECT = "SELECT value FROM bench WHERE key = $1"
BODIES = {
    GET: f'{{"key":"{KEY}"}}'.encode(),
    SET: f'{{"key":"{KEY}","value":{VALUE}}}'.encode(),
    QUERY: f'{{"sql":"{SELECT}","params":["{KEY}"]}}'.encode(),
}
PLUGIN = "prism_plugins.postgres"
SPAWNED = {"type": "sidecar", "command": [sys.executable, "-m", PLUGIN]}
POOL = 20
TABLE = f"""CREATE TABLE bench (key text PRIMARY KEY, value jsonb);
INSERT INTO bench VALUES ('{KEY}', '{VALUE}')"""


@contextmanager
def postgres_server() -> Iterator[DebianPostgreSQL]:
    """A PostgreSQL that writes to the disk before it says so, with a table."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            server = DebianPostgreSQL.start(
                Path(folder), settings={"fsync": "on", "max_connections": "200"}
            )
        except Missing as reason:
            raise Unavailable(str(reason)) from None
        try:
            subprocess.run(["psql", "-q", server.url(), "-c", TABLE], check=True)
            yield server
        finally:
            server.stop()


def settings(server: DebianPostgreSQL) -> dict[str, object]:
    """A namespace's ``config`` and ``credentials``."""
    address = f"postgresql://127.0.0.1:{server.port}/postgres?sslmode=disable"
    return {
        "config": {"connection_string": address, "pool_size": POOL},
        "credentials": {"username": USER, "password": PASSWORD},
    }


@contextmanager
def behind_prism(server: DebianPostgreSQL) -> Iterator[dict[str, Target]]:
    """One proxy with the plugin in a process of its own and in the proxy's."""
    codec = prism.fastest_codec()
    namespaces = [
        {"name": "spawned", "backend": "postgres", "plugin": SPAWNED, **settings(server)},
        {"name": "inside", "backend": "postgres", **settings(server)},
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        prism.prism(Path(folder), namespaces, codec) as (pid, base),
    ):
        (plugin,) = children(pid, PLUGIN)
        ways = (("spawned", prism.SPAWN, [plugin]), ("inside", prism.LOCAL, []))
        yield {
            f"Prism, {way}, {what}": _target(f"{base}/v1/{name}/{what}", pid, peers, what)
            for name, way, peers in ways
            for what in WHATS
        }


@contextmanager
def fastapi(server: DebianPostgreSQL) -> Iterator[dict[str, Target]]:
    """A service that does the same, as one writes it: FastAPI, asyncpg, one uvicorn worker."""
    for library in ("fastapi", "uvicorn", "asyncpg"):
        if importlib.util.find_spec(library) is None:
            raise Unavailable(f"{library} is not installed")
    command = module("sides.postgres", server.url())
    with quiet_server(lambda port: [*command, str(port)]) as (pid, port):
        yield {
            f"FastAPI, {what}": _target(f"http://127.0.0.1:{port}/{what}", pid, [], what)
            for what in WHATS
        }


class PgBench:
    """PostgreSQL's own load generator, in C: the query, prepared, over its own protocol."""

    def __init__(self, server: DebianPostgreSQL) -> None:
        self._url = server.url()
        if shutil.which("pgbench") is None:
            raise Unavailable("no pgbench: sudo apt-get install postgresql")

    def __call__(self, load: Load, seconds: float) -> Sample:
        """Measure once."""
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.write(SELECT.replace("$1", f"'{KEY}'") + ";\n")
            script.flush()
            # A number of calls, not a time: to connect often takes longer than that.
            each = max(50, round(2000 * seconds / load.in_flight))
            command = ["pgbench", "-n", "-M", "prepared", "-f", script.name, "-t", str(each)]
            command += ["-c", str(load.in_flight), self._url]
            done = subprocess.run(command, capture_output=True, text=True)
        found = re.search(r"tps = ([\d.]+)", done.stdout)
        if found is None:
            raise SideFailed(f"pgbench: {done.stderr[-300:]}")
        return Sample(calls=round(float(found[1])), seconds=1, quantiles=NO_LATENCIES)


def _target(url: str, pid: int, peers: list[int], what: str) -> Target:
    return Target(url, [pid], peers, make_body=lambda _size: BODIES[what])


def main() -> None:
    import asyncpg  # type: ignore[import-not-found,import-untyped,unused-ignore]  # as below
    import fastapi  # type: ignore[import-not-found,unused-ignore]  # only the bench extra has it
    import uvicorn

    url, port = sys.argv[1:]
    pools = []

    @asynccontextmanager
    async def connected(_app: object) -> AsyncIterator[None]:
        async with asyncpg.create_pool(url, min_size=POOL, max_size=POOL) as pool:
            pools.append(pool)
            yield

    app = fastapi.FastAPI(lifespan=connected)

    @app.post("/get")
    async def get(body: dict[str, object]) -> dict[str, object]:
        found = await pools[0].fetchval(SELECT, body["key"])
        return {"found": True, "value": json.loads(found)} if found else {"found": False}

    @app.post("/set")
    async def set_(body: dict[str, object]) -> dict[str, object]:
        await pools[0].execute(
            "INSERT INTO bench VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = $2",
            body["key"],
            json.dumps(body["value"]),
        )
        return {"stored": True}

    @app.post("/query")
    async def query(body: dict[str, object]) -> dict[str, object]:
        rows = await pools[0].fetch(body["sql"], *body["params"])  # type: ignore[misc]  # a list, whatever its type says
        return {"columns": list(rows[0].keys()), "rows": [list(row.values()) for row in rows]}

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error", access_log=False)


if __name__ == "__main__":
    main()

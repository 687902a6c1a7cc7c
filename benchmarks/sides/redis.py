"""Redis, and what stands before it: Prism, FastAPI with redis-py on uvicorn, and webdis; and
redis-benchmark.

Usage: python -m benchmarks.sides.redis REDIS_PORT PORT; it serves FastAPI.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from urllib.request import urlopen

from benchmarks.lineup import Unavailable
from benchmarks.load.target import Target
from benchmarks.processes import START_LIMIT, children, module, quiet_server
from benchmarks.samples import NO_LATENCIES, Load, Sample, Side, SideFailed
from benchmarks.sides import prism

KEY, VALUE = "user:123", '{"name":"Ada"}'
GET, SET = "get", "set"
BODIES = {
    GET: f'{{"key":"{KEY}"}}'.encode(),
    SET: f'{{"key":"{KEY}","value":{VALUE}}}'.encode(),
}
PLUGIN = "prism_plugins.redis"
SPAWNED = {"type": "sidecar", "command": [sys.executable, "-m", PLUGIN]}


@contextmanager
def redis_server() -> Iterator[tuple[int, int]]:
    """A Redis that keeps all in memory: its pid and port."""
    program = shutil.which("redis-server")
    if program is None:
        raise Unavailable("no redis-server: sudo apt-get install redis-server")
    with tempfile.TemporaryDirectory() as folder:
        settings = ["--bind", "127.0.0.1", "--save", "", "--dir", folder]
        with quiet_server(lambda port: [program, "--port", str(port), *settings]) as up:
            yield up


@contextmanager
def behind_prism(redis: tuple[int, int]) -> Iterator[dict[str, Target]]:
    """One proxy with the plugin in a process of its own and in the proxy's, and the echo."""
    codec = prism.fastest_codec()
    url = f"redis://127.0.0.1:{redis[1]}/0"
    namespaces = [
        {"name": "spawned", "backend": "redis", "plugin": SPAWNED, "config": {"url": url}},
        {"name": "inside", "backend": "redis", "config": {"url": url}},
        prism.echo("echo", prism.SPAWNED),
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        prism.prism(Path(folder), namespaces, codec) as (pid, base),
    ):
        (plugin,) = children(pid, PLUGIN)
        (echo,) = children(pid, prism.ECHO_PLUGIN)
        yield {
            **{
                f"Prism, {way}, {what}": _target(f"{base}/v1/{name}/{what}", pid, peers, what)
                for name, way, peers in (
                    ("spawned", prism.SPAWN, [plugin]),
                    ("inside", prism.LOCAL, []),
                )
                for what in (GET, SET)
            },
            "Prism, spawned, echo": _target(f"{base}/v1/echo/echo", pid, [echo], GET),
        }


@contextmanager
def fastapi(redis: tuple[int, int]) -> Iterator[dict[str, Target]]:
    """A service that does the same, as one writes it: FastAPI, redis-py, one uvicorn worker."""
    for library in ("fastapi", "uvicorn", "redis"):
        if importlib.util.find_spec(library) is None:
            raise Unavailable(f"{library} is not installed")
    command = module("sides.redis", str(redis[1]))
    with quiet_server(lambda port: [*command, str(port)]) as (pid, port):
        yield {
            f"FastAPI, {what}": _target(f"http://127.0.0.1:{port}/{what}", pid, [], what)
            for what in (GET, SET)
        }


@contextmanager
def webdis(redis: tuple[int, int]) -> Iterator[dict[str, Target]]:
    """Redis over HTTP, in C."""
    program = shutil.which("webdis")
    if program is None:
        raise Unavailable("no webdis: sudo apt-get install webdis")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "webdis.json")

        def command(port: int) -> list[str]:
            settings = {
                "redis_host": "127.0.0.1",
                "redis_port": redis[1],
                "http_host": "127.0.0.1",
                "http_port": port,
                "threads": 1,
                "pool_size": 20,
                "daemonize": False,
                "verbosity": 0,
                "logfile": str(Path(folder, "log")),
            }
            file.write_text(json.dumps(settings))
            return [program, str(file)]

        with quiet_server(command) as (pid, port):
            _wait_connected(port)
            body = f"GET/spawned:{KEY}".encode()
            target = Target(f"http://127.0.0.1:{port}/", [pid], make_body=lambda _size: body)
            yield {"webdis, get": target}


@contextmanager
def redis_benchmark(redis: tuple[int, int]) -> Iterator[Side]:
    """Redis' own load generator, in C; a connection for each call in flight."""
    program = shutil.which("redis-benchmark")
    if program is None:
        raise Unavailable("no redis-benchmark: sudo apt-get install redis-tools")

    def measure(load: Load, seconds: float) -> Sample:
        calls = max(50 * load.in_flight, round(10_000 * seconds))
        command = [program, "-p", str(redis[1]), "-c", str(load.in_flight), "-n", str(calls), "-q"]
        done = subprocess.run(
            [*command, "GET", f"spawned:{KEY}"], capture_output=True, text=True, check=False
        )
        found = re.findall(r"([\d.]+) requests per second", done.stdout)
        if not found:
            raise SideFailed(f"redis-benchmark: {(done.stdout + done.stderr)[-300:]}")
        return Sample(calls=round(float(found[-1])), seconds=1, quantiles=NO_LATENCIES)

    yield measure


def _wait_connected(port: int) -> None:
    """Until webdis, which takes requests before it has any connection to Redis, answers them."""
    until = time.monotonic() + START_LIMIT
    while time.monotonic() < until:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/PING", timeout=5) as answer:
            if answer.status == HTTPStatus.OK:
                return
        time.sleep(0.02)


def _target(url: str, pid: int, peers: list[int], what: str) -> Target:
    return Target(url, [pid], peers, make_body=lambda _size: BODIES[what])


def main() -> None:
    import fastapi  # type: ignore[import-not-found,unused-ignore]  # only the bench extra has it
    import redis.asyncio
    import uvicorn

    redis_port, port = map(int, sys.argv[1:])
    app = fastapi.FastAPI()
    pool = redis.asyncio.BlockingConnectionPool(port=redis_port, max_connections=64)
    client = redis.asyncio.Redis(connection_pool=pool)

    @app.post("/get")
    async def get(body: dict[str, object]) -> dict[str, object]:
        found = await client.get(str(body["key"]))
        return {"found": True, "value": json.loads(found)} if found else {"found": False}

    @app.post("/set")
    async def set_(body: dict[str, object]) -> dict[str, object]:
        await client.set(str(body["key"]), json.dumps(body["value"]))
        return {"stored": True}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    main()

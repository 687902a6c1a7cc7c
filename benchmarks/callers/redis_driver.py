"""The plugin's own driver, without a proxy: get on the connection that all calls share.

Usage: python -m benchmarks.callers.redis_driver PID PORT, of the server.
"""

import sys

import trio

from benchmarks.callers.meter import Meter, next_order
from benchmarks.sides.redis import KEY
from prism_plugins.redis.config import RedisConfig, read_url
from prism_plugins.redis.store import Connection
from prism_plugins.redis.transport import Connector


async def main(pid: int, port: int) -> None:
    config = RedisConfig(url=f"redis://127.0.0.1:{port}/0")
    server = read_url(config.url)
    connection = Connection(Connector(config, server, {}, "driver"), config, "the server")
    await connection.shared.start()
    key = f"spawned:{KEY}".encode()

    async def call() -> None:
        assert await connection.command("GET", key, repeatable=True)

    while order := await trio.to_thread.run_sync(next_order):
        in_flight, seconds = order
        meter = Meter(pid, seconds)
        await meter.make_calls(in_flight, call)
        meter.report()
    await connection.shared.aclose()


trio.run(main, *map(int, sys.argv[1:]))

"""The plugin's own driver, without a proxy: get on the connections that all calls share.

Usage: python -m benchmarks.callers.postgres_driver PID PORT, of the server.
"""

import sys

import trio

from benchmarks.callers.meter import Meter, next_order
from benchmarks.sides.postgres import KEY
from prism.sdk.testing import run_plugin
from prism_plugins.postgres import PostgresPlugin
from tests.services.postgres import PASSWORD, USER


async def main(pid: int, port: int) -> None:
    address = f"postgresql://127.0.0.1:{port}/postgres?sslmode=disable"
    credentials = {"username": USER, "password": PASSWORD}
    async with run_plugin(
        PostgresPlugin,
        config={"connection_string": address},
        credentials=credentials,
        namespace="spawned",
    ) as plugin:
        store = plugin.plugin.store

        async def call() -> None:
            assert await store.get(KEY.encode())

        while order := await trio.to_thread.run_sync(next_order):
            in_flight, seconds = order
            meter = Meter(pid, seconds)
            await meter.make_calls(in_flight, call)
            meter.report()


trio.run(main, *map(int, sys.argv[1:]))

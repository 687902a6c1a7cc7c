"""Every write that was acknowledged is there after kill -9 in the middle of more."""

import subprocess
import sys

import pytest
import trio

PROGRAM = """
import itertools, sys
import anyio
from prism.sdk.testing import run_plugin
from prism_plugins.sqlite import SQLitePlugin

async def write(plugin, worker):
    for n in itertools.count():
        await plugin.call("set", key=f"{worker}.{n}", value=n)
        print(f"{worker}.{n}", flush=True)

async def main():
    async with run_plugin(SQLitePlugin, config={"path": sys.argv[1]}) as plugin:
        async with anyio.create_task_group() as group:
            for worker in range(8):
                group.start_soon(write, plugin, worker)

anyio.run(main, backend="asyncio")
"""


@pytest.mark.parametrize("lines", [1, 100, 1500])
def test_acknowledged_writes_survive_a_kill(open_plugin, path, lines: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(lines)]
        process.kill()
        rest = process.stdout.read()
        acknowledged += rest.splitlines() if rest.endswith("\n") else rest.splitlines()[:-1]
    assert process.returncode == -9
    trio.run(check, open_plugin, acknowledged)


async def check(open_plugin, acknowledged: list[str]) -> None:
    async with open_plugin() as sqlite:
        for start in range(0, len(acknowledged), 1000):
            keys = acknowledged[start : start + 1000]
            found = await sqlite.call("mget", keys=keys)
            assert found["found_count"] == len(keys)
        intact = await sqlite.plugin.database.read(
            lambda connection: connection.execute("PRAGMA integrity_check").fetchone()
        )
        assert intact == ("ok",)

"""A disk that is really full, and one that has room again: what was answered as done is there.

The disk is a small file system in memory, which root alone may mount.
"""

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from prism.contract.errors import PluginError
from prism.contract.messages import HealthStatus
from prism.contract.status import StatusCode
from tests.services.fixtures import StartServer
from tests.services.postgres import PostgreSQL18

from .conftest import Database, Running

pytestmark = pytest.mark.slow
in_thread = trio.to_thread.run_sync


class SmallDisk:
    """A file system of so many MiB, for the server's user."""

    def __init__(self, mebibytes: int) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="prism-disk-"))
        options = f"size={mebibytes}m,mode=0700"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "prism-test", str(self.path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode:
            self.path.rmdir()
            pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
        if PostgreSQL18.user is not None:
            shutil.chown(self.path, PostgreSQL18.user)

    def grow(self, mebibytes: int) -> None:
        """It has room again."""
        command = ["mount", "-o", f"remount,size={mebibytes}m", str(self.path)]
        subprocess.run(command, check=True)

    def remove(self) -> None:
        """Nothing of it is left."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)
        self.path.rmdir()


@pytest.fixture
def small_disk() -> Iterator[Any]:
    """``small_disk(mebibytes)``; removed after the servers of the test have ended."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a file system")
    disks: list[SmallDisk] = []

    def make(mebibytes: int) -> SmallDisk:
        disks.append(SmallDisk(mebibytes))
        return disks[-1]

    yield make
    for disk in disks:
        disk.remove()


class OnDisk(PostgreSQL18):
    """All of its data are on the option ``disk``."""

    def prepare(self) -> None:
        (self.directory / "data").symlink_to(self.options["disk"].path)
        super().prepare()


def value(number: int) -> str:
    """Some 100 KB that no server makes smaller."""
    return random.Random(number).randbytes(50_000).hex()


async def fill(pg: Running, stored: dict[str, int]) -> PluginError:
    """Write until that is refused; ``stored`` is what was answered as done."""
    for number in range(len(stored), 10_000):
        try:
            await pg.call("set", key=f"k{number}", value=value(number))
        except PluginError as error:
            return error
        stored[f"k{number}"] = number
    raise AssertionError("the disk is not full")


async def check(pg: Running, stored: dict[str, int]) -> None:
    """All of it is there, and whole; of what was refused, at most what was being written."""
    assert stored
    for key, number in stored.items():
        assert (await pg.call("get", key=key))["value"] == value(number)
    found = (await pg.call("count", prefix=""))["count"]
    assert len(stored) <= found <= len(stored) + 1


async def until_written(pg: Running) -> None:
    """Writing works again, without anybody's help."""
    with trio.fail_after(60):
        while True:
            try:
                await pg.call("set", key="after", value=1)
                return
            except PluginError as error:
                if error.status not in (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED):
                    raise
                await trio.sleep(0.05)


async def test_where_tables_have_no_room_writes_say_so_and_reads_go_on(
    small_disk: Any, start_server: StartServer
) -> None:
    disk = small_disk(24)
    server = start_server(PostgreSQL18)
    Database(server, "postgres").ask(f"CREATE TABLESPACE small LOCATION '{disk.path}'")
    Database(server, "postgres").ask("CREATE DATABASE crowded TABLESPACE small")
    stored: dict[str, int] = {}
    async with Database(server, "crowded").plugin() as pg:
        for _ in range(3):  # it stays so, and stays usable
            error = await fill(pg, stored)
            assert error.status is StatusCode.RESOURCE_EXHAUSTED
            assert "the server's disk is full" in error.detail
        await check(pg, stored)
        await pg.call("query", sql="SELECT 1")
        sql = "CREATE TABLE t AS SELECT md5(i::text) FROM generate_series(1, 1000000) i"
        with pytest.raises(PluginError, match="the server's disk is full"):
            await pg.call("execute", sql=sql)
        assert (await pg.health()).status is HealthStatus.HEALTHY, "reads are answered"
        await in_thread(disk.grow, 64)
        await until_written(pg)
        await pg.call("delete", key="after")
        await check(pg, stored)


async def test_where_the_log_has_no_room_nothing_that_was_answered_is_lost(
    small_disk: Any, start_server: StartServer
) -> None:
    """PostgreSQL ends all that it does where it cannot write its log, and starts anew."""
    disk = small_disk(100)
    settings = {"max_wal_size": "64MB", "checkpoint_timeout": "1h", "fsync": "on"}
    server = start_server(OnDisk, disk=disk, settings=settings)
    stored: dict[str, int] = {}
    async with Database(server, "postgres").plugin() as pg:
        error = await fill(pg, stored)
        assert error.status in (StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNAVAILABLE)
        await in_thread(disk.grow, 400)
        await in_thread(server.restart)
        await until_written(pg)
        with trio.fail_after(60):  # the other shared connections come back a little later
            while (await pg.health()).status is not HealthStatus.HEALTHY:  # noqa: ASYNC110 - a server
                await trio.sleep(0.02)
        await pg.call("delete", key="after")
        await check(pg, stored)

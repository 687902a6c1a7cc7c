"""A file that cannot be used, now or any more: what the operator or the client is told."""

import os
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from prism.sdk import PluginError, StatusCode


async def start_error(open_plugin, **config: object) -> PluginError:
    with pytest.raises(PluginError) as raised:
        async with open_plugin(**config):
            pass
    return raised.value


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"path": ""}, "$.path"),
        ({"path": "a\0b"}, "$.path"),
        ({"readers": 0}, "$.readers"),
        ({"synchronous": "off"}, "$.synchronous"),
        ({"pth": "x"}, "pth"),
    ],
)
async def test_wrong_config(open_plugin, config: dict[str, object], words: str) -> None:
    error = await start_error(open_plugin, **config)
    assert error.status is StatusCode.INVALID_ARGUMENT
    assert words in error.detail


async def test_a_missing_directory(open_plugin, tmp_path) -> None:
    error = await start_error(open_plugin, path=str(tmp_path / "nowhere" / "x.db"))
    assert error.status is StatusCode.FAILED_PRECONDITION
    assert "there is no directory" in error.detail


async def test_a_directory(open_plugin, tmp_path) -> None:
    error = await start_error(open_plugin, path=str(tmp_path))
    assert error.status is StatusCode.FAILED_PRECONDITION
    assert str(tmp_path) in error.detail


async def test_not_a_database(open_plugin, tmp_path) -> None:
    file = tmp_path / "x.db"
    file.write_text("dear diary, " * 1000)
    error = await start_error(open_plugin, path=str(file))
    assert error.status is StatusCode.FAILED_PRECONDITION
    assert "not a SQLite database: move it away" in error.detail
    assert str(file) in error.detail
    assert file.read_text().startswith("dear diary")


async def test_a_damaged_database(open_plugin, tmp_path) -> None:
    file = tmp_path / "x.db"
    async with open_plugin(path=str(file)) as sqlite:
        await sqlite.call("set", key="a", value=1)
    file.write_bytes(file.read_bytes()[:4096] + b"\xff" * 8192)
    error = await start_error(open_plugin, path=str(file))
    assert error.status is StatusCode.FAILED_PRECONDITION
    assert "damaged" in error.detail


async def test_a_newer_schema(open_plugin, path) -> None:
    async with open_plugin():
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE _prism_schema SET version = 99")
    connection.close()
    error = await start_error(open_plugin)
    assert error.status is StatusCode.FAILED_PRECONDITION
    assert "schema version 99" in error.detail


async def test_locked_by_another_process(open_plugin, path) -> None:
    async with open_plugin(busy_timeout_ms=0) as sqlite:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(PluginError) as raised:
            await sqlite.call("set", key="a", value=1)
        assert raised.value.status is StatusCode.UNAVAILABLE
        assert "busy_timeout_ms" in raised.value.detail
        assert path not in raised.value.detail
        assert await sqlite.call("get", key="a") == {"found": False}
        other.close()
        assert await sqlite.call("set", key="a", value=1) == {"stored": True}


async def test_calls_after_the_database_was_closed(open_plugin) -> None:
    async with open_plugin() as sqlite:
        await sqlite.plugin.database.close()
        for operation in ("get", "delete"):
            with pytest.raises(PluginError) as raised:
                await sqlite.call(operation, key="a")
            assert raised.value.status is StatusCode.UNAVAILABLE
        await sqlite.plugin.start()


PROGRAM = """
import os, resource, sys
import anyio
from prism.sdk.testing import run_plugin
from prism.sdk import PluginError
from prism_plugins.sqlite import SQLitePlugin
import anyio._backends._asyncio

path, what = sys.argv[1:]

async def attempt(plugin, key, size):
    try:
        print(key, (await plugin.call("set", key=key, value="x" * size))["stored"])
    except PluginError as error:
        print(key, error.status.name, error.detail)

async def main():
    try:
        async with run_plugin(SQLitePlugin, config={"path": path}) as plugin:
            await attempt(plugin, "small", 10)
            if what == "full":
                hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
                await attempt(plugin, "large", 400_000)
                await attempt(plugin, "after", 10)
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
                await attempt(plugin, "freed", 400_000)
                print("count", (await plugin.call("count"))["count"])
    except PluginError as error:
        print("start", error.status.name, error.detail)

if what == "readonly" and os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
anyio.run(main, backend="asyncio")
"""


FEW_DESCRIPTORS = """
import os, resource, sys
import trio
from prism.sdk.testing import run_plugin
from prism.sdk import PluginError
from prism_plugins.sqlite import SQLitePlugin

async def main():
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        os.close(held.pop())
    said = ""
    while not said.startswith("started"):
        try:
            async with run_plugin(SQLitePlugin, config={"path": sys.argv[1]}):
                said = "started"
        except PluginError as error:
            said = f"{error.status.name} {error.detail}"
        print(said)
        os.close(held.pop())

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
trio.run(main)
"""


def test_few_descriptors(path) -> None:
    """Whichever file is the first that cannot be opened."""
    *refusals, started = run_program(path, program=FEW_DESCRIPTORS)
    assert started == "started"
    assert len(refusals) > 3
    for line in refusals:
        assert line.startswith("RESOURCE_EXHAUSTED config.path")
        assert "of the 40 files that it may have open (ulimit -n" in line


BOMBS = """
import sqlite3, sys
import trio
from prism.sdk.testing import run_plugin
from prism.sdk import PluginError
from prism_plugins.sqlite import SQLitePlugin
from prism_plugins.sqlite.heap import BASE_BYTES, CONNECTION_BYTES

def grown(first, then):
    levels = ", ".join(f"v{n} AS (SELECT {then.format(f'v{n - 1}')})" for n in range(1, 17))
    return f"WITH v0 AS (SELECT {first} AS a), {levels} SELECT count(*) FROM v16"

async def main():
    async with run_plugin(SQLitePlugin, config={"path": sys.argv[1]}) as plugin:
        other = sqlite3.connect(":memory:")
        limit = other.execute("PRAGMA hard_heap_limit").fetchone()
        assert limit == (BASE_BYTES + 6 * CONNECTION_BYTES,), limit
        other.execute("PRAGMA hard_heap_limit=100000000")  # that the test need not take so much
        for sql in (
            grown("+".join("1" * 900), "a FROM {0} UNION ALL SELECT a FROM {0}"),
            grown("1 AS b, " * 90 + "1", "a FROM {0} WHERE a IN (SELECT a FROM {0})"),
        ):
            for operation in ("query", "execute"):
                try:
                    print(await plugin.call(operation, sql=sql))
                except PluginError as error:
                    print(error.status.name)
        async with trio.open_nursery() as nursery:
            for key in "abc":
                nursery.start_soon(lambda key=key: plugin.call("set", key=key, value=1))
        print(await plugin.call("count"))

trio.run(main)
"""


def test_a_statement_that_grows_as_it_is_compiled(path) -> None:
    *refusals, count = run_program(path, program=BOMBS)
    assert refusals == ["RESOURCE_EXHAUSTED"] * 4
    assert count == "{'count': 3}"


def run_program(*arguments: str, program: str = PROGRAM) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_full_disk(path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    assert hard == resource.RLIM_INFINITY
    small, large, after, freed, count = run_program(path, "full")
    assert small == "small True"
    assert large.startswith(("large UNAVAILABLE", "large RESOURCE_EXHAUSTED"))
    assert "disk" in large
    assert path not in large
    assert after == "after True"
    assert freed == "freed True"
    assert count == "count 3"


def test_a_read_only_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "x.db"
    sqlite3.connect(file).close()
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    file.chmod(0o444)
    folder.chmod(0o555)
    try:
        [line] = run_program(str(file), "readonly")
    finally:
        folder.chmod(0o755)
    assert line.startswith("start FAILED_PRECONDITION")
    assert str(file) in line
    assert "permission" in line

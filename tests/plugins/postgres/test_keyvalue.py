"""What is PostgreSQL's own of the key-value operations; tests/compliance has what all do."""

import random
from contextlib import AsyncExitStack
from typing import Any

import anyio
import psycopg
import pytest
import trio

from prism.contract.messages import ExecuteRequest, HealthStatus
from prism.contract.status import StatusCode
from prism.sdk.multiplexed import Multiplexed
from prism_plugins.postgres.keyvalue import _SCAN
from prism_plugins.postgres.pipeline import GROUP, Request

from .conftest import Database, Running, eventually, new_name, refused, status_of


@pytest.fixture(params=["shared", "pooler"])
async def kv(request: pytest.FixtureRequest, database: Database) -> Any:
    """On shared connections, and as it is behind a pooler."""
    config = {"statement_cache_size": 0} if request.param == "pooler" else {}
    async with database.plugin(new_name(), **config) as running:
        yield running


async def test_on_both_versions(each_database: Database) -> None:
    async with each_database.plugin() as kv:
        assert await kv.call("set", key="a", value={"b": 1}) == {"stored": True}
        assert (await kv.call("get", key="a"))["value"] == {"b": 1}


async def test_values_are_as_they_came(kv: Running) -> None:
    everything = bytes(range(256))
    await kv.request("set", {"key": "bytes", "value": everything}, binary=True)
    assert (await kv.request("get", {"key": "bytes"}, binary=True))["value"] == everything
    text = '{"b": 1.0,  "a": 12345678901234567890, "c": "\\u0000\\ud83d\\ude00"}'
    params = f'{{"key":"json","value":{text}}}'
    await kv.plugin.execute(ExecuteRequest(operation="set", params_json=params))
    got = await kv.plugin.execute(ExecuteRequest(operation="get", params_json='{"key":"json"}'))
    assert f'"value":{text},' in got.result_json


async def test_keys_are_literal(kv: Running) -> None:
    keys = [
        "a%b",
        "a_b",
        "a\\b",
        "a*b",
        "a?b",
        "a[b",
        "aXb",
        "a",
        "a\0b",
        "aé",
        "a😀",
        'a"b',
        "a{b",
    ]
    await kv.call("mset", items=[{"key": key, "value": key} for key in keys])
    found = await kv.call("mget", keys=keys)
    assert [result["value"] for result in found["results"]] == keys
    everything = [item["key"] for item in (await kv.call("scan", prefix=""))["items"]]
    assert everything == sorted(keys, key=str.encode)
    for prefix in ("a%", "a_", "a\\", "a*", "a?", "a[", "a\0", "aé", "a😀", 'a"', "a{"):
        assert await kv.call("count", prefix=prefix) == {"count": 1}
        [item] = (await kv.call("scan", prefix=prefix))["items"]
        assert item["key"].startswith(prefix)
    assert await kv.call("mdelete", keys=[*keys, "a", "none"]) == {"deleted": len(keys)}


async def test_namespaces_have_their_own_keys(database: Database) -> None:
    async with database.plugin("one") as one, database.plugin("one_more") as other:
        for each in (one, other):
            await each.call("set", key="same", value=each.plugin.namespace)
        for each in (one, other):
            assert (await each.call("get", key="same"))["value"] == each.plugin.namespace
            assert await each.call("count") == {"count": 1}
        await one.call("delete", key="same")
        assert await other.call("exists", key="same") == {"exists": True}


async def test_what_has_expired_is_gone_for_every_operation(
    kv: Running, database: Database
) -> None:
    async def expired(key: str = "k") -> None:
        """Its time is over, and nobody has removed it."""
        await kv.call("set", key=key, value=1, ttl_seconds=1000)
        version = (await kv.call("get", key=key))["version"]
        database.ask(
            "UPDATE _prism.keyvalue SET expires_at = clock_timestamp() WHERE namespace = %s",
            kv.plugin.namespace,
        )
        return version  # type: ignore[no-any-return] # of a dictionary

    version = await expired()
    for operation, params, answer in [
        ("get", {}, {"found": False}),
        ("exists", {}, {"exists": False}),
        ("ttl", {}, {"found": False, "ttl_seconds": -2}),
        ("expire", {"ttl_seconds": 9}, {"key_existed": False}),
        ("persist", {}, {"expiration_removed": False}),
        ("delete", {}, {"deleted": False}),
        ("delete", {"if_version": version}, {"deleted": False}),
        ("set", {"value": 2, "only_if_exists": True}, {"stored": False}),
        ("set", {"value": 2, "if_version": version}, {"stored": False}),
        ("compare_and_swap", {"old_value": 1, "new_value": 2}, {"swapped": False}),
        ("compare_and_delete", {"old_value": 1}, {"deleted": False}),
    ]:
        assert await kv.call(operation, key="k", **params) == answer, operation
    assert await kv.call("mdelete", keys=["k"]) == {"deleted": 0}
    assert (await kv.call("mget", keys=["k"]))["found_count"] == 0
    assert await kv.call("count") == {"count": 0}
    assert (await kv.call("scan"))["items"] == []
    assert await kv.call("set", key="k", value=3, only_if_not_exists=True) == {"stored": True}
    assert await kv.call("ttl", key="k") == {"found": True, "ttl_seconds": -1}
    await expired()
    assert await kv.call("increment", key="k", delta=4, initial=1) == {"value": 5}
    await expired()
    assert await kv.call("compare_and_swap", key="k", new_value=6) == {"swapped": True}
    await expired()
    await kv.call("mset", items=[{"key": "k", "value": 7}])
    assert (await kv.call("get", key="k"))["value"] == 7


async def test_expired_rows_are_removed(database: Database) -> None:
    namespace = new_name()
    async with database.plugin(namespace) as kv, database.plugin("another") as other:
        await other.call("set", key="k", value=1, ttl_seconds=0.001)
        for number in range(5):
            await kv.call("set", key=f"k{number}", value=1, ttl_seconds=0.001)
        await kv.call("set", key="kept", value=1)
        await kv.plugin.store.sweep()
        sql = "SELECT namespace, count(*)::int FROM _prism.keyvalue GROUP BY 1"
        left = dict(database.ask(sql))
        assert left[namespace] == 1
        assert left["another"] == 1  # another namespace's are not ours to remove


async def test_increments_of_many_at_once(kv: Running) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(lambda: kv.call("increment", key="n", delta=2))
    assert (await kv.call("get", key="n"))["value"] == 100


async def test_one_of_many_gets_the_lock(kv: Running) -> None:
    stored = []

    async def lock(number: int) -> None:
        answer = await kv.call("compare_and_swap", key="lock", new_value=number)
        stored.append(answer["swapped"])

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(lock, number)
    assert sum(stored) == 1


async def test_compare_and_swaps_of_many_lose_nothing(kv: Running) -> None:
    await kv.call("set", key="n", value=0)

    async def add() -> None:
        while True:
            old = (await kv.call("get", key="n"))["value"]
            answer = await kv.call("compare_and_swap", key="n", old_value=old, new_value=old + 1)
            if answer["swapped"]:
                return

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(add)
    assert (await kv.call("get", key="n"))["value"] == 20


async def test_what_fails_in_a_group_fails_alone(database: Database) -> None:
    """Statements that were sent together share a transaction; an error in it is one caller's."""
    namespace = new_name()
    async with database.plugin(namespace, key_value_connections=1) as kv:
        database.ask(
            "ALTER TABLE _prism.keyvalue ADD CONSTRAINT no_bad CHECK (key <> 'bad'::bytea)"
        )
        answers: dict[str, Any] = {}

        async def put(key: str) -> None:
            try:
                answers[key] = await kv.call("set", key=key, value=1)
            except Exception as error:
                answers[key] = error

        try:
            async with trio.open_nursery() as nursery:
                for key in [*(f"k{number}" for number in range(GROUP // 2)), "bad", "z"]:
                    nursery.start_soon(put, key)
        finally:
            database.ask("ALTER TABLE _prism.keyvalue DROP CONSTRAINT no_bad")
        assert answers.pop("bad").status is StatusCode.FAILED_PRECONDITION
        assert all(answer == {"stored": True} for answer in answers.values())
        assert await kv.call("count") == {"count": len(answers)}


async def test_writes_in_any_order_do_not_wait_for_each_other(database: Database) -> None:
    """Several instances write the same keys, each in its own order."""
    namespace = new_name()
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    async with AsyncExitStack() as stack:
        instances = [await stack.enter_async_context(database.plugin(namespace)) for _ in range(3)]
        before = database.ask(deadlocks)
        keys = [f"k{number}" for number in range(20)]

        async def write(turn: int) -> None:
            instance = instances[turn % 3]
            order = random.Random(turn).sample(keys, len(keys))
            if turn % 2:
                await instance.call("mset", items=[{"key": key, "value": 1} for key in order])
                return
            async with anyio.create_task_group() as group:
                for key in order:
                    group.start_soon(lambda k=key: instance.call("set", key=k, value=1))

        async with trio.open_nursery() as nursery:
            for turn in range(60):
                nursery.start_soon(write, turn)
    await eventually(lambda: not connections(database))  # as they end, they tell their statistics
    assert database.ask(deadlocks) == before


def connections(database: Database) -> int:
    """Those of plugins."""
    sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'prism/%%'"
    return int(database.ask(f"{sql} AND datname = current_database()")[0][0])


async def test_ten_instances_make_the_schema_at_once(database: Database) -> None:
    schema = new_name()
    async with AsyncExitStack() as stack:
        running: list[Running] = []

        async def start() -> None:
            plugin = database.plugin(new_name(), schema=schema)
            running.append(await stack.enter_async_context(plugin))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(start)
        assert len(running) == 10
        for each in running:
            await each.call("set", key="k", value=1)
    assert database.ask(f"SELECT version FROM {schema}.schema_version") == [(1,)]


async def test_a_newer_schema_is_refused(database: Database) -> None:
    schema = new_name()
    async with database.plugin(schema=schema):
        pass
    database.ask(f"INSERT INTO {schema}.schema_version VALUES (99)")
    error = await refused(database.plugin(schema=schema).__aenter__())
    assert error.status is StatusCode.FAILED_PRECONDITION
    assert "99" in error.detail


async def test_tables_that_are_gone_are_made_by_the_next_start(database: Database) -> None:
    """Which a plugin that is unhealthy gets."""
    schema = new_name()
    async with database.plugin(schema=schema) as pg:
        await pg.call("set", key="k", value=1)
        database.ask(f"DROP SCHEMA {schema} CASCADE")
        for operation, params in (
            ("get", {"key": "k"}),
            ("set", {"key": "k", "value": 1}),
            ("scan", {}),
            ("enqueue", {"queue": "q", "value": 1}),
        ):
            error = await refused(pg.call(operation, **params))
            assert error.status is StatusCode.UNAVAILABLE, operation
            assert "Prism's own tables" in error.detail
        assert (await pg.health()).status is HealthStatus.UNHEALTHY
    async with database.plugin(schema=schema) as pg:
        assert await pg.call("set", key="k", value=1) == {"stored": True}


async def test_instances_that_remove_what_has_expired_share_the_work(database: Database) -> None:
    """None waits for another, and what is written anew meanwhile stays."""
    namespace = new_name()
    async with AsyncExitStack() as stack:
        instances = [await stack.enter_async_context(database.plugin(namespace)) for _ in range(3)]
        items = [{"key": f"k{number}", "value": 1, "ttl_seconds": 0.001} for number in range(1000)]
        for start in range(4):
            named = [item | {"key": f"{start}{item['key']}"} for item in items]
            await instances[0].call("mset", items=named)
        kept = [{"key": f"2k{number}", "value": 2} for number in range(100)]

        async def sweep(instance: Running) -> None:
            while await instance.plugin.store.sweep():
                pass

        async with trio.open_nursery() as nursery:
            for instance in instances:
                nursery.start_soon(sweep, instance)
            nursery.start_soon(lambda: instances[1].call("mset", items=kept))
        await sweep(instances[2])  # of a row that another had just then, and left
        sql = "SELECT count(*) FROM _prism.keyvalue WHERE namespace = %s"
        assert database.ask(sql, namespace) == [(100,)]
        found = await instances[2].call("mget", keys=[item["key"] for item in kept])
        assert {result["value"] for result in found["results"]} == {2}


async def test_without_key_value(database: Database) -> None:
    schema = new_name()
    async with database.plugin(key_value=False, schema=schema) as pg:
        assert await pg.call("query", sql="SELECT 1")
        error = await refused(pg.call("get", key="a"))
        assert error.status is StatusCode.FAILED_PRECONDITION
        assert "config.key_value: false" in error.detail
    sql = "SELECT count(*) FROM pg_namespace WHERE nspname = %s"
    assert database.ask(sql, schema) == [(0,)]


async def test_sizes_at_the_limit_and_over_it(kv: Running) -> None:
    limit = kv.plugin.config.max_value_bytes
    assert await kv.call("set", key="k" * 1024, value="x" * (limit - 2)) == {"stored": True}
    assert await status_of(kv.call("set", key="k", value="x" * (limit - 1))) is (
        StatusCode.INVALID_ARGUMENT
    )
    assert await status_of(kv.call("set", key="k" * 1025, value=1)) is StatusCode.INVALID_ARGUMENT
    large = [f"large{number}" for number in range(20)]
    for key in large:
        await kv.call("set", key=key, value="x" * (limit - 2))
    assert await status_of(kv.call("mget", keys=large)) is StatusCode.RESOURCE_EXHAUSTED
    page = await kv.call("scan", prefix="large")
    assert page["cursor"] == page["items"][-1]["key"]
    found = [item["key"] async for item in kv.stream("scan", prefix="large")]
    assert found == sorted(large)


async def test_cancelled_callers_get_nobody_elses_answer(database: Database) -> None:
    """A storm on the shared connections: each answer is that of its own question."""
    async with database.plugin(new_name(), key_value_connections=1) as kv:
        numbers = random.Random(1)
        await kv.call("mset", items=[{"key": f"k{n}", "value": n} for n in range(100)])
        wrong = []

        async def ask(number: int, patience: float) -> None:
            with trio.move_on_after(patience):
                found = await kv.call("get", key=f"k{number % 100}")
                if found["value"] != number % 100:
                    wrong.append((number, found))

        for _ in range(20):
            async with trio.open_nursery() as nursery:
                for number in range(500):
                    nursery.start_soon(ask, number, numbers.random() * 0.05)
        assert not wrong
        shares: list[Multiplexed[Request, Any]] = kv.plugin.readers
        await eventually(lambda: not shares[0].in_flight)
        assert shares[0].connects == 1


async def test_a_page_reads_no_values_behind_its_end(database: Database) -> None:
    """Of the rows that would follow, large values stay unread."""
    async with database.plugin("pages") as pg:
        for number in range(20):
            value = random.Random(number).randbytes(200_000).hex()
            await pg.call("set", key=f"k{number:02}", value=value)
        page = await pg.call("scan", limit=1000)
        assert [item["key"] for item in page["items"]] == ["k00", "k01"]
    sql = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {_SCAN.format(schema='_prism')}"
    url = database.server.url(database.name)
    with psycopg.connect(url, cursor_factory=psycopg.RawCursor) as connection:
        params = ("pages", b"", None, 1001)
        [[plan]] = connection.execute(sql, params).fetchall()  # type: ignore[arg-type]
    found = plan[0]["Plan"]
    assert found["Actual Rows"] == 2
    assert found["Shared Hit Blocks"] + found["Shared Read Blocks"] < 40  # of about 1,000

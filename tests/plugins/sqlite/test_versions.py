"""Versions of values, in new files and in those of older plugins."""

import sqlite3

import pytest
import trio

from prism.sdk import PluginError, StatusCode
from prism.sdk.testing import RunningPlugin
from prism_plugins.sqlite import SQLitePlugin
from prism_plugins.sqlite.schema import SCHEMA_VERSION

SQLite = RunningPlugin[SQLitePlugin]

OLD_TRIGGERS = [
    f"CREATE TRIGGER _prism_change_{name} AFTER {event} ON _prism_keyvalue BEGIN "
    "INSERT INTO _prism_change (namespace, key) VALUES (NEW.namespace, NEW.key); END"
    for name, event in (("insert", "INSERT"), ("update", "UPDATE OF value"))
]
OLD_SET = """INSERT INTO _prism_keyvalue (namespace, key, value, binary, expires_at)
    VALUES ('test', ?, ?, 0, NULL) ON CONFLICT (namespace, key) DO UPDATE SET
    value = excluded.value, binary = excluded.binary, expires_at = excluded.expires_at"""
"""As a plugin of schema 3 sets a key."""


async def version(sqlite: SQLite, key: str) -> str:
    return (await sqlite.call("get", key=key))["version"]


async def test_every_write_of_a_value_makes_another_version(sqlite: SQLite) -> None:
    writes = [
        ("set", {"value": 1}),
        ("set", {"value": 1}),
        ("set", {"value": 2, "only_if_exists": True}),
        ("increment", {}),
        ("compare_and_swap", {"old_value": 3, "new_value": 4}),
    ]
    seen = []
    for operation, params in writes:
        await sqlite.call(operation, key="a", **params)
        seen.append(await version(sqlite, "a"))
    await sqlite.call("mset", items=[{"key": "a", "value": 4}, {"key": "a", "value": 4}])
    seen.append(await version(sqlite, "a"))
    await sqlite.call("delete", key="a")
    await sqlite.call("set", key="a", value=1)
    seen.append(await version(sqlite, "a"))
    assert len(set(seen)) == len(writes) + 2


async def test_times_to_live_leave_the_version(sqlite: SQLite) -> None:
    await sqlite.call("set", key="a", value=1)
    before = await version(sqlite, "a")
    await sqlite.call("expire", key="a", ttl_seconds=100)
    await sqlite.call("persist", key="a")
    await sqlite.call("set", key="b", value=1)
    assert await version(sqlite, "a") == before


async def test_a_version_comes_with_each_value_of_mget(sqlite: SQLite) -> None:
    await sqlite.call("set", key="a", value=1)
    found = await sqlite.call("mget", keys=["a", "b"])
    assert [result.get("version") for result in found["results"]] == [
        await version(sqlite, "a"),
        None,
    ]


async def test_set_and_delete_on_a_version(sqlite: SQLite, clock) -> None:
    await sqlite.call("set", key="a", value=1, ttl_seconds=5)
    old = await version(sqlite, "a")
    assert await sqlite.call("set", key="a", value=2, if_version=old) == {"stored": True}
    for wrong in (old, "", "0", "-1", "abc", "99999999999999999999", f" {old}", f"0{old}"):
        assert await sqlite.call("set", key="a", value=3, if_version=wrong) == {"stored": False}
        assert await sqlite.call("delete", key="a", if_version=wrong) == {"deleted": False}
    found = await sqlite.call("get", key="a")
    assert found["value"] == 2
    assert await sqlite.call("ttl", key="a") == {"found": True, "ttl_seconds": -1}
    new = found["version"]
    assert await sqlite.call("delete", key="a", if_version=new) == {"deleted": True}
    assert await sqlite.call("delete", key="a", if_version=new) == {"deleted": False}
    assert await sqlite.call("set", key="a", value=1, if_version=new) == {"stored": False}
    assert await sqlite.call("exists", key="a") == {"exists": False}


async def test_an_expired_key_has_no_version(sqlite: SQLite, clock) -> None:
    await sqlite.call("set", key="a", value=1, ttl_seconds=5)
    old = await version(sqlite, "a")
    clock.now += 5
    assert await sqlite.call("set", key="a", value=2, if_version=old) == {"stored": False}
    assert await sqlite.call("delete", key="a", if_version=old) == {"deleted": False}


async def test_conditions_that_exclude_each_other(sqlite: SQLite) -> None:
    with pytest.raises(PluginError, match="exclude each other") as raised:
        await sqlite.call("set", key="a", value=1, if_version="1", only_if_not_exists=True)
    assert raised.value.status is StatusCode.INVALID_ARGUMENT


async def test_of_many_that_know_a_version_one_writes(sqlite: SQLite) -> None:
    await sqlite.call("set", key="a", value="first")
    known = await version(sqlite, "a")
    stored = []

    async def write(me: int) -> None:
        if (await sqlite.call("set", key="a", value=me, if_version=known))["stored"]:
            stored.append(me)

    async with trio.open_nursery() as nursery:
        for me in range(50):
            nursery.start_soon(write, me)
    assert [(await sqlite.call("get", key="a"))["value"]] == stored


async def test_a_file_of_the_third_schema_is_taken_over(open_plugin, path) -> None:
    async with open_plugin() as sqlite:
        await sqlite.call("set", key="kept", value=1)
    with sqlite3.connect(path) as connection:
        for name in ("insert", "update"):
            connection.execute(f"DROP TRIGGER _prism_change_{name}")
        for trigger in OLD_TRIGGERS:
            connection.execute(trigger)
        connection.execute("ALTER TABLE _prism_keyvalue DROP COLUMN version")
        connection.execute("UPDATE _prism_schema SET version = 3")
        connection.execute(OLD_SET, (b"other", b"1"))
        connection.execute("CREATE VIEW broken AS SELECT * FROM nowhere")
        connection.execute("CREATE VIEW spying AS SELECT value FROM _prism_keyvalue")
    connection.close()
    async with open_plugin() as sqlite:
        kept = await version(sqlite, "kept")
        assert await sqlite.call("set", key="kept", value=2, if_version=kept) == {"stored": True}
        assert await sqlite.call("set", key="kept", value=3, if_version=kept) == {"stored": False}
        other = await version(sqlite, "other")
        assert await sqlite.call("delete", key="other", if_version=other) == {"deleted": True}
    with sqlite3.connect(path) as connection:
        [found] = connection.execute("SELECT max(version) FROM _prism_schema").fetchone()
    connection.close()
    assert found == SCHEMA_VERSION


async def test_what_a_plugin_of_the_third_schema_writes_meanwhile_has_versions(
    open_plugin, path
) -> None:
    """In a rolling restart, for as long as it takes."""
    async with open_plugin() as sqlite:
        await sqlite.call("set", key="a", value=1)
        known = await version(sqlite, "a")
        with sqlite3.connect(path) as connection:
            connection.execute(OLD_SET, (b"a", b"2"))
            connection.execute(OLD_SET, (b"b", b"1"))
        connection.close()
        assert await sqlite.call("set", key="a", value=3, if_version=known) == {"stored": False}
        b = await version(sqlite, "b")
        assert await sqlite.call("delete", key="b", if_version=b) == {"deleted": True}

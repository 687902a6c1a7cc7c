"""Changes as they commit, and a whole prefix as a stream."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import trio

from prism.contract.messages import StreamRequest
from prism.sdk import PluginError, StatusCode
from prism_plugins.sqlite import changes as changes_module
from prism_plugins.sqlite.schema import SCHEMA_VERSION


class OneRequest(AsyncIterator):
    """Not a generator, which would have to be closed."""

    def __init__(self, request):
        self.requests = [request]

    async def __anext__(self):
        if not self.requests:
            raise StopAsyncIteration
        return self.requests.pop()


class Watch:
    """A watch whose messages are taken one at a time."""

    def __init__(self, plugin, operation="watch", metadata=None, **params):
        request = StreamRequest(
            operation=operation, params_json=json.dumps(params), metadata=metadata or {}
        )
        self._responses = plugin.plugin.execute_stream(OneRequest(request))
        self.position = ""

    async def next(self):
        with trio.fail_after(60):
            response = await anext(self._responses)
        if response.error_code:
            raise PluginError(StatusCode(response.error_code), response.error)
        self.position = response.position
        return json.loads(response.result_json)

    async def aclose(self):
        await self._responses.aclose()


def watching(*arguments, **params):
    return aclosing(Watch(*arguments, **params))


async def started(watch, sqlite, prefix=""):
    """The first message of a new watch, which begins when it is asked for one."""
    seen = []

    async def first():
        seen.append(await watch.next())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        with trio.fail_after(60):
            while not seen:
                await sqlite.call("set", key=f"{prefix}start", value=0)
                await trio.sleep(0.01)
    return seen[0]


async def test_changes_come_as_they_commit(sqlite):
    await sqlite.call("set", key="a:old", value=1)
    async with watching(sqlite, prefix="a:") as watch:
        assert (await started(watch, sqlite, "a:"))["key"] == "a:start"
        await sqlite.call("set", key="b:other", value=1)
        await sqlite.call("set", key="a:1", value={"n": 1})
        await sqlite.call("delete", key="a:old")
        await sqlite.call("expire", key="a:1", ttl_seconds=100)
        await sqlite.call("increment", key="a:2")
        seen = [await watch.next() for _ in range(3)]
        seen = [event for event in seen if event["key"] != "a:start"]
        while len(seen) < 3:
            seen.append(await watch.next())
    assert seen == [
        {"event": "set", "key": "a:1", "value": {"n": 1}},
        {"event": "delete", "key": "a:old"},
        {"event": "set", "key": "a:2", "value": 1},
    ]


async def test_a_watch_resumes_where_another_ended(sqlite):
    async with watching(sqlite) as watch:
        await started(watch, sqlite)
        await sqlite.call("set", key="a", value=1)
        while (await watch.next())["key"] != "a":
            pass
        position = watch.position
    await sqlite.call("set", key="b", value=2)
    await sqlite.call("set", key="b", value=3)
    await sqlite.call("delete", key="a")
    for options in ({"after": position}, {"metadata": {"prism-last-event-id": position}}):
        async with watching(sqlite, **options) as watch:
            assert await watch.next() == {"event": "set", "key": "b", "value": 3}
            assert await watch.next() == {"event": "delete", "key": "a"}


async def test_large_values_are_read_a_few_at_a_time_and_none_is_left_out(sqlite, monkeypatch):
    monkeypatch.setattr(changes_module, "PAGE_BYTES", 1000)
    async with watching(sqlite) as watch:
        await started(watch, sqlite)
        position = watch.position
    keys = [f"large{number}" for number in range(7)]
    for key in keys:
        await sqlite.call("set", key=key, value="x" * 600)
    async with watching(sqlite, prefix="large", after=position) as watch:
        assert [(await watch.next())["key"] for _ in keys] == keys


async def test_what_there_is_comes_first_if_asked_for(sqlite):
    items = [{"key": f"k{number:04}", "value": number} for number in range(1200)]
    await sqlite.call("mset", items=items[:600])
    await sqlite.call("mset", items=items[600:])
    async with watching(sqlite, existing=True, keys_only=True) as watch:
        keys = [(await watch.next())["key"] for _ in range(1200)]
        assert keys == [f"k{number:04}" for number in range(1200)]
        assert watch.position == ""
        assert await watch.next() == {"event": "ready"}
        assert int(watch.position) > 0
        await sqlite.call("set", key="z", value=1)
        assert await watch.next() == {"event": "set", "key": "z"}


async def test_a_key_that_expires_is_deleted_without_any_write(sqlite, clock):
    async with watching(sqlite) as watch:
        await started(watch, sqlite)
        await sqlite.call("set", key="short", value=1, ttl_seconds=5)
        while (await watch.next())["key"] != "short":
            pass
        clock.now += 6
        assert await watch.next() == {"event": "delete", "key": "short"}


async def test_another_process_is_seen(open_plugin):
    async with open_plugin() as mine, open_plugin() as theirs, watching(mine) as watch:
        await started(watch, mine)
        await theirs.call("set", key="from afar", value=1)
        while (await watch.next())["key"] != "from afar":
            pass


async def test_namespaces_see_their_own_changes(open_plugin):
    async with open_plugin("one") as one, open_plugin("two") as two, watching(one) as watch:
        await started(watch, one)
        await two.call("set", key="a", value="theirs")
        await one.call("set", key="b", value="mine")
        while (event := await watch.next())["key"] == "start":
            pass
        assert event == {"event": "set", "key": "b", "value": "mine"}


@pytest.mark.parametrize("after", ["x", "-1", "1.0", "9" * 19, "٣"])
async def test_what_is_no_position_is_refused(sqlite, after):
    async with watching(sqlite, after=after) as watch:
        with pytest.raises(PluginError, match="no position") as caught:
            await watch.next()
    assert caught.value.status is StatusCode.INVALID_ARGUMENT


async def test_a_position_that_is_not_kept_is_said(open_plugin, monkeypatch, path):
    monkeypatch.setattr(changes_module, "MAX_CHANGES", 10)
    async with open_plugin() as sqlite:
        async with watching(sqlite, after="1000") as watch:
            with pytest.raises(PluginError, match="not kept"):
                await watch.next()
        for number in range(50):
            await sqlite.call("set", key="a", value=number)
        await sqlite.plugin.database.write(sqlite.plugin.sweep)
        async with watching(sqlite, after="3") as watch:
            with pytest.raises(PluginError, match="existing: true") as caught:
                await watch.next()
        assert caught.value.status is StatusCode.OUT_OF_RANGE


async def test_a_prefix_is_streamed_whole(sqlite):
    items = [{"key": f"k{number:04}", "value": number} for number in range(1100)]
    for start in range(0, 1100, 500):
        await sqlite.call("mset", items=items[start : start + 500])
    await sqlite.call("set", key="other", value=1)
    assert [item async for item in sqlite.stream("scan", prefix="k")] == items
    keys = [item async for item in sqlite.stream("scan", prefix="k", keys_only=True)]
    assert keys == [{"key": item["key"]} for item in items]
    async with watching(sqlite, "scan", {"prism-last-event-id": "k1098"}, prefix="k") as rest:
        assert (await rest.next())["key"] == "k1099"
        assert rest.position == "k1099"


@pytest.mark.parametrize("key", ["#general", "two\nlines\r", "a\0b", "é\u2028", " z ", "\t", "%23"])
async def test_any_key_is_a_position(sqlite, key: str) -> None:
    """Doors encode positions as they have to; to the plugin they are the keys themselves."""
    await sqlite.call("set", key=key, value=1)
    await sqlite.call("set", key=key + "\U0010ffff", value=2)
    assert (await sqlite.call("get", key=key))["value"] == 1
    assert [item["key"] async for item in sqlite.stream("scan")] == [key, key + "\U0010ffff"]
    rest = [item async for item in sqlite.stream("scan", cursor=key, prefix=key[:1])]
    assert rest == [{"key": key + "\U0010ffff", "value": 2}]
    page = await sqlite.call("scan", limit=1)
    assert page["cursor"] == key
    assert (await sqlite.call("scan", cursor=key))["items"] == rest
    async with watching(sqlite, "scan", {"prism-last-event-id": key}) as resumed:
        assert await resumed.next() == rest[0]
        assert resumed.position == key + "\U0010ffff"
    async with watching(sqlite, prefix=key, existing=True) as watch:
        assert (await watch.next())["key"] == key


async def test_a_file_of_the_first_schema_is_taken_over(open_plugin, path):
    async with open_plugin() as sqlite:
        await sqlite.call("set", key="a", value=1)
    with sqlite3.connect(path) as connection:
        for name in ("insert", "update", "delete"):
            connection.execute(f"DROP TRIGGER _prism_change_{name}")
        connection.execute("DROP TABLE _prism_change")
        connection.execute("ALTER TABLE _prism_keyvalue DROP COLUMN version")
        connection.execute("DROP TABLE _prism_queue")
        connection.execute("UPDATE _prism_schema SET version = 1")
    connection.close()
    async with open_plugin() as sqlite:
        assert (await sqlite.call("get", key="a"))["value"] == 1
        await sqlite.call("set", key="b", value=2)
        async with watching(sqlite, after="0") as watch:
            assert (await watch.next())["key"] == "b"
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT max(version) FROM _prism_schema").fetchone() == (
            SCHEMA_VERSION,
        )
    connection.close()

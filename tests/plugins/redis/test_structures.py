"""Hashes, lists, sets, sorted sets."""

from typing import Any

import pytest
import trio

from prism.contract.errors import PluginError
from prism.contract.status import StatusCode
from tests.plugins.redis.conftest import OpenPlugin, Running
from tests.services.redis import Redis

BYTES = {"value": "AP8=", "encoding": "base64"}


async def test_a_hash(redis: Running) -> None:
    fields = {"name": "Ada", "tags": [1, {"a": None}], "raw": "AP8="}
    added = await redis.call("hash_set", key="h", fields=fields, encodings={"raw": "base64"})
    assert added == {"added": 3}
    assert await redis.call("hash_set", key="h", fields={"name": "Bob"}) == {"added": 0}
    assert await redis.call("hash_get", key="h", field="name") == {"found": True, "value": "Bob"}
    assert await redis.call("hash_get", key="h", field="raw") == {"found": True, **BYTES}
    assert await redis.call("hash_get", key="h", field="no") == {"found": False}
    assert await redis.call("hash_get_all", key="h") == {
        "found": True,
        "fields": {**fields, "name": "Bob"},
        "encodings": {"raw": "base64"},
    }
    assert await redis.call("hash_get_all", key="none") == {"found": False, "fields": {}}
    assert await redis.call("hash_delete", key="h", fields=["raw", "no"]) == {"removed": 1}
    assert await redis.call("hash_increment", key="h", field="n", delta=2**53 + 1) == {
        "value": 2**53 + 1
    }
    with pytest.raises(PluginError, match="not an integer") as refused:
        await redis.call("hash_increment", key="h", field="name")
    assert refused.value.status is StatusCode.FAILED_PRECONDITION
    with pytest.raises(PluginError, match="'x', which is no field"):
        await redis.call("hash_set", key="h", fields={"a": 1}, encodings={"x": "base64"})


async def test_messagepack_has_bytes_and_numbers_as_they_are(redis: Running) -> None:
    fields = {"raw": b"\x00\xff", "n": 2**63}
    await redis.request("hash_set", {"key": "h", "fields": fields}, binary=True)
    found = await redis.request("hash_get_all", {"key": "h"}, binary=True)
    assert found == {"found": True, "fields": fields}


async def test_a_list(redis: Running) -> None:
    assert await redis.call("list_push", key="l", values=[1, "two", None]) == {"length": 3}
    pushed = await redis.call("list_push", key="l", values=["AP8="], encoding="base64", side="left")
    assert pushed == {"length": 4}
    assert await redis.call("list_length", key="l") == {"length": 4}
    assert await redis.call("list_range", key="l") == {
        "found": True,
        "values": ["AP8=", 1, "two", None],
        "encodings": ["base64", None, None, None],
    }
    assert (await redis.call("list_range", key="l", start=-2, stop=-1))["values"] == ["two", None]
    assert await redis.call("list_pop", key="l") == {
        "found": True,
        "values": ["AP8="],
        "encodings": ["base64"],
    }
    popped = await redis.call("list_pop", key="l", side="right", count=5)
    assert popped == {"found": True, "values": [None, "two", 1]}
    assert await redis.call("list_pop", key="l") == {"found": False, "values": []}
    assert await redis.call("list_range", key="l") == {"found": False, "values": []}
    assert await redis.call("list_pop", key="l", wait_seconds=0.01) == {
        "found": False,
        "values": [],
    }


async def test_a_pop_waits_on_a_connection_of_its_own(redis: Running) -> None:
    taken: list[Any] = []

    async def take() -> None:
        taken.append(await redis.call("list_pop", key="l", count=2, wait_seconds=60))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        while redis.plugin.connection.dedicated == 0:  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.001)
        await redis.call("set", key="k", value=1)  # the shared connection is not held up
        await redis.call("list_push", key="l", values=[1, 2])
    assert taken == [{"found": True, "values": [1, 2]}]
    assert redis.plugin.connection.dedicated == 0


async def test_connections_of_their_own_are_bounded(
    redis_server: Redis, open_plugin: OpenPlugin
) -> None:
    async with open_plugin(redis_server, max_dedicated_connections=1) as plugin:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: plugin.call("list_pop", key="l", wait_seconds=60))
            while plugin.plugin.connection.dedicated == 0:  # noqa: ASYNC110 - it has no event
                await trio.sleep(0.001)
            with pytest.raises(PluginError, match="max_dedicated_connections") as refused:
                await plugin.call("list_pop", key="l", wait_seconds=60)
            assert refused.value.status is StatusCode.RESOURCE_EXHAUSTED
            nursery.cancel_scope.cancel()
        assert plugin.plugin.connection.dedicated == 0
        assert await plugin.call("list_pop", key="l", wait_seconds=0.001) == {
            "found": False,
            "values": [],
        }


async def test_a_set(redis: Running) -> None:
    assert await redis.call("set_add", key="s", members=[1, "a", [2]]) == {"added": 3}
    assert await redis.call("set_add", key="s", members=["a", "b"]) == {"added": 1}
    assert await redis.call("set_contains", key="s", member=[2]) == {"contains": True}
    assert await redis.call("set_contains", key="s", member="c") == {"contains": False}
    assert await redis.call("set_remove", key="s", members=[1, "c"]) == {"removed": 1}
    found = await redis.call("set_members", key="s")
    assert found["found"]
    assert sorted(map(str, found["values"])) == ["[2]", "a", "b"]
    streamed = [item["member"] async for item in redis.stream("set_members", key="s")]
    assert sorted(map(str, streamed)) == ["[2]", "a", "b"]
    assert await redis.call("set_members", key="none") == {"found": False, "values": []}


async def test_a_large_set_comes_as_a_stream(redis: Running) -> None:
    for start in range(0, 11_000, 1_000):
        await redis.call("set_add", key="s", members=list(range(start, start + 1_000)))
    with pytest.raises(PluginError, match="come as a stream") as refused:
        await redis.call("set_members", key="s")
    assert refused.value.status is StatusCode.RESOURCE_EXHAUSTED
    members = {item["member"] async for item in redis.stream("set_members", key="s")}
    assert members == set(range(11_000))


async def test_a_sorted_set(redis: Running) -> None:
    members = [
        {"member": name, "score": score} for name, score in zip("abcde", range(5), strict=True)
    ]
    assert await redis.call("sorted_set_add", key="z", members=members) == {"added": 5}
    assert await redis.call(
        "sorted_set_add", key="z", members=[{"member": "a", "score": -0.5}]
    ) == {"added": 0}

    async def names(**params: Any) -> str:
        found = await redis.call("sorted_set_range", key="z", **params)
        return "".join(item["member"] for item in found["members"])

    assert (await redis.call("sorted_set_range", key="z", limit=1)) == {
        "members": [{"member": "a", "score": -0.5}]
    }
    assert await names() == "abcde"
    assert await names(start=1, stop=2) == "bc"
    assert await names(start=-2) == "de"
    assert await names(start=-3, stop=-2) == "cd"
    assert await names(start=1, stop=-2) == "bcd"
    assert await names(start=0, stop=-1, limit=2) == "ab"
    assert await names(limit=2, reverse=True) == "ed"
    assert await names(min_score=2) == "cde"
    assert await names(max_score=2, limit=2) == "ab"
    assert await names(min_score=1, max_score=3, reverse=True) == "dcb"
    with pytest.raises(PluginError, match="not both"):
        await names(start=1, min_score=1)
    rank = await redis.call("sorted_set_rank", key="z", member="b")
    assert rank == {"found": True, "rank": 1, "score": 1.0}
    rank = await redis.call("sorted_set_rank", key="z", member="b", reverse=True)
    assert rank == {"found": True, "rank": 3, "score": 1.0}
    assert await redis.call("sorted_set_rank", key="z", member="x") == {"found": False}
    assert await redis.call("sorted_set_remove", key="z", members=["a", "x"]) == {"removed": 1}
    await redis.call("set", key="k", value=1)
    with pytest.raises(PluginError, match="another kind of value"):
        await redis.call("sorted_set_rank", key="k", member="x")

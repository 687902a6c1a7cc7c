"""What is Redis' own about keys and values; the rest is the vocabulary's, in tests/compliance."""

from base64 import b64decode, b64encode
from typing import Any

import pytest
import trio

from prism.contract.errors import PluginError
from prism.contract.status import StatusCode
from tests.plugins.redis.conftest import OpenPlugin, Running
from tests.services.redis import Redis


def prefix_of(plugin: Running) -> str:
    return plugin.plugin.prefix.decode()


async def test_json_is_kept_as_its_text_under_the_namespace(
    redis: Running, redis_server: Redis
) -> None:
    await redis.call("set", key="user", value={"name": "Ada", "big": 9007199254740993})
    assert redis_server.ask("GET", prefix_of(redis) + "user").endswith(
        b'\r\n{"name":"Ada","big":9007199254740993}\r\n'
    )


async def test_what_other_programs_wrote_is_read(redis: Running, redis_server: Redis) -> None:
    prefix = prefix_of(redis)
    redis_server.ask("SET", prefix + "json", ' {"a" : 1} ')
    redis_server.ask("SET", prefix + "text", "plain words")
    assert (await redis.call("get", key="json"))["value"] == {"a": 1}
    text = await redis.call("get", key="text")
    assert (text["value"], text["encoding"]) == (b64encode(b"plain words").decode(), "base64")


async def test_a_version_tells_of_what_another_program_wrote(
    redis: Running, redis_server: Redis
) -> None:
    await redis.call("set", key="k", value=1)
    version = (await redis.call("get", key="k"))["version"]
    redis_server.ask("SET", prefix_of(redis) + "k", "2")
    assert await redis.call("set", key="k", value=3, if_version=version) == {"stored": False}
    assert await redis.call("delete", key="k", if_version=version) == {"deleted": False}
    redis_server.ask("SET", prefix_of(redis) + "k", "1")
    assert await redis.call("set", key="k", value=3, if_version=version) == {"stored": True}


async def test_all_bytes_come_back(redis: Running) -> None:
    data = bytes(range(256))
    text = b64encode(data).decode()
    await redis.call("set", key="bytes", value=text, encoding="base64")
    found = await redis.call("get", key="bytes")
    assert b64decode(found["value"]) == data
    every = [{"key": f"{n}", "value": b64encode(bytes([n])).decode(), "encoding": "base64"}
             for n in range(256)]  # fmt: skip
    await redis.call("mset", items=every)
    many = await redis.call("mget", keys=[item["key"] for item in every])
    assert [b64decode(found["value"]) for found in many["results"]] == [
        bytes([n]) for n in range(256)
    ]


@pytest.mark.parametrize(
    "odd", ["%", "_", "\\", "*", "?", "[", "]", "[a-z]", "^", "a\\*", "\n", "é"]
)
async def test_a_prefix_is_taken_literally(redis: Running, odd: str) -> None:
    await redis.call(
        "mset", items=[{"key": key, "value": 1} for key in (f"{odd}1", "x1", "ab", "z")]
    )
    found = await redis.call("scan", prefix=odd)
    assert [item["key"] for item in found["items"]] == [f"{odd}1"]
    assert await redis.call("count", prefix=odd) == {"count": 1}


@pytest.mark.parametrize("odd", ["*", "[ab]", "?"])
async def test_the_namespaces_prefix_is_taken_literally_too(
    redis_server: Redis, open_plugin: OpenPlugin, odd: str
) -> None:
    async with open_plugin(redis_server, key_prefix=f"{odd}:") as plugin:
        await plugin.call("set", key="mine", value=1)
        redis_server.ask("SET", "a:other", "2")
        assert (await plugin.call("scan"))["items"] == [{"key": "mine", "value": 1}]
        await plugin.call("delete", key="mine")


async def test_namespaces_with_the_same_keys_do_not_meet(
    redis_server: Redis, open_plugin: OpenPlugin
) -> None:
    async with open_plugin(redis_server) as one, open_plugin(redis_server) as other:
        await one.call("set", key="k", value="one")
        await other.call("set", key="k", value="other")
        assert (await one.call("get", key="k"))["value"] == "one"
        await other.call("delete", key="k")
        assert await one.call("count") == {"count": 1}
        assert await other.call("count") == {"count": 0}


async def test_pages_have_each_key_once(redis: Running) -> None:
    wanted = {f"key {n}" for n in range(1025)}
    await redis.call("mset", items=[{"key": key, "value": 1} for key in sorted(wanted)[:1000]])
    await redis.call("mset", items=[{"key": key, "value": 1} for key in sorted(wanted)[1000:]])
    found: list[str] = []
    cursor = ""
    while True:
        page = await redis.call("scan", limit=100, cursor=cursor, keys_only=True)
        assert len(page["items"]) <= 100
        found += [item["key"] for item in page["items"]]
        if "cursor" not in page:
            break
        cursor = page["cursor"]
    assert sorted(found) == sorted(wanted)
    assert await redis.call("count", prefix="key ") == {"count": 1025}


async def test_a_page_ends_where_its_values_are_large(redis: Running) -> None:
    value = "x" * 200_000
    await redis.call("mset", items=[{"key": f"{n}", "value": value} for n in range(8)])
    found: list[str] = []
    cursor = ""
    while True:
        page = await redis.call("scan", cursor=cursor)
        assert 1 <= len(page["items"]) <= 3
        found += [item["key"] for item in page["items"]]
        if not (cursor := page.get("cursor", "")):
            break
    assert sorted(found) == [f"{n}" for n in range(8)]


@pytest.mark.parametrize("cursor", ["!", "AAAA", "kgE=", "ksQBMJHEAXg="])
async def test_a_foreign_cursor_is_refused(redis: Running, cursor: str) -> None:
    with pytest.raises(PluginError, match="the cursor is none") as refused:
        await redis.call("scan", prefix="p", cursor=cursor)
    assert refused.value.status is StatusCode.INVALID_ARGUMENT


async def test_values_of_an_mget_are_bounded(redis: Running) -> None:
    value = "x" * 500_000
    for n in range(20):
        await redis.call("set", key=f"{n}", value=value)
    with pytest.raises(PluginError, match="more than 8388608 bytes") as refused:
        await redis.call("mget", keys=[f"{n}" for n in range(20)])
    assert refused.value.status is StatusCode.RESOURCE_EXHAUSTED
    assert (await redis.call("mget", keys=[f"{n}" for n in range(16)]))["found_count"] == 16


async def test_sizes_at_the_limit_and_over_it(redis: Running) -> None:
    limit = redis.plugin.config.max_value_bytes
    fits, too_large = "x" * (limit - 2), "x" * (limit - 1)
    assert await redis.call("set", key="k" * 1024, value=fits) == {"stored": True}
    assert (await redis.call("get", key="k" * 1024))["value"] == fits
    for operation, params in (
        ("set", {"key": "k", "value": too_large}),
        ("set", {"key": "k" * 1025, "value": 1}),
        ("mset", {"items": [{"key": "k", "value": too_large}]}),
        ("hash_set", {"key": "k", "fields": {"f": too_large}}),
        ("list_push", {"key": "k", "values": [too_large]}),
        ("publish", {"topic": "k", "value": too_large}),
    ):
        with pytest.raises(PluginError) as refused:
            await redis.call(operation, **params)
        assert refused.value.status is StatusCode.INVALID_ARGUMENT, operation
    assert await redis.call("exists", key="k") == {"exists": False}


async def test_keys_of_another_kind_are_an_error_and_are_not_scanned(redis: Running) -> None:
    await redis.call("hash_set", key="hash", fields={"a": 1})
    with pytest.raises(PluginError, match="another kind of value") as refused:
        await redis.call("get", key="hash")
    assert refused.value.status is StatusCode.FAILED_PRECONDITION
    assert await redis.call("scan") == {"items": []}
    assert await redis.call("mget", keys=["hash"]) == {
        "results": [{"key": "hash", "found": False}],
        "found_count": 0,
    }


@pytest.mark.parametrize("initial", [0, 5])
async def test_large_numbers_keep_their_digits(redis: Running, initial: int) -> None:
    big = 9_007_199_254_740_993
    assert await redis.call("increment", key="n", delta=big, initial=initial) == {
        "value": big + initial
    }
    assert await redis.call("increment", key="n", delta=1, initial=initial) == {
        "value": big + initial + 1
    }
    with pytest.raises(PluginError) as refused:
        await redis.call("increment", key="n", delta=2**63 - 1, initial=initial)
    assert refused.value.status is StatusCode.OUT_OF_RANGE


async def test_comparing_finds_the_same_json_in_another_spelling(redis: Running) -> None:
    await redis.call("set", key="k", value={"a": 1, "b": [1.0, "x"]})
    swap: dict[str, Any] = {"key": "k", "old_value": {"b": [1, "x"], "a": 1e0}, "new_value": 2}
    assert await redis.call("compare_and_swap", **swap) == {"swapped": True}
    assert await redis.call("compare_and_swap", **swap) == {"swapped": False}
    assert await redis.call("compare_and_delete", key="k", old_value=3) == {"deleted": False}
    assert await redis.call("compare_and_delete", key="k", old_value=2.0) == {"deleted": True}


async def test_only_one_of_many_gets_the_lock(redis: Running) -> None:
    got: list[int] = []

    async def contend(number: int) -> None:
        answer = await redis.call("compare_and_swap", key="lock", new_value=number)
        if answer["swapped"]:
            got.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(contend, number)
    assert len(got) == 1
    assert (await redis.call("get", key="lock"))["value"] == got[0]


async def test_scripts_are_sent_again_where_the_server_has_forgotten_them(
    redis: Running, redis_server: Redis
) -> None:
    await redis.call("set", key="k", value=1)
    assert await redis.call("compare_and_swap", key="k", old_value=1, new_value=2) == {
        "swapped": True
    }
    redis_server.ask("SCRIPT", "FLUSH")
    assert await redis.call("compare_and_swap", key="k", old_value=2, new_value=3) == {
        "swapped": True
    }


async def test_a_watch_tells_what_changes(redis: Running, redis_server: Redis) -> None:
    await redis.call("set", key="w:1", value=1)
    changes = redis.stream("watch", prefix="w:", existing=True)
    assert await anext(changes) == {"event": "set", "key": "w:1", "value": 1}
    assert await anext(changes) == {"event": "ready"}
    await redis.call("set", key="w:2", value="two", ttl_seconds=0.05)
    assert await anext(changes) == {"event": "set", "key": "w:2", "value": "two"}
    await redis.call("set", key="other", value=1)
    redis_server.ask("SADD", prefix_of(redis) + "w:set", "member")  # of another kind
    assert await anext(changes) == {"event": "delete", "key": "w:2"}
    redis_server.ask("SET", prefix_of(redis) + "w:1", '"by another program"')
    assert await anext(changes) == {"event": "set", "key": "w:1", "value": "by another program"}
    await changes.aclose()
    assert redis.plugin.connection.dedicated == 0


async def test_a_watch_cannot_be_resumed(redis: Running) -> None:
    with pytest.raises(PluginError, match="watch anew") as refused:
        await anext(redis.stream("watch", after="5"))
    assert refused.value.status is StatusCode.OUT_OF_RANGE

"""The key-value operations on a store that is a dictionary: the example plugin's.

What all plugins promise alike is in tests/compliance; here is what the operations do themselves.
"""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from prism.sdk import Call, Plugin, PluginError, StatusCode, Value
from prism.sdk.keyvalue import (
    Item,
    KeyValueOperations,
    VersionedKeyValueOperations,
    WatchOperations,
    When,
    added,
)
from prism.sdk.testing import run_plugin

MEMORY = Path(__file__).parents[2] / "examples" / "plugins" / "python" / "memory.py"


@pytest.fixture(scope="module")
def example():
    spec = spec_from_file_location("memory_example", MEMORY)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
async def memory(example):
    async with run_plugin(example.Memory) as plugin:
        yield plugin


def test_groups_are_those_of_the_classes_mixed_in(example) -> None:
    class Both(VersionedKeyValueOperations, WatchOperations):
        pass

    class Plain(Plugin):
        pass

    assert example.Memory.groups == ("key_value",)
    assert Both.groups == ("key_value", "kv_versions", "watch")
    assert (Both.name, Plain.groups) == ("both", ())
    assert KeyValueOperations.groups == ("key_value",)


def test_a_plugin_has_its_own_name_and_not_that_of_what_it_mixes_in() -> None:
    class Names(Plugin, group="names"):
        pass

    class Own(Names):
        pass

    assert (Names.name, Own.name, Own.groups) == ("", "own", ("names",))


async def test_without_versions_there_is_none_to_see_or_to_ask_for(memory) -> None:
    assert await memory.call("set", key="a", value=[1]) == {"stored": True}
    assert await memory.call("get", key="a") == {"found": True, "value": [1]}
    found = await memory.call("mget", keys=["a"])
    assert found["results"] == [{"key": "a", "found": True, "value": [1]}]
    for operation, params in (("set", {"value": 1}), ("delete", {})):
        with pytest.raises(PluginError, match="if_version") as raised:
            await memory.call(operation, key="a", if_version="1", **params)
        assert raised.value.status is StatusCode.INVALID_ARGUMENT


async def test_values_and_keys_are_bounded(memory) -> None:
    limit = memory.plugin.store.max_value_bytes
    await memory.call("set", key="k" * 1024, value="x" * (limit - 2))
    for key, value in (("k", "x" * (limit - 1)), ("k" * 1025, 1), ("", 1), ("é" * 513, 1)):
        for operation, params in (
            ("set", {"key": key, "value": value}),
            ("mset", {"items": [{"key": key, "value": value}]}),
            ("compare_and_swap", {"key": key, "new_value": value}),
        ):
            with pytest.raises(PluginError) as raised:
                await memory.call(operation, **params)
            assert raised.value.status is StatusCode.INVALID_ARGUMENT


async def test_times_to_live_reach_the_store_in_seconds(memory) -> None:
    store = memory.plugin.store
    seen = []
    store._keep = lambda item: seen.append(item.ttl)
    store.default_ttl = 60.0
    for ttl in ({}, {"ttl_seconds": None}, {"ttl_seconds": 0}, {"ttl_seconds": 1e12}):
        await memory.call("set", key="a", value=1, **ttl)
    await memory.call("mset", items=[{"key": "a", "value": 1, "ttl_seconds": 5}])
    await memory.call("increment", key="a")
    longest = 100 * 366 * 86_400
    assert seen == [60, 60, None, longest, 5, 60]


async def test_expire_with_zero_deletes(memory) -> None:
    await memory.call("set", key="a", value=1)
    assert await memory.call("expire", key="a", ttl_seconds=0) == {"key_existed": True}
    assert await memory.call("expire", key="a", ttl_seconds=0) == {"key_existed": False}
    assert await memory.call("exists", key="a") == {"exists": False}


async def test_a_stream_of_an_unordered_store_resumes_between_its_pages(memory) -> None:
    store = memory.plugin.store
    store.ordered = False
    whole = store.scan

    async def two_at_a_time(prefix, cursor, limit, *, keys_only):
        return await whole(prefix, cursor, 2, keys_only=keys_only)

    store.scan = two_at_a_time
    for key in ("a", "b", "c"):
        await store.set(Item(key.encode(), Value(b"1", binary=False), None), When.ALWAYS)
    room = Call("scan", "test", {}, binary=False).room
    positions = [cursor async for _, _, cursor in store.scan_all(b"", room=room)]
    assert positions == ["", "b", ""]


@pytest.mark.parametrize(
    ("value", "delta", "total"),
    [(None, 2, 12), (b"5", -6, -1), (b"-9223372036854775808", 1, -(2**63) + 1)],
)
def test_sums(value: bytes | None, delta: int, total: int) -> None:
    found = None if value is None else Value(value, binary=False)
    assert added(found, delta, 10) == total


@pytest.mark.parametrize(
    ("value", "binary", "status"),
    [
        (b"1", True, StatusCode.FAILED_PRECONDITION),
        (b"1.0", False, StatusCode.FAILED_PRECONDITION),
        (b" 1", False, StatusCode.FAILED_PRECONDITION),
        (b"1\n", False, StatusCode.FAILED_PRECONDITION),
        (b"1" * 20, False, StatusCode.FAILED_PRECONDITION),
        (b"9223372036854775807", False, StatusCode.OUT_OF_RANGE),
        (b"-9223372036854775810", False, StatusCode.OUT_OF_RANGE),
    ],
)
def test_what_cannot_be_added_to(value: bytes, binary: bool, status: StatusCode) -> None:
    with pytest.raises(PluginError) as raised:
        added(Value(value, binary), 1, 0)
    assert raised.value.status is status

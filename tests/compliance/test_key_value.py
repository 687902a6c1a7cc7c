"""Keys and values, as every plugin has them."""

import base64
import random

import msgspec
import pytest
import trio

from prism.contract.errors import Overloaded
from prism.sdk import PluginError, StatusCode
from tests.compliance.caller import Caller, eventually, refused

GROUP = "key_value"

AWKWARD = ["%", "_", "*", "?", "[", "]", "\\", "^", "{", "}", "'", '"', "$", ":", "é", "\U0001f40d"]
"""What is special in some backend's patterns, and what is more than one byte."""

TEXTS = [
    "null", "false", '""', "[]", "{}", "0", "1.50", "-0.0", "1E400",
    "12345678901234567890123456789", '{"b": 1,\n "a":[2, {"a":null}]}',
    '"\\u00e9\\ud83d\\ude00"',
]  # fmt: skip
"""JSON, as clients may write it."""


async def all_keys(plugin: Caller, **params: object) -> list[str]:
    """The keys of all pages."""
    keys: list[str] = []
    cursor = ""
    while True:
        page = await plugin.call("scan", cursor=cursor, **params)
        keys += [item["key"] for item in page["items"]]
        cursor = page.get("cursor", "")
        if not cursor:
            return keys


async def expired(plugin: Caller, key: str, value: object = 1) -> None:
    """Set a key, and wait until it has expired."""
    await plugin.call("set", key=key, value=value, ttl_seconds=0.05)

    async def gone() -> bool:
        return not (await plugin.call("get", key=key))["found"]

    await eventually(gone)


async def test_json_comes_back_as_it_was_set_byte_for_byte(plugin: Caller) -> None:
    for text in TEXTS:
        await plugin.execute("set", f'{{"key":"a","value":{text}}}')
        found, _ = await plugin.execute("get", '{"key":"a"}')
        assert found.startswith(f'{{"found":true,"value":{text}')
        found, _ = await plugin.execute("mget", '{"keys":["a"]}')
        assert f'"value":{text}' in found


async def test_binary_values_hold_any_bytes(plugin: Caller) -> None:
    for data in (bytes(range(256)), b"", b"\r\n\0"):
        text = base64.b64encode(data).decode()
        await plugin.call("set", key="a", value=text, encoding="base64")
        found = await plugin.call("get", key="a")
        assert (found["value"], found["encoding"]) == (text, "base64")
        assert (await plugin.call_binary("get", key="a"))["value"] == data
        await plugin.call_binary("set", key="b", value=data)
        found = await plugin.call("mget", keys=["b"])
        assert found["results"][0]["value"] == text


async def test_a_value_of_256_kib(plugin: Caller) -> None:
    value = "x" * 256 * 1024
    await plugin.call("set", key="a", value=value)
    assert (await plugin.call("get", key="a"))["value"] == value


async def test_a_missing_key_is_an_answer(plugin: Caller) -> None:
    assert await plugin.call("get", key="a") == {"found": False}
    assert await plugin.call("exists", key="a") == {"exists": False}
    assert await plugin.call("delete", key="a") == {"deleted": False}
    assert await plugin.call("ttl", key="a") == {"found": False, "ttl_seconds": -2}
    assert await plugin.call("persist", key="a") == {"expiration_removed": False}
    assert await plugin.call("expire", key="a", ttl_seconds=9) == {"key_existed": False}


async def test_set_replaces_and_delete_removes(plugin: Caller) -> None:
    assert await plugin.call("set", key="a", value=1) == {"stored": True}
    assert await plugin.call("set", key="a", value="AA==", encoding="base64") == {"stored": True}
    assert await plugin.call("set", key="a", value="two") == {"stored": True}
    found = await plugin.call("get", key="a")
    assert found["value"] == "two"
    assert "encoding" not in found
    assert await plugin.call("delete", key="a") == {"deleted": True}
    assert await plugin.call("exists", key="a") == {"exists": False}


async def test_set_only_if_the_key_exists_or_not(plugin: Caller) -> None:
    assert await plugin.call("set", key="a", value=1, only_if_exists=True) == {"stored": False}
    new = {"key": "a", "value": "", "only_if_not_exists": True}
    assert await plugin.call("set", **new) == {"stored": True}
    assert await plugin.call("set", **new) == {"stored": False}
    assert await plugin.call("set", key="a", value=2, only_if_exists=True) == {"stored": True}
    assert (await plugin.call("get", key="a"))["value"] == 2
    with refused(StatusCode.INVALID_ARGUMENT):
        await plugin.call("set", only_if_exists=True, **new)


async def test_of_many_that_create_a_key_one_does(plugin: Caller) -> None:
    winners = []

    async def create(me: int) -> None:
        params = {"key": "a", "value": me, "only_if_not_exists": True}
        if (await plugin.call("set", **params))["stored"]:
            winners.append(me)

    async with trio.open_nursery() as nursery:
        for me in range(30):
            nursery.start_soon(create, me)
    assert [(await plugin.call("get", key="a"))["value"]] == winners


async def test_keys_are_any_text_of_1_to_1024_bytes(plugin: Caller) -> None:
    for key in ("x" * 1024, "é" * 512, "a\0b", " ", "\n", *AWKWARD):
        await plugin.call("set", key=key, value=key)
        assert (await plugin.call("get", key=key))["value"] == key
        assert await all_keys(plugin) == [key]
        assert await plugin.call("delete", key=key) == {"deleted": True}


async def test_other_keys_are_refused(plugin: Caller) -> None:
    for key in ("", "x" * 1025, "é" * 513):
        with refused(StatusCode.INVALID_ARGUMENT):
            await plugin.call("get", key=key)
        with refused(StatusCode.INVALID_ARGUMENT):
            await plugin.call("mset", items=[{"key": "a", "value": 1}, {"key": key, "value": 1}])
    assert await plugin.call("exists", key="a") == {"exists": False}


async def test_times_to_live_are_told_and_end(plugin: Caller) -> None:
    await plugin.call("set", key="a", value=1, ttl_seconds=1000)
    left = await plugin.call("ttl", key="a")
    assert left["found"]
    assert 900 < left["ttl_seconds"] <= 1000
    assert await plugin.call("persist", key="a") == {"expiration_removed": True}
    assert await plugin.call("persist", key="a") == {"expiration_removed": False}
    assert await plugin.call("ttl", key="a") == {"found": True, "ttl_seconds": -1}
    assert await plugin.call("expire", key="a", ttl_seconds=0.05) == {"key_existed": True}

    async def gone() -> bool:
        return not (await plugin.call("exists", key="a"))["exists"]

    await eventually(gone)


async def test_to_expire_with_0_deletes_and_to_set_with_0_keeps(plugin: Caller) -> None:
    await plugin.call("set", key="a", value=1, ttl_seconds=0)
    assert (await plugin.call("ttl", key="a"))["ttl_seconds"] == -1
    assert await plugin.call("expire", key="a", ttl_seconds=0) == {"key_existed": True}
    assert await plugin.call("exists", key="a") == {"exists": False}


async def test_to_set_begins_the_time_to_live_anew_and_to_increment_keeps_it(
    plugin: Caller,
) -> None:
    await plugin.call("set", key="a", value=1, ttl_seconds=1000)
    await plugin.call("increment", key="a")
    assert (await plugin.call("ttl", key="a"))["ttl_seconds"] > 0
    await plugin.call("set", key="a", value=1)
    assert (await plugin.call("ttl", key="a"))["ttl_seconds"] == -1


async def test_an_expired_key_is_missing_in_every_operation(plugin: Caller) -> None:
    await expired(plugin, "a")
    assert await plugin.call("exists", key="a") == {"exists": False}
    assert (await plugin.call("mget", keys=["a"]))["found_count"] == 0
    assert await plugin.call("count") == {"count": 0}
    assert await all_keys(plugin) == []
    assert await plugin.list("scan") == []
    assert await plugin.call("ttl", key="a") == {"found": False, "ttl_seconds": -2}
    assert await plugin.call("persist", key="a") == {"expiration_removed": False}
    assert await plugin.call("expire", key="a", ttl_seconds=9) == {"key_existed": False}
    assert await plugin.call("delete", key="a") == {"deleted": False}
    assert await plugin.call("mdelete", keys=["a"]) == {"deleted": 0}


async def test_an_expired_key_is_missing_in_every_condition(plugin: Caller) -> None:
    await expired(plugin, "a")
    assert await plugin.call("set", key="a", value=2, only_if_exists=True) == {"stored": False}
    assert await plugin.call("compare_and_delete", key="a", old_value=1) == {"deleted": False}
    swap = {"key": "a", "new_value": 2, "old_value": 1}
    assert await plugin.call("compare_and_swap", **swap) == {"swapped": False}
    new = {"value": 2, "only_if_not_exists": True}
    assert await plugin.call("set", key="a", **new) == {"stored": True}
    await expired(plugin, "b")
    assert await plugin.call("compare_and_swap", key="b", new_value=2) == {"swapped": True}
    await expired(plugin, "c", 100)
    assert await plugin.call("increment", key="c") == {"value": 1}


async def test_mget_and_mset_keep_the_order_and_take_a_key_twice(plugin: Caller) -> None:
    items = [{"key": "a", "value": 1}, {"key": "b", "value": 2}, {"key": "a", "value": 3}]
    assert await plugin.call("mset", items=items) == {"stored": 3}
    found = await plugin.call("mget", keys=["b", "x", "a", "b"])
    assert [one["key"] for one in found["results"]] == ["b", "x", "a", "b"]
    assert [one.get("value") for one in found["results"]] == [2, None, 3, 2]
    assert found["found_count"] == 3
    assert await plugin.call("mget", keys=[]) == {"results": [], "found_count": 0}
    assert await plugin.call("mset", items=[]) == {"stored": 0}


async def test_mset_sets_times_to_live(plugin: Caller) -> None:
    items = [{"key": "a", "value": 1, "ttl_seconds": 1000}, {"key": "b", "value": 1}]
    await plugin.call("mset", items=items)
    left = [(await plugin.call("ttl", key=key))["ttl_seconds"] for key in "ab"]
    assert left[0] > 900
    assert left[1] == -1


async def test_mdelete_counts_each_key_there_was_once(plugin: Caller) -> None:
    await plugin.call("mset", items=[{"key": key, "value": 1} for key in "abc"])
    assert await plugin.call("mdelete", keys=["a", "x", "b", "a"]) == {"deleted": 2}
    assert await plugin.call("mdelete", keys=[]) == {"deleted": 0}
    assert await all_keys(plugin) == ["c"]


async def test_1000_keys_at_a_time_and_no_more(plugin: Caller) -> None:
    keys = [f"k{number}" for number in range(1000)]
    items = [{"key": key, "value": 1} for key in keys]
    assert await plugin.call("mset", items=items) == {"stored": 1000}
    assert (await plugin.call("mget", keys=keys))["found_count"] == 1000
    with refused(StatusCode.INVALID_ARGUMENT):
        await plugin.call("mget", keys=[*keys, "x"])
    with refused(StatusCode.INVALID_ARGUMENT):
        await plugin.call("mset", items=[*items, {"key": "x", "value": 1}])
    with refused(StatusCode.INVALID_ARGUMENT):
        await plugin.call("mdelete", keys=[*keys, "x"])
    assert await plugin.call("mdelete", keys=keys) == {"deleted": 1000}


async def test_scan_gives_each_of_1025_keys_once(plugin: Caller) -> None:
    keys = [f"k{number}" for number in range(1025)]
    for start in range(0, 1025, 500):
        items = [{"key": key, "value": key} for key in keys[start : start + 500]]
        await plugin.call("mset", items=items)
    assert sorted(await all_keys(plugin)) == sorted(keys)
    assert sorted(await all_keys(plugin, limit=10_000, keys_only=True)) == sorted(keys)
    streamed = await plugin.list("scan")
    assert sorted(item["key"] for item in streamed) == sorted(keys)
    assert all(item["value"] == item["key"] for item in streamed)
    assert await plugin.call("count") == {"count": 1025}


async def test_scan_gives_keys_in_the_order_of_their_bytes(plugin: Caller) -> None:
    keys = ["a", "B", "b", "é", "éa", "\uffff", "\U0001f40d", "a\0", "Z"]
    await plugin.call("mset", items=[{"key": key, "value": 1} for key in keys])
    assert await all_keys(plugin, limit=2) == sorted(keys, key=str.encode)
    streamed = await plugin.list("scan")
    assert [item["key"] for item in streamed] == sorted(keys, key=str.encode)


async def test_a_stream_of_scan_resumes_after_each_key(plugin: Caller) -> None:
    keys = ["a", "b", "c", "d"]
    await plugin.call("mset", items=[{"key": key, "value": 1} for key in keys])
    async with plugin.stream("scan", limit_is_unknown=True) as wrong:
        with refused(StatusCode.INVALID_ARGUMENT):
            await anext(wrong)
    async with plugin.stream("scan") as messages:
        await anext(messages)
        _, position = await anext(messages)
    rest = await plugin.list("scan", resume_after=position)
    assert [item["key"] for item in rest] == ["c", "d"]


async def test_prefixes_are_literal(plugin: Caller) -> None:
    for special in AWKWARD:
        wanted = [f"p{special}", f"p{special}x", f"p{special}{special}"]
        others = ["p", "px", "pxx", "q", f"x{special}", f"P{special}"]
        await plugin.call("mset", items=[{"key": key, "value": 1} for key in wanted + others])
        prefix = f"p{special}"
        assert sorted(await all_keys(plugin, prefix=prefix)) == sorted(wanted)
        assert await plugin.call("count", prefix=prefix) == {"count": 3}
        streamed = await plugin.list("scan", prefix=prefix)
        assert sorted(item["key"] for item in streamed) == sorted(wanted)
        await plugin.call("mdelete", keys=wanted + others)


async def test_keys_that_are_deleted_meanwhile_do_not_stop_a_scan(plugin: Caller) -> None:
    keys = [f"k{number:02}" for number in range(40)]
    await plugin.call("mset", items=[{"key": key, "value": 1} for key in keys])
    first = await plugin.call("scan", limit=10)
    seen = [item["key"] for item in first["items"]]
    gone = [key for key in keys if key not in seen][:10]
    await plugin.call("mdelete", keys=[*seen, *gone])
    rest = await all_keys_after(plugin, first.get("cursor", ""))
    assert set(rest) == set(keys) - set(seen) - set(gone)


async def all_keys_after(plugin: Caller, cursor: str) -> list[str]:
    keys = []
    while cursor:
        page = await plugin.call("scan", cursor=cursor, limit=10)
        keys += [item["key"] for item in page["items"]]
        cursor = page.get("cursor", "")
    return keys


async def test_keys_only_has_no_values(plugin: Caller) -> None:
    await plugin.call("set", key="a", value=1)
    assert (await plugin.call("scan", keys_only=True))["items"] == [{"key": "a"}]
    assert await plugin.list("scan", keys_only=True) == [{"key": "a"}]


async def test_increment_counts_in_64_bits(plugin: Caller) -> None:
    assert await plugin.call("increment", key="n") == {"value": 1}
    assert await plugin.call("increment", key="n", delta=-5) == {"value": -4}
    assert await plugin.call("increment", key="m", delta=2, initial=40) == {"value": 42}
    assert (await plugin.call("get", key="m"))["value"] == 42
    await plugin.call("set", key="n", value=2**63 - 2)
    assert await plugin.call("increment", key="n") == {"value": 2**63 - 1}
    with refused(StatusCode.OUT_OF_RANGE):
        await plugin.call("increment", key="n")
    assert (await plugin.call("get", key="n"))["value"] == 2**63 - 1


async def test_increment_of_what_is_no_integer_is_refused(plugin: Caller) -> None:
    for value in ("1", 1.5, None, True, [1], 10**30):
        await plugin.call("set", key="n", value=value)
        with refused(StatusCode.FAILED_PRECONDITION):
            await plugin.call("increment", key="n")
        assert (await plugin.call("get", key="n"))["value"] == value


async def test_increments_at_the_same_time_all_count(plugin: Caller) -> None:
    async def add() -> None:
        for _ in range(5):
            await plugin.call("increment", key="n")

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(add)
    assert (await plugin.call("get", key="n"))["value"] == 100


async def test_compare_and_swap(plugin: Caller) -> None:
    swap = "compare_and_swap"
    assert await plugin.call(swap, key="a", old_value=None, new_value=1) == {"swapped": False}
    assert await plugin.call(swap, key="a", new_value=1, ttl_seconds=1000) == {"swapped": True}
    assert (await plugin.call("ttl", key="a"))["ttl_seconds"] > 900
    assert await plugin.call(swap, key="a", new_value=2) == {"swapped": False}
    assert await plugin.call(swap, key="a", old_value=2, new_value=3) == {"swapped": False}
    assert await plugin.call(swap, key="a", old_value=1, new_value=3) == {"swapped": True}
    assert (await plugin.call("ttl", key="a"))["ttl_seconds"] == -1
    binary = {"key": "a", "old_value": "Mw==", "new_value": "", "encoding": "base64"}
    assert await plugin.call(swap, **binary) == {"swapped": False}
    assert (await plugin.call("get", key="a"))["value"] == 3


async def test_json_is_compared_by_what_it_says(plugin: Caller) -> None:
    await plugin.execute("set", '{"key":"a","value":{"é": 1.0, "b": [true, 1e2]}}')
    other = {"key": "a", "old_value": {"é": 1, "b": [1, 100]}}
    assert await plugin.call("compare_and_swap", new_value=2, **other) == {"swapped": False}
    assert await plugin.call("compare_and_delete", **other) == {"deleted": False}
    same = '{"key":"a","old_value":{"b":[true,100],"\\u00e9":1},"new_value":{"n":1}}'
    text, _ = await plugin.execute("compare_and_swap", same)
    assert msgspec.json.decode(text) == {"swapped": True}
    same = '{"key":"a","old_value":{ "n" : 1.0 }}'
    text, _ = await plugin.execute("compare_and_delete", same)
    assert msgspec.json.decode(text) == {"deleted": True}


async def test_of_many_that_swap_one_does(plugin: Caller) -> None:
    await plugin.call("set", key="a", value="first")
    winners = []

    async def swap(me: int) -> None:
        params = {"key": "a", "old_value": "first", "new_value": me}
        if (await plugin.call("compare_and_swap", **params))["swapped"]:
            winners.append(me)

    async with trio.open_nursery() as nursery:
        for me in range(30):
            nursery.start_soon(swap, me)
    assert [(await plugin.call("get", key="a"))["value"]] == winners


async def test_a_lock_is_released_by_its_holder_alone(plugin: Caller) -> None:
    await plugin.call("set", key="lock", value="me", only_if_not_exists=True)
    delete = "compare_and_delete"
    assert await plugin.call(delete, key="lock", old_value="you") == {"deleted": False}
    assert await plugin.call("exists", key="lock") == {"exists": True}
    assert await plugin.call(delete, key="lock", old_value="me") == {"deleted": True}
    assert await plugin.call(delete, key="lock", old_value="me") == {"deleted": False}


async def test_a_write_is_seen_by_every_later_read(plugin: Caller) -> None:
    async def write_and_read(key: str) -> None:
        for number in range(10):
            await plugin.call("set", key=key, value=number)
            assert (await plugin.call("get", key=key))["value"] == number
            assert await plugin.call("count", prefix=key) == {"count": 1}

    async with trio.open_nursery() as nursery:
        for worker in range(10):
            nursery.start_soon(write_and_read, f"k{worker}.")


async def test_unknown_fields_are_refused(plugin: Caller) -> None:
    for operation, params in (
        ("set", {"key": "a", "value": 1, "ttl": 5}),
        ("mset", {"items": [{"key": "a", "value": 1, "ttl": 5}]}),
        ("get", {"key": "a", "default": 1}),
        ("scan", {"pattern": "*"}),
    ):
        with refused(StatusCode.INVALID_ARGUMENT):
            await plugin.call(operation, **params)
    assert await plugin.call("exists", key="a") == {"exists": False}


async def test_namespaces_are_apart(open_plugin) -> None:
    async with open_plugin("one") as one, open_plugin("two") as two:
        await one.call("mset", items=[{"key": "a", "value": 1}, {"key": "b", "value": 1}])
        await two.call("set", key="a", value=2)
        assert (await one.call("get", key="a"))["value"] == 1
        assert await all_keys(two) == ["a"]
        assert await two.call("count") == {"count": 1}
        assert await two.call("mdelete", keys=["a", "b"]) == {"deleted": 1}
        assert sorted(await all_keys(one, keys_only=True)) == ["a", "b"]


async def test_values_outlive_the_plugin(open_plugin) -> None:
    async with open_plugin() as plugin:
        await plugin.call("set", key="a", value="kept")
        await plugin.call("set", key="b", value="AAE=", encoding="base64", ttl_seconds=1000)
    async with open_plugin() as plugin:
        found = await plugin.call("mget", keys=["a", "b"])
        assert [one.get("value") for one in found["results"]] == ["kept", "AAE="]
        assert (await plugin.call("ttl", key="b"))["ttl_seconds"] > 0


async def test_cancelled_calls_leave_the_plugin_usable(plugin: Caller) -> None:
    async def cancel_soon(number: int) -> None:
        with trio.move_on_after(number * 0.0002):
            try:
                await plugin.call("set", key=f"k{number % 5}", value=number)
            except Overloaded:  # so many at a time, all from one connection
                pass
            except PluginError as error:  # the plugin may know before that the time is up
                if error.status is not StatusCode.DEADLINE_EXCEEDED:
                    raise

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(cancel_soon, number)
    for number in range(5):
        await plugin.call("set", key=f"k{number}", value=f"after {number}")
    found = await plugin.call("mget", keys=[f"k{number}" for number in range(5)])
    assert [one["value"] for one in found["results"]] == [f"after {n}" for n in range(5)]


async def test_times_to_live_that_are_none_are_refused(plugin: Caller) -> None:
    await plugin.call("set", key="a", value=1)
    for ttl in (-1, "5", True, [1]):
        for operation, params in (
            ("set", {"key": "a", "value": 2}),
            ("expire", {"key": "a"}),
            ("compare_and_swap", {"key": "a", "old_value": 1, "new_value": 2}),
            ("mset", {"items": [{"key": "a", "value": 2, "ttl_seconds": ttl}]}),
        ):
            own = {} if operation == "mset" else {"ttl_seconds": ttl}
            with refused(StatusCode.INVALID_ARGUMENT):
                await plugin.call(operation, **params, **own)
    assert (await plugin.call("get", key="a"))["value"] == 1
    assert (await plugin.call("ttl", key="a"))["ttl_seconds"] == -1


@pytest.mark.parametrize("seed", range(2))
async def test_any_sequence_of_calls_does_what_it_does_to_a_dictionary(
    plugin: Caller, seed: int
) -> None:
    model = Model(random.Random(seed))
    for _ in range(60):
        operation, params, expected = model.step()
        answer = await plugin.call(operation, **params)
        assert answer | expected == answer, (operation, params)
    found = await plugin.call("mget", keys=Model.KEYS)
    values = {one["key"]: one["value"] for one in found["results"] if one["found"]}
    assert values == model.values


class Model:
    """Keys that do not expire, and what calls have to answer."""

    KEYS = ("a", "a%", "aa", "b", "é")
    VALUES = (0, 7, "", "x", None, [], {"n": 1})

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.values: dict[str, object] = {}

    def step(self) -> tuple[str, dict, dict]:
        """A call, its params, and what its answer has at least."""
        key, value = self.chance.choice(self.KEYS), self.chance.choice(self.VALUES)
        name = self.chance.choice([name for name in vars(Model) if name.startswith("on_")])
        if name == "on_increment" and not isinstance(self.values.get(key, 0), int):
            name = "on_get"
        params, expected = getattr(self, name)(key, value)
        return name.removeprefix("on_"), params, expected

    def on_get(self, key: str, value: object) -> tuple[dict, dict]:
        if key not in self.values:
            return {"key": key}, {"found": False}
        return {"key": key}, {"found": True, "value": self.values[key]}

    def on_exists(self, key: str, value: object) -> tuple[dict, dict]:
        return {"key": key}, {"exists": key in self.values}

    def on_set(self, key: str, value: object) -> tuple[dict, dict]:
        when = self.chance.choice(["", "only_if_exists", "only_if_not_exists"])
        wanted = {"": True, "only_if_exists": key in self.values}
        stored = wanted.get(when, key not in self.values)
        if stored:
            self.values[key] = value
        return {"key": key, "value": value} | ({when: True} if when else {}), {"stored": stored}

    def on_delete(self, key: str, value: object) -> tuple[dict, dict]:
        deleted = key in self.values
        self.values.pop(key, None)
        return {"key": key}, {"deleted": deleted}

    def on_mset(self, key: str, value: object) -> tuple[dict, dict]:
        self.values |= {key: value, "b": 7}
        return {"items": [{"key": key, "value": value}, {"key": "b", "value": 7}]}, {"stored": 2}

    def on_mdelete(self, key: str, value: object) -> tuple[dict, dict]:
        gone = {key, "b"} & self.values.keys()
        for one in gone:
            del self.values[one]
        return {"keys": [key, "b"]}, {"deleted": len(gone)}

    def on_compare_and_swap(self, key: str, value: object) -> tuple[dict, dict]:
        old = self.chance.choice([*self.VALUES, "missing", self.values.get(key, "missing")])
        if old == "missing":
            swapped, params = key not in self.values, {}
        else:
            swapped = key in self.values and self.values[key] == old
            params = {"old_value": old}
        if swapped:
            self.values[key] = value
        return {"key": key, "new_value": value} | params, {"swapped": swapped}

    def on_compare_and_delete(self, key: str, value: object) -> tuple[dict, dict]:
        deleted = key in self.values and self.values[key] == value
        if deleted:
            del self.values[key]
        return {"key": key, "old_value": value}, {"deleted": deleted}

    def on_count(self, key: str, value: object) -> tuple[dict, dict]:
        return {"prefix": key}, {"count": sum(one.startswith(key) for one in self.values)}

    def on_increment(self, key: str, value: object) -> tuple[dict, dict]:
        known = self.values.get(key, 10)
        assert isinstance(known, int)
        total = known + 3
        self.values[key] = total
        return {"key": key, "delta": 3, "initial": 10}, {"value": total}

import base64

import msgspec
import pytest
import trio

from prism.contract.messages import ExecuteRequest, HealthStatus
from prism.sdk import PluginError, StatusCode


def refused(status: StatusCode, match: str | None = None):
    return pytest.raises(PluginError, check=lambda error: error.status is status, match=match)


async def get_value(sqlite, key: str) -> object:
    return (await sqlite.call("get", key=key))["value"]


async def test_set_and_get(sqlite) -> None:
    assert await sqlite.call("set", key="a", value={"name": "Ada"}) == {"stored": True}
    assert await get_value(sqlite, "a") == {"name": "Ada"}


async def test_get_of_a_missing_key(sqlite) -> None:
    assert await sqlite.call("get", key="a") == {"found": False}


async def test_overwrite(sqlite) -> None:
    await sqlite.call("set", key="a", value=1)
    await sqlite.call("set", key="a", value="two")
    assert await get_value(sqlite, "a") == "two"


@pytest.mark.parametrize(
    "text", ["null", "1.50", "123456789012345678901234567890", '{"b": 1,\n "a":2}', '""', "[]"]
)
async def test_json_comes_back_byte_for_byte(sqlite, text: str) -> None:
    request = ExecuteRequest(operation="set", params_json=f'{{"key":"a","value": {text} }}')
    assert (await sqlite.plugin.execute(request)).success
    answer = await sqlite.plugin.execute(get("a"))
    assert answer.result_json == f'{{"found":true,"value":{text},"version":"1"}}'


def get(key: str) -> ExecuteRequest:
    return ExecuteRequest(operation="get", params_json=f'{{"key":"{key}"}}')


async def test_binary_values(sqlite) -> None:
    data = bytes(range(256))
    text = base64.b64encode(data).decode()
    await sqlite.call("set", key="a", value=text, encoding="base64")
    assert await sqlite.call("get", key="a") == {
        "found": True,
        "value": text,
        "encoding": "base64",
        "version": "1",
    }
    assert (await sqlite.request("get", {"key": "a"}, binary=True))["value"] == data
    await sqlite.request("set", {"key": "b", "value": data}, binary=True)
    assert (await sqlite.call("mget", keys=["b"]))["results"][0]["value"] == text
    await sqlite.request("set", {"key": "c", "value": {"n": 1}}, binary=True)
    assert (await sqlite.call("get", key="c"))["value"] == {"n": 1}


async def test_empty_binary_value(sqlite) -> None:
    await sqlite.request("set", {"key": "a", "value": b""}, binary=True)
    assert (await sqlite.request("get", {"key": "a"}, binary=True))["value"] == b""


async def test_large_values_and_their_limit(sqlite) -> None:
    limit = sqlite.plugin.config.max_value_bytes
    largest = "x" * (limit - 2)
    await sqlite.call("set", key="a", value=largest)
    assert (await sqlite.call("get", key="a"))["value"] == largest
    with refused(StatusCode.INVALID_ARGUMENT, "max_value_bytes"):
        await sqlite.call("set", key="a", value=largest + "x")


async def test_delete_and_exists(sqlite) -> None:
    await sqlite.call("set", key="a", value=1)
    assert await sqlite.call("exists", key="a") == {"exists": True}
    assert await sqlite.call("delete", key="a") == {"deleted": True}
    assert await sqlite.call("delete", key="a") == {"deleted": False}
    assert await sqlite.call("exists", key="a") == {"exists": False}


@pytest.mark.parametrize("key", ["", "é" * 513, "x" * 1025])
async def test_keys_that_are_refused(sqlite, key: str) -> None:
    with refused(StatusCode.INVALID_ARGUMENT):
        await sqlite.call("get", key=key)


@pytest.mark.parametrize("key", ["x" * 1024, "é" * 512, "a\0b", "%_*", "\U0001f40d"])
async def test_keys_that_are_allowed(sqlite, key: str) -> None:
    await sqlite.call("set", key=key, value=key)
    assert (await sqlite.call("scan"))["items"] == [{"key": key, "value": key}]


async def test_unknown_fields_are_refused(sqlite) -> None:
    with refused(StatusCode.INVALID_ARGUMENT, "ttl"):
        await sqlite.call("set", key="a", value=1, ttl=5)


async def test_time_to_live(sqlite, clock) -> None:
    await sqlite.call("set", key="a", value=1, ttl_seconds=10)
    assert await sqlite.call("ttl", key="a") == {"found": True, "ttl_seconds": 10}
    clock.now += 9.5
    assert await sqlite.call("ttl", key="a") == {"found": True, "ttl_seconds": 0.5}
    assert (await sqlite.call("get", key="a"))["found"]
    clock.now += 0.5
    assert await sqlite.call("get", key="a") == {"found": False}
    assert await sqlite.call("ttl", key="a") == {"found": False, "ttl_seconds": -2}
    assert await sqlite.call("count") == {"count": 0}
    assert await sqlite.call("scan") == {"items": []}
    assert await sqlite.call("delete", key="a") == {"deleted": False}
    assert await sqlite.call("expire", key="a", ttl_seconds=9) == {"key_existed": False}


async def test_zero_time_to_live_never_expires(sqlite, clock) -> None:
    await sqlite.call("set", key="a", value=1, ttl_seconds=0)
    clock.now += 1e9
    assert await sqlite.call("ttl", key="a") == {"found": True, "ttl_seconds": -1}


async def test_overwriting_resets_the_time_to_live(sqlite, clock) -> None:
    await sqlite.call("set", key="a", value=1, ttl_seconds=10)
    await sqlite.call("set", key="a", value=2)
    clock.now += 11
    assert (await sqlite.call("get", key="a"))["value"] == 2


async def test_expire_and_persist(sqlite, clock) -> None:
    await sqlite.call("set", key="a", value=1)
    assert await sqlite.call("persist", key="a") == {"expiration_removed": False}
    assert await sqlite.call("expire", key="a", ttl_seconds=5) == {"key_existed": True}
    assert await sqlite.call("persist", key="a") == {"expiration_removed": True}
    clock.now += 6
    assert await sqlite.call("expire", key="a", ttl_seconds=0) == {"key_existed": True}
    assert await sqlite.call("get", key="a") == {"found": False}


async def test_the_namespaces_default_time_to_live(open_plugin, clock) -> None:
    async with open_plugin(default_ttl_seconds=60) as sqlite:
        await sqlite.call("set", key="default", value=1)
        await sqlite.call("set", key="own", value=1, ttl_seconds=90)
        await sqlite.call("set", key="never", value=1, ttl_seconds=0)
        await sqlite.call("increment", key="counter")
        clock.now += 61
        page = await sqlite.call("scan", keys_only=True)
        assert page == {"items": [{"key": "never"}, {"key": "own"}]}


async def test_conditional_set(sqlite, clock) -> None:
    assert await sqlite.call("set", key="a", value=1, only_if_exists=True) == {"stored": False}
    new = {"key": "a", "value": 2, "only_if_not_exists": True, "ttl_seconds": 5}
    assert await sqlite.call("set", **new) == {"stored": True}
    assert await sqlite.call("set", **new) == {"stored": False}
    clock.now += 5
    assert await sqlite.call("set", key="a", value=1, only_if_exists=True) == {"stored": False}
    assert await sqlite.call("set", **new) == {"stored": True}
    assert await sqlite.call("set", key="a", value=3, only_if_exists=True) == {"stored": True}
    with refused(StatusCode.INVALID_ARGUMENT):
        await sqlite.call("set", only_if_exists=True, **new)


async def test_mset_and_mget(sqlite) -> None:
    items = [{"key": "a", "value": 1}, {"key": "b", "value": "AA==", "encoding": "base64"}]
    assert await sqlite.call("mset", items=items) == {"stored": 2}
    assert await sqlite.call("mget", keys=["b", "x", "a"]) == {
        "results": [
            {"key": "b", "found": True, "value": "AA==", "encoding": "base64", "version": "2"},
            {"key": "x", "found": False},
            {"key": "a", "found": True, "value": 1, "version": "1"},
        ],
        "found_count": 2,
    }
    with refused(StatusCode.INVALID_ARGUMENT):
        await sqlite.call("mset", items=[{"key": "c", "value": 1}, {"key": "", "value": 1}])
    assert await sqlite.call("exists", key="c") == {"exists": False}


async def test_mget_is_bounded_in_bytes(sqlite) -> None:
    await sqlite.call("set", key="a", value="x" * 500_000)
    assert (await sqlite.call("mget", keys=["a"] * 16))["found_count"] == 16
    with refused(StatusCode.RESOURCE_EXHAUSTED, "fewer keys"):
        await sqlite.call("mget", keys=["a"] * 17)


async def test_scan_pages_in_order_of_bytes(sqlite) -> None:
    keys = ["a", "a%", "a_", "aB", "b", "é", "éa", "\U0001f40d", "\uffff"]
    await sqlite.call("mset", items=[{"key": key, "value": key} for key in keys])
    seen: list[str] = []
    cursor = ""
    while True:
        page = await sqlite.call("scan", limit=2, cursor=cursor)
        assert len(page["items"]) <= 2
        seen += [item["key"] for item in page["items"]]
        if "cursor" not in page:
            break
        cursor = page["cursor"]
    assert seen == sorted(keys, key=str.encode)


@pytest.mark.parametrize(
    ("prefix", "keys"),
    [("a%", ["a%"]), ("a_", ["a_"]), ("a", ["a", "a%", "a_"]), ("é", ["é", "éa"]), ("z", [])],
)
async def test_prefixes_need_no_escaping(sqlite, prefix: str, keys: list[str]) -> None:
    for key in ["a", "a%", "a_", "b", "é", "éa", "\uffff"]:
        await sqlite.call("set", key=key, value=0)
    page = await sqlite.call("scan", prefix=prefix, keys_only=True)
    assert [item["key"] for item in page["items"]] == keys
    assert await sqlite.call("count", prefix=prefix) == {"count": len(keys)}
    past = await sqlite.call("scan", prefix=prefix, cursor="~~")
    assert [item["key"] for item in past["items"]] == [key for key in keys if key > "~~"]


async def test_a_page_is_bounded_in_bytes(sqlite) -> None:
    for n in range(4):
        await sqlite.call("set", key=f"k{n}", value="x" * 200_000)
    first = await sqlite.call("scan")
    assert [item["key"] for item in first["items"]] == ["k0", "k1"]
    second = await sqlite.call("scan", cursor=first["cursor"])
    assert [item["key"] for item in second["items"]] == ["k2", "k3"]
    assert "cursor" not in second


async def test_increment(sqlite) -> None:
    assert await sqlite.call("increment", key="n") == {"value": 1}
    assert await sqlite.call("increment", key="n", delta=-5) == {"value": -4}
    assert await sqlite.call("increment", key="m", delta=2, initial=40) == {"value": 42}
    assert (await sqlite.call("get", key="m"))["value"] == 42
    await sqlite.call("set", key="n", value=2**63 - 1)
    with refused(StatusCode.OUT_OF_RANGE):
        await sqlite.call("increment", key="n")
    assert (await sqlite.call("get", key="n"))["value"] == 2**63 - 1


@pytest.mark.parametrize("value", ["1", 1.5, None, True, [1], 10**30])
async def test_increment_of_what_is_no_integer(sqlite, value: object) -> None:
    await sqlite.call("set", key="n", value=value)
    with refused(StatusCode.FAILED_PRECONDITION):
        await sqlite.call("increment", key="n")


async def test_increment_keeps_the_time_to_live(sqlite, clock) -> None:
    await sqlite.call("set", key="n", value=1, ttl_seconds=5)
    await sqlite.call("increment", key="n")
    clock.now += 5
    assert await sqlite.call("increment", key="n") == {"value": 1}


async def test_compare_and_swap(sqlite) -> None:
    swap = "compare_and_swap"
    assert await sqlite.call(swap, key="a", old_value=None, new_value=1) == {"swapped": False}
    assert await sqlite.call(swap, key="a", new_value={"x": 1}) == {"swapped": True}
    assert await sqlite.call(swap, key="a", new_value=2) == {"swapped": False}
    assert await sqlite.call(swap, key="a", old_value={"x": True}, new_value=2) == {
        "swapped": False
    }
    spaced = '{"key": "a", "old_value": { "x" : 1 }, "new_value": null}'
    answer = await sqlite.plugin.execute(ExecuteRequest(operation=swap, params_json=spaced))
    assert msgspec.json.decode(answer.result_json) == {"swapped": True}
    assert await sqlite.call(swap, key="a", old_value=None, new_value=1) == {"swapped": True}
    binary = {"key": "a", "old_value": "MQ==", "new_value": "Mg==", "encoding": "base64"}
    assert await sqlite.call(swap, **binary) == {"swapped": False}


async def test_compare_and_swap_compares_what_json_says(sqlite) -> None:
    swap = "compare_and_swap"
    stored = '{"key": "a", "value": {"é": 1.0, "b": [true, 1e2]}}'
    await sqlite.plugin.execute(ExecuteRequest(operation="set", params_json=stored))
    other = {"key": "a", "old_value": {"é": 1, "b": [1, 100]}, "new_value": 2}
    assert await sqlite.call(swap, **other) == {"swapped": False}
    same = '{"key": "a", "old_value": {"b": [true, 100], "\\u00e9": 1}, "new_value": 2}'
    answer = await sqlite.plugin.execute(ExecuteRequest(operation=swap, params_json=same))
    assert msgspec.json.decode(answer.result_json) == {"swapped": True}


async def test_compare_and_delete(sqlite) -> None:
    delete = "compare_and_delete"
    assert await sqlite.call(delete, key="lock", old_value="me") == {"deleted": False}
    await sqlite.call("set", key="lock", value={"by": "me", "n": 1.0})
    assert await sqlite.call(delete, key="lock", old_value={"by": "you"}) == {"deleted": False}
    assert await sqlite.call("exists", key="lock") == {"exists": True}
    assert await sqlite.call(delete, key="lock", old_value={"n": 1, "by": "me"}) == {
        "deleted": True
    }
    assert await sqlite.call("exists", key="lock") == {"exists": False}
    binary = {"key": "lock", "encoding": "base64"}
    await sqlite.call("set", value="AAE=", **binary)
    assert await sqlite.call(delete, key="lock", old_value="AAE=") == {"deleted": False}
    assert await sqlite.call(delete, old_value="AAE=", **binary) == {"deleted": True}
    with refused(StatusCode.INVALID_ARGUMENT, "old_value"):
        await sqlite.call(delete, key="lock")


async def test_mdelete(sqlite, clock) -> None:
    items = [{"key": key, "value": 1} for key in "abcd"]
    await sqlite.call("mset", items=[*items, {"key": "gone", "value": 1, "ttl_seconds": 5}])
    clock.now += 5
    keys = ["a", "nobody", "c", "a", "gone"]
    assert await sqlite.call("mdelete", keys=keys) == {"deleted": 2}
    assert [item["key"] for item in (await sqlite.call("scan"))["items"]] == ["b", "d"]
    assert await sqlite.call("mdelete", keys=[]) == {"deleted": 0}
    for wrong in (["b", ""], ["b", "é" * 600], ["b"] * 1001):
        with refused(StatusCode.INVALID_ARGUMENT):
            await sqlite.call("mdelete", keys=wrong)
    assert await sqlite.call("count") == {"count": 2}


async def test_concurrent_writes_are_all_counted(sqlite) -> None:
    async def add() -> None:
        for _ in range(5):
            await sqlite.call("increment", key="n")

    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(add)
    assert (await sqlite.call("get", key="n"))["value"] == 200


async def test_concurrent_swaps_have_one_winner_each(sqlite) -> None:
    winners = []

    async def swap(me: int) -> None:
        answer = await sqlite.call("compare_and_swap", key="a", new_value=me)
        if answer["swapped"]:
            winners.append(me)

    async with trio.open_nursery() as nursery:
        for me in range(50):
            nursery.start_soon(swap, me)
    assert [(await sqlite.call("get", key="a"))["value"]] == winners


async def test_a_write_is_seen_by_every_later_read(sqlite) -> None:
    async def write_and_read(key: str) -> None:
        for n in range(10):
            await sqlite.call("set", key=key, value=n)
            assert (await sqlite.call("get", key=key))["value"] == n
            assert await sqlite.call("count", prefix=key) == {"count": 1}

    async with trio.open_nursery() as nursery:
        for worker in range(10):
            nursery.start_soon(write_and_read, f"k{worker}.")


async def test_expired_rows_are_swept(open_plugin, clock) -> None:
    async with open_plugin() as sqlite:
        items = [{"key": f"k{n}", "value": n, "ttl_seconds": 1} for n in range(250)]
        await sqlite.call("mset", items=items)
        clock.now += 2

        async def rows() -> int:
            return await sqlite.plugin.database.read(
                lambda connection: connection.execute(
                    "SELECT count(*) FROM _prism_keyvalue"
                ).fetchone()[0]
            )

        assert await rows() == 250
        sqlite.plugin.database._sweep_at = 0
        counts = []
        for _ in range(4):
            await sqlite.call("set", key="x", value=1)
            counts.append(await rows())
        assert counts == [151, 51, 1, 1]


async def test_health(sqlite, path) -> None:
    assert (await sqlite.health()).status is HealthStatus.HEALTHY


async def test_health_when_the_file_is_gone(open_plugin, path, tmp_path) -> None:
    async with open_plugin() as sqlite:
        (tmp_path / "a database?.db").rename(tmp_path / "elsewhere.db")
        health = await sqlite.health()
        assert health.status is HealthStatus.UNHEALTHY
        assert "is gone" in health.message
        (tmp_path / "a database?.db").touch()
        assert "was replaced" in (await sqlite.health()).message


async def test_data_outlives_the_plugin(open_plugin) -> None:
    async with open_plugin() as sqlite:
        await sqlite.call("set", key="a", value=1)
    async with open_plugin() as sqlite:
        assert (await sqlite.call("get", key="a"))["value"] == 1


async def test_operations_declare_what_may_be_repeated(sqlite) -> None:
    idempotent = {name for name, one in sqlite.plugin.operations.items() if one.idempotent}
    assert idempotent == {
        "get", "exists", "mget", "scan", "count", "ttl", "query", "watch", "queue_size",
    }  # fmt: skip

"""Versions of values, as every plugin has them that declares the group."""

import trio

from prism.sdk import StatusCode
from tests.compliance.caller import Caller, eventually, refused

GROUP = "kv_versions"


async def version(plugin: Caller, key: str) -> str:
    found: str = (await plugin.call("get", key=key))["version"]
    return found


async def test_every_write_of_a_value_makes_another_version(plugin: Caller) -> None:
    seen = []
    for operation, params in (
        ("set", {"value": 1}),
        ("set", {"value": 1}),
        ("set", {"value": 2, "only_if_exists": True}),
        ("increment", {}),
        ("compare_and_swap", {"old_value": 3, "new_value": 4}),
    ):
        await plugin.call(operation, key="a", **params)
        seen.append(await version(plugin, "a"))
    await plugin.call("mset", items=[{"key": "a", "value": 4}])
    seen.append(await version(plugin, "a"))
    assert len(set(seen)) == len(seen)
    assert all(isinstance(one, str) and one for one in seen)


async def test_a_version_does_not_come_back_after_a_delete(plugin: Caller) -> None:
    await plugin.call("set", key="a", value=1)
    before = await version(plugin, "a")
    await plugin.call("delete", key="a")
    await plugin.call("set", key="a", value=1)
    assert await version(plugin, "a") != before
    assert await plugin.call("set", key="a", value=2, if_version=before) == {"stored": False}


async def test_other_keys_and_times_to_live_leave_the_version(plugin: Caller) -> None:
    await plugin.call("set", key="a", value=1)
    before = await version(plugin, "a")
    await plugin.call("set", key="b", value=1)
    await plugin.call("expire", key="a", ttl_seconds=1000)
    await plugin.call("persist", key="a")
    assert await version(plugin, "a") == before


async def test_mget_has_the_versions(plugin: Caller) -> None:
    await plugin.call("set", key="a", value=1)
    found = await plugin.call("mget", keys=["a", "b"])
    assert found["results"][0]["version"] == await version(plugin, "a")
    assert "version" not in found["results"][1]


async def test_set_and_delete_on_a_version(plugin: Caller) -> None:
    await plugin.call("set", key="a", value=1, ttl_seconds=1000)
    first = await version(plugin, "a")
    assert await plugin.call("set", key="a", value=2, if_version=first) == {"stored": True}
    assert (await plugin.call("ttl", key="a"))["ttl_seconds"] == -1
    assert await plugin.call("set", key="a", value=3, if_version=first) == {"stored": False}
    assert await plugin.call("delete", key="a", if_version=first) == {"deleted": False}
    assert (await plugin.call("get", key="a"))["value"] == 2
    second = await version(plugin, "a")
    assert await plugin.call("delete", key="a", if_version=second) == {"deleted": True}
    assert await plugin.call("exists", key="a") == {"exists": False}


async def test_a_version_that_none_has_changes_nothing(plugin: Caller) -> None:
    await plugin.call("set", key="a", value=1)
    for wrong in ("", "0", "-1", "abc", "9" * 30, "\0", "é", "1; DROP"):
        for key in ("a", "missing"):
            params = {"key": key, "if_version": wrong}
            assert await plugin.call("set", value=2, **params) == {"stored": False}
            assert await plugin.call("delete", **params) == {"deleted": False}
    assert (await plugin.call("get", key="a"))["value"] == 1
    assert await plugin.call("exists", key="missing") == {"exists": False}


async def test_an_expired_key_has_no_version(plugin: Caller) -> None:
    await plugin.call("set", key="a", value=1, ttl_seconds=1000)
    known = await version(plugin, "a")
    await plugin.call("expire", key="a", ttl_seconds=0.05)

    async def gone() -> bool:
        return not (await plugin.call("exists", key="a"))["exists"]

    await eventually(gone)
    assert await plugin.call("set", key="a", value=2, if_version=known) == {"stored": False}
    assert await plugin.call("delete", key="a", if_version=known) == {"deleted": False}


async def test_of_many_that_know_a_version_one_writes(plugin: Caller) -> None:
    await plugin.call("set", key="a", value="first")
    known = await version(plugin, "a")
    stored = []

    async def write(me: int) -> None:
        if (await plugin.call("set", key="a", value=me, if_version=known))["stored"]:
            stored.append(me)

    async with trio.open_nursery() as nursery:
        for me in range(30):
            nursery.start_soon(write, me)
    assert [(await plugin.call("get", key="a"))["value"]] == stored


async def test_a_version_and_only_if_not_exists_exclude_each_other(plugin: Caller) -> None:
    with refused(StatusCode.INVALID_ARGUMENT):
        await plugin.call("set", key="a", value=1, if_version="1", only_if_not_exists=True)

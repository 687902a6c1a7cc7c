"""Watches, as every plugin has them that declares the group."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.compliance.caller import Caller, Messages

GROUP = "watch"


@asynccontextmanager
async def watching(plugin: Caller, **params: Any) -> AsyncIterator[Messages]:
    """A watch that has begun: what is written from now on, it tells."""
    async with plugin.stream("watch", existing=True, **params) as messages:
        async for message, _ in messages:
            if message["event"] == "ready":
                break
        yield messages


async def test_sets_and_deletes_are_told_in_order(plugin: Caller) -> None:
    async with watching(plugin) as messages:
        await plugin.call("set", key="a", value={"n": 1})
        assert (await anext(messages))[0] == {"event": "set", "key": "a", "value": {"n": 1}}
        await plugin.call("set", key="a", value="AAE=", encoding="base64")
        changed, _ = await anext(messages)
        assert (changed["value"], changed["encoding"]) == ("AAE=", "base64")
        await plugin.call("increment", key="n")
        assert (await anext(messages))[0] == {"event": "set", "key": "n", "value": 1}
        await plugin.call("delete", key="a")
        assert (await anext(messages))[0] == {"event": "delete", "key": "a"}


async def test_what_there_is_comes_first_and_then_ready(plugin: Caller) -> None:
    await plugin.call("mset", items=[{"key": key, "value": key} for key in ("a", "b", "x")])
    events = []
    async with plugin.stream("watch", prefix="", existing=True) as messages:
        async for message, _ in messages:
            events.append(message)
            if message["event"] == "ready":
                break
    assert sorted(events[:-1], key=lambda one: one["key"]) == [
        {"event": "set", "key": key, "value": key} for key in ("a", "b", "x")
    ]


async def test_prefixes_are_literal(plugin: Caller) -> None:
    for special in ("%", "_", "*", "?", "[", "\\"):
        async with watching(plugin, prefix=f"p{special}") as messages:
            for key in ("px", "p", f"q{special}", f"p{special}1"):
                await plugin.call("set", key=key, value=1)
            assert (await anext(messages))[0]["key"] == f"p{special}1"


async def test_keys_only_has_no_values(plugin: Caller) -> None:
    async with watching(plugin, keys_only=True) as messages:
        await plugin.call("set", key="a", value=1)
        assert (await anext(messages))[0] == {"event": "set", "key": "a"}


async def test_a_watch_resumes_after_a_position(plugin: Caller) -> None:
    async with watching(plugin) as messages:
        await plugin.call("set", key="a", value=1)
        _, position = await anext(messages)
    assert position
    await plugin.call("set", key="b", value=2)
    await plugin.call("delete", key="a")
    for params in ({"after": position}, {"resume_after": position}):
        async with plugin.stream("watch", **params) as messages:
            told = [(await anext(messages))[0] for _ in range(2)]
        assert [(one["event"], one["key"]) for one in told] == [("set", "b"), ("delete", "a")]


async def test_a_key_that_expires_is_a_delete(plugin: Caller) -> None:
    async with watching(plugin) as messages:
        await plugin.call("set", key="a", value=1, ttl_seconds=0.2)
        events = []
        async for message, _ in messages:
            events.append((message["event"], message["key"]))
            if events[-1] == ("delete", "a"):
                break
        assert events[-1] == ("delete", "a")


async def test_a_namespace_sees_its_own_alone(open_plugin) -> None:
    async with open_plugin("one") as one, open_plugin("two") as two, watching(one) as messages:
        await two.call("set", key="a", value="theirs")
        await one.call("set", key="a", value="ours")
        assert (await anext(messages))[0]["value"] == "ours"

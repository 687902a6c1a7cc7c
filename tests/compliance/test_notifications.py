"""What is said to those who listen, as every plugin has it that declares the group."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.compliance.caller import Caller, Messages

GROUP = "notifications"


@asynccontextmanager
async def listening(plugin: Caller, *channels: str) -> AsyncIterator[Messages]:
    """A listener that is heard to have begun: nothing that is said from now on is missed."""
    async with plugin.stream("listen", channels=list(channels)) as messages:
        assert (await anext(messages))[0] == {"event": "ready"}
        yield messages


async def test_a_listener_is_told_when_it_hears_and_misses_nothing_from_then_on(
    plugin: Caller,
) -> None:
    for number in range(20):
        async with listening(plugin, "news") as messages:
            await plugin.call("notify", channel="news", value=number)
            assert (await anext(messages))[0] == {"channel": "news", "value": number}


async def test_values_are_json_or_binary(plugin: Caller) -> None:
    async with listening(plugin, "news") as messages:
        for value in ({"n": 2**53 + 1}, "text", None, [], 1.5):
            await plugin.call("notify", channel="news", value=value)
            assert (await anext(messages))[0] == {"channel": "news", "value": value}
        await plugin.call("notify", channel="news", value="AP8=", encoding="base64")
        heard, _ = await anext(messages)
        assert heard == {"channel": "news", "value": "AP8=", "encoding": "base64"}


async def test_channels_are_apart_and_a_listener_may_have_several(plugin: Caller) -> None:
    async with listening(plugin, "a", "b") as both, listening(plugin, "b") as one:
        for channel in ("a", "c", "b"):
            await plugin.call("notify", channel=channel, value=channel)
        assert [(await anext(both))[0]["value"] for _ in range(2)] == ["a", "b"]
        assert (await anext(one))[0] == {"channel": "b", "value": "b"}


async def test_what_nobody_hears_is_gone(plugin: Caller) -> None:
    await plugin.call("notify", channel="news", value="before")
    async with listening(plugin, "news") as messages:
        await plugin.call("notify", channel="news", value="after")
        assert (await anext(messages))[0]["value"] == "after"

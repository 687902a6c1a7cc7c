"""notify and listen."""

from contextlib import aclosing
from typing import Any

import pytest
import trio

from prism.contract.errors import PluginError
from prism.contract.status import StatusCode
from tests.plugins.redis.conftest import OpenPlugin, Running
from tests.services.redis import Redis


async def notify(plugin: Running, **params: Any) -> None:
    """Once somebody listens."""
    while (await plugin.call("notify", **params))["receivers"] == 0:  # noqa: ASYNC110 - the server has no event
        await trio.sleep(0.001)


async def test_who_listens_hears_channels_and_patterns(
    redis: Running, redis_server: Redis, open_plugin: OpenPlugin
) -> None:
    heard: list[Any] = []
    async with open_plugin(redis_server) as other, trio.open_nursery() as nursery:

        async def listen() -> None:
            stream = redis.stream("listen", channels=["news"], patterns=["w*", "[x]"])
            async with aclosing(stream) as messages:
                async for message in messages:
                    heard.append(message)
                    if len(heard) == 5:
                        return

        nursery.start_soon(listen)
        await notify(redis, channel="news", value={"n": 2**53 + 1})
        await other.call("notify", channel="news", value="not for this namespace")
        await redis.call("notify", channel="unheard", value=1)
        await notify(redis, channel="weather", value="AP8=", encoding="base64")
        await notify(redis, channel="x", value=None)
        await notify(redis, channel="news", value=[])
    assert heard == [
        {"event": "ready"},
        {"channel": "news", "value": {"n": 2**53 + 1}},
        {"channel": "weather", "value": "AP8=", "encoding": "base64"},
        {"channel": "x", "value": None},
        {"channel": "news", "value": []},
    ]
    assert redis.plugin.connection.dedicated == 0


async def test_listening_to_nothing_is_refused(redis: Running) -> None:
    with pytest.raises(PluginError, match="wants channels"):
        await anext(redis.stream("listen"))


async def test_a_listener_is_told_when_the_server_goes(
    open_plugin: OpenPlugin, start_server: Any
) -> None:
    server = start_server(Redis)
    async with open_plugin(server) as plugin:

        async def listen() -> None:
            async with aclosing(plugin.stream("listen", channels=["news"])) as messages:
                assert await anext(messages) == {"event": "ready"}
                assert (await anext(messages))["value"] == 1
                await trio.to_thread.run_sync(server.kill)
                with pytest.raises(PluginError, match="was lost") as ended:
                    await anext(messages)
            assert ended.value.status is StatusCode.UNAVAILABLE

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await notify(plugin, channel="news", value=1)

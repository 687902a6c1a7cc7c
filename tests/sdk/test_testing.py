import pytest

from prism.contract.messages import HealthStatus
from prism.sdk import PluginError, StatusCode
from prism.sdk.testing import run_plugin


async def test_call(echo) -> None:
    async with run_plugin(echo, config={"greeting": "hi"}, namespace="n") as plugin:
        assert await plugin.call("get", key="a") == {"key": "a", "greeting": "hi"}
        who = await plugin.request(
            "who", {"key": "a"}, metadata={"prism-principal": "ada"}, binary=True
        )
        assert (who["principal"], who["namespace"], who["binary"]) == ("ada", "n", True)
        assert (await plugin.health()).status is HealthStatus.DEGRADED
        instance = plugin.plugin
    assert instance.stopped == 1


async def test_errors_are_raised(echo) -> None:
    async with run_plugin(echo) as plugin:
        with pytest.raises(PluginError) as raised:
            await plugin.call("fail", key="a")
        assert raised.value.status is StatusCode.NOT_FOUND
    with pytest.raises(PluginError, match="the backend said no"):
        async with run_plugin(echo, config={"greeting": "refuse"}):
            pass


async def test_stream(echo) -> None:
    async with run_plugin(echo) as plugin:
        assert [one async for one in plugin.stream("count", times=2)] == [{"n": 0}, {"n": 1}]
        chat = [one async for one in plugin.stream("chat", {"times": 4}, key="k")]
        assert chat == ["first k", "times 4"]
        with pytest.raises(PluginError, match="unlucky"):
            [one async for one in plugin.stream("count", times=13)]

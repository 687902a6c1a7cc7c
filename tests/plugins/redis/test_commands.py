"""Commands that the client writes: what is allowed, and where keys stand."""

import pytest

from prism.contract.errors import PluginError
from prism.contract.status import StatusCode
from prism_plugins.redis.commands import DATA_COMMANDS, prefix_keys
from tests.plugins.redis.conftest import OpenPlugin, Running
from tests.services.redis import Redis

FORBIDDEN = {"admin", "blocking", "dangerous", "noscript", "pubsub", "movablekeys"}
"""What the server says of commands that no client may run."""


async def test_the_server_agrees_about_the_keys_of_every_command(redis: Running) -> None:
    for name in DATA_COMMANDS:
        told = (await redis.plugin.connection.command("COMMAND", "INFO", name))[0]
        assert told is not None, name
        arity, flags, first, last, step = told[1:6]
        assert first > 0, f"{name} names no key"
        assert not {flag.decode() for flag in flags} & FORBIDDEN, name
        # As many arguments as make three whole groups of keys, where keys repeat.
        arguments = [b"%d" % n for n in range(max(abs(arity) - 1, first + 3 * step - 1))]
        end = last if last >= 0 else len(arguments) + 1 + last
        wanted = {place - 1 for place in range(first, end + 1, step)}
        found = prefix_keys(name, list(arguments), lambda key: b"p" + key)
        assert {n for n, text in enumerate(found) if text.startswith(b"p")} == wanted, name


async def test_a_command_runs_within_the_namespace(redis: Running, redis_server: Redis) -> None:
    assert await redis.call("command", name="set", args=["k", "plain", "EX", 60]) == {
        "result": "OK"
    }
    prefix = redis.plugin.prefix.decode()
    assert redis_server.ask("GET", f"{prefix}k") == b"$5\r\nplain\r\n"
    assert await redis.call("command", name="GETRANGE", args=["k", 1, 2]) == {"result": "la"}
    assert await redis.call("command", name="MGET", args=["k", "none"]) == {
        "result": ["plain", None]
    }
    odd = {"value": "AP8=", "encoding": "base64"}
    await redis.call("command", name="APPEND", args=["raw", odd])
    assert await redis.call("command", name="GET", args=["raw"]) == {"result": odd}
    await redis.call("command", name="HSET", args=["h", "f", 1.5])
    assert await redis.call("command", name="HGETALL", args=["h"]) == {"result": {"f": "1.5"}}
    await redis.call("command", name="ZADD", args=["z", "inf", "m"])
    assert await redis.call("command", name="ZSCORE", args=["z", "m"]) == {
        "result": {"value": "Infinity", "encoding": "float"}
    }


@pytest.mark.parametrize(
    "name", ["KEYS", "FLUSHALL", "CONFIG", "EVAL", "SUBSCRIBE", "BLPOP", "SELECT", "MONITOR", ""]
)
async def test_what_is_not_on_the_list_is_refused(redis: Running, name: str) -> None:
    with pytest.raises(PluginError) as refused:
        await redis.call("command", name=name or "GET\r\nFLUSHALL", args=["k"])
    assert refused.value.status is StatusCode.PERMISSION_DENIED


async def test_the_list_can_be_shorter_and_not_longer(
    redis_server: Redis, open_plugin: OpenPlugin
) -> None:
    async with open_plugin(redis_server, allowed_commands=["get"]) as plugin:
        assert await plugin.call("command", name="GET", args=["k"]) == {"result": None}
        with pytest.raises(PluginError, match="'SET' is not allowed here"):
            await plugin.call("command", name="SET", args=["k", 1])
    with pytest.raises(PluginError, match=r"allowed_commands\[1\]: FLUSHALL cannot be allowed"):
        async with open_plugin(redis_server, allowed_commands=["GET", "FLUSHALL"]):
            pass


async def test_what_is_wrong_with_a_command_is_the_clients(redis: Running) -> None:
    with pytest.raises(PluginError, match="wrong number of arguments") as refused:
        await redis.call("command", name="GET", args=["a", "b"])
    assert refused.value.status is StatusCode.INVALID_ARGUMENT


async def test_a_transaction(redis: Running) -> None:
    commands = [
        {"name": "SET", "args": ["n", 1]},
        {"name": "INCRBY", "args": ["n", 9007199254740992]},
        {"name": "LPUSH", "args": ["n", 1]},
        {"name": "GET", "args": ["n"]},
    ]
    results = (await redis.call("transaction", commands=commands))["results"]
    assert results[:2] == ["OK", 9007199254740993]
    assert results[2]["error_code"] == StatusCode.FAILED_PRECONDITION
    assert results[3] == "9007199254740993"
    # What cannot be begun lets nothing run, and the connection is as good as before.
    commands = [{"name": "SET", "args": ["n", 2]}, {"name": "GET", "args": []}]
    with pytest.raises(PluginError, match="wrong number of arguments") as refused:
        await redis.call("transaction", commands=commands)
    assert refused.value.status is StatusCode.INVALID_ARGUMENT
    assert (await redis.call("get", key="n"))["value"] == 9007199254740993
    commands = [{"name": "SET", "args": ["n", 3]}, {"name": "FLUSHALL", "args": []}]
    with pytest.raises(PluginError, match="is not allowed"):
        await redis.call("transaction", commands=commands)
    assert (await redis.call("get", key="n"))["value"] == 9007199254740993

"""What callers see when the server is killed, hangs, is full, or talks nonsense."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import pytest
import trio

from prism.contract.errors import PluginError
from prism.contract.messages import HealthStatus
from prism.contract.status import StatusCode
from prism.sdk.multiplexed import State
from tests.plugins.redis.conftest import OpenPlugin, Running, opened
from tests.services.fixtures import StartServer
from tests.services.redis import Redis, Valkey


async def until(condition: Any) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - states that have no event of their own
            await trio.sleep(0.005)


@pytest.mark.parametrize("kind", [Redis, Valkey])
async def test_nothing_that_was_answered_is_lost_when_the_server_is_killed_under_load(
    start_server: StartServer, open_plugin: OpenPlugin, kind: type[Redis]
) -> None:
    """The server writes each change to disk before it answers."""
    server = start_server(kind)
    stored: dict[str, int] = {}
    outcomes: Counter[str] = Counter()
    async with open_plugin(server) as plugin:
        done = False

        async def write(writer: int) -> None:
            number = 0
            while not done:
                number += 1
                try:
                    await plugin.call("set", key=f"{writer}", value=number)
                    stored[f"{writer}"] = number
                    outcomes["stored"] += 1
                except PluginError as error:
                    if error.status is not StatusCode.UNAVAILABLE:
                        raise
                    outcomes["may have run" if "may have run" in error.detail else "not sent"] += 1
                    await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            for writer in range(32):
                nursery.start_soon(write, writer)
            for _ in range(3):
                before = outcomes["stored"]
                await until(lambda before=before: outcomes["stored"] > before + 200)
                await trio.to_thread.run_sync(server.kill)
                await until(lambda: plugin.plugin.connection.shared.state is State.UNREACHABLE)
                health = await plugin.health()
                assert health.status is HealthStatus.DEGRADED  # and keeps its traffic
                await trio.to_thread.run_sync(server.restart)
                await until(lambda: plugin.plugin.connection.shared.state is State.CONNECTED)
            before = outcomes["stored"]
            await until(lambda: outcomes["stored"] > before + 200)
            done = True
        assert outcomes["may have run"]
        found = await plugin.call("mget", keys=list(stored))
        for result in found["results"]:
            # One that was answered, or a later one that may have run.
            assert result["value"] >= stored[result["key"]]
        assert plugin.plugin.connection.shared.in_flight == 0
        assert (await plugin.health()).status is HealthStatus.HEALTHY


async def test_reads_are_repeated_where_their_answer_is_lost(
    redis_server: Redis, open_plugin: OpenPlugin
) -> None:
    async with open_plugin(redis_server) as plugin:
        await plugin.call("set", key="k", value=1)
        shared = plugin.plugin.connection.shared
        finished = 0

        async def read() -> None:
            nonlocal finished
            for _ in range(100):
                assert (await plugin.call("get", key="k"))["value"] == 1
            finished += 1

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(read)
            while finished < 8 and shared.connects < 5:
                connects = shared.connects
                name = f"prism-{plugin.plugin.namespace}"
                for line in redis_server.ask("CLIENT", "LIST").decode().splitlines():
                    if f"name={name} " in line:
                        number = line.split("id=")[1].split()[0]
                        redis_server.ask("CLIENT", "KILL", "ID", number)
                await until(lambda c=connects: shared.connects > c or finished == 8)
                # Behind those that are repeated, which is done once.
                await plugin.call("get", key="k")
        assert finished == 8
        assert shared.connects > 1


async def test_a_frozen_server_costs_deadlines_and_no_more(
    start_server: StartServer, open_plugin: OpenPlugin
) -> None:
    server = start_server(Redis)
    config = {"silence_timeout_seconds": 0.3, "connect_timeout_seconds": 0.5}
    async with open_plugin(server, **config) as plugin:
        shared = plugin.plugin.connection.shared
        await plugin.call("set", key="k", value=1)
        server.freeze()
        with trio.move_on_after(0.05) as deadline:
            await plugin.call("get", key="k")
        assert deadline.cancelled_caught
        await until(lambda: shared.state is State.UNREACHABLE)
        with pytest.raises(PluginError, match="was not sent") as failed:
            await plugin.call("get", key="k")
        assert failed.value.status is StatusCode.UNAVAILABLE
        with pytest.raises(PluginError, match="did not answer in time"):
            await anext(plugin.stream("listen", channels=["c"]))
        assert (await plugin.health()).status is HealthStatus.DEGRADED
        server.thaw()
        await until(lambda: shared.state is State.CONNECTED)
        assert (await plugin.call("get", key="k"))["value"] == 1
        assert shared.in_flight == 0


async def test_stopping_is_quick_though_the_server_is_frozen(
    start_server: StartServer, open_plugin: OpenPlugin
) -> None:
    server = start_server(Redis)
    async with open_plugin(server) as plugin, trio.open_nursery() as nursery:
        server.freeze()
        nursery.start_soon(_fails, plugin)
        await until(lambda: plugin.plugin.connection.shared.in_flight == 1)
        with trio.fail_after(5):
            await plugin.plugin.stop()


async def _fails(plugin: Running) -> None:
    with pytest.raises(PluginError, match="is closed"):
        await plugin.call("get", key="k")


async def test_a_full_server_refuses_writes_and_answers_reads(
    start_server: StartServer, open_plugin: OpenPlugin
) -> None:
    server = start_server(Redis, settings={"maxmemory-policy": "noeviction"})
    async with open_plugin(server) as plugin:
        await plugin.call("set", key="0", value="kept")
        server.ask("CONFIG", "SET", "maxmemory", "1")
        for operation, params in (
            (
                "mset",
                {"items": [{"key": "a", "value": 1}, {"key": "b", "value": 1, "ttl_seconds": 9}]},
            ),
            ("set", {"key": "k", "value": 1}),
            ("increment", {"key": "n", "initial": 5}),
            ("compare_and_swap", {"key": "0", "old_value": "kept", "new_value": 1}),
            ("hash_set", {"key": "h", "fields": {"a": 1}}),
            ("publish", {"topic": "t", "value": 1}),
        ):
            with pytest.raises(PluginError, match="no memory left") as full:
                await plugin.call(operation, **params)
            assert full.value.status is StatusCode.RESOURCE_EXHAUSTED, operation
        assert await plugin.call("mget", keys=["a", "b"]) == {
            "results": [{"key": "a", "found": False}, {"key": "b", "found": False}],
            "found_count": 0,
        }
        assert (await plugin.call("get", key="0"))["value"] == "kept"
        assert await plugin.call("delete", key="0") == {"deleted": True}
        server.ask("CONFIG", "SET", "maxmemory", "0")
        assert await plugin.call("set", key="k", value=1) == {"stored": True}


@pytest.mark.parametrize("kind", [Redis, Valkey])
async def test_a_server_that_cannot_save_refuses_writes_and_answers_reads(
    start_server: StartServer, open_plugin: OpenPlugin, kind: type[Redis]
) -> None:
    """As on a disk that is full; here a directory stands where its file would."""
    server = start_server(kind, settings={"appendonly": "no", "save": "3600 1"})
    async with open_plugin(server) as plugin:
        await plugin.call("set", key="k", value="kept")
        in_the_way = server.directory / "dump.rdb"
        in_the_way.mkdir()
        server.ask("BGSAVE")
        await until(lambda: b"rdb_last_bgsave_status:err" in server.ask("INFO", "persistence"))
        for operation, params in (
            ("set", {"key": "k", "value": 1}),
            ("compare_and_swap", {"key": "k", "old_value": "kept", "new_value": 1}),
            ("mset", {"items": [{"key": "a", "value": 1, "ttl_seconds": 9}]}),
            ("publish", {"topic": "t", "value": 1}),
        ):
            with pytest.raises(PluginError, match="cannot save to disk") as refused:
                await plugin.call(operation, **params)
            assert refused.value.status is StatusCode.UNAVAILABLE, operation
        assert (await plugin.call("get", key="k"))["value"] == "kept"
        in_the_way.rmdir()
        server.ask("BGSAVE")
        await until(lambda: b"rdb_last_bgsave_status:ok" in server.ask("INFO", "persistence"))
        assert await plugin.call("set", key="k", value=1) == {"stored": True}


async def test_a_server_without_room_for_clients(
    start_server: StartServer, open_plugin: OpenPlugin
) -> None:
    server = start_server(Redis, settings={"maxclients": "2"})
    async with open_plugin(server) as plugin, open_plugin(server):
        with pytest.raises(PluginError, match="max number of clients") as full:
            await plugin.call("list_pop", key="l", wait_seconds=1)
        assert full.value.status is StatusCode.RESOURCE_EXHAUSTED
        assert plugin.plugin.connection.dedicated == 0
        assert await plugin.call("set", key="k", value=1) == {"stored": True}


async def test_a_storm_of_cancelled_calls_mixes_up_nothing(redis: Running) -> None:
    """Each key has a value of its own, so that an answer at the wrong caller shows."""
    dice = random.Random(3)
    keys = [f"{n}" for n in range(500)]
    await redis.call("mset", items=[{"key": key, "value": f"of {key}"} for key in keys])
    cancelled = 0

    async def one() -> None:
        nonlocal cancelled
        for _ in range(25):
            key = dice.choice(keys)
            with trio.move_on_after(dice.choice([0.0, 0.001, 0.003, 60, 60])) as scope:
                kind = dice.randrange(3)
                if kind == 0:
                    assert (await redis.call("get", key=key))["value"] == f"of {key}"
                elif kind == 1:
                    swap = {"key": key, "old_value": f"of {key}", "new_value": f"of {key}"}
                    assert (await redis.call("compare_and_swap", **swap))["swapped"]
                else:
                    commands = [{"name": "GET", "args": [key]}, {"name": "STRLEN", "args": [key]}]
                    found = await redis.call("transaction", commands=commands)
                    assert found["results"] == [f'"of {key}"', len(key) + 5]
            cancelled += scope.cancelled_caught

    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(one)
    assert cancelled > 100
    shared = redis.plugin.connection.shared
    await until(lambda: shared.in_flight == 0)
    assert shared.connects == 1
    assert shared.queued_bytes == 0


@asynccontextmanager
async def cutting(server: Redis) -> AsyncIterator[Any]:
    """A proxy before ``server`` that passes on ``allow`` more bytes of answers, and then cuts."""

    class Cut:
        allow: float = float("inf")
        port = 0

    cut = Cut()

    async def pass_on(client: trio.SocketStream) -> None:
        async with (
            client,
            await trio.open_tcp_stream("127.0.0.1", server.port) as upstream,
            trio.open_nursery() as nursery,
        ):

            async def requests() -> None:
                async for data in client:
                    await upstream.send_all(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(requests)
            with suppress(trio.BrokenResourceError):
                async for data in upstream:
                    passed = data[: int(min(cut.allow, len(data)))]
                    cut.allow -= len(data)
                    await client.send_all(passed)
                    if cut.allow < 0:
                        cut.allow = float("inf")
                        break
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, pass_on, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        cut.port = listener.socket.getsockname()[1]
        yield cut
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("allow", [0, 1, 5, 1000])
async def test_an_answer_that_is_cut_in_the_middle(
    redis_server: Redis, open_plugin: OpenPlugin, allow: int
) -> None:
    value = "x" * 5000
    async with (
        cutting(redis_server) as cut,
        open_plugin(redis_server, url=f"redis://127.0.0.1:{cut.port}") as plugin,
    ):
        await plugin.call("set", key="k", value=value)
        cut.allow = allow
        assert (await plugin.call("get", key="k"))["value"] == value  # repeated
        cut.allow = min(allow, 1)
        with pytest.raises(PluginError, match="may have run"):
            await plugin.call("increment", key="n")
        assert (await plugin.call("get", key="n")).get("value", 1) == 1


async def test_a_lost_connection_ends_streams_with_a_status(
    redis_server: Redis, open_plugin: OpenPlugin
) -> None:
    async with (
        cutting(redis_server) as cut,
        open_plugin(redis_server, url=f"redis://127.0.0.1:{cut.port}") as plugin,
    ):
        await plugin.call("publish", topic="t", value=1)
        await plugin.call("set", key="w", value=1)
        for operation, params in (
            ("subscribe", {"topic": "t", "start": "earliest"}),
            ("subscribe", {"topic": "t", "group": "g", "start": "earliest"}),
            ("watch", {"existing": True}),
        ):
            async with aclosing(plugin.stream(operation, **params)) as messages:
                await anext(messages)
                if operation == "watch":
                    assert (await anext(messages))["event"] == "ready"
                cut.allow = 0
                if operation == "watch":  # which waits for the server to say something
                    redis_server.ask("SET", plugin.plugin.prefix.decode() + "w", "2")
                with trio.fail_after(60), pytest.raises(PluginError) as ended:
                    await anext(messages)
                assert ended.value.status is StatusCode.UNAVAILABLE, ended.value
            await until(lambda: plugin.plugin.connection.shared.state is State.CONNECTED)
        assert plugin.plugin.connection.dedicated == 0


@pytest.mark.parametrize(
    ("operation", "params", "why"),
    [
        ("listen", {"channels": ["c"]}, "it does not answer"),
        ("watch", {"existing": True}, "it does not answer"),
        ("subscribe", {"topic": "t", "start": "earliest"}, "it does not answer"),
        ("subscribe", {"topic": "t", "start": "earliest", "group": "g"}, None),
    ],
)
async def test_a_silent_server_ends_streams_with_a_status(
    start_server: StartServer,
    open_plugin: OpenPlugin,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    params: dict[str, Any],
    why: str | None,
) -> None:
    """Nothing comes, and nothing says that the connection is gone."""
    for module in ("message_operations", "watch"):
        monkeypatch.setattr(f"prism_plugins.redis.{module}.HEARTBEAT_SECONDS", 0.3)
    server = start_server(Redis)
    async with open_plugin(server, silence_timeout_seconds=0.3) as plugin:
        server.ask("XADD", f"{plugin.plugin.namespace}:t", "*", "value", "1")

        async def follow() -> None:
            async with aclosing(plugin.stream(operation, **params)) as messages:
                await anext(messages)
                server.freeze()
                async for _ in messages:
                    pass

        try:
            with trio.fail_after(60), pytest.raises(PluginError, match=why) as ended:
                await follow()
        finally:
            server.thaw()
        assert ended.value.status is StatusCode.UNAVAILABLE, ended.value
        await until(lambda: plugin.plugin.connection.dedicated == 0)


async def test_metrics_tell_of_connections_and_commands(redis: Running) -> None:
    before = (await redis.health()).metrics
    for number in range(10):
        await redis.call("set", key=f"{number}", value=1)
        await redis.call("get", key=f"{number}")
    with pytest.raises(PluginError):
        await redis.call("get", key="")
    async with aclosing(redis.stream("watch", prefix="none", existing=True)) as changes:
        assert (await anext(changes))["event"] == "ready"
        metrics = (await redis.health()).metrics
        assert before is not None
        assert metrics is not None
        assert metrics.requests_total >= before.requests_total + 21
        assert metrics.requests_failed == before.requests_failed + 1
        assert metrics.latency_ms > 0
        assert metrics.queries_executed >= before.queries_executed + 20
        assert metrics.connections_active == 2  # the one that all share, and the watch's
        assert '"connects":1' in metrics.custom_metrics_json
        assert '"in_flight":0' in metrics.custom_metrics_json


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_the_same_class_runs_on_either_event_loop(redis_server: Redis, backend: str) -> None:
    async def check() -> None:
        async with opened(redis_server) as plugin:
            async with anyio.create_task_group() as tasks:
                for number in range(200):

                    async def one(number: int = number) -> None:
                        await plugin.call("set", key=f"{number}", value=number)
                        assert (await plugin.call("get", key=f"{number}"))["value"] == number

                    tasks.start_soon(one)
            assert await plugin.call("count") == {"count": 200}
            async with aclosing(plugin.stream("watch", existing=True)) as changes:
                assert (await anext(changes))["event"] == "set"
            await plugin.call("publish", topic="t", value=1)
            params: dict[str, Any] = {"topic": "t", "group": "g", "start": "earliest"}
            async with aclosing(plugin.stream("subscribe", **params)) as messages:
                assert (await anext(messages))["value"] == 1
            popped = await plugin.call("list_pop", key="l", wait_seconds=0.01)
            assert popped == {"found": False, "values": []}
            assert (await plugin.health()).status is HealthStatus.HEALTHY

    anyio.run(check, backend=backend)

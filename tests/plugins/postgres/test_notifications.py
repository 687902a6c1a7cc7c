import math
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import psycopg
import pytest
import trio

from prism.contract.status import StatusCode
from tests.services.fixtures import StartServer
from tests.services.postgres import DebianPostgreSQL

from .conftest import Database, Running, eventually, new_name, refused, status_of
from .proxy import FaultProxy

READY = {"event": "ready"}
GAP = {"event": "gap"}


@asynccontextmanager
async def heard(pg: Running, *channels: str) -> AsyncIterator[trio.MemoryReceiveChannel[Any]]:
    """What a listener hears, after its ``ready``."""
    send, receive = trio.open_memory_channel[Any](math.inf)

    async def listen() -> None:
        async with aclosing(pg.stream("listen", channels=list(channels))) as stream:
            async for message in stream:
                send.send_nowait(message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        with trio.fail_after(60):
            assert await receive.receive() == READY
        yield receive
        nursery.cancel_scope.cancel()


async def next_of(messages: trio.MemoryReceiveChannel[Any]) -> Any:
    with trio.fail_after(60):
        return await messages.receive()


async def test_values_of_every_kind(each_database: Database) -> None:
    async with each_database.plugin() as pg, heard(pg, "news") as messages:
        for value in ({"a": [1.0, None]}, "text", 6988349663661260800, "base64:x", None, "ü\n'"):
            await pg.call("notify", channel="news", value=value)
            assert await next_of(messages) == {"channel": "news", "value": value}
        await pg.call("notify", channel="news", value="AP8=", encoding="base64")
        assert await next_of(messages) == {
            "channel": "news", "value": "AP8=", "encoding": "base64",
        }  # fmt: skip


async def test_each_listener_hears_its_channels(database: Database) -> None:
    async with database.plugin(new_name()) as pg, database.plugin(new_name()) as other:
        async with heard(pg, "a", "b\"'; --") as both, heard(pg, "a") as one:
            async with heard(other, "a") as elsewhere:
                await pg.call("notify", channel="b\"'; --", value=1)
                await pg.call("notify", channel="a", value=2)
                await other.call("notify", channel="a", value=3)
                assert (await next_of(both))["value"] == 1
                assert (await next_of(both))["value"] == 2
                assert (await next_of(one))["value"] == 2
                assert (await next_of(elsewhere))["value"] == 3
            assert pg.plugin.listener.connects == 1
        await eventually(lambda: not pg.plugin.listener.listeners)
        await eventually(lambda: pg.plugin.listener._task is None)


async def test_what_a_trigger_says(database: Database) -> None:
    """Channels of a database that Prism did not name; payloads that are no JSON are strings."""
    async with database.plugin(channel_prefix="") as pg, heard(pg, "orders") as messages:
        for payload, value in [("plain text", "plain text"), ('{"id": 1}', {"id": 1}), ("", "")]:
            database.ask("SELECT pg_notify('orders', %s)", payload)
            assert await next_of(messages) == {"channel": "orders", "value": value}


async def test_sizes(database: Database) -> None:
    async with database.plugin() as pg, heard(pg, "a") as messages:
        await pg.call("notify", channel="a", value="x" * 7997)
        assert len((await next_of(messages))["value"]) == 7997
        for channel, value in [("a", "x" * 7998), ("x" * 60, 1)]:
            error = await refused(pg.call("notify", channel=channel, value=value))
            assert error.status is StatusCode.INVALID_ARGUMENT
            assert "limit is" in error.detail


async def test_a_lost_connection_is_a_gap(database: Database) -> None:
    async with database.plugin(new_name()) as pg, heard(pg, "a") as messages:
        sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'"
        database.ask(sql)
        assert await next_of(messages) == GAP
        await pg.call("notify", channel="a", value=1)
        assert (await next_of(messages))["value"] == 1


async def test_a_connection_that_is_silent_is_a_gap(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing says that it is gone: the path swallows everything, and the listener notices."""
    proxy = FaultProxy(database.server.port)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        address = database.connection_string().replace(str(database.server.port), str(proxy.port))
        async with (
            database.plugin(new_name(), connection_string=address, key_value=False) as pg,
            heard(pg, "a") as messages,
        ):
            monkeypatch.setattr("prism_plugins.postgres.notifications.HEARTBEAT_SECONDS", 0.1)
            await pg.call("notify", channel="a", value=1)  # which ends the wait that goes by 10 s
            assert (await next_of(messages))["value"] == 1
            connects = proxy.connections
            proxy.hold()
            await eventually(lambda: proxy.connections > connects)
            assert "did not answer" in pg.plugin.listener.problem
            monkeypatch.undo()
            proxy.release()
            assert await next_of(messages) == GAP
            await eventually(lambda: not pg.plugin.listener.problem)
            await pg.call("notify", channel="a", value=2)
            while (message := await next_of(messages)) == GAP:
                pass  # where the machine was so busy that it took the server for silent twice
            assert message["value"] == 2
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_server_that_was_away(start_server: StartServer) -> None:
    server = start_server(DebianPostgreSQL)
    async with Database(server, "postgres").plugin() as pg, heard(pg, "a") as messages:
        await trio.to_thread.run_sync(server.kill)
        await eventually(lambda: pg.plugin.listener.problem)
        await trio.to_thread.run_sync(server.restart)
        assert await next_of(messages) == GAP
        await pg.call("notify", channel="a", value=1)
        assert (await next_of(messages))["value"] == 1
        with trio.fail_after(120):  # its other connections come back when their backoff ends
            while (await pg.health()).message:  # noqa: ASYNC110 - health is asked, and tells nobody
                await trio.sleep(0.05)


async def test_a_slow_listener_is_told_that_it_missed_some(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prism_plugins.postgres.notifications.MAX_BUFFERED", 10)
    async with (
        database.plugin(new_name()) as pg,
        aclosing(pg.stream("listen", channels=["a"])) as slow,
        heard(pg, "a") as quick,
    ):
        assert await anext(slow) == READY
        with psycopg.connect(database.server.url(database.name)) as connection:
            for number in range(50):
                name = f"{pg.plugin.namespace}:a"
                connection.execute("SELECT pg_notify(%s, %s)", [name, str(number)])
        found = [await anext(slow) for _ in range(11)]
        assert [message.get("value") for message in found[:10]] == list(range(10))
        assert found[10] == GAP
        assert (await next_of(quick))["value"] == 0


async def test_listeners_behind_a_pooler_are_refused(database: Database) -> None:
    async with database.plugin(statement_cache_size=0) as pg:
        with pytest.raises(Exception, match="behind a pooler"):
            await anext(pg.stream("listen", channels=["a"]))
        assert await pg.call("notify", channel="a", value=1) == {}
        assert await status_of(pg.call("notify", channel="", value=1)) is (
            StatusCode.INVALID_ARGUMENT
        )

"""The plugin on a cluster: which server is asked, and what needs one slot."""

import base64
import math
import random
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import trio
import trustme

from prism.contract.errors import PluginError
from prism.contract.messages import HealthStatus
from prism.contract.status import StatusCode
from prism.sdk.multiplexed import NotSent, State
from prism_plugins.redis.config import RedisConfig
from prism_plugins.redis.slots import Address, slot_of
from tests.plugins.redis.conftest import OpenPlugin, Running, opened, opened_on
from tests.services.fixtures import StartServer
from tests.services.redis import Redis, RedisCluster, ValkeyCluster
from tests.services.server import unused_port


@pytest.fixture(scope="session", params=[RedisCluster, ValkeyCluster], ids=lambda kind: kind.name)
def cluster_server(request: pytest.FixtureRequest, shared_server: StartServer) -> RedisCluster:
    server: RedisCluster = shared_server(request.param)
    return server


@pytest.fixture
async def cluster(cluster_server: RedisCluster) -> AsyncIterator[Running]:
    async with opened_on(cluster_server) as plugin:
        yield plugin


def apart(plugin: Running, count: int = 3) -> list[str]:
    """Keys of which each lies on another master."""
    found: dict[Any, str] = {}
    for number in range(1000):
        key = f"k{number}"
        owner = plugin.plugin.connection.map.owners[slot_of(plugin.plugin.key(key))]
        found.setdefault(owner, key)
        if len(found) == count:
            return list(found.values())
    raise AssertionError


async def test_keys_lie_on_the_servers_that_the_cluster_says(
    cluster: Running, cluster_server: RedisCluster
) -> None:
    for key in apart(cluster):
        name = cluster.plugin.prefix.decode() + key
        assert await cluster.call("set", key=key, value=key) == {"stored": True}
        told = cluster_server.owner(slot_of(name.encode())).ask("GET", name)
        assert told == f'${len(key) + 2}\r\n"{key}"\r\n'.encode()
        assert (await cluster.call("get", key=key))["value"] == key
        assert await cluster.call("increment", key=f"n:{key}", initial=4) == {"value": 5}
    assert cluster.plugin.connection.connects == 3
    assert (await cluster.health()).status is HealthStatus.HEALTHY


async def test_many_keys_at_a_time(cluster: Running) -> None:
    items = [{"key": f"{n}", "value": n, "ttl_seconds": 100 * (n % 2)} for n in range(300)]
    assert await cluster.call("mset", items=items) == {"stored": 300}
    found = await cluster.call("mget", keys=[f"{n}" for n in range(301)])
    assert [one.get("value") for one in found["results"]] == [*range(300), None]
    assert (await cluster.call("ttl", key="1"))["ttl_seconds"] > 50
    assert (await cluster.call("ttl", key="2"))["ttl_seconds"] == -1
    assert await cluster.call("count") == {"count": 300}
    assert await cluster.call("mdelete", keys=[f"{n}" for n in range(301)]) == {"deleted": 300}


async def test_mget_reads_no_more_than_it_may(cluster: Running) -> None:
    keys = [f"large{n}" for n in range(20)]
    for key in keys:
        await cluster.call("set", key=key, value="x" * 500_000)
    assert (await cluster.call("mget", keys=keys[:16]))["found_count"] == 16
    with pytest.raises(PluginError, match="ask for fewer keys") as large:
        await cluster.call("mget", keys=keys)
    assert large.value.status is StatusCode.RESOURCE_EXHAUSTED
    scanned, cursor = [], {}
    while True:
        page = await cluster.call("scan", prefix="large", limit=1000, **cursor)
        scanned += [item["key"] for item in page["items"]]
        assert len(page["items"]) <= 2
        if "cursor" not in page:
            break
        cursor = {"cursor": page["cursor"]}
    assert sorted(scanned) == sorted(keys)


async def test_what_runs_together_lies_in_one_slot(cluster: Running) -> None:
    one, two, _ = apart(cluster)
    commands = [{"name": "SET", "args": [key, 1]} for key in (one, two)]
    for operation, params in (
        ("transaction", {"commands": commands}),
        ("command", {"name": "MGET", "args": [one, two]}),
        ("command", {"name": "RENAME", "args": [one, two]}),
    ):
        with pytest.raises(PluginError, match=r"different slots.*\{tag\}a") as refused:
            await cluster.call(operation, **params)
        assert refused.value.status is StatusCode.INVALID_ARGUMENT
        assert f"{one}'" in refused.value.detail
    assert await cluster.call("exists", key=one) == {"exists": False}
    commands = [
        {"name": "SET", "args": ["{tag}a", 1]},
        {"name": "INCR", "args": ["{tag}b"]},
        {"name": "LPUSH", "args": ["{tag}a", 1]},
    ]
    done = await cluster.call("transaction", commands=commands)
    assert done["results"][:2] == ["OK", 1]
    assert "another kind" in done["results"][2]["error"]
    both = await cluster.call("command", name="MGET", args=["{tag}a", "{tag}b"])
    assert both == {"result": ["1", "1"]}


async def test_a_prefix_with_braces_has_one_slot(cluster_server: RedisCluster) -> None:
    async with opened_on(cluster_server, key_prefix="{one-slot}:") as plugin:
        commands = [{"name": "SET", "args": [f"{n}", n]} for n in range(5)]
        assert len((await plugin.call("transaction", commands=commands))["results"]) == 5
        assert (await plugin.call("mdelete", keys=[f"{n}" for n in range(9)])) == {"deleted": 5}


async def test_structures_topics_and_messages(cluster: Running) -> None:
    for key in apart(cluster):
        await cluster.call("hash_set", key=f"h{key}", fields={"a": 1, "b": 2})
        assert await cluster.call("hash_get", key=f"h{key}", field="b") == {
            "found": True,
            "value": 2,
        }
        await cluster.call("sorted_set_add", key=f"z{key}", members=[{"member": 1, "score": 1}])
        ranked = await cluster.call("sorted_set_rank", key=f"z{key}", member=1)
        assert ranked == {"found": True, "rank": 0, "score": 1.0}
        await cluster.call("list_push", key=f"l{key}", values=[1])
        popped = await cluster.call("list_pop", key=f"l{key}", count=2, wait_seconds=1)
        assert popped["values"] == [1]
        empty = await cluster.call("list_pop", key=f"l{key}", wait_seconds=0.01)
        assert empty == {"found": False, "values": []}
        await cluster.call("publish", topic=key, value=key, headers={"a": "b"})
        params = {"topic": key, "group": "g", "start": "earliest", "max_deliveries": 1}
        async with aclosing(cluster.stream("subscribe", **params)) as messages:
            first = await anext(messages)
            assert (first["value"], first["headers"]) == (key, {"a": "b"})
            rejected = {"topic": key, "group": "g", "message_ids": [first["message_id"]]}
            assert await cluster.call("reject", **rejected) == {"rejected": 1}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(anext, messages)  # looks for what is to be delivered again
                dead = cluster.stream("subscribe", topic=f"{key}.dead", start="earliest")
                async with aclosing(dead) as letters:
                    buried = await anext(letters)
                nursery.cancel_scope.cancel()
            assert (buried["value"], buried["headers"]) == (key, {"a": "b"})


async def test_listeners_hear_what_is_said_at_any_server(
    cluster: Running, cluster_server: RedisCluster
) -> None:
    one, two, three = apart(cluster)
    async with (
        aclosing(cluster.stream("listen", channels=[one, two, three])) as heard,
        trio.open_nursery() as nursery,
    ):
        assert await anext(heard) == {"event": "ready"}

        async def speak() -> None:
            assert await cluster.call("notify", channel=one, value=one) == {"receivers": 1}
            for channel in (two, three):
                await cluster.call("notify", channel=channel, value=channel)
            name = f"{cluster.plugin.prefix.decode()}{one}"
            for server in cluster_server.servers:
                server.ask("PUBLISH", name, str(server.port))

        nursery.start_soon(speak)
        values = [(await anext(heard))["value"] for _ in range(9)]
    ports = {server.port for server in cluster_server.servers}
    assert set(values) == {one, two, three, *ports}


async def test_a_watch_sees_all_masters(cluster: Running) -> None:
    keys = apart(cluster)
    async with aclosing(cluster.stream("watch", existing=True)) as changes:
        assert (await anext(changes))["event"] == "ready"
        assert cluster.plugin.connection.dedicated == 3
        for key in keys:
            await cluster.call("set", key=key, value=key)
            change = await anext(changes)
            assert (change["event"], change["key"]) == ("set", key)
    assert cluster.plugin.connection.dedicated == 0


async def test_a_cursor_of_something_else_is_refused(cluster: Running, redis: Running) -> None:
    keys = [{"key": f"{n}", "value": n} for n in range(50)]
    pages = []
    for plugin in (cluster, redis):
        await plugin.call("mset", items=keys)
        pages.append(await plugin.call("scan", limit=5))
    at_the_end = msgspec.msgpack.encode((b"0-16383;m;;1", []))
    for plugin, cursor in (
        (cluster, pages[1]["cursor"]),
        (redis, pages[0]["cursor"]),
        (cluster, base64.b64encode(at_the_end).decode()),
    ):
        with pytest.raises(PluginError, match="cursor is none") as refused:
            await plugin.call("scan", cursor=cursor)
        assert refused.value.status is StatusCode.INVALID_ARGUMENT


async def test_no_connection_to_a_server_that_was_left_outlives_the_plugin(
    cluster_server: RedisCluster,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with trio.open_nursery() as nursery:

            async def wait_for_nothing() -> None:
                with pytest.raises(NotSent):
                    await node.shared.call(b"")

            async with opened_on(cluster_server) as plugin:
                known = plugin.plugin.connection.map
                node = known.name(Address(*silent.getsockname()))
                nursery.start_soon(wait_for_nothing)
                node.named_at = -math.inf
                with trio.fail_after(60):
                    while node in known.nodes.values():
                        await known.read()
                assert node.shared.in_flight == 1, "it is waited for"
        assert node.shared.state is State.CLOSED


async def test_one_address_that_answers_is_enough(cluster_server: RedisCluster) -> None:
    addresses = [f"127.0.0.1:{unused_port()}", f"127.0.0.1:{cluster_server.replicas[0].port}"]
    async with opened_on(cluster_server, cluster={"addresses": addresses}) as plugin:
        for key in apart(plugin):
            await plugin.call("set", key=key, value=1)


async def test_nobody_there_says_where(cluster_server: RedisCluster) -> None:
    address = f"127.0.0.1:{unused_port()}"
    config = {"addresses": [address]}
    with pytest.raises(
        PluginError, match=f"config.cluster: .* {address}: connection refused"
    ) as no:
        async with opened_on(cluster_server, cluster=config):
            pass
    assert no.value.status is StatusCode.UNAVAILABLE


async def test_a_cluster_is_told_from_a_single_server(
    cluster_server: RedisCluster, redis_server: Redis, open_plugin: OpenPlugin
) -> None:
    with pytest.raises(PluginError, match=r"is one of a cluster.*cluster\.addresses") as one:
        async with opened(redis_server, url=cluster_server.masters[0].url()):
            pass
    config = {"addresses": [f"127.0.0.1:{redis_server.port}"]}
    with pytest.raises(PluginError, match=r"is none of a cluster: use config\.url") as none:
        async with opened(redis_server, cluster=config):
            pass
    assert one.value.status is none.value.status is StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            {"cluster": {"addresses": ["host:1", "host"]}},
            'config.cluster.addresses[1]: expected host:port, such as redis-1:6379; found "host"',
        ),
        ({"url": "redis://host/3"}, "config.url: a cluster has no database 3; leave it out"),
        (
            {"url": "unix:///run/redis.sock"},
            "config.url: a cluster is not reached through a Unix socket; leave it out",
        ),
        (
            {"sentinel": {"name": "main", "addresses": ["host:1"]}},
            "config.sentinel: a cluster has none; leave one of both out",
        ),
    ],
)
def test_what_does_not_go_with_a_cluster(config: dict[str, Any], told: str) -> None:
    config = {"cluster": {"addresses": ["host:1"]}} | config
    settings = msgspec.convert(config, RedisConfig)
    assert [str(problem) for problem in settings.problems({})] == [told]


async def test_a_password_and_tls(start_server: StartServer, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("redis.example")
    certificate.private_key_pem.write_to_path(tmp_path / "server.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    server = start_server(RedisCluster, replicas=False, tls=tmp_path)
    for one in server.servers:
        one.ask("CONFIG", "SET", "requirepass", "s3cret")
    config = {
        "url": "rediss://",
        "cluster": {"addresses": server.addresses(tls=True)},
        "ca_cert": str(tmp_path / "ca.pem"),
        "tls_server_name": "redis.example",
    }
    good = {"password": "s3cret"}
    async with opened_on(server, credentials=good, **config) as plugin:
        for key in apart(plugin):
            await plugin.call("set", key=key, value=1)
        assert await plugin.call("count") == {"count": 3}
        ports = {
            shared.name.rpartition(":")[2] for shared in plugin.plugin.connection.connections()
        }
        assert ports == {address.rpartition(":")[2] for address in config["cluster"]["addresses"]}
        for key in apart(plugin):
            await plugin.call("publish", topic=f"t{key}", value=1)
            subscribed = plugin.stream("subscribe", topic=f"t{key}", start="earliest")
            async with aclosing(subscribed) as messages:
                assert (await anext(messages))["value"] == 1
    for credentials in ({}, {"password": "wrong"}):
        with pytest.raises(PluginError, match="refuses the namespace's credentials") as refused:
            async with opened_on(server, credentials=credentials, **config):
                pass
        assert refused.value.status is StatusCode.FAILED_PRECONDITION
        assert "wrong" not in refused.value.detail
    for change in ({"tls_server_name": "other.example"}, {"ca_cert": None}):
        with pytest.raises(PluginError, match="certificate verify failed"):
            async with opened_on(server, credentials=good, **(config | change)):
                pass


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_either_event_loop(cluster_server: RedisCluster, backend: str) -> None:
    async def check() -> None:
        async with opened_on(cluster_server) as plugin:
            async with anyio.create_task_group() as tasks:
                for number in range(200):

                    async def one(number: int = number) -> None:
                        await plugin.call("set", key=f"{number}", value=number)
                        assert (await plugin.call("get", key=f"{number}"))["value"] == number

                    tasks.start_soon(one)
            assert await plugin.call("count") == {"count": 200}
            assert (await plugin.health()).status is HealthStatus.HEALTHY

    anyio.run(check, backend=backend)


async def test_a_storm_of_cancelled_calls_mixes_up_nothing(cluster: Running) -> None:
    """Each key has a value of its own, so that an answer at the wrong caller shows."""
    dice = random.Random(5)
    keys = [f"{n}" for n in range(300)]
    await cluster.call("mset", items=[{"key": key, "value": f"of {key}"} for key in keys])
    cancelled = 0

    async def one() -> None:
        nonlocal cancelled
        for _ in range(15):
            some = dice.sample(keys, 20)
            with trio.move_on_after(dice.choice([0.0, 0.001, 0.003, 60, 60])) as scope:
                if dice.random() < 0.5:
                    assert (await cluster.call("get", key=some[0]))["value"] == f"of {some[0]}"
                else:
                    found = await cluster.call("mget", keys=some)
                    assert [one["value"] for one in found["results"]] == [f"of {k}" for k in some]
            cancelled += scope.cancelled_caught

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(one)
    assert cancelled > 50
    connection = cluster.plugin.connection
    with trio.fail_after(60):
        while any(shared.in_flight for shared in connection.connections()):  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert connection.connects == 3

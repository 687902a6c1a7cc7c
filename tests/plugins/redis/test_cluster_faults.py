"""What callers see while slots move, masters are killed or hang, and servers leave the cluster."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import trio

from prism.contract.errors import PluginError
from prism.contract.messages import HealthStatus
from prism.contract.status import StatusCode
from prism_plugins.redis.slots import slot_of
from tests.plugins.redis.conftest import Running, opened_on
from tests.services.fixtures import StartServer
from tests.services.redis import Redis, RedisCluster, ValkeyCluster, has_slot, node_id

KINDS = pytest.mark.parametrize("kind", [RedisCluster, ValkeyCluster])


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - states that have no event of their own
            await trio.sleep(0.005)


async def until_healthy(plugin: Running, status: HealthStatus = HealthStatus.HEALTHY) -> None:
    with trio.fail_after(60):
        while (await plugin.health()).status is not status:  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.05)


async def ask(server: Redis, *command: str) -> bytes:
    return await trio.to_thread.run_sync(server.ask, *command)


class Load:
    """Writers that count up, each in a key of its own, and check what they read."""

    def __init__(self, plugin: Running, keys: list[str]) -> None:
        self.stored = dict.fromkeys(keys, 0)
        """By key, what the plugin has said that it set."""
        self.outcomes: Counter[str] = Counter()
        self._plugin = plugin
        self._stopped = False

    async def write(self, key: str) -> None:
        number = 0
        while not self._stopped:
            number += 1
            try:
                found = await self._plugin.call("get", key=key)
                assert found.get("value", 0) >= self.lowest(key), key
                await self._plugin.call("set", key=key, value=number)
                self.stored[key] = number
                self.outcomes["stored"] += 1
            except PluginError as error:
                if error.status is not StatusCode.UNAVAILABLE:
                    raise
                self.outcomes["may have run" if "may have run" in error.detail else "failed"] += 1
                await trio.sleep(0.01)

    def lowest(self, key: str) -> int:
        """What a read may find at least."""
        return self.stored[key]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            for key in self.stored:
                nursery.start_soon(self.write, key)
            yield
            self._stopped = True

    async def more(self, writes: int = 300) -> None:
        """Wait until so many more were stored."""
        before = self.outcomes["stored"]
        await until(lambda: self.outcomes["stored"] > before + writes)


async def move_slot(slot: int, source: Redis, target: Redis, *, keys: int = 1000) -> None:
    """Move a slot as ``redis-cli --cluster reshard`` does; of its keys, only so many."""
    await begin_move(slot, source, target)
    while keys > 0:
        told = await ask(source, "CLUSTER", "GETKEYSINSLOT", f"{slot}", f"{min(keys, 10)}")
        names = told.decode().split("\r\n")[2::2]
        if not names:
            break
        keys -= len(names)
        command = ["MIGRATE", "127.0.0.1", f"{target.port}", "", "0", "5000", "KEYS", *names]
        assert b"OK" in await ask(source, *command)


async def begin_move(slot: int, source: Redis, target: Redis) -> None:
    assert b"OK" in await ask(target, "CLUSTER", "SETSLOT", f"{slot}", "IMPORTING", node_id(source))
    assert b"OK" in await ask(source, "CLUSTER", "SETSLOT", f"{slot}", "MIGRATING", node_id(target))


async def end_move(slot: int, cluster: RedisCluster, target: Redis) -> None:
    for server in (target, *(one for one in cluster.masters if one is not target)):
        assert b"OK" in await ask(server, "CLUSTER", "SETSLOT", f"{slot}", "NODE", node_id(target))


@KINDS
async def test_slots_move_while_calls_run(
    start_server: StartServer, kind: type[RedisCluster]
) -> None:
    """No call fails, and none reads what is older than what was set."""
    cluster = start_server(kind, replicas=False)
    async with opened_on(cluster, key_prefix="") as plugin:
        keys = [f"{{{tag}}}{n}" for tag in "abcd" for n in range(8)]
        load = Load(plugin, keys)
        async with load.running():
            await load.more()
            for tag in "abcd":
                slot = slot_of(tag.encode())
                source = cluster.owner(slot)
                target = next(one for one in cluster.masters if one is not source)
                tagged = [key for key in keys if tag in key]
                await move_slot(slot, source, target, keys=4)
                await load.more(100)  # some keys here, some there: ASK
                await plugin.call("mget", keys=keys)
                assert (await plugin.call("mget", keys=tagged))["found_count"] == 8
                await plugin.call("mdelete", keys=[f"old{key}" for key in keys])
                for key in tagged:
                    swap = {"key": f"new{key}", "new_value": 1}
                    assert (await plugin.call("compare_and_swap", **swap))["swapped"]
                await move_slot(slot, source, target)
                await load.more(100)
                await end_move(slot, cluster, target)
                assert cluster.owner(slot) is target
                items = [{"key": f"old{key}", "value": 1} for key in keys]
                assert await plugin.call("mset", items=items) == {"stored": 32}
                await load.more(100)  # MOVED
        assert set(load.outcomes) == {"stored"}
        found = await plugin.call("mget", keys=keys)
        assert [one["value"] for one in found["results"]] == [load.stored[key] for key in keys]
        assert await plugin.call("count", prefix="new") == {"count": len(keys)}


async def test_a_transaction_of_keys_that_are_being_moved(start_server: StartServer) -> None:
    """It runs whole on the server that has them all, and on none while they lie on two."""
    cluster = start_server(RedisCluster, replicas=False)
    async with opened_on(cluster, key_prefix="") as plugin:
        keys = [f"{{t}}{n}" for n in range(6)]
        slot = slot_of(b"t")
        source = cluster.owner(slot)
        target = next(one for one in cluster.masters if one is not source)
        await plugin.call("mset", items=[{"key": key, "value": 0} for key in keys])
        commands = [{"name": "INCR", "args": [key]} for key in keys]
        await move_slot(slot, source, target, keys=3)
        with pytest.raises(PluginError, match="the cluster is moving these keys") as moving:
            await plugin.call("transaction", commands=commands)
        assert moving.value.status is StatusCode.UNAVAILABLE
        values = [(await plugin.call("get", key=key))["value"] for key in keys]
        assert values == [0] * 6
        async with trio.open_nursery() as nursery:
            nursery.start_soon(move_slot, slot, source, target)  # TRYAGAIN, until it is done
            done = await plugin.call("transaction", commands=commands)
        assert done == {"results": [1] * 6}
        await end_move(slot, cluster, target)
        done = await plugin.call("transaction", commands=commands)
        assert done == {"results": [2] * 6}


def offsets(master: Redis) -> tuple[int, int]:
    """How far a master has written, and how far its replica has read."""
    info = master.ask("INFO", "replication").decode()
    written = info.partition("master_repl_offset:")[2].split()[0]
    read = info.partition("slave0:")[2].partition("offset=")[2].partition(",")[0]
    return int(written), int(read)


@KINDS
async def test_a_master_is_killed_under_load(
    start_server: StartServer, kind: type[RedisCluster]
) -> None:
    """What was answered and had reached the replica is there, as is all that other masters have."""
    cluster = start_server(kind)
    async with opened_on(cluster, key_prefix="") as plugin:
        keys = [f"k{n}" for n in range(48)]
        killed = cluster.masters[1]
        of_killed = {key for key in keys if has_slot(killed, slot_of(key.encode()))}
        assert 0 < len(of_killed) < len(keys)
        load = Load(plugin, keys)
        replicated: dict[str, int] = {}
        load.lowest = lambda key: replicated[key] if key in of_killed else load.stored[key]
        replicated |= load.stored
        async with load.running():
            await load.more()
            before = dict(load.stored)
            # WAIT would wait for what its own connection has written, which is nothing.
            reached = offsets(killed)[0]
            await until(lambda: offsets(killed)[1] >= reached)
            replicated |= before
            await trio.to_thread.run_sync(killed.kill)
            await until(lambda: load.outcomes["failed"] + load.outcomes["may have run"] > 0)
            health = await plugin.health()
            assert health.status is HealthStatus.DEGRADED
            assert f"127.0.0.1:{killed.port}" in health.message
            others = load.outcomes["stored"]
            await until(lambda: load.outcomes["stored"] > others + 100)  # other masters go on
            await until_healthy(plugin)
            after = dict(load.stored)
            await until(lambda: all(load.stored[key] > after[key] for key in keys))
        found = await plugin.call("mget", keys=keys)
        for result in found["results"]:
            assert result["value"] >= load.stored[result["key"]]
        ports = {node.server.port for node in plugin.plugin.connection.map.nodes.values()}
        assert killed.port not in ports
        killed.restart()
        await until(lambda: b"slave" in killed.ask("ROLE"))
        await plugin.call("mset", items=[{"key": key, "value": 0} for key in keys])
        assert (await plugin.health()).status is HealthStatus.HEALTHY


async def test_a_planned_failover_fails_no_call(start_server: StartServer) -> None:
    cluster = start_server(ValkeyCluster)
    async with opened_on(cluster, key_prefix="") as plugin:
        load = Load(plugin, [f"k{n}" for n in range(32)])
        async with load.running():
            await load.more()
            for replica, master in zip(cluster.replicas, list(cluster.masters), strict=True):
                assert b"OK" in await ask(replica, "CLUSTER", "FAILOVER")
                await until(lambda replica=replica: b"master" in replica.ask("ROLE"))
                await until(lambda master=master: b"slave" in master.ask("ROLE"))
                await load.more(100)
        assert set(load.outcomes) == {"stored"}


async def test_a_master_without_a_replica_costs_its_own_slots(start_server: StartServer) -> None:
    cluster = start_server(
        RedisCluster, replicas=False, settings={"cluster-require-full-coverage": "no"}
    )
    async with opened_on(cluster, key_prefix="") as plugin:
        keys = [f"k{n}" for n in range(30)]
        await plugin.call("mset", items=[{"key": key, "value": key} for key in keys])
        killed = cluster.masters[2]
        lost = {key for key in keys if has_slot(killed, slot_of(key.encode()))}
        await trio.to_thread.run_sync(killed.kill)
        await until_healthy(plugin, HealthStatus.DEGRADED)
        for key in keys:
            if key not in lost:
                assert (await plugin.call("get", key=key))["value"] == key
                continue
            with trio.fail_after(30), pytest.raises(PluginError) as failed:
                await plugin.call("get", key=key)
            assert failed.value.status is StatusCode.UNAVAILABLE
        for operation, params in (("mget", {"keys": keys}), ("count", {}), ("scan", {})):
            with pytest.raises(PluginError) as failed:
                await plugin.call(operation, **params)
            assert failed.value.status is StatusCode.UNAVAILABLE
        with pytest.raises(PluginError, match=f"{30 - len(lost)} of 30 items were set") as partly:
            await plugin.call("mset", items=[{"key": key, "value": 2} for key in keys])
        assert partly.value.status is StatusCode.UNAVAILABLE
        with pytest.raises(PluginError, match=f"{30 - len(lost)} keys were deleted"):
            await plugin.call("mdelete", keys=keys)
        await trio.to_thread.run_sync(killed.restart)
        await until_healthy(plugin)
        assert await plugin.call("mset", items=[{"key": key, "value": 2} for key in keys])


async def test_many_keys_wait_for_their_server_together(start_server: StartServer) -> None:
    """They do not look for it one after the other, which takes longer than a caller has."""
    cluster = start_server(
        RedisCluster, replicas=False, settings={"cluster-require-full-coverage": "no"}
    )
    async with opened_on(cluster, key_prefix="") as plugin:
        killed, asked = cluster.masters[2], cluster.masters[:2]
        numbers = range(300)
        lost = [f"k{n}" for n in numbers if has_slot(killed, slot_of(f"k{n}".encode()))]
        await trio.to_thread.run_sync(killed.kill)
        await until_healthy(plugin, HealthStatus.DEGRADED)
        before = sum(map(looks_at_the_map, asked))
        for operation in ("mget", "mdelete"):
            with pytest.raises(PluginError) as failed:
                await plugin.call(operation, keys=lost)
            assert failed.value.status is StatusCode.UNAVAILABLE
        assert sum(map(looks_at_the_map, asked)) - before < len(lost) / 2


async def test_calls_that_wait_for_a_server_have_a_bound(start_server: StartServer) -> None:
    cluster = start_server(
        RedisCluster, replicas=False, settings={"cluster-require-full-coverage": "no"}
    )
    async with opened_on(cluster, key_prefix="", max_in_flight=4) as plugin:
        killed = cluster.masters[2]
        key = next(f"k{n}" for n in range(99) if has_slot(killed, slot_of(f"k{n}".encode())))
        await trio.to_thread.run_sync(killed.kill)
        await until_healthy(plugin, HealthStatus.DEGRADED)
        failed: Counter[StatusCode] = Counter()

        async def get() -> None:
            with pytest.raises(PluginError) as raised:
                await plugin.call("get", key=key)
            failed[raised.value.status] += 1

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(get)
        assert failed == {StatusCode.UNAVAILABLE: 12, StatusCode.RESOURCE_EXHAUSTED: 28}


def looks_at_the_map(server: Redis) -> int:
    found = re.search(rb"cluster\|slots:calls=(\d+)", server.ask("INFO", "commandstats"))
    return int(found[1]) if found else 0


async def test_a_cluster_that_is_made_anew_of_the_same_servers(start_server: StartServer) -> None:
    """Its epochs are lower than those of the old one, and what were replicas are masters."""
    cluster = start_server(RedisCluster)
    for _ in range(9):
        for master in cluster.masters:
            master.ask("CLUSTER", "BUMPEPOCH")
    async with opened_on(cluster, key_prefix="") as plugin:
        keys = [f"k{n}" for n in range(30)]
        for server in cluster.servers:
            await ask(server, "CLUSTER", "RESET", "HARD")
        cluster.masters, cluster.replicas = cluster.replicas, cluster.masters
        await trio.to_thread.run_sync(cluster.make)
        await until_healthy(plugin)
        await plugin.call("mset", items=[{"key": key, "value": key} for key in keys])
        found = await plugin.call("scan", limit=100)
        assert {item["key"] for item in found["items"]} == set(keys)


async def test_a_cluster_that_is_down_says_so(start_server: StartServer) -> None:
    """Without full coverage, no server answers for any slot; the calls' tries are bounded."""
    cluster = start_server(RedisCluster, replicas=False)
    async with opened_on(cluster, key_prefix="") as plugin:
        await plugin.call("set", key="k", value=1)
        owner = cluster.owner(slot_of(b"k"))
        killed = next(one for one in cluster.masters if one is not owner)
        await trio.to_thread.run_sync(killed.kill)
        await until(lambda: b"cluster_state:fail" in owner.ask("CLUSTER", "INFO"))
        with trio.fail_after(60), pytest.raises(PluginError, match="the cluster is down") as down:
            await plugin.call("set", key="k", value=2)
        assert down.value.status is StatusCode.UNAVAILABLE
        with trio.move_on_after(0.2) as deadline:
            await plugin.call("set", key="k", value=3)
        assert deadline.cancelled_caught
        assert "cluster_state:fail" in (await plugin.health()).message
        await trio.to_thread.run_sync(killed.restart)
        await until_healthy(plugin)
        assert (await plugin.call("get", key="k"))["value"] == 1  # neither has run later


async def test_a_master_that_hangs_is_replaced(start_server: StartServer) -> None:
    cluster = start_server(ValkeyCluster)
    config = {"silence_timeout_seconds": 0.5, "connect_timeout_seconds": 0.5}
    async with opened_on(cluster, key_prefix="", **config) as plugin:
        keys = [f"k{n}" for n in range(30)]
        await plugin.call("mset", items=[{"key": key, "value": key} for key in keys])
        cluster.masters[0].ask("WAIT", "1", "0")
        cluster.masters[0].freeze()
        await until_healthy(plugin, HealthStatus.DEGRADED)
        await until_healthy(plugin)
        assert (await plugin.call("mget", keys=keys))["found_count"] == 30
        cluster.masters[0].thaw()
        await until(lambda: b"slave" in cluster.masters[0].ask("ROLE"))
        assert (await plugin.call("mget", keys=keys))["found_count"] == 30


async def test_streams_end_where_their_server_is_left(start_server: StartServer) -> None:
    """With a status, and go on from where they were once they are opened anew."""
    cluster = start_server(ValkeyCluster)
    async with opened_on(cluster, key_prefix="") as plugin:
        master = cluster.owner(slot_of(b"t"))
        replica = next(
            one
            for one in cluster.replicas
            if node_id(master).encode() in one.ask("CLUSTER", "NODES")
            and f"{master.port}" in one.ask("ROLE").decode()
        )
        await plugin.call("publish", topic="t", value=1)
        subscribed = {"topic": "t", "group": "g", "start": "earliest"}
        messages = plugin.stream("subscribe", **subscribed)
        watch = plugin.stream("watch", existing=True)
        async with aclosing(messages), aclosing(watch):
            first = await anext(messages)
            assert (await anext(watch))["event"] == "ready"
            assert b"OK" in await ask(replica, "CLUSTER", "FAILOVER")
            for stream in (messages, watch):
                with trio.fail_after(60), pytest.raises(PluginError) as ended:
                    await anext(stream)
                assert ended.value.status is StatusCode.UNAVAILABLE, ended.value
        ids = {"topic": "t", "group": "g", "message_ids": [first["message_id"]]}
        assert await plugin.call("acknowledge", **ids) == {"acknowledged": 1}
        await plugin.call("publish", topic="t", value=2)
        async with aclosing(plugin.stream("subscribe", **subscribed)) as messages:
            assert (await anext(messages))["value"] == 2
        assert plugin.plugin.connection.dedicated == 0


async def test_a_server_that_leaves_and_one_that_joins(
    start_server: StartServer, tmp_path: Any
) -> None:
    """All slots of one master go to a new one; the old one is reset, and lies about nothing."""
    cluster = start_server(RedisCluster, replicas=False)
    async with opened_on(cluster, key_prefix="") as plugin:
        keys = [f"k{n}" for n in range(60)]
        await plugin.call("mset", items=[{"key": key, "value": key} for key in keys])
        old = cluster.masters[0]
        new = cluster.add(tmp_path)
        cluster.masters.append(new)
        await trio.to_thread.run_sync(cluster.introduce, *cluster.masters)
        page = await plugin.call("scan", limit=3)
        scanned = [item["key"] for item in page["items"]]
        listened = plugin.stream(
            "listen", channels=[next(k for k in keys if has_slot(old, slot_of(k.encode())))]
        )
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                assert await anext(listened) == {"event": "ready"}
                with pytest.raises(PluginError) as ended:
                    await anext(listened)
                assert ended.value.status is StatusCode.UNAVAILABLE

            nursery.start_soon(listen)
            for key in keys:
                slot = slot_of(key.encode())
                if has_slot(old, slot):
                    await move_slot(slot, old, new)
                    await end_move(slot, cluster, new)
            last = round(cluster.SLOTS / cluster.MASTERS) - 1
            rest = [slot for slot in range(last + 1) if slot_of_none(keys, slot)]
            ranges = [part for slot in rest for part in (f"{slot}",)]
            for server in cluster.masters:
                if server is not old:
                    await ask(server, "CLUSTER", "FORGET", node_id(old))
            for server in (old, new):
                await ask(server, "CLUSTER", "DELSLOTS", *ranges)
            await ask(new, "CLUSTER", "ADDSLOTS", *ranges)
            await ask(new, "CLUSTER", "BUMPEPOCH")
            await ask(old, "FLUSHALL")
            await ask(old, "CLUSTER", "RESET", "HARD")
            for server in cluster.masters[1:]:
                await until(lambda server=server: cluster.is_well(server, 3))
            await until_healthy(plugin)
            assert (await plugin.call("mget", keys=keys))["found_count"] == 60
            while "cursor" in page:
                page = await plugin.call("scan", limit=3, cursor=page["cursor"])
                scanned += [item["key"] for item in page["items"]]
            assert set(scanned) == set(keys)
        ports = {node.server.port for node, _ in plugin.plugin.connection.map.masters.values()}
        assert ports == {server.port for server in cluster.masters[1:]}


def slot_of_none(keys: list[str], slot: int) -> bool:
    return all(slot_of(key.encode()) != slot for key in keys)


async def test_a_scan_goes_on_after_a_failover(start_server: StartServer) -> None:
    cluster = start_server(ValkeyCluster)
    async with opened_on(cluster, key_prefix="") as plugin:
        keys = [f"k{n}" for n in range(200)]
        await plugin.call("mset", items=[{"key": key, "value": key} for key in keys])
        scanned: list[str] = []
        page: dict[str, Any] = await plugin.call("scan", limit=10)
        for replica in cluster.replicas:
            scanned += [item["key"] for item in page["items"]]
            assert b"OK" in await ask(replica, "CLUSTER", "FAILOVER")
            await until(lambda replica=replica: b"master" in replica.ask("ROLE"))
            for _ in range(3):
                page = await plugin.call("scan", limit=10, cursor=page["cursor"])
                scanned += [item["key"] for item in page["items"]]
        while "cursor" in page:
            page = await plugin.call("scan", limit=50, cursor=page["cursor"])
            scanned += [item["key"] for item in page["items"]]
        assert set(scanned) == set(keys)


async def test_a_scan_believes_no_server_that_has_left(start_server: StartServer) -> None:
    """A master that was replaced and reset says that it has no keys, before the map is read."""
    cluster = start_server(ValkeyCluster)
    async with opened_on(cluster, key_prefix="") as plugin:
        keys = [f"k{n}" for n in range(300)]
        await plugin.call("mset", items=[{"key": key, "value": key} for key in keys])
        page: dict[str, Any] = await plugin.call("scan", limit=10)
        scanned = [item["key"] for item in page["items"]]
        old, replica = cluster.masters[0], cluster.replicas[0]
        assert all(has_slot(old, slot_of(key.encode())) for key in scanned)
        assert b"OK" in await ask(replica, "CLUSTER", "FAILOVER")
        await until(lambda: b"master" in replica.ask("ROLE"))
        await until(lambda: b"slave" in old.ask("ROLE"))
        assert b"OK" in await ask(old, "CLUSTER", "RESET")
        while "cursor" in page:
            page = await plugin.call("scan", limit=50, cursor=page["cursor"])
            scanned += [item["key"] for item in page["items"]]
        assert set(scanned) == set(keys)

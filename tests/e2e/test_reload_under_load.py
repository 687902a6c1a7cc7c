"""Reloads and kills under load: every call is answered once, and none is lost.

The proxy runs in this process, so that the test can hold its receipts; the clients
and the plugins are processes, and speak through real sockets.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from proxy_here import proxy_here

SUPPORT = Path(__file__).parent / "support"
RELOADS = pytest.mark.parametrize("reloads", [20, pytest.param(1000, marks=pytest.mark.soak)])
BETWEEN_KILLS = 20
"""Calls that are answered before the next kill, however long a slow machine takes for them."""


@asynccontextmanager
async def proxy_with_store(directory, namespace=None, **plugin):
    """A proxy whose namespace ``store`` has two versions; yields it, its port and the store."""
    store = directory / "store"
    command = [sys.executable, str(SUPPORT / "store_plugin.py"), "{version}"]
    config = {
        "plugins": [
            {
                "name": "store",
                "type": "sidecar",
                "command": command,
                "versions": {"v1": {}, "v2": {}},
            }
        ],
        "namespaces": [
            {
                "name": "store",
                "backend": "store",
                "plugin": {"name": "store", "version": "v1", **plugin},
                "config": {"path": str(store)},
                **(namespace or {}),
            }
        ],
    }
    async with proxy_here(directory, config) as (proxy, port):
        yield proxy, port, store


@asynccontextmanager
async def load(port, results, operation="put"):
    """Clients that call without a pause within the block; their accounts are in ``results``."""
    program = str(SUPPORT / "load_client.py")
    command = [sys.executable, program, str(port), str(results), "4", "4", operation]
    clients = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE)
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await clients.stdin.aclose()
            with trio.move_on_after(60):
                await clients.wait()
            if clients.returncode is None:
                clients.kill()
                await clients.wait()
    assert clients.returncode == 0


def accounts(results):
    calls = [json.loads(line) for line in results.read_text().splitlines()]
    assert len({call["id"] for call in calls}) == len(calls)
    assert {call["answers"] for call in calls} == {1}
    return calls


def check_store(store, calls):
    """What was answered as done is there, once; what never ran is not."""
    kept = Counter(store.read_text().split())
    assert set(kept.values()) <= {1}
    for call in calls:
        if call["status"] == 200:
            assert call["echo"] == call["id"]
            assert kept[call["id"]] == 1, call
        elif call["retryable"]:
            assert kept[call["id"]] == 0, call


@pytest.mark.slow
@RELOADS
async def test_reloads_alone_cost_no_call_an_error(tmp_path, reloads):
    async with proxy_with_store(tmp_path) as (proxy, port, store):
        receipts = []
        async with load(port, tmp_path / "results"):
            for number in range(reloads):
                version = ("v2", "v1")[number % 2]
                receipts.append(await proxy.supervisor.reload("store", version))
                assert receipts[-1].new.version == version
    calls = accounts(tmp_path / "results")
    assert Counter(call["status"] for call in calls) == {200: len(calls)}
    assert {call["version"] for call in calls} == {"v1", "v2"}
    assert {receipt.outcome for receipt in receipts} == {"swapped"}
    for receipt in receipts:
        counts = receipt.calls
        assert (counts.failed, counts.cancelled, counts.lost) == (0, 0, 0)
        assert receipt.phases.absent == 0
    # Calls were in flight when their instance was replaced: the drain had something to do.
    assert sum(receipt.calls.finished_on_old for receipt in receipts) > reloads
    check_store(store, calls)
    print(f"{len(calls)} calls, {reloads} reloads")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("operation", ["look", "put"])
async def test_reloads_lose_nothing_with_retries_and_hedging(tmp_path, operation, processes):
    policies = {
        "retries": {"attempts": 3, "budget": 1.0},
        "hedging": {"after": 0.003, "budget": 1.0},  # about every call is made a second time
    }
    async with proxy_with_store(tmp_path, policies, processes=processes) as (proxy, port, store):
        receipts = []
        async with load(port, tmp_path / "results", operation):
            for version in ("v2", "v1", "v2"):
                receipt = await proxy.supervisor.reload("store", version)
                assert receipt.outcome == "swapped"
                receipts.append(receipt)
        policies = proxy.router.find("store").policies
        [hedges] = [each.state()["sent"] for each in policies if each.name == "hedging"]
    calls = accounts(tmp_path / "results")
    assert Counter(call["status"] for call in calls) == {200: len(calls)}
    for receipt in receipts:
        assert (receipt.calls.failed, receipt.calls.lost) == (0, 0)
    if operation == "put":
        assert hedges == 0
        check_store(store, calls)
    else:
        assert hedges > 0


@pytest.mark.slow
@RELOADS
async def test_kills_at_random_cost_only_the_calls_that_they_hit(tmp_path, reloads):
    chance = random.Random(8)
    async with proxy_with_store(tmp_path) as (proxy, port, store):
        supervisor = proxy.supervisor
        receipts, kills = [], 0

        async def kill_now_and_then():
            nonlocal kills
            slot = supervisor.slots["store"]
            while True:
                await trio.sleep(chance.uniform(0.2, 0.8))
                if slot.current is None or slot.current.finished < BETWEEN_KILLS:
                    continue
                generations = supervisor.status_of("store").generations
                pids = [g.pid for g in generations if g.pid is not None and g.state != "stopping"]
                if pids:
                    with suppress(ProcessLookupError):
                        os.kill(chance.choice(pids), signal.SIGKILL)
                        kills += 1

        async with load(port, tmp_path / "results"), trio.open_nursery() as nursery:
            nursery.start_soon(kill_now_and_then)
            while len(receipts) < reloads or kills <= 5:
                version = ("v2", "v1")[len(receipts) % 2]
                receipts.append(await supervisor.reload("store", version))
            nursery.cancel_scope.cancel()
    calls = accounts(tmp_path / "results")
    assert {call["status"] for call in calls} <= {200, 502, 503}
    reasons = {call["reason"] for call in calls if call["status"] != 200}
    assert reasons <= {"plugin_crashed", "plugin_unavailable"}
    assert sum(call["status"] == 200 for call in calls) > BETWEEN_KILLS * kills / 2
    assert all(receipt.calls.lost == 0 for receipt in receipts)
    check_store(store, calls)


@pytest.mark.slow
async def test_a_reload_of_three_processes_costs_no_call_an_error(tmp_path):
    async with proxy_with_store(tmp_path, processes=3) as (proxy, port, store):
        receipts = []
        async with load(port, tmp_path / "results"):
            for version in ("v2", "v1", "v2"):
                receipts.append(await proxy.supervisor.reload("store", version))
                assert {one.version for one in proxy.supervisor.status_of("store").replicas} == {
                    version
                }
    calls = accounts(tmp_path / "results")
    assert Counter(call["status"] for call in calls) == {200: len(calls)}
    assert {call["version"] for call in calls} == {"v1", "v2"}
    for receipt in receipts:
        assert receipt.outcome == "swapped"
        assert [one.replica for one in receipt.replicas] == ["1", "2", "3"]
        counts = receipt.calls
        assert (counts.failed, counts.cancelled, counts.lost) == (0, 0, 0)
        assert counts.finished_on_old == sum(one.calls.finished_on_old for one in receipt.replicas)
    assert sum(receipt.calls.finished_on_old for receipt in receipts) > 3
    check_store(store, calls)


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["look", "put"])
async def test_one_of_three_processes_is_killed(tmp_path, operation):
    async with proxy_with_store(tmp_path, processes=3) as (proxy, port, store):
        group = proxy.supervisor.slots["store"]
        in_flight = 0
        async with load(port, tmp_path / "results", operation):
            for _ in range(4):
                victim = await serving_and_busy(group)
                pid = next(
                    one.pid
                    for one in proxy.supervisor.status_of("store").replicas
                    if one.instance == victim.id
                )
                os.kill(pid, signal.SIGKILL)
                await until(lambda gone=victim: gone not in group.instances())
                in_flight += victim.failed
                assert group.is_ready
                await until(lambda: len(group.instances()) == 3)
    calls = accounts(tmp_path / "results")
    failed = [call for call in calls if call["status"] != 200]
    if operation == "look":
        assert not failed
        assert group.retried["idempotent"] >= 1
    else:
        # Those that the killed process had, and no others; what never began was given on.
        assert {call["reason"] for call in failed} <= {"plugin_crashed"}
        assert len(failed) <= in_flight
        check_store(store, calls)


async def until(check):
    with trio.fail_after(60):
        while not (found := check()):  # noqa: ASYNC110 - another process makes it so
            await trio.sleep(0.001)
    return found


async def serving_and_busy(group):
    """A replica that has calls in flight, with all three there."""

    def busy():
        instances = group.instances()
        found = [one for one in instances if one.leases and one.finished >= BETWEEN_KILLS]
        return found[0] if found and len(instances) == 3 else None

    return await until(busy)

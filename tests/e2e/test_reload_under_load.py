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

from prism.app import Proxy
from prism.config import load_config

SUPPORT = Path(__file__).parent / "support"
RELOADS = pytest.mark.parametrize("reloads", [20, pytest.param(1000, marks=pytest.mark.soak)])
BETWEEN_KILLS = 20
"""Calls that are answered before the next kill, however long a slow machine takes for them."""


@asynccontextmanager
async def proxy_with_store(directory):
    """A proxy whose namespace ``store`` has two versions; yields it, its port and the store."""
    store = directory / "store"
    command = [sys.executable, str(SUPPORT / "store_plugin.py"), "{version}"]
    config = {
        "listen": {"port": 0},
        "admin": {"port": 0},
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
                "plugin": {"name": "store", "version": "v1"},
                "config": {"path": str(store)},
            }
        ],
    }
    file = directory / "prism.yaml"
    file.write_text(json.dumps(config))
    proxy = Proxy(load_config(file).config)
    ready = trio.Event()
    ports = []

    def on_ready(where):
        ports.append(where.data[0].port)
        ready.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy.run, on_ready)
        with trio.fail_after(60):
            await ready.wait()
        try:
            yield proxy, ports[0], store
        finally:
            proxy.stop()


@asynccontextmanager
async def load(port, results):
    """Clients that call without a pause within the block; their accounts are in ``results``."""
    command = [sys.executable, str(SUPPORT / "load_client.py"), str(port), str(results), "4", "4"]
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

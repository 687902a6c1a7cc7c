"""The supervisor's operations on plugins in processes of their own."""

import gc
import os
import signal
import sys
import time
import tracemalloc
from dataclasses import replace

import pytest
import trio
from supervised_plugin import eventually, leased_call, supervised

from prism.contract.errors import OperationInProgress, UnknownNamespace, UnknownVersion
from prism.supervision.lifecycle import State
from prism.supervision.supervisor import Supervisor


async def test_a_reload_replaces_the_process_and_finishes_its_calls(make_spec, is_alive):
    async with supervised(make_spec()) as supervisor:
        slot = supervisor.slots["ns"]
        pid = await leased_call(slot, "pid")
        results = []
        async with trio.open_nursery() as nursery:

            async def caller():
                results.append(await leased_call(slot, "short"))

            for _ in range(5):
                nursery.start_soon(caller)
            await eventually(lambda: slot.current.leases == 5)
            receipt = await supervisor.reload("ns")
        assert results == ["done"] * 5
        assert (receipt.outcome, receipt.old.pid, receipt.old.id) == ("swapped", pid, "ns/1")
        assert receipt.new.pid == await leased_call(slot, "pid") != pid
        assert not is_alive(pid)
        calls = receipt.calls
        assert (calls.finished_on_old, calls.cancelled, calls.failed, calls.lost) == (5, 0, 0, 0)
        assert receipt.phases.start > 0
        assert receipt.phases.initialize > 0
        assert receipt.phases.drain > 0
        assert receipt.phases.absent == 0
        assert supervisor.status_of("ns").state is State.READY
        kinds = [(event.instance, event.state) for event in supervisor.events.recent()]
        assert ("ns/1", State.DRAINING) in kinds
        assert ("ns/1", State.STOPPED) in kinds
        assert kinds.index(("ns/2", State.READY)) < kinds.index(("ns/1", State.DRAINING))


async def test_one_operation_at_a_time(make_spec):
    async with supervised(make_spec()) as supervisor, trio.open_nursery() as nursery:
        receipts = []

        async def reload():
            receipts.append(await supervisor.reload("ns"))

        nursery.start_soon(reload)
        await eventually(lambda: supervisor.status_of("ns").operation)
        with pytest.raises(OperationInProgress, match="a reload of namespace 'ns' is already"):
            await supervisor.restart("ns")
        await eventually(lambda: receipts)
        assert (await supervisor.restart("ns")).outcome == "swapped"


async def test_names_that_are_not_known(make_spec):
    async with supervised(make_spec()) as supervisor:
        for operation in (supervisor.reload, supervisor.restart, supervisor.drain):
            with pytest.raises(UnknownNamespace):
                await operation("nope")
        with pytest.raises(UnknownVersion, match="no version 'v9'"):
            await supervisor.reload("ns", "v9")


async def test_a_new_version_that_crashes_is_rolled_back(make_spec):
    bad = make_spec(command=[sys.executable, "-c", "print('no luck'); raise SystemExit(3)"])
    spec = replace(make_spec(), at_version=lambda _version: bad.plugin)
    async with supervised(spec) as supervisor:
        slot = supervisor.slots["ns"]
        pid = await leased_call(slot, "pid")
        receipt = await supervisor.reload("ns", "v2")
        assert receipt.outcome == "rolled_back"
        assert "exited with status 3" in receipt.reason
        assert await leased_call(slot, "pid") == pid
        assert slot.current.id == "ns/1"
        assert supervisor.status_of("ns").state is State.READY
        assert (await supervisor.reload("ns")).outcome == "swapped"


async def test_status_of_a_plugin_that_crashed_too_often(make_spec):
    command = [sys.executable, "-c", "print('a last word'); raise SystemExit(7)"]
    restart = {"first_delay_seconds": 0.01, "max_crashes": 2}
    async with supervised(make_spec(command=command, restart=restart)) as supervisor:
        await eventually(lambda: supervisor.status_of("ns").state is State.FAILED)
        await eventually(lambda: "2 times in a row" in supervisor.status_of("ns").reason)
        status = supervisor.status_of("ns")
        assert "exited with status 7" in status.last_error
        assert status.last_output == ["a last word"]
        assert status.restarts == 1  # of two starts, the first is none
        assert status.reason.endswith("; `prism plugin reset ns` starts it again")
        status = supervisor.reset("ns")
        assert (status.state, status.reason) == (
            State.STARTING,
            "it is being started, as an operator asked",
        )
        await eventually(
            lambda: [e.instance for e in supervisor.events.recent() if e.instance == "ns/4"]
        )


async def test_a_drain_and_the_way_back(make_spec, is_alive):
    async with supervised(make_spec()) as supervisor:
        slot = supervisor.slots["ns"]
        pid = await leased_call(slot, "pid")
        receipt = await supervisor.drain("ns")
        assert (receipt.outcome, receipt.new) == ("drained", None)
        assert not is_alive(pid)
        status = supervisor.status_of("ns")
        assert (status.state, status.reason) == (State.STOPPED, "it was drained by an operator")
        assert (await supervisor.restart("ns")).outcome == "swapped"
        assert await leased_call(slot, "pid") != pid
        await supervisor.drain("ns")
        status = supervisor.reset("ns")
        assert (status.state, status.reason) == (
            State.STARTING,
            "it is being started, as an operator asked",
        )
        await eventually(lambda: slot.current is not None)


async def test_how_a_killed_process_ended_is_told(make_spec):
    async with supervised(make_spec()) as supervisor:
        slot = supervisor.slots["ns"]
        os.kill(await leased_call(slot, "pid"), signal.SIGKILL)
        await eventually(lambda: slot.current is not None and slot.current.generation == 2)
        status = supervisor.status_of("ns")
        assert "was ended by SIGKILL" in status.last_error
        assert (status.restarts, status.instance, status.health) == (1, "ns/2", "HEALTHY")


async def test_what_a_plugin_prints_can_be_read_and_followed(make_spec):
    command = [sys.executable, "-c", "print('one'); print('two'); raise SystemExit(1)"]
    restart = {"first_delay_seconds": 0.05}
    async with supervised(make_spec(command=command, restart=restart)) as supervisor:
        logs = supervisor.logs("ns")
        with logs.follow(recent=1) as follower:
            seen = [(await anext(follower)).text for _ in range(3)]
        assert seen == ["two", "one", "two"]
        assert {(line.source, line.instance) for line in logs.recent()} >= {("stdout", "ns/1")}


async def test_one_namespace_that_fails_does_not_keep_the_others(make_spec, in_process):
    supervisor = Supervisor(
        [
            make_spec(namespace="good"),
            make_spec(namespace="bad", command=["/no/such/program"]),
            make_spec({"refuse": "not today"}, namespace="refused"),
        ]
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        assert await leased_call(supervisor.slots["good"], "pid") > 0
        assert "cannot run /no/such/program" in supervisor.slots["bad"].absence
        assert "not today" in supervisor.slots["refused"].absence
        supervisor.stop()
        await supervisor.wait_stopped()
    assert all(slot.current is None for slot in supervisor.slots.values())


# -- many namespaces --------------------------------------------------------------------

NAMESPACES = 200
MAX_BYTES = 2_000_000
"""Of memory, for one idle namespace."""


@pytest.mark.slow
async def test_two_hundred_namespaces(in_process):
    specs = [in_process(namespace=f"ns-{number}") for number in range(NAMESPACES)]
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        began = time.process_time()
        async with supervised(*specs) as supervisor:
            took = time.process_time() - began
            assert all(slot.current is not None for slot in supervisor.slots.values())
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
            used = time.process_time()
            await trio.sleep(1)
            busy = time.process_time() - used
    finally:
        tracemalloc.stop()
    each = (after - before) / NAMESPACES
    print(f"{took:.2f} s of CPU to start, {each:.0f} bytes each, {busy:.3f} s in an idle second")
    assert took < 10
    assert each < MAX_BYTES
    assert busy < 0.2

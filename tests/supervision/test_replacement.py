"""Reloads of in-process plugins on a mock clock, and of plugins that others start."""

import hashlib
import math
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
from supervised_plugin import eventually, held, leased_call, supervised

from prism.config.types import PluginConfig
from prism.contract.errors import Draining, InvalidRequest, PluginUnavailable
from prism.supervision import loading
from prism.supervision.canary import Canary
from prism.supervision.lifecycle import State


@pytest.fixture
def no_threads(monkeypatch):
    """A mock clock does not wait for threads, in which fresh imports run."""

    async def here(spec, *, fresh):
        return loading.sys.modules["a_models_class"].Fresh

    monkeypatch.setattr("prism.supervision.connect.load_plugin", here)


@pytest.fixture
def quick(in_process, no_threads):
    return in_process


async def hold(slot, results):
    """One call of 20 seconds on the instance that is in the slot."""
    try:
        results.append(await leased_call(slot, "wait"))
    except Exception as error:
        results.append(error)


async def test_calls_of_the_old_instance_end_there_and_new_ones_go_to_the_new(
    quick, autojump_clock
):
    async with supervised(quick()) as supervisor, trio.open_nursery() as nursery:
        slot = supervisor.slots["ns"]
        results, receipts = [], []
        nursery.start_soon(hold, slot, results)
        await trio.testing.wait_all_tasks_blocked()

        async def reload():
            receipts.append(await supervisor.reload("ns"))

        nursery.start_soon(reload)
        await trio.sleep(1)
        assert slot.current.id == "ns/2"
        assert await leased_call(slot, "which") == 2
        status = supervisor.status_of("ns")
        assert (status.operation, status.in_flight, status.state) == ("reload", 1, State.READY)
        assert [g.state for g in status.generations] == [State.DRAINING, State.READY]
        await eventually(lambda: receipts)
        (receipt,) = receipts
        assert results == ["done"]
        assert (receipt.calls.finished_on_old, receipt.calls.finished_on_new) == (1, 1)
        assert receipt.phases.drain == pytest.approx(20)
        assert receipt.phases.absent == 0


@pytest.mark.parametrize("dial", [False, True])
async def test_a_program_that_is_reached_over_a_socket_is_replaced(
    make_spec, program, tmp_path, dial
):
    path = str(tmp_path / "d" / "s")
    (tmp_path / "d").mkdir(mode=0o700)
    command = [sys.executable, program, *(["--listen", f"unix:{path}"] if dial else [])]
    spec = make_spec(command=command, socket=path, dial=dial)
    async with supervised(spec) as supervisor:
        slot = supervisor.slots["ns"]
        first = await leased_call(slot, "pid")
        receipt = await supervisor.reload("ns")
        assert receipt.outcome == "swapped", receipt.reason
        assert await leased_call(slot, "pid") != first
        # One path: with both at a time, the second could not listen there.
        assert (receipt.phases.absent > 0) == dial


async def test_what_the_drain_cannot_wait_for_is_told_so(quick, autojump_clock):
    async with supervised(quick(drain_timeout_seconds=5)) as supervisor:
        slot = supervisor.slots["ns"]
        results = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, slot, results)
            await trio.testing.wait_all_tasks_blocked()
            receipt = await supervisor.reload("ns")
        assert isinstance(results[0], Draining)
        assert (receipt.calls.cancelled, receipt.calls.lost) == (1, 0)
        assert receipt.phases.drain == pytest.approx(5)


async def test_a_restart_counts_the_calls_of_the_one_it_ended(quick, autojump_clock):
    async with supervised(quick(drain_timeout_seconds=5)) as supervisor:
        slot = supervisor.slots["ns"]
        old, results = slot.current.id, []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, slot, results)
            await trio.testing.wait_all_tasks_blocked()
            receipt = await supervisor.restart("ns")
        assert isinstance(results[0], Draining)
        assert (receipt.old.id, receipt.new.id) == (old, slot.current.id)
        assert (receipt.calls.cancelled, receipt.calls.lost) == (1, 0)
        assert receipt.phases.drain == pytest.approx(5)


async def test_the_receipt_has_the_last_that_a_failed_process_wrote(make_spec, program):
    program = Path(program)
    async with supervised(make_spec()) as supervisor:
        program.write_text("print('listening'); raise ImportError('no driver')")
        receipt = await supervisor.reload("ns")
        assert receipt.outcome == "rolled_back"
        assert receipt.reason.endswith(
            "its process exited with status 1; the last that it wrote: ImportError: no driver"
        )


@pytest.mark.parametrize(
    ("hang", "failures", "sick", "reason"),
    [
        ("start", 0, False, "did not answer Initialize within 3 seconds"),
        ("", 2, False, "refused to start: start failed: ValueError: no backend"),
        ("health", 0, False, "not healthy within 3 seconds: "),
        ("", 0, True, "not healthy within 3 seconds: sick"),
    ],
)
async def test_a_new_instance_that_does_not_come_up_leaves_the_old_one_alone(
    quick, model, hang, failures, sick, reason, autojump_clock
):
    health = {"interval_seconds": 600, "timeout_seconds": 1}
    async with supervised(quick(start_timeout_seconds=3, health=health)) as supervisor:
        slot = supervisor.slots["ns"]
        model.hang, model.failures, model.sick = hang, failures, sick
        receipt = await supervisor.reload("ns")
        assert receipt.outcome == "rolled_back"
        assert reason in receipt.reason
        assert (slot.current.id, await leased_call(slot, "which")) == ("ns/1", 1)
        model.hang, model.failures, model.sick = "", 0, False
        assert (await supervisor.reload("ns")).new.id == "ns/3"
        assert len(supervisor.status_of("ns").generations) == 1


async def test_an_old_instance_that_hangs_in_its_shutdown_is_left_behind(
    quick, model, autojump_clock
):
    async with supervised(quick(kill_timeout_seconds=2)) as supervisor:
        model.hang = "stop"
        receipt = await supervisor.reload("ns")
        assert receipt.outcome == "swapped"
        assert receipt.phases.shutdown == pytest.approx(4)
        model.hang = ""


async def test_a_new_instance_that_turns_unhealthy_after_the_swap_is_restarted(
    quick, model, autojump_clock
):
    health = {"interval_seconds": 1, "failure_threshold": 2}
    async with supervised(quick(health=health)) as supervisor:
        slot = supervisor.slots["ns"]
        assert (await supervisor.reload("ns")).outcome == "swapped"
        model.sick = True
        await eventually(lambda: slot.current is None)
        assert "2 health checks in a row failed: sick" in slot.absence
        with pytest.raises(PluginUnavailable):
            await leased_call(slot, "which")
        model.sick = False
        await eventually(lambda: slot.current)
        status = supervisor.status_of("ns")
        assert status.restarts == 1
        assert "health checks in a row failed: sick" in status.last_error


async def test_degraded_keeps_its_calls(quick, model, autojump_clock):
    async with supervised(quick(health={"interval_seconds": 1})) as supervisor:
        slot = supervisor.slots["ns"]
        model.degraded = True
        await eventually(lambda: supervisor.status_of("ns").state is State.DEGRADED)
        assert await leased_call(slot, "which") == 1
        model.degraded = False
        await eventually(lambda: supervisor.status_of("ns").state is State.READY)
        states = [(e.previous, e.state) for e in supervisor.events.recent()]
        assert states[-2:] == [(State.READY, State.DEGRADED), (State.DEGRADED, State.READY)]


async def test_where_two_may_not_run_calls_are_held_until_the_new_one_serves(
    quick, model, autojump_clock
):
    async with supervised(quick(overlap=False)) as supervisor, trio.open_nursery() as nursery:
        slot = supervisor.slots["ns"]
        results, receipts = [], []
        nursery.start_soon(hold, slot, results)
        await trio.testing.wait_all_tasks_blocked()

        async def reload():
            receipts.append(await supervisor.reload("ns"))

        nursery.start_soon(reload)
        await trio.sleep(1)
        assert (slot.current, slot.held, len(model.made)) == (None, True, 1)
        await slot.wait_filled()
        assert results == ["done"]
        assert await leased_call(slot, "which") == 2
        await eventually(lambda: receipts)
        assert receipts[0].outcome == "swapped"
        assert not slot.held


async def test_where_two_may_not_run_the_old_version_is_started_again(quick, model, autojump_clock):
    async with supervised(quick(overlap=False)) as supervisor:
        slot = supervisor.slots["ns"]
        model.failures = 2  # the first of them is running already
        receipt = await supervisor.reload("ns")
        assert receipt.outcome == "rolled_back"
        assert "no backend" in receipt.reason
        assert slot.current.id == "ns/3"
        with pytest.raises(InvalidRequest, match="must not run twice"):
            await supervisor.reload("ns", canary=Canary())


async def test_where_the_old_version_does_not_start_again_either_it_has_failed(
    quick, model, autojump_clock
):
    restart = {"first_delay_seconds": 10}
    async with supervised(quick(overlap=False, restart=restart)) as supervisor:
        slot = supervisor.slots["ns"]
        model.failures = 3  # the first of them is running already
        model.start_takes = 2
        receipt = await supervisor.reload("ns")
        assert (receipt.outcome, slot.current) == ("failed", None)
        assert "no backend" in receipt.reason
        assert receipt.phases.absent == pytest.approx(4), "both starts: it still is"
        assert supervisor.journals["ns"].reloads == {"failed": 1}
        await eventually(lambda: slot.current)


async def test_a_reload_of_what_does_not_serve_has_failed(quick, model, autojump_clock):
    model.failures = 2
    async with supervised(quick(restart={"first_delay_seconds": 10})) as supervisor:
        receipt = await supervisor.reload("ns")
        assert (receipt.outcome, receipt.old) == ("failed", None)


async def test_what_a_process_wrote_is_told_of_its_own_failure_alone(make_spec, program):
    program = Path(program)
    good = program.read_text()
    async with supervised(make_spec(restart={"first_delay_seconds": 60})) as supervisor:
        program.write_text("raise ImportError('no driver')")
        assert (await supervisor.restart("ns")).outcome == "failed"
        status = supervisor.status_of("ns")
        assert status.last_output[-1] == "ImportError: no driver"
        assert "exited with status 1" in status.reason
        assert "exited with status 1" in status.last_error
        program.write_text(good)
        assert (await supervisor.restart("ns")).outcome == "swapped"
        await supervisor.drain("ns")
        status = supervisor.status_of("ns")
        assert (status.reason, status.last_output) == ("it was drained by an operator", [])
        supervisor.reset("ns")
        assert supervisor.status_of("ns").last_output == []


async def test_who_asked_for_a_reload_may_leave(quick, autojump_clock):
    async with supervised(quick()) as supervisor:
        slot = supervisor.slots["ns"]
        async with trio.open_nursery() as nursery:
            results = []
            nursery.start_soon(hold, slot, results)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(1):
                await supervisor.reload("ns")
            assert supervisor.status_of("ns").operation == "reload"
        await eventually(lambda: supervisor.status_of("ns").operation is None)
        assert supervisor.journals["ns"].reloads == {"swapped": 1}


async def test_a_stop_in_the_middle_of_a_reload(quick, model, autojump_clock):
    receipts = []
    async with supervised(quick(start_timeout_seconds=1000)) as supervisor:
        model.hang = "start"
        async with trio.open_nursery() as nursery:

            async def reload():
                receipts.append(await supervisor.reload("ns"))

            nursery.start_soon(reload)
            await trio.testing.wait_all_tasks_blocked()
            supervisor.stop()
    assert receipts[0].outcome == "failed"
    assert trio.current_time() < 10


async def test_a_restart_that_fails_where_none_ran_holds_no_more_calls(
    quick, model, autojump_clock
):
    async with supervised(quick()) as supervisor:
        slot = supervisor.slots["ns"]
        await supervisor.drain("ns")
        model.failures = 2
        receipt = await supervisor.restart("ns")
        assert (receipt.outcome, receipt.old) == ("failed", None)
        assert "no backend" in receipt.reason
        assert (slot.held, slot.expected) == (False, False)
        assert "no backend" in slot.absence
        await trio.sleep(100)
        assert len(model.made) == 2, "it was drained, and stays so"


# -- a share of the calls ------------------------------------------------------

TRIAL = Canary(share=0.25, min_calls=10, min_seconds=5, max_seconds=60)


@pytest.fixture
def trial(quick):
    """Reload with a canary under calls whose outcome depends on the instance; the receipt."""

    async def run(judge_call, canary=TRIAL):
        async with supervised(quick()) as supervisor:
            slot = supervisor.slots["ns"]
            served = []
            receipts = []

            async def calls():
                while True:
                    await trio.sleep(0.05)
                    with held(slot) as instance:
                        served.append(instance.generation)
                        if instance.sample is not None:
                            instance.sample.take(*judge_call(instance.generation))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(calls)
                receipts.append(await supervisor.reload("ns", canary=canary))
                nursery.cancel_scope.cancel()
            return receipts[0], served, slot.current.generation, slot.canary

    return run


async def test_a_canary_that_is_as_good_takes_over(trial, autojump_clock):
    receipt, served, current, canary = await trial(lambda generation: (0.01, 0))
    assert receipt.outcome == "swapped"
    assert "it is as good" in receipt.reason
    share = served.count(2) / len(served)
    assert 0.2 < share < 0.3
    assert receipt.phases.canary >= 5
    assert (current, canary) == (2, None)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [((0.01, 13), "it fails more often"), ((0.5, 0), "it is slower")],
)
async def test_a_canary_that_is_worse_is_rolled_back(trial, outcome, reason, autojump_clock):
    receipt, _served, current, canary = await trial(
        lambda generation: outcome if generation == 2 else (0.01, 0)
    )
    assert receipt.outcome == "rolled_back"
    assert reason in receipt.reason
    assert receipt.calls.lost == 0
    assert (current, canary) == (1, None)


async def test_a_canary_without_calls_is_rolled_back(quick, autojump_clock):
    async with supervised(quick()) as supervisor:
        receipt = await supervisor.reload("ns", canary=TRIAL)
        assert receipt.outcome == "rolled_back"
        assert "only 0 of the 10 calls" in receipt.reason


@pytest.mark.parametrize("canary", [TRIAL, None])
async def test_a_reload_is_stopped_before_its_swap(quick, model, canary, autojump_clock):
    async with supervised(quick()) as supervisor, trio.open_nursery() as nursery:
        receipts = []
        if canary is None:
            model.hang = "start"

        async def reload():
            receipts.append(await supervisor.reload("ns", canary=canary))

        nursery.start_soon(reload)
        await trio.sleep(10)
        stands = supervisor.status_of("ns").canary
        if canary is None:
            assert stands is None
        else:
            assert (stands.calls, stands.min_calls, stands.max_seconds) == (0, 10, 60)
            assert 9 < stands.seconds <= 10
        receipt = await supervisor.abort("ns")
        assert (receipt.outcome, receipt.reason) == ("rolled_back", "an operator stopped it")
        await eventually(lambda: receipts == [receipt])
        status = supervisor.status_of("ns")
        assert (status.instance, status.operation, status.canary) == ("ns/1", None, None)
        assert supervisor.slots["ns"].canary is None
        model.hang = ""
        assert (await supervisor.reload("ns")).outcome == "swapped"


async def test_what_has_taken_over_is_not_stopped(quick, autojump_clock):
    async with supervised(quick()) as supervisor, trio.open_nursery() as nursery:
        with pytest.raises(InvalidRequest, match="no reload of namespace 'ns' is under way"):
            await supervisor.abort("ns")
        results = []
        nursery.start_soon(hold, supervisor.slots["ns"], results)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(supervisor.reload, "ns")
        await eventually(lambda: supervisor.slots["ns"].current.id == "ns/2")
        with pytest.raises(InvalidRequest, match="has taken over"):
            await supervisor.abort("ns")
        assert supervisor.slots["ns"].current.id == "ns/2"


async def test_a_canary_that_falls_sick_is_rolled_back(quick, model, autojump_clock):
    health = {"interval_seconds": 1, "failure_threshold": 1}
    async with supervised(quick(health=health)) as supervisor, trio.open_nursery() as nursery:
        receipts = []

        async def reload():
            receipts.append(await supervisor.reload("ns", canary=TRIAL))

        nursery.start_soon(reload)
        await eventually(lambda: supervisor.slots["ns"].canary)
        supervisor.slots["ns"].canary.channel._plugin.sick = True
        await eventually(lambda: receipts)
        assert receipts[0].outcome == "rolled_back"
        assert "on trial, it left" in receipts[0].reason
        assert supervisor.slots["ns"].current.id == "ns/1"


# -- plugins that others start -------------------------------------------------


async def test_a_plugin_that_dials_in_is_replaced_by_one_that_dials_in_beside_it(
    make_spec, program, tmp_path
):
    path = tmp_path / "d" / "s"

    async def start():
        return await trio.lowlevel.open_process(
            [sys.executable, program], env=os.environ | {"PLUGIN_SOCKET": str(path)}
        )

    spec = make_spec(socket=str(path), start_timeout_seconds=20)
    async with supervised(spec) as supervisor:
        slot = supervisor.slots["ns"]
        old = await start()
        await eventually(lambda: slot.current)
        new = await start()
        receipt = await supervisor.reload("ns")
        assert (receipt.outcome, receipt.old.pid, receipt.new.pid) == ("swapped", old.pid, new.pid)
        assert await leased_call(slot, "pid") == new.pid
        # The old one was told that it is replaced, so it does not dial again.
        assert await old.wait() == 0
        new.terminate()
        await new.wait()


async def test_a_reload_that_nobody_dials_in_for(make_spec, program, tmp_path):
    path = tmp_path / "d" / "s"
    async with supervised(make_spec(socket=str(path), start_timeout_seconds=1)) as supervisor:
        plugin = await trio.lowlevel.open_process(
            [sys.executable, program], env=os.environ | {"PLUGIN_SOCKET": str(path)}
        )
        first = await eventually(lambda: supervisor.slots["ns"].current)
        receipt = await supervisor.reload("ns")
        assert receipt.outcome == "rolled_back"
        assert "start one beside the old one, then reload" in receipt.reason
        assert supervisor.slots["ns"].current is first
        plugin.terminate()
        await plugin.wait()


async def test_a_remote_plugin_is_connected_to_again(make_spec, program):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    plugin = await trio.lowlevel.open_process(
        [sys.executable, program, "--listen", f"tcp:127.0.0.1:{port}", "--insecure"]
    )
    spec = make_spec(type="remote", endpoint=f"127.0.0.1:{port}", insecure=True)
    async with supervised(spec) as supervisor:
        await eventually(lambda: supervisor.slots["ns"].current)
        first = supervisor.slots["ns"].current.generation
        receipt = await supervisor.reload("ns")
        assert (receipt.outcome, receipt.new.id) == ("swapped", f"ns/{first + 1}")
        assert await leased_call(supervisor.slots["ns"], "pid") == plugin.pid
    plugin.terminate()
    await plugin.wait()


async def test_a_reload_to_another_version_of_the_catalogue(make_spec, program):
    def at_version(version):
        return PluginConfig(
            type="sidecar", command=[sys.executable, program], version=version, name="small"
        )

    spec = replace(make_spec(), at_version=at_version)
    async with supervised(spec) as supervisor:
        assert supervisor.status_of("ns").configured_version is None
        await supervisor.reload("ns", "v1.3")
        assert supervisor.status_of("ns").configured_version == "v1.3"
        assert math.isfinite(supervisor.status_of("ns").since)


async def test_a_stop_while_the_calls_of_a_restart_are_held(quick, autojump_clock):
    receipts = []
    async with trio.open_nursery() as nursery:
        async with supervised(quick()) as supervisor:
            nursery.start_soon(hold, supervisor.slots["ns"], [])
            await trio.testing.wait_all_tasks_blocked()

            async def restart():
                receipts.append(await supervisor.restart("ns"))

            nursery.start_soon(restart)
            await trio.testing.wait_all_tasks_blocked()
            supervisor.stop()
        await eventually(lambda: receipts)
    assert (receipts[0].outcome, receipts[0].reason) == ("failed", "the proxy is stopping")
    assert trio.current_time() < 30


# -- plugins that are refused ------------------------------------------------------------

INSIDE = """
from msgspec import Struct
from prism.sdk import Plugin, operation
from .answer import ANSWER

class Nothing(Struct):
    pass

class Inside(Plugin):
    name = "inside"
    @operation
    async def pid(self, params: Nothing) -> int:
        return ANSWER
"""


def pinned(spec, **keys):
    return msgspec.structs.replace(spec.plugin, **keys)


@pytest.fixture
def content(program):
    """The new version's program."""
    return Path(program).read_bytes() + b"\n# the new version\n"


async def test_a_tampered_process_is_not_swapped_in(make_spec, content, tmp_path):
    new = tmp_path / "new.py"
    new.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    spec = make_spec()
    versions = {"v2": pinned(spec, command=[sys.executable, str(new)], sha256=digest)}
    async with supervised(replace(spec, at_version=versions.__getitem__)) as supervisor:
        slot = supervisor.slots["ns"]
        pid = await leased_call(slot, "pid")
        new.write_bytes(content + b"raise SystemExit('tampered')\n")
        receipt = await supervisor.reload("ns", "v2")
        assert receipt.outcome == "rolled_back"
        assert "was refused (digest_mismatch)" in receipt.reason
        assert digest in receipt.reason
        assert await leased_call(slot, "pid") == pid
        assert supervisor.status_of("ns").state is State.READY
        new.write_bytes(content)
        receipt = await supervisor.reload("ns", "v2")
        assert receipt.outcome == "swapped"
        assert await leased_call(slot, "pid") == receipt.new.pid != pid


@pytest.fixture
def inside(tmp_path):
    """A package in whose plugin ``pid`` answers what ``answer.py`` says."""
    root = tmp_path / "inside_plugin"
    root.mkdir(mode=0o755)
    for name, text in (("__init__", ""), ("answer", "ANSWER = 1\n"), ("plugin", INSIDE)):
        (root / f"{name}.py").write_text(text)
    yield root
    for name in [name for name in sys.modules if name.partition(".")[0] == root.name]:
        del sys.modules[name]
    sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "package", "") != root.name]


async def test_a_class_inside_the_proxy_is_renewed_from_what_was_verified(
    make_spec, inside, tmp_path
):
    keys = {"type": "in_process", "module": "inside_plugin.plugin:Inside", "path": str(tmp_path)}
    async with supervised(make_spec(**keys)) as supervisor:
        slot = supervisor.slots["ns"]
        assert await leased_call(slot, "pid") == 1
        (inside / "answer.py").write_text("ANSWER = 2\n")
        old = slot.current
        assert (await supervisor.reload("ns")).outcome == "swapped"
        assert await leased_call(slot, "pid") == 2
        assert slot.current is not old
        (inside / "answer.py").chmod(0o666)
        (inside / "answer.py").write_text("raise SystemExit('tampered')\n")
        receipt = await supervisor.reload("ns")
        assert receipt.outcome == "rolled_back"
        assert "was refused (world_writable)" in receipt.reason
        assert await leased_call(slot, "pid") == 2

"""Keepers of in-process plugins on a mock clock, and of real processes."""

import os
import signal
import sys
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from supervised_plugin import eventually, leased_call

from prism.config.types import RestartConfig
from prism.contract.errors import (
    Draining,
    OperationInProgress,
    PluginCrashed,
    PluginUnavailable,
)
from prism.streams import unix
from prism.supervision.keeper import JITTER, Backoff, Keeper, run_detached
from prism.supervision.lifecycle import SERVING
from prism.supervision.slot import Slot
from prism.supervision.status import status_of
from prism.wire.events import GoAway


@asynccontextmanager
async def kept(spec):
    """A keeper that has made its first attempt; stopped on leaving."""
    slot = Slot(spec.namespace)
    keeper = Keeper(spec, slot)
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        try:
            yield keeper, slot
        finally:
            keeper.stop()


# -- in-process, on a mock clock ---------------------------------------------


async def test_a_plugin_is_served_and_shut_down(in_process, model, autojump_clock):
    async with kept(in_process()) as (_keeper, slot):
        instance = slot.current
        assert (instance.id, instance.plugin) == ("ns/1", "small")
        assert set(instance.operations) == {"wait", "which"}
    assert slot.current is None
    assert slot.absence == "the proxy is stopping"


async def test_failed_starts_back_off_and_say_why(in_process, model, autojump_clock, caplog):
    model.failures = 4
    async with kept(in_process()) as (_keeper, slot):
        assert slot.current is None
        assert "refused to start: start failed: ValueError: no backend" in slot.absence
        await eventually(lambda: slot.current)
    pauses = [b - a for a, b in zip(model.made, model.made[1:], strict=False)]
    assert len(pauses) == 4
    assert pauses == sorted(pauses)
    told = [record for record in caplog.records if "has no plugin" in record.message]
    assert len(told) == 1


async def test_initialize_has_a_time_limit(in_process, model, autojump_clock):
    model.hang = "start"
    async with kept(in_process(start_timeout_seconds=3)) as (_keeper, slot):
        assert "did not answer Initialize within 3 seconds" in slot.absence
        assert trio.current_time() == 3


@pytest.mark.parametrize("fault", ["sick", "health"])
async def test_failed_health_checks_replace_the_instance(in_process, model, autojump_clock, fault):
    health = {"interval_seconds": 10, "timeout_seconds": 5, "failure_threshold": 3}
    async with kept(in_process(health=health)) as (_keeper, slot):
        await trio.sleep(1)
        model.sick, model.hang = fault == "sick", fault
        await eventually(lambda: slot.current is None, limit=100)
        assert "3 health checks in a row failed" in slot.absence
        model.sick, model.hang = False, ""
        await eventually(lambda: slot.current, limit=100)
        assert slot.current.generation == 2
        assert 20 < trio.current_time() < 60


async def test_a_plugin_that_leaves_as_a_matter_of_routine_is_back_at_once(
    in_process, model, autojump_clock
):
    async with kept(in_process()) as (keeper, slot):
        for number in range(1, 9):
            await trio.sleep(3)
            keeper.current._take_goaway(GoAway(0, "max_age"))
            assert slot.expected
            await slot.wait_filled()
            assert trio.current_time() == 3 * number
        assert keeper.last_failure is None


async def test_one_that_leaves_before_it_was_of_use_is_not_dialled_without_end(
    in_process, model, autojump_clock
):
    async with kept(in_process()) as (keeper, _slot):
        for _ in range(8):
            await eventually(lambda: keeper.current)
            keeper.current._take_goaway(GoAway(0, "max_age"))
        await eventually(lambda: keeper.current, limit=100)
    assert trio.current_time() > 10


async def test_stopping_waits_for_running_calls(in_process, autojump_clock):
    results = []
    async with trio.open_nursery() as nursery:
        async with kept(in_process(drain_timeout_seconds=30)) as (keeper, slot):

            async def caller():
                results.append(await leased_call(slot, "wait"))

            nursery.start_soon(caller)
            await trio.testing.wait_all_tasks_blocked()
            keeper.stop()
        assert results == ["done"]


async def test_stopping_waits_for_the_calls_of_an_instance_on_its_way_out(
    in_process, model, autojump_clock
):
    results = []
    health = {"interval_seconds": 1, "failure_threshold": 1}
    async with trio.open_nursery() as nursery:
        async with kept(in_process(health=health)) as (keeper, slot):

            async def caller():
                results.append(await leased_call(slot, "wait"))

            nursery.start_soon(caller)
            model.sick = True
            await eventually(lambda: slot.current is None)
            keeper.stop()
        assert results == ["done"]
    assert len(model.made) == 1


async def test_the_drain_has_a_limit(in_process, autojump_clock):
    async with trio.open_nursery() as nursery:
        async with kept(in_process(drain_timeout_seconds=5)) as (keeper, slot):

            async def caller():
                with pytest.raises(Draining, match="did not end within 5 s; it may have run"):
                    await leased_call(slot, "wait")

            nursery.start_soon(caller)
            await trio.testing.wait_all_tasks_blocked()
            keeper.stop()
        assert trio.current_time() < 20


async def test_a_plugin_that_hangs_in_its_shutdown_is_left_behind(
    in_process, model, autojump_clock
):
    model.hang = "stop"
    async with kept(in_process(kill_timeout_seconds=2)):
        pass
    assert trio.current_time() == 4


async def test_stop_while_starting_and_before_running(in_process, model, autojump_clock):
    model.hang = "start"
    spec = in_process(start_timeout_seconds=1000)
    keeper = Keeper(spec, Slot("ns"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        while not model.made:  # its module is imported in a thread, of which trio knows nothing
            await trio.testing.wait_all_tasks_blocked()
        keeper.stop()
    assert trio.current_time() == 0
    early = Keeper(spec, Slot("ns"))
    early.stop()
    async with trio.open_nursery() as nursery:
        await nursery.start(early.run)
    assert len(model.made) == 1


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("no_such_module:X", "no module 'no_such_module'"),
        ("json:Nothing", "has no 'Nothing'"),
        ("json:JSONDecoder", "json:JSONDecoder is not a prism.sdk.Plugin"),
        ("a_shop:ItemId", "a_shop:ItemId is not a prism.sdk.Plugin; the module has Shop"),
        ("a_shop:shop", "module a_shop has no 'shop'; the module has Shop"),
        ("a_model:explode", "cannot be made: SystemExit: 3"),
        ("a_broken_one:X", "importing a_broken_one failed: SystemExit: 4"),
    ],
)
async def test_a_class_that_cannot_be_had(
    make_spec, model, module, message, autojump_clock, tmp_path, monkeypatch
):
    sys.modules["a_models_class"].explode = lambda: sys.exit(3)
    (tmp_path / "a_shop.py").write_text(
        "from prism.sdk import Plugin\nclass ItemId: pass\nclass Shop(Plugin): pass\n"
    )
    (tmp_path / "a_broken_one.py").write_text("import sys; sys.exit(4)")
    monkeypatch.syspath_prepend(tmp_path)
    async with kept(make_spec(type="in_process", module=module)) as (_keeper, slot):
        assert message in slot.absence


# -- processes ---------------------------------------------------------------


async def test_a_killed_process_fails_its_calls_and_is_replaced(make_spec, is_alive):
    async with kept(make_spec()) as (_keeper, slot):
        pid = await leased_call(slot, "pid")
        async with trio.open_nursery() as nursery:

            async def caller():
                with pytest.raises(PluginCrashed):
                    await leased_call(slot, "wait")

            for _ in range(3):
                nursery.start_soon(caller)
            await eventually(lambda: slot.current.leases == 3)
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: slot.current is not None and slot.current.generation == 2)
        assert await leased_call(slot, "pid") != pid
    assert not is_alive(pid)


async def test_a_process_that_asks_to_leave_is_replaced(make_spec):
    async with kept(make_spec()) as (_keeper, slot):
        pid = await leased_call(slot, "pid")
        results = []
        async with trio.open_nursery() as nursery:

            async def caller():
                results.append(await leased_call(slot, "short"))

            nursery.start_soon(caller)
            await eventually(lambda: slot.current.leases == 1)
            assert await leased_call(slot, "pid") == pid  # so the call before it has begun
            os.kill(pid, signal.SIGTERM)
        assert results == ["done"]
        await eventually(lambda: slot.current is not None and slot.current.generation == 2)


async def test_a_wedged_process_is_ended(make_spec, is_alive):
    async with kept(make_spec(cancel_grace_seconds=0.3)) as (keeper, slot):
        pid = await leased_call(slot, "pid")
        with trio.move_on_after(0.2):
            await leased_call(slot, "wedge")
        await eventually(lambda: slot.current is None)
        # Who asks for the state is told what callers are: that there is no instance.
        assert status_of(keeper).state not in SERVING
        await eventually(lambda: slot.current is not None and slot.current.generation == 2)
        assert not is_alive(pid)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit(7)", "exited with status 7"),
        ("import os; os.kill(os.getpid(), 11)", "was ended by SIGSEGV"),
        ("import time; time.sleep(60)", "did not begin the handshake within 2 seconds"),
        (
            "import os; os.write(int(os.environ['PRISM_PLUGIN_FD']), b'GET / HTTP/1.1' * 9)",
            "does not speak the frame protocol",
        ),
    ],
)
async def test_a_process_that_does_not_start(make_spec, caplog, code, message):
    command = [sys.executable, "-c", f"print('some output', flush=True); {code}"]
    async with kept(make_spec(command=command, start_timeout_seconds=2)) as (_keeper, slot):
        assert message in slot.absence
        assert "some output" not in slot.absence
    assert any("last output" in text and "some output" in text for text in caplog.messages)


async def test_a_plugin_that_dials_in_and_dials_again(make_spec, program, tmp_path):
    path = tmp_path / "d" / "s"
    async with kept(make_spec(socket=str(path))) as (_keeper, slot):
        assert slot.absence == f"it waits for the plugin to dial {path}"
        plugin = await trio.lowlevel.open_process(
            [sys.executable, program], env=os.environ | {"PLUGIN_SOCKET": str(path)}
        )
        first = await eventually(lambda: slot.current)
        path.unlink()
        await first.channel.aclose()
        again = await eventually(lambda: slot.current is not first and slot.current)
        assert await leased_call(slot, "pid") == plugin.pid
        assert again.generation == 2
        plugin.terminate()
        await plugin.wait()
    assert plugin.returncode == 0
    assert not path.exists()


async def test_calls_wait_for_a_plugin_that_dials_in(make_spec, program, tmp_path):
    path = tmp_path / "d" / "s"
    async with kept(make_spec(socket=str(path))) as (_keeper, slot):
        assert slot.expected  # it is started beside the proxy
        plugin = await trio.lowlevel.open_process(
            [sys.executable, program], env=os.environ | {"PLUGIN_SOCKET": str(path)}
        )
        with trio.fail_after(30):
            await slot.wait_filled()
        first = slot.current
        await first.channel.aclose()
        await eventually(lambda: slot.current is not first)
        with trio.fail_after(30):
            await slot.wait_filled()
        assert slot.current.generation == 2
        plugin.terminate()
        await plugin.wait()


async def test_calls_wait_so_long_for_the_first_that_dials_in(make_spec, tmp_path, autojump_clock):
    spec = make_spec(socket=str(tmp_path / "d" / "s"), start_timeout_seconds=7)
    async with kept(spec) as (_keeper, slot):
        with pytest.raises(PluginUnavailable):
            await slot.wait_filled()
        assert trio.current_time() == 7
        assert not slot.expected


async def test_nobody_waits_for_ever_for_a_plugin_that_dials_in(
    make_spec, tmp_path, autojump_clock
):
    spec = make_spec(socket=str(tmp_path / "d" / "s"), start_timeout_seconds=7)
    keeper = Keeper(spec, Slot("ns"))
    keeper.slot.say_absent("it left", expected=True)

    class Never:
        number = 2
        wait_settled = staticmethod(trio.sleep_forever)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper._wait_for_its_dialling, Never)
        with pytest.raises(PluginUnavailable):
            await keeper.slot.wait_filled()
    assert trio.current_time() == 7


async def test_stop_while_waiting_for_a_plugin_to_dial_in(make_spec, tmp_path, autojump_clock):
    async with kept(make_spec(socket=str(tmp_path / "d" / "s"))):
        await trio.sleep(100)
    assert trio.current_time() == 100


async def test_strangers_do_not_keep_the_plugin_waiting(make_spec, tmp_path, monkeypatch, caplog):
    path = tmp_path / "d" / "s"
    async with kept(make_spec(socket=str(path))) as (_keeper, slot):
        monkeypatch.setattr(unix, "peer_credentials", lambda _: unix.PeerCredentials(1, 99, 99))
        async with await trio.open_unix_socket(str(path)) as stranger:
            assert await stranger.receive_some() == b""
        refused = "refused a peer with pid 1, uid 99"
        await eventually(lambda: any(refused in text for text in caplog.messages))
        assert "waits for the plugin" in slot.absence


# -- operations -------------------------------------------------------------------------


async def test_one_operation_at_a_time_in_a_keeper_that_runs(in_process, autojump_clock):
    async def work():
        assert keeper.operation == "reload"
        with pytest.raises(OperationInProgress):
            await keeper.perform("drain", work)
        with pytest.raises(OperationInProgress):
            keeper.reset()
        return "done"

    keeper = Keeper(in_process(), Slot("ns"))
    with pytest.raises(Draining):
        await keeper.perform("reload", work)
    assert keeper.operation is None
    async with kept(in_process()) as (keeper, _slot):
        assert await keeper.perform("reload", work) == "done"
        assert keeper.operation is None


async def test_a_pause_ends_the_attempt_that_is_under_way(in_process, model, autojump_clock):
    model.hang = "start"
    async with kept(in_process(start_timeout_seconds=2)) as (keeper, slot):
        await eventually(lambda: len(model.made) == 2)
        keeper.pause("an operator wants none", held=True)
        await trio.sleep(100)
        assert (len(model.made), slot.absence, slot.held) == (2, "an operator wants none", True)
        assert keeper.generations == []
        model.hang = ""
        keeper.resume()
        await eventually(lambda: slot.current)
        keeper.pause("none after this one")
        assert slot.current is not None


async def fail_after_a_second():
    await trio.sleep(1)
    raise LookupError("a bug")


async def test_what_work_raises_is_raised_where_it_is_awaited(autojump_clock, caplog):
    done = []
    async with trio.open_nursery() as nursery:
        with pytest.raises(LookupError):
            await run_detached(nursery, fail_after_a_second, lambda: done.append(1))
    assert (done, caplog.records) == ([1], [])


async def test_work_goes_on_and_what_it_raises_is_logged_once_nobody_waits(autojump_clock, caplog):
    done = []
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.5):
            await run_detached(nursery, fail_after_a_second, lambda: done.append(1))
        assert (trio.current_time(), done) == (0.5, [])
    assert done == [1]
    assert "an operation failed that nobody waits for" in caplog.text
    assert "LookupError: a bug" in caplog.text


async def test_work_that_is_cancelled_is_so_told(autojump_clock):
    told = []

    async def wait(nursery):
        with pytest.raises(Draining, match="the proxy is stopping"):
            await run_detached(nursery, trio.sleep_forever, lambda: told.append("done"))
        told.append("told")

    async with trio.open_nursery() as outside, trio.open_nursery() as nursery:
        outside.start_soon(wait, nursery)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert told == ["done", "told"]


# -- pauses between starts --------------------------------------------------------------

RESTART = RestartConfig()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_delays_double_up_to_the_last_within_the_jitter(rolls):
    remaining = iter(rolls)
    backoff = Backoff(RESTART, lambda: next(remaining))
    expected = RESTART.first_delay_seconds
    for _ in rolls:
        delay = backoff.after(served=0, crashed=False)
        assert expected * (1 - JITTER) <= delay <= expected * (1 + JITTER)
        expected = min(2 * expected, RESTART.max_delay_seconds)


def test_a_good_run_starts_afresh():
    backoff = Backoff(RESTART, lambda: 0.5)
    first, good = RESTART.first_delay_seconds, RESTART.good_run_seconds
    delays = [backoff.after(0, crashed=True) for _ in range(5)]
    assert delays[-1] > delays[0]
    assert backoff.after(good - 1, crashed=True) > first
    assert backoff.after(good, crashed=True) == first
    assert backoff.crashes == 1


@given(st.integers(1, 20), st.lists(st.booleans(), max_size=60))
def test_only_crashes_in_a_row_exhaust_it(limit, crashes):
    backoff = Backoff(RestartConfig(max_crashes=limit), lambda: 0.5)
    in_a_row = 0
    for crashed in crashes:
        in_a_row = in_a_row + 1 if crashed else 0
        delay = backoff.after(1, crashed=crashed)
        assert (delay is None) == (in_a_row >= limit)
    backoff.reset()
    assert (backoff.after(0, crashed=True) is None) == (limit == 1)


def test_a_limit_of_zero_is_none():
    backoff = Backoff(RestartConfig(max_crashes=0), lambda: 0.5)
    assert None not in [backoff.after(0, crashed=True) for _ in range(1000)]

"""Replicas that are replaced one at a time: several of one model, on a mock clock."""

from collections import Counter
from dataclasses import replace as replace_spec

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from supervised_plugin import call, eventually, held, numbers, supervised

from prism.config.types import PluginConfig
from prism.contract.errors import InvalidRequest, OperationInProgress
from prism.supervision.canary import Canary
from prism.supervision.replicas import Replicas


async def test_a_reload_replaces_one_after_the_other(several, model, autojump_clock):
    async with supervised(several()) as supervisor:
        slot = supervisor.slots["ns"]
        fewest = 3

        async def watch():
            nonlocal fewest
            while True:
                fewest = min(fewest, len(slot.instances()))
                await trio.sleep(0.01)

        model.start_takes = 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            receipt = await supervisor.reload("ns")
            nursery.cancel_scope.cancel()
        assert (receipt.outcome, receipt.reason, receipt.calls.lost) == ("swapped", "", 0)
        assert [(one.replica, one.outcome) for one in receipt.replicas] == [
            ("1", "swapped"),
            ("2", "swapped"),
            ("3", "swapped"),
        ]
        assert fewest == 3
        assert model.made == sorted(model.made)
        assert [b - a for a, b in zip(model.made[3:], model.made[4:], strict=False)] == [1, 1]
        assert set(await numbers(slot)) == {4, 5, 6}
        assert supervisor.journals["ns"].reloads == {"swapped": 1}


async def test_a_reload_stops_at_the_first_that_fails(several, model, autojump_clock, monkeypatch):
    async with supervised(several()) as supervisor:
        slot = supervisor.slots["ns"]

        async def start(self):
            if self.number == 5:
                raise ValueError("no such table")

        monkeypatch.setattr(model, "start", start)
        receipt = await supervisor.reload("ns")
        assert receipt.outcome == "partial"
        assert receipt.reason.startswith("1 of 3 replicas were replaced (3 run ")
        assert receipt.reason.endswith("no such table")
        assert [one.outcome for one in receipt.replicas] == ["swapped", "rolled_back"]
        assert receipt.calls.lost == 0
        answer = set(await numbers(slot))
        assert 4 in answer
        assert len(answer & {1, 2, 3}) == 2


async def test_one_whose_first_fails_is_rolled_back(several, model, autojump_clock, monkeypatch):
    async with supervised(several()) as supervisor:

        async def start(self):
            raise ValueError("no such table")

        monkeypatch.setattr(model, "start", start)
        receipt = await supervisor.reload("ns")
        assert receipt.outcome == "rolled_back"
        assert set(await numbers(supervisor.slots["ns"])) == {1, 2, 3}


async def test_a_replica_that_was_down_before_does_not_stop_it(several, model, autojump_clock):
    async with supervised(several()) as supervisor:
        group = supervisor._keepers["ns"]
        group.members["1"].pause("somebody took it away")
        group.members["1"].current.retire("somebody took it away")
        await eventually(lambda: not group.members["1"].generations)
        receipt = await supervisor.reload("ns")
        assert receipt.outcome == "swapped"
        assert [one.replica for one in receipt.replicas] == ["2", "3"]
        await eventually(lambda: len(supervisor.slots["ns"].instances()) == 3)


async def test_a_canary_is_tried_on_the_first(several, model, autojump_clock):
    async with supervised(several()) as supervisor:
        slot = supervisor.slots["ns"]
        async with trio.open_nursery() as nursery:
            seen = Counter()

            async def load():
                while True:
                    with held(slot) as instance:
                        seen[await call(instance, "which")] += 1
                        if instance.sample is not None:
                            instance.sample.take(0.001, 0)
                    await trio.sleep(0.01)

            nursery.start_soon(load)
            canary = Canary(share=0.5, min_calls=50, min_seconds=2)
            receipt = await supervisor.reload("ns", canary=canary)
            nursery.cancel_scope.cancel()
        assert receipt.outcome == "swapped"
        assert [one.outcome for one in receipt.replicas] == ["swapped"] * 3
        assert receipt.replicas[0].phases.canary >= 2
        assert seen[4] >= 50


async def test_a_reload_that_is_stopped_half_way(several, model, autojump_clock):
    async with supervised(several()) as supervisor:
        model.start_takes = 5
        receipts = []
        async with trio.open_nursery() as nursery:

            async def reload():
                receipts.append(await supervisor.reload("ns"))

            nursery.start_soon(reload)
            await trio.sleep(7)  # the second one starts
            receipt = await supervisor.abort("ns")
        assert receipts == [receipt]
        assert receipt.outcome == "partial"
        assert "an operator stopped it" in receipt.reason
        with pytest.raises(InvalidRequest):
            await supervisor.abort("ns")


async def test_restart_one_after_the_other(several, model, autojump_clock):
    async with supervised(several()) as supervisor:
        slot = supervisor.slots["ns"]
        model.start_takes = 1
        fewest = 3
        async with trio.open_nursery() as nursery:

            async def watch():
                nonlocal fewest
                while True:
                    fewest = min(fewest, len(slot.instances()))
                    await trio.sleep(0.01)

            nursery.start_soon(watch)
            receipt = await supervisor.restart("ns")
            nursery.cancel_scope.cancel()
        assert (receipt.outcome, fewest) == ("swapped", 2)
        assert set(await numbers(slot)) == {4, 5, 6}


async def test_drain_and_restart(several, model, autojump_clock):
    async with supervised(several()) as supervisor:
        slot = supervisor.slots["ns"]
        receipt = await supervisor.drain("ns")
        assert (receipt.outcome, len(receipt.replicas)) == ("drained", 3)
        assert (slot.is_ready, slot.expected) == (False, False)
        assert slot.absence == "it was drained by an operator"
        receipt = await supervisor.restart("ns")
        assert (receipt.outcome, len(slot.instances())) == ("swapped", 3)


async def test_one_operation_at_a_time(several, model, autojump_clock):
    async with supervised(several()) as supervisor:
        model.start_takes = 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.reload, "ns")
            await trio.sleep(0.5)
            assert supervisor.status_of("ns").operation == "reload"
            for operation in (supervisor.reload, supervisor.restart, supervisor.drain):
                with pytest.raises(OperationInProgress):
                    await operation("ns")
            with pytest.raises(OperationInProgress):
                supervisor.reset("ns")


# -- changes of the configuration ---------------------------------------------


def with_processes(spec, number, **plugin):
    return replace_spec(spec, plugin=replace(spec.plugin, processes=number, **plugin))


async def test_more_and_fewer_leave_the_others_alone(several, model, autojump_clock):
    spec = several(3)
    async with supervised(spec) as supervisor:
        slot = supervisor.slots["ns"]
        applied = await supervisor.apply([with_processes(spec, 5)])
        assert applied.applied
        assert set(await numbers(slot, 200)) == {1, 2, 3, 4, 5}
        applied = await supervisor.apply([with_processes(spec, 2)])
        assert (applied.applied, applied.receipts[0].outcome) == (True, "swapped")
        assert len(await numbers(slot)) == 2
        assert len(model.made) == 5
        assert [one.name for one in supervisor.status_of("ns").replicas] == ["1", "2"]
        assert supervisor.slots["ns"] is slot
        # Who comes again is somebody else.
        await supervisor.apply([spec])
        assert supervisor.status_of("ns").replicas[2].instance == "ns/3/3"


async def test_one_becomes_several_and_one_again(several, model, autojump_clock):
    spec = several(1)
    async with supervised(spec) as supervisor:
        one = supervisor.slots["ns"]
        slots = []

        def commit(added, removed):
            assert not removed
            slots.append(added["ns"])

        async with trio.open_nursery() as nursery:
            with held(one) as instance:
                nursery.start_soon(supervisor.apply, [with_processes(spec, 3)], commit)
                await eventually(lambda: slots)
                assert await call(instance, "which") == 1
                assert one.current is None
            assert instance.lost == 0
        assert isinstance(supervisor._keepers["ns"], Replicas)
        assert set(await numbers(slots[0])) == {2, 3, 4}
        applied = await supervisor.apply([spec], commit)
        assert [receipt.outcome for receipt in applied.receipts] == ["swapped"]
        assert set(await numbers(slots[1])) == {5}
        assert supervisor.status_of("ns").instance == "ns/3"


async def test_several_that_do_not_start_leave_the_one_alone(several, model, autojump_clock):
    spec = several(1)
    async with supervised(spec) as supervisor:
        model.failures = 100
        applied = await supervisor.apply([with_processes(spec, 3)])
        assert "no backend" in applied.failures["ns"]
        assert set(await numbers(supervisor.slots["ns"])) == {1}
        assert supervisor.status_of("ns").replicas == []


async def test_one_that_may_not_run_twice_ends_before_the_several_start(
    several, model, autojump_clock
):
    spec = several(1, overlap=False)
    async with supervised(spec) as supervisor:
        one, slots = supervisor.slots["ns"], []

        def commit(added, _removed):
            slots.append(added["ns"])

        wanted = with_processes(spec, 3, overlap=None)
        [change] = supervisor.plan([wanted])
        assert change.action == "restart"
        async with trio.open_nursery() as nursery:
            with held(one):
                nursery.start_soon(supervisor.apply, [wanted], commit)
                await eventually(lambda: slots)
                assert slots[0].held
                nursery.start_soon(slots[0].wait_filled)
                await trio.sleep(1)
                assert len(model.made) == 1
        assert len(await numbers(slots[0])) == 3
        assert not slots[0].held


async def test_a_change_of_what_they_share_by_replaces_nothing(several, model, autojump_clock):
    spec = several(3)
    async with supervised(spec) as supervisor:
        balance = replace(spec.plugin.balance, max_ejected=0.0)
        applied = await supervisor.apply([with_processes(spec, 3, balance=balance)])
        assert applied.applied
        assert len(model.made) == 3
        assert supervisor._keepers["ns"].balance.config.max_ejected == 0


async def test_a_change_that_is_stopped_half_way_is_finished_by_the_next(
    several, model, autojump_clock, monkeypatch
):
    spec = several(3)
    async with supervised(spec) as supervisor:

        async def start(self):
            if self.number == 5:
                raise ValueError("no such table")

        monkeypatch.setattr(model, "start", start)
        changed = with_processes(spec, 3, drain_timeout_seconds=3.0)
        applied = await supervisor.apply([changed])
        assert (applied.applied, applied.receipts[0].outcome) == (True, "partial")
        assert [change.action for change in supervisor.plan([changed])] == ["reload"]
        before = set(await numbers(supervisor.slots["ns"]))
        applied = await supervisor.apply([changed])
        [receipt] = applied.receipts
        assert (receipt.outcome, len(receipt.replicas)) == ("swapped", 2)
        assert len(before & set(await numbers(supervisor.slots["ns"]))) == 1
        assert [change.action for change in supervisor.plan([changed])] == ["stay"]


async def test_what_an_operator_s_reload_left_half_way_no_other_change_touches(
    several, model, autojump_clock, monkeypatch
):
    spec = several(3)
    async with supervised(spec) as supervisor:

        async def start(self):
            if self.number == 5:
                raise ValueError("no such table")

        monkeypatch.setattr(model, "start", start)
        assert (await supervisor.reload("ns")).outcome == "partial"
        assert [change.action for change in supervisor.plan([spec])] == ["stay"]


async def test_a_change_that_the_first_does_not_survive(several, model, autojump_clock):
    spec = several(3)
    async with supervised(spec) as supervisor:
        model.failures = 100
        changed = with_processes(spec, 4, drain_timeout_seconds=3.0)
        applied = await supervisor.apply([changed])
        assert "no backend" in applied.failures["ns"]
        assert set(await numbers(supervisor.slots["ns"])) == {1, 2, 3}
        assert not supervisor._keepers["ns"].coming
        model.failures = 0
        applied = await supervisor.apply([changed])
        assert applied.receipts[0].outcome == "swapped"
        assert len(await numbers(supervisor.slots["ns"], 200)) == 4
        assert not {1, 2, 3} & set(await numbers(supervisor.slots["ns"], 200))


async def test_a_stop_while_addresses_of_a_change_are_looked_up(
    make_spec, autojump_clock, monkeypatch
):
    """Those that it would have brought never ran, and nobody waits for their end."""
    asked = trio.Event()

    async def look_up(host, port):
        if host == "new.example":
            asked.set()
            await trio.sleep(3)
            return ["127.0.0.2"]
        return ["127.0.0.1"]

    monkeypatch.setattr("prism.supervision.replicas.look_up", look_up)

    def spec(host):
        plugin = PluginConfig(type="remote", endpoint=f"{host}:9", resolve="all")
        return replace_spec(make_spec(), plugin=plugin)

    applied = []

    async def apply():
        applied.append(await supervisor.apply([spec("new.example")]))

    with trio.fail_after(1000):
        async with supervised(spec("old.example")) as supervisor, trio.open_nursery() as nursery:
            nursery.start_soon(apply)
            await asked.wait()
            supervisor.stop()
    assert applied[0].failures == {"ns": "the proxy is stopping"}


# -- a version that has other replicas ------------------------------------------


def other_number(several, number, other):
    """The spec of ``number`` replicas, whose version 2 has ``other`` of them."""
    spec = several(number)
    return replace_spec(
        spec, at_version=lambda _version: with_processes(spec, other, version="2").plugin
    )


@pytest.mark.parametrize("other", [2, 4])
async def test_a_canary_of_a_version_with_other_replicas(several, model, autojump_clock, other):
    async with supervised(other_number(several, 3, other)) as supervisor:
        receipts = []

        async def reload():
            canary = Canary(share=0.5, min_calls=50, min_seconds=2, max_seconds=5)
            receipts.append(await supervisor.reload("ns", "2", canary))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload)
            await eventually(lambda: supervisor.status_of("ns").canary)
            assert len(supervisor.status_of("ns").replicas) == 3
        assert receipts[0].outcome == "rolled_back"
        assert "only 0 of the 50 calls" in receipts[0].reason
        assert set(await numbers(supervisor.slots["ns"])) == {1, 2, 3}
        assert not supervisor._keepers["ns"].coming


@pytest.mark.parametrize("number", [1, 3])
async def test_what_has_not_come_to_its_swap_is_stopped_at_once(
    several, model, autojump_clock, number
):
    async with supervised(other_number(several, 2, number + 2)) as supervisor:
        receipts = []
        model.start_takes = 5

        async def reload():
            receipts.append(await supervisor.reload("ns", "2"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload)
            await trio.sleep(1)
            began = trio.current_time()
            receipt = await supervisor.abort("ns")
            assert trio.current_time() - began < 1
        assert receipts == [receipt]
        assert receipt.outcome == "rolled_back"
        assert "an operator stopped it" in receipt.reason
        assert set(await numbers(supervisor.slots["ns"])) == {1, 2}
        assert not supervisor._keepers["ns"].coming


async def test_a_drain_ends_a_replica_that_is_not_in_the_dns_any_more(
    several, model, autojump_clock
):
    """It serves on as long as no other does; what is drained serves no more."""
    async with supervised(several(2)) as supervisor:
        group = supervisor._keepers["ns"]
        group.spec = with_processes(group.spec, 1)
        receipt = await supervisor.drain("ns")
        assert (receipt.outcome, len(receipt.replicas)) == ("drained", 2)
        assert not supervisor.slots["ns"].is_ready


async def test_who_joins_what_is_drained_waits_for_the_restart(
    make_spec, autojump_clock, monkeypatch
):
    addresses = ["127.0.0.1"]

    async def look_up(_host, _port):
        await trio.lowlevel.checkpoint()
        return list(addresses)

    monkeypatch.setattr("prism.supervision.replicas.look_up", look_up)
    plugin = PluginConfig(type="remote", endpoint="a.example:9", resolve="all")
    async with supervised(replace_spec(make_spec(), plugin=plugin)) as supervisor:
        group = supervisor._keepers["ns"]
        await supervisor.drain("ns")
        addresses[:] = ["127.0.0.2"]
        await trio.sleep(60)
        assert list(group.members) == ["127.0.0.2:9"]
        assert group.paused
        assert group.newest is None
        assert supervisor.slots["ns"].absence == "it was drained by an operator"
        receipt = await supervisor.restart("ns")
        assert [one.replica for one in receipt.replicas] == ["127.0.0.2:9"]


# -- a replica that is down -----------------------------------------------------


async def take_away(group, name):
    group.members[name].pause("somebody took it away")
    group.members[name].current.retire("somebody took it away")
    await eventually(lambda: not group.members[name].generations)


async def test_one_that_is_down_is_no_proof(several, model, autojump_clock):
    """Nor does it get the new version before another one was the proof."""
    async with supervised(other_number(several, 3, 3)) as supervisor:
        group = supervisor._keepers["ns"]
        await take_away(group, "1")
        model.failures = 100
        receipt = await supervisor.reload("ns", "2")
        assert (receipt.outcome, len(receipt.replicas)) == ("rolled_back", 1)
        assert {member.spec.plugin.version for member in group.members.values()} == {None}
        assert group.members["1"].paused
        model.failures = 0
        receipt = await supervisor.reload("ns", "2")
        assert receipt.outcome == "swapped"
        await eventually(lambda: len(supervisor.slots["ns"].instances()) == 3)
        assert {member.spec.plugin.version for member in group.members.values()} == {"2"}


async def test_a_change_is_refused_though_the_first_is_down(several, model, autojump_clock):
    spec = several(3)
    async with supervised(spec) as supervisor:
        await take_away(supervisor._keepers["ns"], "1")
        model.failures = 100
        applied = await supervisor.apply([with_processes(spec, 3, drain_timeout_seconds=3.0)])
        assert "no backend" in applied.failures["ns"]
        assert supervisor.specs["ns"] == spec


@pytest.mark.parametrize("number", [2, 3, 4])
async def test_a_change_of_a_shadow_s_replicas(several, model, autojump_clock, number):
    """Nothing waits for them, but they are as it says in the end."""
    spec = replace_spec(several(3), shadow_of="ns")
    changed = with_processes(spec, number, drain_timeout_seconds=3.0)
    async with supervised(spec) as supervisor:
        await eventually(lambda: len(supervisor.slots["ns"].instances()) == 3)
        applied = await supervisor.apply([changed])
        assert [receipt.outcome for receipt in applied.receipts] == ["swapped"]
        assert len(supervisor._keepers["ns"].members) == number
        assert not {1, 2, 3} & set(await numbers(supervisor.slots["ns"]))
        assert [change.action for change in supervisor.plan([changed])] == ["stay"]
        assert supervisor.specs["ns"] == changed
        applied = await supervisor.apply([with_processes(changed, 5)])
        assert [receipt.outcome for receipt in applied.receipts] == ["swapped"]
        assert len(model.made) == 3 + 5

"""What a namespace's status says at each stage of its plugin's life."""

import msgspec
import trio
import trio.testing
from supervised_plugin import ScriptedConnector, eventually, leased_call, supervised

from prism.supervision.keeper import Keeper
from prism.supervision.lifecycle import State
from prism.supervision.slot import Slot
from prism.supervision.status import NamespaceStatus, status_of


def test_before_it_has_begun(make_spec):
    keeper = Keeper(make_spec(), Slot("ns"))
    status = status_of(keeper)
    assert (status.state, status.since) == (State.STARTING, keeper.made)
    assert (status.reason, status.instance) == ("it has not started yet", None)
    assert (status.generations, status.retry_in, status.last_error) == ([], None, "")


async def test_while_it_serves_and_while_the_one_before_still_ends(in_process, autojump_clock):
    async with supervised(in_process(version="v1")) as supervisor:
        slot = supervisor.slots["ns"]
        status = supervisor.status_of("ns")
        assert (status.plugin, status.type, status.instance) == ("small", "in_process", "ns/1")
        assert (status.configured_version, status.pid) == ("v1", None)
        assert (status.state, status.reason, status.health) == (State.READY, "", "HEALTHY")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leased_call, slot, "wait")
            await trio.testing.wait_all_tasks_blocked()
            slot.current.health = None
            nursery.start_soon(supervisor.restart, "ns")
            await trio.testing.wait_all_tasks_blocked()
            status = supervisor.status_of("ns")
            assert (status.operation, status.in_flight) == ("restart", 1)
            assert (status.state, status.instance) == (State.DRAINING, None)
            assert status.reason == "it is being replaced"
            (draining,) = status.generations
            assert (draining.id, draining.state, draining.in_flight) == ("ns/1", State.DRAINING, 1)
        assert [one.id for one in supervisor.status_of("ns").generations] == ["ns/2"]


async def test_while_its_next_start_is_awaited(in_process, model, autojump_clock):
    model.failures = 1
    restart = {"first_delay_seconds": 10}
    async with supervised(in_process(restart=restart)) as supervisor:
        await trio.sleep(1)
        status = supervisor.status_of("ns")
        assert status.state is State.BACKING_OFF
        assert "ValueError: no backend" in status.last_error
        assert "ValueError: no backend" in status.reason
        assert 6 < status.retry_in < 12
        await eventually(lambda: supervisor.status_of("ns").instance)
        status = supervisor.status_of("ns")
        assert (status.retry_in, status.restarts) == (None, 0)
        assert "ValueError: no backend" in status.last_error


def test_a_status_is_a_value_that_can_be_encoded(make_spec):
    status = status_of(Keeper(make_spec(), Slot("ns")))
    encoded = msgspec.json.encode(status)
    assert msgspec.json.decode(encoded, type=NamespaceStatus) == status


async def test_a_process_that_is_reaped_has_no_number_any_more(make_spec):
    keeper = Keeper(make_spec(), Slot("ns"))
    connector = ScriptedConnector()
    keeper.generations.append(connector.generation(lambda _generation: None))
    assert [one.pid for one in status_of(keeper).generations] == [99]
    connector.ending = "was ended by SIGKILL"
    assert [one.pid for one in status_of(keeper).generations] == [None]

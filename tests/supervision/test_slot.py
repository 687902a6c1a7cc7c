import pytest
import trio
import trio.testing

from prism.contract.errors import PluginUnavailable
from prism.supervision.instance import Instance
from prism.supervision.slot import Slot


def instance(generation=1):
    return Instance("ns", generation, "p", "1", channel=None, operations={})


def test_an_empty_slot_tells_callers_no_reasons():
    slot = Slot("ns")
    slot.absence = "no database at db:5432"
    with pytest.raises(PluginUnavailable) as caught:
        slot.lease().__enter__()
    assert str(caught.value) == "namespace 'ns' has no plugin now"


async def test_an_instance_is_drained_when_its_last_lease_is_returned():
    slot = Slot("ns")
    old, new = instance(1), instance(2)
    assert slot.fill(old) is None
    drained = []

    async def drain():
        await old.wait_no_leases()
        drained.append(old.leases)

    async with trio.open_nursery() as nursery:
        with slot.lease() as first:
            with slot.lease():
                assert slot.fill(new) is old
                nursery.start_soon(drain)
                await trio.testing.wait_all_tasks_blocked()
            assert (first, old.leases, drained) == (old, 1, [])
            with slot.lease() as later:
                assert later is new
    assert (drained, new.leases, old.id) == ([0], 0, "ns/1")


def test_only_the_current_instance_can_be_cleared():
    slot = Slot("ns")
    old, new = instance(1), instance(2)
    slot.fill(new)
    slot.clear(old, "no")
    assert slot.current is new
    slot.clear(new, "it stopped")
    assert (slot.current, slot.absence) == (None, "it stopped")


def test_a_lease_is_returned_when_the_call_fails():
    slot = Slot("ns")
    slot.fill(instance())
    with pytest.raises(LookupError), slot.lease() as held:
        raise LookupError
    assert held.leases == 0

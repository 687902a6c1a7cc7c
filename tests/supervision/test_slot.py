import math
from collections import Counter

import pytest
import trio
import trio.testing
from supervised_plugin import held

from prism.contract.errors import ChannelClosed, PluginUnavailable
from prism.contract.messages import OperationDeclaration
from prism.supervision.instance import Instance
from prism.supervision.slot import Slot


class Channel:
    ended = None


def instance(generation=1, **operations):
    return Instance("ns", generation, "p", "1", channel=Channel(), operations=operations)


def test_an_empty_slot_tells_callers_no_reasons():
    slot = Slot("ns")
    slot.absence = "no database at db:5432"
    with pytest.raises(PluginUnavailable) as caught:
        slot.choose()
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
        with held(slot) as first:
            with held(slot):
                assert slot.fill(new) is old
                nursery.start_soon(drain)
                await trio.testing.wait_all_tasks_blocked()
            assert (first, old.leases, drained) == (old, 1, [])
            with held(slot) as later:
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


# -- a share of the calls ---------------------------------------------------------------


def test_a_canary_gets_its_share_while_it_takes_calls():
    slot = Slot("ns")
    old, new = instance(1), instance(2)
    slot.fill(old)
    with slot.sharing(new, 0.25):
        assert Counter(slot.choose().id for _ in range(100)) == {"ns/1": 75, "ns/2": 25}
        assert slot.still_serves("ns/2")
        new.channel.ended = ChannelClosed("gone")
        assert {slot.choose() for _ in range(100)} == {old}
        assert not slot.still_serves("ns/2")
    assert (slot.canary, slot.current) == (None, old)


def test_a_canary_that_leaves_is_out_at_once():
    slot = Slot("ns")
    old, new = instance(1), instance(2)
    slot.fill(old)
    with slot.sharing(new, 0.5):
        slot.clear(new)
        assert (slot.canary, slot.current) == (None, old)
        assert {slot.choose() for _ in range(10)} == {old}


# -- waiting for one --------------------------------------------------------------------


async def test_calls_wait_while_one_is_expected(autojump_clock):
    slot = Slot("ns")
    outcomes = []

    async def wait():
        try:
            await slot.wait_filled()
        except PluginUnavailable as error:
            outcomes.append(error.retry_after)
        else:
            outcomes.append(slot.current.id)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert slot.waiting == 1
        slot.say_absent("it crashed", expected=True)
        await trio.testing.wait_all_tasks_blocked()
        assert (slot.waiting, outcomes) == (1, [])
        slot.fill(instance())
    assert (slot.waiting, outcomes) == (0, ["ns/1"])
    slot.clear(slot.current)
    slot.say_absent("again", retry_at=trio.current_time() + 3)
    await wait()
    slot.say_absent("an operator has drained it", retry_at=math.inf)
    await wait()
    assert outcomes == ["ns/1", 3, math.inf]


async def test_calls_wait_for_the_next_when_the_channel_of_this_one_has_broken(autojump_clock):
    """Its slot may not know yet."""
    slot = Slot("ns")
    first = instance(1)
    slot.fill(first)
    first.channel.ended = ChannelClosed("gone")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slot.wait_filled)
        await trio.testing.wait_all_tasks_blocked()
        slot.fill(instance(2))


def test_what_may_be_repeated_is_remembered_of_the_last_instance():
    slot = Slot("ns")
    get = OperationDeclaration(name="get", idempotent=True)
    slot.fill(instance(1, get=get, set=OperationDeclaration(name="set")))
    slot.clear(slot.current)
    assert [slot.is_idempotent(name) for name in ("get", "set", "no")] == [True, False, False]

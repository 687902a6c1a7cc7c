import math

import pytest

from prism.config.plugin_types import BalanceConfig
from prism.contract.errors import ChannelClosed, PluginUnavailable
from prism.contract.messages import OperationDeclaration
from prism.supervision.balance import Balance
from prism.supervision.instance import Instance
from prism.supervision.replica_slot import ReplicaSlot, SharedSlot


class Channel:
    ended = None


def instance(name, generation=1, **operations):
    return Instance("ns", generation, "p", "1", Channel(), operations, replica_name=name)


@pytest.fixture
def shared():
    """A slot over those of the replicas ``a`` and ``b``, which are empty."""
    slot = SharedSlot("ns", Balance(BalanceConfig(slow_start_seconds=0), "", now=lambda: 1.0))
    for name in "ab":
        slot.join(ReplicaSlot("ns", name), "")
    return slot


def test_it_is_filled_while_one_replica_serves(shared):
    changes = []
    shared.on_change = lambda: changes.append(shared.current)
    a, b = shared.members
    first, second = instance("a", get=OperationDeclaration(name="get")), instance("b")
    a.fill(first)
    b.fill(second)
    assert (shared.current, shared.instances()) == (first, [first, second])
    assert list(shared.operations) == []
    a.clear(first, "it left")
    assert (shared.current, shared.is_ready, changes) == (second, True, [first])
    b.clear(second, "it left, too")
    assert (shared.current, shared.absence) == (None, "it left; it left, too")
    assert changes == [first, None]
    with pytest.raises(PluginUnavailable):
        shared.choose()


def test_what_can_be_hoped_for_is_what_the_best_can_hope_for(shared):
    a, b = shared.members
    a.say_absent("it crashed too often", retry_at=math.inf)
    b.say_absent("it failed", retry_at=30.0, output=("oh",))
    assert (shared.expected, shared.retry_at, shared.output) == (False, 30.0, ("oh",))
    b.say_absent("it is being replaced", held=True)
    assert (shared.expected, shared.held, shared.retry_at) == (True, True, None)


def test_one_that_has_broken_is_there_and_takes_no_calls(shared):
    a, b = shared.members
    first, second = instance("a"), instance("b")
    a.fill(first)
    b.fill(second)
    first.channel.ended = ChannelClosed("gone")
    assert {shared.choose() for _ in range(20)} == {second}
    assert shared.is_ready
    assert not shared.still_serves("ns/a/1")
    assert shared.has_another(first)
    assert not shared.has_another(second)


def test_one_that_leaves_says_nothing_any_more(shared):
    a, b = shared.members
    first, second = instance("a"), instance("b")
    a.fill(first)
    b.fill(second)
    lost = []
    shared.on_lost = lambda: lost.append(True)
    shared.leave(a)
    assert (shared.members, shared.current) == ([b], second)
    a.clear(first, "it ended")
    a.say_absent("it ended")
    assert not lost
    b.clear(second)
    b.say_absent("it was lost")
    assert (lost, shared.absence) == ([True], "it was lost")


def test_a_canary_has_its_share_of_all_calls(shared):
    a, b = shared.members
    a.fill(instance("a"))
    b.fill(instance("b"))
    canary = instance("a", 2)
    with a.sharing(canary, 0.25):
        chosen = [shared.choose() for _ in range(100)]
        assert chosen.count(canary) == 25
        assert shared.still_serves(canary.id)
        a.clear(canary)
        assert shared.canary is None
    assert canary not in {shared.choose() for _ in range(20)}

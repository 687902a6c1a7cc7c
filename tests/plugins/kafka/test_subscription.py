"""What was handed out and is settled, without a broker."""

import pytest
from confluent_kafka import Message

from prism_plugins.kafka import params as p
from prism_plugins.kafka.cluster import Topics
from prism_plugins.kafka.subscription import Part, Subscription


def handed_out(limit: int | None = None) -> Subscription:
    """Ten messages of each of two partitions, in turns."""
    params = p.Subscribe(topics=["orders"], group="ours", auto_acknowledge=True, limit=limit)
    subscription = Subscription({}, "ours", Topics(""), params, 1_000_000, lambda *_: None)
    subscription._take([Part("orders", "orders", number) for number in (0, 1)])
    subscription.inbox.clear()
    subscription._arrived(
        [
            Message(topic="orders", partition=number, offset=offset, value=b"x" * offset)
            for offset in range(10)
            for number in (0, 1)
        ]
    )
    return subscription


@pytest.fixture
async def two() -> tuple[Subscription, Subscription]:
    return handed_out(), handed_out()


@pytest.mark.parametrize("order", [1, -1])
async def test_several_are_settled_as_each_by_itself(two, order):
    together, one_by_one = two
    for subscription in two:
        subscription.taken = subscription.take_deliveries(15, 10_000)[::order]
    together.settle_all(together.taken)
    for delivery in one_by_one.taken:
        one_by_one.settle(delivery)
    for name in ("settled", "unsettled", "_released", "_released_bytes", "_out_of_order"):
        assert getattr(together, name) == getattr(one_by_one, name), name
    stored = [
        {(part.number): offset for part, offset in subscription._to_store} for subscription in two
    ]
    assert stored[0] == stored[1] == {0: 8, 1: 7}


async def test_what_is_settled_or_gone_is_not_settled_again(two):
    subscription, _ = two
    taken = subscription.take_deliveries(20, 10_000)
    subscription.settle_all(taken[:2])
    subscription._drop([subscription.parts["orders", 1]])
    subscription.settle_all(taken)
    assert subscription.settled == 11
    assert subscription._released == 20
    assert subscription.unsettled == 0


async def test_the_limit_may_be_passed_in_one_step():
    subscription = handed_out(limit=5)
    subscription._wake = type(subscription._wake)()
    subscription.settle_all(subscription.take_deliveries(7, 10_000))
    assert subscription.is_done
    assert subscription._wake.is_set()


async def test_who_waits_for_room_is_told_when_there_is_so_much(two):
    subscription, _ = two
    subscription._handed = 1_000
    assert not subscription._wait_for_room(10, 0)
    subscription._wanted = 10  # the thread waits
    taken = subscription.take_deliveries(20, 10_000)
    subscription.settle_all(taken[:9])
    assert not subscription._has_room.is_set()
    subscription.settle(taken[9])
    assert subscription._has_room.is_set()

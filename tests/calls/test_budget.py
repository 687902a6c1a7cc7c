"""What further attempts cost, and where that comes from."""

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from prism.calls.budget import FLOOR, WINDOW, Budget

RESERVE = FLOOR * WINDOW


def of(share):
    budget = Budget()
    budget.share = share
    return budget


def taken(budget):
    """How many attempts it allows now."""
    number = 0
    while budget.take():
        number += 1
    return number


async def test_each_call_brings_its_share_and_a_few_are_always_there(autojump_clock):
    budget = of(0.1)
    assert taken(budget) == RESERVE
    assert (budget.refused, round(budget.left, 6)) == (1, 0)
    for _ in range(100):
        budget.add_call()
    assert taken(budget) == 10
    await trio.sleep(3 / FLOOR)
    assert taken(budget) == 3
    assert budget.refused == 3


async def test_what_was_saved_is_forgotten(autojump_clock):
    budget = of(0.5)
    for _ in range(1000):
        budget.add_call()
    await trio.sleep(WINDOW / 2)
    budget.add_call()
    assert budget.left == 500.5 + RESERVE
    await trio.sleep(WINDOW / 2)
    budget.add_call()
    assert budget.left == 1 + RESERVE
    await trio.sleep(WINDOW)
    assert budget.left == RESERVE


async def test_one_that_was_not_made_is_given_back(autojump_clock):
    budget = of(0)
    assert taken(budget) == RESERVE
    budget.give_back()
    assert taken(budget) == 1


async def test_without_a_share_rare_calls_are_repeated_still(autojump_clock):
    budget = of(0)
    for _ in range(100):
        budget.add_call()
        assert budget.take()
        await trio.sleep(1 / FLOOR)


steps = st.lists(
    st.tuples(st.sampled_from(["call", "take", "take", "give back"]), st.floats(0, 4)), max_size=200
)


@settings(max_examples=200)
@given(st.floats(0, 1), steps)
def test_it_is_never_overdrawn(share, steps):
    async def main():
        budget = of(share)
        began, calls, attempts = trio.current_time(), 0, 0
        for step, pause in steps:
            if step == "call":
                budget.add_call()
                calls += 1
            elif step == "take":
                attempts += budget.take()
            elif attempts:
                budget.give_back()
                attempts -= 1
            seconds = trio.current_time() - began
            assert attempts <= share * calls + FLOOR * (seconds + WINDOW) + 1e-6
            assert budget.left > -1e-6
            assert budget.used == attempts
            if pause > 2:
                await trio.sleep(pause)

    trio.run(main, clock=MockClock(autojump_threshold=0))

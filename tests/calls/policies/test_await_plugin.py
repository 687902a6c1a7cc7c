import pytest
import trio
import trio.testing
from msgspec.structs import replace

from prism.config.types import NamespaceLimits
from prism.contract.errors import PluginUnavailable
from prism.supervision.slot import Slot


def absent(namespace, **hope):
    """Empty the slot; returns the instance that was in it."""
    slot = namespace.slot
    instance = slot.current
    slot.say_absent("it crashed", **hope)
    slot.clear(instance)
    return instance


async def test_a_call_waits_for_the_plugin_and_is_served(make_namespace, make_call, autojump_clock):
    namespace = make_namespace()
    instance = absent(namespace, expected=True)
    call = make_call(namespace)
    call.proceed()
    await trio.sleep(3)
    assert call.result is None
    namespace.slot.fill(instance)
    assert await call.outcome() == b"{}"
    assert trio.current_time() == 3
    assert namespace.slot.waiting == 0


async def test_nobody_waits_for_what_is_not_expected(make_namespace, ask, autojump_clock):
    namespace = make_namespace()
    absent(namespace, retry_at=trio.current_time() + 7)
    with pytest.raises(PluginUnavailable, match="no plugin now") as caught:
        await ask(namespace)
    assert caught.value.retry_after == 7


async def test_who_waits_is_told_when_hope_is_gone(make_namespace, make_call, autojump_clock):
    namespace = make_namespace()
    absent(namespace, expected=True)
    calls = [make_call(namespace) for _ in range(3)]
    for call in calls:
        call.proceed()
    await trio.testing.wait_all_tasks_blocked()
    assert namespace.slot.waiting == 3
    namespace.slot.say_absent("no backend")
    for call in calls:
        with pytest.raises(PluginUnavailable, match="no plugin now"):
            await call.outcome()
    assert namespace.slot.waiting == 0


async def test_who_waits_goes_on_to_wait_in_another_slot(make_namespace, make_call, autojump_clock):
    """Of several replicas in the place of one plugin, or the other way round."""
    namespace = make_namespace()
    instance = absent(namespace, expected=True)
    call = make_call(namespace)
    call.proceed()
    await trio.testing.wait_all_tasks_blocked()
    before, namespace.slot = namespace.slot, Slot(namespace.name)
    before.say_absent("it is being replaced")
    await trio.sleep(1)
    assert (before.waiting, namespace.slot.waiting) == (0, 1)
    namespace.slot.fill(instance)
    assert await call.outcome() == b"{}"


async def test_the_namespace_may_prefer_to_fail_but_not_in_a_planned_absence(
    make_namespace, make_call, ask, autojump_clock
):
    namespace = make_namespace()
    namespace.config = replace(namespace.config, while_unavailable="fail")
    instance = absent(namespace, expected=True)
    with pytest.raises(PluginUnavailable):
        await ask(namespace)
    namespace.slot.say_absent("it is being replaced", held=True)
    call = make_call(namespace)
    call.proceed()
    await trio.testing.wait_all_tasks_blocked()
    namespace.slot.fill(instance)
    assert await call.outcome() == b"{}"


async def test_the_wait_is_a_part_of_the_deadline_and_then_told(
    make_namespace, ask, autojump_clock
):
    namespace = make_namespace(limits=NamespaceLimits(timeout_seconds=30))
    absent(namespace, expected=True, retry_at=trio.current_time() + 4)
    with pytest.raises(PluginUnavailable):
        await ask(namespace)
    assert trio.current_time() == pytest.approx(10)


async def test_nobody_waits_for_a_start_that_comes_too_late(make_namespace, ask, autojump_clock):
    namespace = make_namespace(limits=NamespaceLimits(timeout_seconds=30))
    absent(namespace, expected=True, retry_at=trio.current_time() + 10)
    with pytest.raises(PluginUnavailable) as caught:
        await ask(namespace)
    assert (trio.current_time(), caught.value.retry_after) == (0, 10)


async def test_in_a_planned_absence_calls_wait_to_their_deadline(
    make_namespace, make_call, autojump_clock
):
    namespace = make_namespace(limits=NamespaceLimits(timeout_seconds=30))
    instance = absent(namespace, held=True)
    call = make_call(namespace)
    call.proceed()
    await trio.sleep(29)
    namespace.slot.fill(instance)
    assert await call.outcome() == b"{}"


async def test_the_queue_is_bounded(make_namespace, make_call, ask, autojump_clock):
    namespace = make_namespace(limits=NamespaceLimits(max_waiting=2))
    instance = absent(namespace, expected=True)
    calls = [make_call(namespace) for _ in range(2)]
    for call in calls:
        call.proceed()
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(PluginUnavailable, match="2 calls wait for it already"):
        await ask(namespace)
    namespace.slot.fill(instance)
    for call in calls:
        await call.outcome()


async def test_calls_that_come_in_one_turn_are_bounded_too(
    make_namespace, make_call, autojump_clock
):
    namespace = make_namespace(limits=NamespaceLimits(max_waiting=2))
    absent(namespace, expected=True)
    calls = [make_call(namespace) for _ in range(5)]
    for call in calls:
        call.proceed()
    await trio.testing.wait_all_tasks_blocked()
    assert sum(call.error is not None for call in calls) == 3
    assert namespace.slot.waiting == 2


async def test_a_call_that_waited_all_its_time_is_told_that_it_never_ran(
    make_namespace, ask, autojump_clock
):
    namespace = make_namespace()
    absent(namespace, held=True)
    with pytest.raises(PluginUnavailable, match="no plugin now") as caught:
        await ask(namespace, timeout=4)
    assert caught.value.retryable
    assert trio.current_time() == 4
    await trio.testing.wait_all_tasks_blocked()
    assert namespace.slot.waiting == 0

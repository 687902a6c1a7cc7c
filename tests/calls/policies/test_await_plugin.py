import pytest
import trio
import trio.testing

from prism.calls.policies import build_stack
from prism.calls.policies.await_plugin import AwaitPlugin
from prism.calls.policies.invoke import Invoke
from prism.config.types import NamespaceLimits
from prism.contract.errors import PluginUnavailable


def absent(namespace, **hope):
    """Empty the slot; returns the instance that was in it."""
    slot = namespace.slot
    instance = slot.current
    slot.say_absent("it crashed", **hope)
    slot.clear(instance)
    return instance


def stack(namespace):
    return AwaitPlugin(namespace, Invoke(namespace))


async def test_a_call_waits_for_the_plugin_and_is_served(
    make_namespace, make_request, autojump_clock
):
    namespace = make_namespace()
    instance = absent(namespace, expected=True)
    async with trio.open_nursery() as nursery:

        async def come_back():
            await trio.sleep(3)
            namespace.slot.fill(instance)

        nursery.start_soon(come_back)
        await stack(namespace)(make_request())
    assert trio.current_time() == 3
    assert namespace.slot.waiting == 0


async def test_nobody_waits_for_what_is_not_expected(make_namespace, make_request, autojump_clock):
    namespace = make_namespace()
    absent(namespace, retry_at=trio.current_time() + 7)
    with pytest.raises(PluginUnavailable, match="no plugin now") as caught:
        await stack(namespace)(make_request())
    assert caught.value.retry_after == 7


async def test_who_waits_is_told_when_hope_is_gone(make_namespace, make_request, autojump_clock):
    namespace = make_namespace()
    absent(namespace, expected=True)

    async def wait():
        with pytest.raises(PluginUnavailable, match="no plugin now"):
            await stack(namespace)(make_request())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert namespace.slot.waiting == 3
        namespace.slot.say_absent("no backend")


async def test_the_namespace_may_prefer_to_fail_but_not_in_a_planned_absence(
    make_namespace, make_request, autojump_clock
):
    namespace = make_namespace()
    namespace.while_unavailable = "fail"
    instance = absent(namespace, expected=True)
    with pytest.raises(PluginUnavailable):
        await stack(namespace)(make_request())
    namespace.slot.say_absent("it is being replaced", held=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stack(namespace), make_request())
        await trio.testing.wait_all_tasks_blocked()
        namespace.slot.fill(instance)


async def test_the_queue_is_bounded(make_namespace, make_request, autojump_clock):
    namespace = make_namespace(limits=NamespaceLimits(max_waiting=2))
    instance = absent(namespace, expected=True)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(stack(namespace), make_request())
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(PluginUnavailable, match="2 calls wait for it already"):
            await stack(namespace)(make_request())
        namespace.slot.fill(instance)


async def test_a_call_that_waited_all_its_time_is_told_that_it_never_ran(
    make_namespace, make_request, autojump_clock
):
    namespace = make_namespace()
    absent(namespace, expected=True)
    with pytest.raises(PluginUnavailable, match="no plugin now") as caught:
        await build_stack(namespace)(make_request(timeout=4))
    assert caught.value.retryable
    assert trio.current_time() == 4

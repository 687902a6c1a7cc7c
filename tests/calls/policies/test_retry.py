from dataclasses import replace

import pytest
import trio

from prism.calls.policies.invoke import Invoke
from prism.calls.policies.retry import Retry
from prism.contract.errors import (
    Draining,
    Overloaded,
    PluginCrashed,
    PluginError,
    PluginUnavailable,
)
from prism.contract.messages import ExecuteResponse
from prism.contract.status import StatusCode


@pytest.fixture
def failing(make_namespace):
    """A namespace whose first instance fails with an error, having left if it says so."""

    def make(error, *, leaves=True, successor_after=0.0):
        async def fail(request):
            calls.append(request.operation)
            if leaves:
                first = slot.current
                slot.clear(first, "it crashed")
                slot.say_absent("it is being restarted", expected=True)
                nursery.start_soon(start_again, first)
            raise error

        async def answer(request):
            calls.append(request.operation)
            return ExecuteResponse(success=True, result_json="1")

        async def start_again(first):
            successor = replace(first, generation=2, channel=type(first.channel)(answer))
            await trio.sleep(successor_after)
            slot.fill(successor)

        calls = []
        namespace = make_namespace(fail)
        slot = namespace.slot
        return namespace, calls

    nursery = None

    async def run(namespace, request):
        nonlocal nursery
        async with trio.open_nursery() as nursery:
            try:
                return await Retry(namespace, Invoke(namespace))(request)
            finally:
                nursery.cancel_scope.cancel()

    make.run = run
    return make


@pytest.mark.parametrize(
    ("error", "operation", "reason"),
    [
        (Overloaded("not started"), "set", "not_started"),
        (PluginUnavailable("gone"), "set", "not_started"),
        (PluginCrashed("gone"), "get", "idempotent"),
        (Draining("too long"), "get", "idempotent"),
    ],
)
async def test_what_is_safe_is_repeated_once_on_the_next_instance(
    failing, make_request, autojump_clock, error, operation, reason
):
    namespace, calls = failing(error, successor_after=2.0)
    request = make_request(operation)
    assert (await failing.run(namespace, request)).body == b"1"
    assert calls == [operation, operation]
    assert (request.record.instance, request.record.retries) == ("kv/2", 1)
    assert namespace.slot.retried == {reason: 1}


@pytest.mark.parametrize(
    ("error", "operation", "leaves"),
    [
        # A write may have run; an instance in service means what it says.
        (PluginCrashed("gone"), "set", True),
        (Overloaded("full"), "set", False),
        (PluginError(StatusCode.UNAVAILABLE, "its backend"), "get", True),
    ],
)
async def test_what_is_not_safe_ends_as_it_did(
    failing, make_request, autojump_clock, error, operation, leaves
):
    namespace, calls = failing(error, leaves=leaves)
    with pytest.raises(ExceptionGroup) as caught:
        await failing.run(namespace, make_request(operation))
    assert caught.group_contains(type(error))
    assert len(calls) == 1


async def test_in_vain_the_call_ends_with_what_is_true_of_it(failing, make_request, autojump_clock):
    namespace, calls = failing(PluginCrashed("gone"), successor_after=1000)
    namespace.while_unavailable = "fail"
    with pytest.raises(BaseExceptionGroup) as caught:
        await failing.run(namespace, make_request("get"))
    assert caught.group_contains(PluginCrashed, match="gone")
    assert len(calls) == 1

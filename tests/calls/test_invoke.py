import copy
import dataclasses

import pytest
import trio
from msgspec.structs import replace

from prism.calls.call import MAX_DETAIL
from prism.config.plugin_types import BalanceConfig
from prism.config.types import RetriesConfig
from prism.contract.errors import (
    Draining,
    InvalidRequest,
    Overloaded,
    PluginCrashed,
    PluginError,
    PluginUnavailable,
    UnknownOperation,
)
from prism.contract.messages import ExecuteResponse, PluginMetrics
from prism.contract.status import StatusCode
from prism.supervision.balance import Balance
from prism.supervision.replica_slot import ReplicaSlot, SharedSlot

FULL = Overloaded("full")
FULL.retry_after = 5.0


async def test_what_the_plugin_gets_and_gives(make_namespace, make_call, autojump_clock):
    namespace = make_namespace()
    call = make_call(namespace, body=b'{"key":1}')
    call.proceed()
    assert await call.outcome() == b'{"key":1}'
    instance = namespace.slot.current
    [request] = instance.channel.requests
    assert (request.operation, request.params_json, request.params_raw) == ("get", '{"key":1}', b"")
    assert request.metadata == {
        "prism-namespace": "kv",
        "prism-principal": "anonymous",
        "prism-request-id": "id",
        "traceparent": call.traceparent,
    }
    assert (call.instance_id, call.plugin_seconds) == ("kv/1", 0.0)
    assert (instance.leases, instance.finished, namespace.in_flight) == (0, 1, 0)


async def test_what_a_client_adds_to_the_metadata(make_namespace, make_call):
    namespace = make_namespace()
    call = make_call(namespace)
    call.metadata, call.tracestate = {"tenant": "a"}, "x=1"
    call.proceed()
    await call.outcome()
    [request] = namespace.slot.current.channel.requests
    assert request.metadata["tenant"] == "a"
    assert request.metadata["tracestate"] == "x=1"


async def test_no_result_is_an_empty_one_and_binary_stays_binary(make_namespace, make_call):
    async def answer(request):
        return ExecuteResponse(success=True, result_raw=b"\x80" if request.params_raw else b"")

    namespace = make_namespace(answer)
    plain, binary = make_call(namespace), make_call(namespace)
    binary.raw = b"\x80"
    for call in (plain, binary):
        call.proceed()
        await call.outcome()
    assert (plain.result, plain.content_type) == (b"{}", b"application/json")
    assert (binary.result, binary.content_type) == (b"\x80", b"application/msgpack")


@pytest.mark.parametrize(
    ("operation", "error", "says"),
    [
        ("nope", UnknownOperation, "it offers: get, set, watch"),
        ("watch", InvalidRequest, "answers with a stream"),
    ],
)
async def test_operations_not_offered(make_namespace, make_call, operation, error, says):
    namespace = make_namespace()
    call = make_call(namespace, operation)
    call.proceed()
    with pytest.raises(error, match=says):
        await call.outcome()
    assert call.plugin_seconds is None
    assert (namespace.slot.current.leases, namespace.in_flight) == (0, 0)


async def test_no_instance(make_namespace, ask):
    namespace = make_namespace()
    namespace.slot.say_absent("it crashed")
    namespace.slot.clear(namespace.slot.current, "it crashed")
    with pytest.raises(PluginUnavailable, match="no plugin now"):
        await ask(namespace)


async def test_the_plugins_error(make_namespace, ask):
    async def refuse(request):
        return ExecuteResponse(error="x" * 10_000, error_code=6)

    with pytest.raises(PluginError) as caught:
        await ask(make_namespace(refuse))
    assert (caught.value.status, caught.value.http_status) == (StatusCode.ALREADY_EXISTS, 409)
    assert len(caught.value.detail) == MAX_DETAIL


async def test_metrics_that_come_with_an_answer_are_kept(make_namespace, ask):
    metrics = PluginMetrics(requests_total=1)

    async def answer(request):
        given = metrics if len(channel.requests) == 1 else None
        return ExecuteResponse(success=True, metrics=given)

    namespace = make_namespace(answer)
    channel = namespace.slot.current.channel
    for _ in range(2):
        await ask(namespace)
    assert namespace.slot.current.metrics == metrics


@pytest.fixture
async def failing(make_namespace):
    """A namespace whose first instance fails with an error, having left if it says so."""
    async with trio.open_nursery() as nursery:

        def make(error, *, leaves=True, successor_after=0.0):
            async def fail(request):
                calls.append(request.operation)
                if leaves:
                    gone = slot.current
                    slot.say_absent("it crashed", expected=True)
                    slot.clear(gone)
                    nursery.start_soon(replace, gone)
                raise error

            async def answer(request):
                calls.append(request.operation)
                return ExecuteResponse(success=True, result_json="1")

            async def replace(gone):
                successor = copy.copy(gone)
                successor.generation, successor.id = 2, "kv/2"
                successor.channel = type(gone.channel)(answer)
                await trio.sleep(successor_after)
                slot.fill(successor)

            calls = []
            namespace = make_namespace(fail)
            slot = namespace.slot
            return namespace, calls

        yield make
        nursery.cancel_scope.cancel()


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
    failing, make_call, autojump_clock, error, operation, reason
):
    namespace, calls = failing(error, successor_after=2.0)
    call = make_call(namespace, operation)
    call.proceed()
    assert await call.outcome() == b"1"
    assert calls == [operation, operation]
    assert (call.instance_id, call.retries) == ("kv/2", 1)
    assert namespace.slot.retried == {reason: 1}
    assert namespace.in_flight == 0


async def test_one_that_waits_in_vain_is_told_when_to_come_again(
    failing, make_call, autojump_clock
):
    namespace, _calls = failing(PluginCrashed("gone"), successor_after=60.0)
    call = make_call(namespace, "get")
    call.proceed()
    await trio.testing.wait_all_tasks_blocked()
    namespace.slot.say_absent("it crashed", retry_at=trio.current_time() + 8)
    with pytest.raises(PluginCrashed) as caught:
        await call.outcome()
    assert caught.value.retry_after == 8


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
    failing, ask, autojump_clock, error, operation, leaves
):
    namespace, calls = failing(error, leaves=leaves)
    with pytest.raises(type(error)):
        await ask(namespace, operation)
    assert len(calls) == 1


def with_replicas(namespace, *answers):
    """Have two replicas in the place of the one: of which ``answers`` are."""
    first = namespace.slot.current
    balance = Balance(BalanceConfig(slow_start_seconds=0), "", now=trio.current_time)
    slot = namespace.slot = SharedSlot(namespace.name, balance)
    for number, answer in enumerate(answers, 1):
        member = ReplicaSlot(namespace.name, str(number))
        slot.join(member, "")
        channel = type(first.channel)(answer)
        member.fill(dataclasses.replace(first, channel=channel, replica_name=str(number)))
    return slot


@pytest.mark.parametrize(
    ("error", "operation", "retries", "answers"),
    [
        (FULL, "set", None, True),
        (FULL, "set", RetriesConfig(), True),
        (PluginCrashed("gone"), "set", None, False),
        # It is there still, and may have done it: only `retries` allow that.
        (PluginError(StatusCode.UNAVAILABLE, "its backend"), "get", None, False),
    ],
)
async def test_what_one_replica_did_not_begin_another_does_at_once(
    make_namespace, make_call, autojump_clock, error, operation, retries, answers
):
    async def refuse(request):
        raise error

    async def answer(request):
        return ExecuteResponse(success=True, result_json="1")

    namespace = make_namespace()
    namespace.update(replace(namespace.config, retries=retries))
    slot = with_replicas(namespace, refuse, answer)
    for _ in range(3):  # so that the first is chosen
        slot.instances()[1].acquire()
    call = make_call(namespace, operation)
    began = trio.current_time()
    call.proceed()
    if answers:
        assert await call.outcome() == b"1"
        assert trio.current_time() == began
        assert (call.instance_id, call.retries) == ("kv/2/1", 1)
        assert slot.retried == {"refused": 1}
    else:
        with pytest.raises(type(error)):
            await call.outcome()
        assert call.instance_id == "kv/1/1"


async def test_a_call_whose_replica_breaks_is_made_on_another_at_once(
    make_namespace, make_call, autojump_clock
):
    async def breaks(request):
        await slot.instances()[0].channel.aclose()
        raise PluginCrashed("gone")

    async def answer(request):
        return ExecuteResponse(success=True, result_json="1")

    namespace = make_namespace()
    slot = with_replicas(namespace, breaks, answer)
    slot.instances()[1].acquire()
    call = make_call(namespace, "get")
    began = trio.current_time()
    call.proceed()
    assert await call.outcome() == b"1"
    assert (call.instance_id, call.retries) == ("kv/2/1", 1)
    assert trio.current_time() == began


async def test_in_vain_the_call_ends_with_what_is_true_of_it(failing, ask, autojump_clock):
    namespace, calls = failing(PluginCrashed("gone"), successor_after=1000)
    namespace.config = replace(namespace.config, while_unavailable="fail")
    with pytest.raises(PluginCrashed, match="gone"):
        await ask(namespace)
    assert len(calls) == 1


async def test_a_second_attempt_is_the_last(failing, ask, make_namespace, autojump_clock):
    namespace, calls = failing(PluginCrashed("gone"))

    async def leave(request):
        calls.append("again")
        namespace.slot.clear(namespace.slot.current, "gone too")
        raise PluginCrashed("gone again")

    def changed():
        if (instance := namespace.slot.current) is not None:
            instance.channel = type(instance.channel)(leave)

    namespace.slot.on_change = changed
    with pytest.raises(PluginCrashed, match="gone again"):
        await ask(namespace)
    assert calls == ["get", "again"]

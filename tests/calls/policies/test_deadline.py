import pytest
import trio

from prism.contract.errors import CallCancelled, DeadlineExceeded, RequestTimeout


async def hang(request):
    await trio.sleep_forever()


async def test_time_up_in_the_plugin(make_namespace, make_call, autojump_clock):
    namespace = make_namespace(hang)
    call = make_call(namespace, timeout=1.5)
    call.proceed()
    with pytest.raises(DeadlineExceeded, match=r"within its 1\.5 s; it may have run"):
        await call.outcome()
    assert trio.current_time() - call.started == pytest.approx(1.5)
    assert call.plugin_seconds == pytest.approx(1.5)
    instance = namespace.slot.current
    assert (instance.leases, instance.cancelled, instance.lost) == (0, 1, 0)


async def test_time_up_while_the_body_is_awaited(make_namespace, make_call, autojump_clock):
    call = make_call(make_namespace(), body=None, timeout=2)
    call.proceed()
    with pytest.raises(RequestTimeout, match="did not arrive within the call's deadline"):
        await call.outcome()
    assert trio.current_time() == 2


async def test_a_body_that_pauses(make_namespace, make_call, autojump_clock):
    call = make_call(make_namespace(), body=None, timeout=300)
    call.proceed()
    with pytest.raises(RequestTimeout, match="paused for more than 30 s"):
        await call.outcome()
    assert trio.current_time() == 30


async def test_deadlines_in_any_order_are_each_kept(make_namespace, make_call, autojump_clock):
    namespace = make_namespace(hang)
    calls = [make_call(namespace, timeout=timeout) for timeout in (9, 3, 6, 3.5, 12)]
    ended = {}

    async def wait(call):
        with pytest.raises(DeadlineExceeded):
            await call.outcome()
        ended[call.deadline] = trio.current_time()

    async with trio.open_nursery() as nursery:
        for call in calls:
            call.proceed()
            nursery.start_soon(wait, call)
    assert ended == {call.deadline: call.deadline for call in calls}


async def test_what_ended_before_is_forgotten(make_namespace, make_call, autojump_clock):
    namespace = make_namespace(hang)
    call = make_call(namespace, timeout=5)
    call.proceed()
    call.end(CallCancelled("the client left"))
    await trio.sleep(10)
    assert isinstance(call.error, CallCancelled)
    assert call.observed == 1
    assert not namespace.deadlines._calls

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from prism.config.types import NamespaceLimits
from prism.contract.errors import CallCancelled, InternalError, TooManyInFlight


async def test_one_too_many_and_the_place_is_free_again(make_namespace, make_call, ask):
    async def hang(request):
        await trio.sleep_forever()

    namespace = make_namespace(hang, limits=NamespaceLimits(max_in_flight=1))
    call = make_call(namespace)
    call.proceed()
    await wait_all_tasks_blocked()
    for _ in range(3):
        with pytest.raises(TooManyInFlight, match="1 calls in flight"):
            await ask(namespace)
    assert namespace.in_flight == 1
    call.end(CallCancelled("the client left"))
    assert namespace.in_flight == 0


async def test_waiting_for_a_body_holds_no_place(make_namespace, make_call, ask):
    namespace = make_namespace(limits=NamespaceLimits(max_in_flight=1))
    waiting = make_call(namespace, body=None)
    waiting.proceed()
    assert namespace.in_flight == 0
    await ask(namespace)
    waiting.deliver(b"{}")
    await waiting.outcome()
    assert namespace.in_flight == 0


async def test_refused_before_the_body_is_waited_for(make_namespace, make_call):
    async def hang(request):
        await trio.sleep_forever()

    namespace = make_namespace(hang, limits=NamespaceLimits(max_in_flight=1))
    running, refused = make_call(namespace), make_call(namespace, body=None)
    running.proceed()
    with pytest.raises(TooManyInFlight):
        refused.precheck()
    running.end(CallCancelled("the client left"))


async def test_failures_give_the_place_back(make_namespace, ask, caplog):
    async def fail(request):
        raise RuntimeError("secret")

    namespace = make_namespace(fail)
    with pytest.raises(InternalError, match="internal error"):
        await ask(namespace)
    assert namespace.in_flight == 0
    assert "secret" in caplog.text

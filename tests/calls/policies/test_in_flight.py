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


async def test_refused_before_the_body_is_looked_at(make_namespace, make_call):
    namespace = make_namespace(limits=NamespaceLimits(max_in_flight=1))
    waiting, refused = make_call(namespace, body=None), make_call(namespace)
    waiting.proceed()
    refused.proceed()
    assert isinstance(refused.error, TooManyInFlight)
    assert refused.limits == []
    waiting.deliver(b"{}")
    await waiting.outcome()
    assert namespace.in_flight == 0


async def test_failures_give_the_place_back(make_namespace, ask, caplog):
    async def fail(request):
        raise RuntimeError("secret")

    namespace = make_namespace(fail)
    with pytest.raises(InternalError, match="internal error"):
        await ask(namespace)
    assert namespace.in_flight == 0
    assert "secret" in caplog.text

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from prism.calls.policies.in_flight import InFlightLimit
from prism.config.types import NamespaceLimits
from prism.contract.errors import TooManyInFlight


async def test_one_too_many_and_the_place_is_free_again(make_namespace, make_request, nursery):
    async def hang(request):
        await trio.sleep_forever()

    namespace = make_namespace(limits=NamespaceLimits(max_in_flight=1))
    limit = InFlightLimit(namespace, hang)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as calls:
            calls.start_soon(limit, make_request())
            await wait_all_tasks_blocked()
            for _ in range(3):
                with pytest.raises(TooManyInFlight, match="1 calls in flight"):
                    await limit(make_request())
            assert namespace.in_flight == 1
            scope.cancel()
    assert namespace.in_flight == 0


async def test_failures_give_the_place_back(make_namespace, make_request):
    async def fail(request):
        raise RuntimeError

    namespace = make_namespace()
    with pytest.raises(RuntimeError):
        await InFlightLimit(namespace, fail)(make_request())
    assert namespace.in_flight == 0

import pytest
import trio
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked

from prism.calls.policies.in_flight import InFlightLimit
from prism.calls.policies.stream_limit import StreamLimit
from prism.calls.request import Reply
from prism.calls.stream import ClientStream
from prism.config.types import NamespaceLimits
from prism.contract.errors import TooManyStreams


class Stream(ClientStream):
    async def begin(self):
        raise AssertionError

    async def send(self, response):
        raise AssertionError


async def hang(request):
    await trio.sleep_forever()


@pytest.fixture
def make_stream(make_request):
    return lambda client: replace(make_request("watch"), client=client, stream=Stream())


async def test_limits_of_a_namespace_and_of_a_client(make_namespace, make_stream):
    limits = NamespaceLimits(max_streams=3, max_streams_per_client=2)
    namespace = make_namespace(limits=limits)
    limit = StreamLimit(namespace, hang)
    async with trio.open_nursery() as streams:
        for client in ("a", "a", "b"):
            streams.start_soon(limit, make_stream(client))
        await wait_all_tasks_blocked()
        with pytest.raises(TooManyStreams, match="namespace 'kv' already has 3 streams"):
            await limit(make_stream("c"))
        streams.cancel_scope.cancel()
    assert not namespace.streams_by_client
    async with trio.open_nursery() as streams:
        for _ in range(2):
            streams.start_soon(limit, make_stream("a"))
        await wait_all_tasks_blocked()
        with pytest.raises(TooManyStreams, match="this client"):
            await limit(make_stream("a"))
        streams.cancel_scope.cancel()


async def test_calls_and_streams_do_not_count_for_each_other(
    make_namespace, make_request, make_stream, nursery
):
    async def reply(request):
        return Reply(b"")

    limits = NamespaceLimits(max_streams=1, max_in_flight=1)
    namespace = make_namespace(limits=limits)
    nursery.start_soon(StreamLimit(namespace, hang), make_stream("a"))
    nursery.start_soon(InFlightLimit(namespace, hang), make_request())
    await wait_all_tasks_blocked()
    assert await StreamLimit(namespace, reply)(make_request()) == Reply(b"")
    assert await InFlightLimit(namespace, reply)(make_stream("a")) == Reply(b"")
    nursery.cancel_scope.cancel()

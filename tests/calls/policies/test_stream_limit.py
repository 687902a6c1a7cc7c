import pytest

from prism.calls.policies.in_flight import InFlightLimit
from prism.calls.policies.stream_limit import StreamLimit
from prism.calls.stream import ClientStream
from prism.config.types import NamespaceLimits
from prism.contract.errors import TooManyInFlight, TooManyStreams


class Stream(ClientStream):
    async def begin(self):
        raise AssertionError

    async def send(self, response):
        raise AssertionError

    async def end(self, error):
        raise AssertionError


@pytest.fixture
def make_stream(make_call):
    return lambda namespace, client: make_call(namespace, "watch", client=client, stream=Stream())


async def test_limits_of_a_namespace_and_of_a_client(make_namespace, make_stream):
    limits = NamespaceLimits(max_streams=3, max_streams_per_client=2)
    namespace = make_namespace(limits=limits)
    limit = StreamLimit(namespace)
    entered = [make_stream(namespace, client) for client in ("a", "a", "b")]
    for call in entered:
        limit.enter(call)
    with pytest.raises(TooManyStreams, match="namespace 'kv' already has 3 streams"):
        limit.enter(make_stream(namespace, "c"))
    for call in entered:
        limit.leave(call)
    assert not namespace.streams_by_client
    for _ in range(2):
        limit.enter(make_stream(namespace, "a"))
    with pytest.raises(TooManyStreams, match="this client"):
        limit.enter(make_stream(namespace, "a"))


async def test_calls_and_streams_do_not_count_for_each_other(
    make_namespace, make_call, make_stream
):
    limits = NamespaceLimits(max_streams=1, max_in_flight=1)
    namespace = make_namespace(limits=limits)
    streams, calls = StreamLimit(namespace), InFlightLimit(namespace)
    for policy in (streams, calls):
        policy.enter(make_stream(namespace, "a"))
        policy.enter(make_call(namespace))
    with pytest.raises(TooManyStreams):
        streams.enter(make_stream(namespace, "b"))
    with pytest.raises(TooManyInFlight):
        calls.enter(make_call(namespace))

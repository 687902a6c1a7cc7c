import pytest

from prism.calls.json_text import LARGE_BODY
from prism.calls.policies.read_params import ReadParams
from prism.calls.request import Reply
from prism.config.types import NamespaceLimits
from prism.contract.errors import InvalidRequest


async def reply(request):
    return Reply(request.params.text.encode())


async def test_reads_within_the_limit(make_namespace, make_request):
    namespace = make_namespace(limits=NamespaceLimits(max_payload_bytes=2048))
    request = make_request(body=b'{ "a":1}')
    assert await ReadParams(namespace, reply)(request) == Reply(b'{ "a":1}')
    assert request.params.limits == [2048]


async def test_checks(make_namespace, make_request):
    with pytest.raises(InvalidRequest):
        await ReadParams(make_namespace(), reply)(make_request(body=b"{"))


async def test_large_bodies_are_checked_alike(make_namespace, make_request):
    policy = ReadParams(make_namespace(), reply)
    body = b'{"a":"%s"}' % (b"x" * LARGE_BODY)
    assert await policy(make_request(body=body)) == Reply(body)
    with pytest.raises(InvalidRequest):
        await policy(make_request(body=body[:-1]))

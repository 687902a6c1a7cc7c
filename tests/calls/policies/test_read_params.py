import pytest

from prism.calls.json_text import LARGE_BODY
from prism.config.types import NamespaceLimits
from prism.contract.errors import InvalidRequest, PayloadTooLarge


async def test_reads_within_the_limit(make_namespace, make_call):
    namespace = make_namespace(limits=NamespaceLimits(max_payload_bytes=2048))
    call = make_call(namespace, body=b'{ "a":1}')
    call.proceed()
    assert await call.outcome() == b'{ "a":1}'
    assert call.limits == [2048]
    large = make_call(namespace, body=b"x" * 2049)
    large.proceed()
    assert isinstance(large.error, PayloadTooLarge)


async def test_checks(make_namespace, ask):
    with pytest.raises(InvalidRequest, match="ends early"):
        await ask(make_namespace(), body=b"{")


async def test_a_body_that_comes_later(make_namespace, make_call):
    call = make_call(make_namespace(), body=None)
    call.proceed()
    assert not call.done
    call.deliver(b'{"late":1}')
    assert await call.outcome() == b'{"late":1}'


async def test_large_bodies_are_checked_alike(make_namespace, ask):
    limits = NamespaceLimits(max_payload_bytes=2 * LARGE_BODY)
    namespace = make_namespace(limits=limits)
    body = b'{"a":"%s"}' % (b"x" * LARGE_BODY)
    assert await ask(namespace, body=body) == body
    with pytest.raises(InvalidRequest):
        await ask(namespace, body=body[:-1])

import threading

import pytest

from prism.calls.json_text import IS_COMPILED, LARGE_BODY, LARGEST_PLAIN
from prism.calls.policies import read_params
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


@pytest.mark.parametrize(
    ("body", "in_thread"),
    [
        (b'{"a":"%s"}' % (b"x" * LARGE_BODY), not IS_COMPILED),  # one value
        (b'{"a":[%s1]}' % (b"1," * (LARGE_BODY // 2)), True),
        (b'{"a":"%s"}' % (b"x" * LARGEST_PLAIN), True),
        (b'{"a":"%s' % (b"x" * LARGE_BODY), True),  # what is wrong takes a while to say
    ],
    ids=["plain", "many values", "very large", "wrong"],
)
async def test_what_takes_long_to_check_holds_nobody_up(
    make_namespace, make_call, monkeypatch, body, in_thread
):
    checking = []

    def check(call):
        checking.append(threading.current_thread())

    monkeypatch.setattr(read_params, "_check", check)
    call = make_call(make_namespace(limits=NamespaceLimits(max_payload_bytes=2**23)), body=body)
    call.proceed()
    assert await call.outcome() == body
    assert [each is not threading.current_thread() for each in checking] == [True] * in_thread

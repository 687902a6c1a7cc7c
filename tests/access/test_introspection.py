"""Opaque tokens, with a real server that is asked about them."""

import threading
import time
from contextlib import suppress

import pytest
import trio

from prism.access import introspection as module
from prism.access.authentication import Authentication
from prism.access.identity import KeysAwaited
from prism.access.introspection import Introspection
from prism.config.types import IntrospectionConfig
from prism.contract.errors import AuthenticationUnavailable, Unauthenticated

GOOD = {"active": True, "sub": "ada", "scope": "orders.read orders.write", "groups": ["billing"]}


@pytest.fixture
def make(issuer):
    def make(secret=lambda: "s3cret", clock=time.time, **changes):
        config = IntrospectionConfig(
            **{
                "url": issuer.introspection_url,
                "client_id": "prism",
                "client_secret": "-",
                **changes,
            }
        )
        return Introspection(config, secret, clock)

    return make


async def found(introspection, token):
    try:
        return introspection.find(token)
    except KeysAwaited as awaited:
        await awaited.wait()
    return introspection.find(token)


async def test_who_a_token_was_issued_to(make, issuer):
    issuer.opaque["abc"] = GOOD | {"exp": time.time() + 300}
    introspection = make(prefix="idp:")
    ada = await found(introspection, b"abc")
    assert (ada.name, ada.groups) == ("idp:ada", {"idp:billing"})
    assert ada.scopes == {"orders.read", "orders.write"}
    assert ada.expires <= time.time() + 30
    assert introspection.find(b"abc") is ada
    assert issuer.asked == {"abc": 1}


@pytest.mark.parametrize(
    "told",
    [
        {"active": False},
        {"active": False, "sub": "ada"},
        GOOD | {"exp": 1},
        GOOD | {"sub": None},
        GOOD | {"sub": "anonymous"},
        GOOD | {"sub": "ada\nroot"},
        GOOD | {"cnf": {"jkt": "x"}},
        GOOD | {"aud": "other"},
        GOOD | {"aud": ["other", "prism2"]},
    ],
    ids=str,
)
async def test_what_is_not_good_is_remembered_for_a_moment(make, issuer, told):
    issuer.opaque["abc"] = {"aud": "prism"} | told
    introspection = make(audience="prism")
    for _ in range(3):
        with pytest.raises(Unauthenticated, match="its issuer says so"):
            await found(introspection, b"abc")
    assert issuer.asked == {"abc": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"garbage", b"[]", b"{}", b'{"active":1}', b'{"active":"true"}', b'{"active":null}',
        b'{"active":true,"sub":"ada","exp":"soon"}', b'{"active":true,"sub":"ada","exp":true}',
        b'{"active":true,"sub":"ada","exp":1' + b"0" * 400 + b"}",
        b"[" * 100_000, b" " * 300_000 + b'{"active":true,"sub":"ada"}', b"\xff",
    ],
)  # fmt: skip
async def test_what_is_no_answer_opens_nothing(make, issuer, body):
    issuer.introspect = lambda *_: (200, {}, body)
    introspection = make()
    for _ in range(2):
        with pytest.raises(AuthenticationUnavailable):
            await found(introspection, b"abc")


@pytest.mark.parametrize("status", [204, 302, 400, 401, 403, 500])
async def test_neither_does_a_refusal(make, issuer, status):
    issuer.introspect = lambda *_: (
        status, {"location": issuer.url}, b'{"active":true,"sub":"ada"}'
    )  # fmt: skip
    with pytest.raises(AuthenticationUnavailable):
        await found(make(), b"abc")


async def test_nor_a_server_that_is_down_or_slow(make, issuer, monkeypatch):
    with pytest.raises(AuthenticationUnavailable):
        await found(make(url="http://127.0.0.1:1/introspect"), b"abc")
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    issuer.introspect = issuer.hang
    with pytest.raises(AuthenticationUnavailable):
        await found(make(), b"abc")


async def test_nor_one_whose_name_can_be_none(make):
    with pytest.raises(AuthenticationUnavailable):
        await found(make(url="http://idp..example/introspect"), b"abc")


async def test_nor_one_whose_head_trickles(make, monkeypatch):
    """No read is too slow, and all of them together are."""
    monkeypatch.setattr(module, "TIMEOUT", 1.0)

    async def trickle(stream):
        await stream.send_all(b"HTTP/1.1 200 OK\r\nx: ")
        with suppress(trio.BrokenResourceError):
            while True:
                await trio.sleep(0.05)
                await stream.send_all(b"x")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, trickle, listeners)
        port = listeners[0].socket.getsockname()[1]
        with trio.fail_after(60), pytest.raises(AuthenticationUnavailable):
            await found(make(url=f"http://127.0.0.1:{port}/introspect"), b"abc")
        nursery.cancel_scope.cancel()


async def test_a_secret_that_was_changed_is_read_again(make, issuer):
    secrets = ["s3cret", "a/b c:d"]
    introspection = make(lambda: secrets[0])
    issuer.opaque |= {"one": GOOD, "two": GOOD}
    await found(introspection, b"one")
    secrets.pop(0)
    issuer.credential = ("prism", "a/b c:d")
    await found(introspection, b"two")


async def test_calls_with_one_token_ask_once_and_one_that_leaves_harms_none(make, issuer):
    issuer.opaque["abc"] = GOOD
    introspection = make()
    names = []

    async def ask(*, leave=False):
        with trio.CancelScope() as scope:
            if leave:
                scope.cancel()
            names.append((await found(introspection, b"abc")).name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: ask(leave=True))
        for _ in range(20):
            nursery.start_soon(ask)
    assert names == ["ada"] * 20
    assert issuer.asked["abc"] <= 2


async def test_made_up_tokens_have_the_server_asked_about_a_few_at_a_time(
    make, issuer, monkeypatch
):
    monkeypatch.setattr(module, "MAX_ASKED", 4)
    issuer.introspect = issuer.hang
    introspection = make()
    refused = trio.Event()

    async def ask(number):
        with pytest.raises(AuthenticationUnavailable, match="too many tokens"):
            await found(introspection, b"%d" % number)
        refused.set()

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(ask, number)
        await refused.wait()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("token", [b"a b", b"a\xff", b"=a", b"a\tb", "ä".encode()])
async def test_what_is_no_token_is_not_asked_about(make, issuer, token):
    with pytest.raises(Unauthenticated, match="no bearer token"):
        await found(make(), token)
    assert not issuer.asked


async def test_what_is_open_is_asked_about_again(make, issuer, nursery):
    """A stream's credential: found once, and then looked at every few seconds."""
    now = time.time()
    introspection = make(clock=lambda: now, cache_seconds=10)
    nursery.start_soon(introspection.run)
    issuer.opaque["abc"] = GOOD
    ada = await found(introspection, b"abc")
    assert introspection.is_good(ada)
    assert issuer.asked["abc"] == 1

    async def looked_again():
        nonlocal now
        now += 11
        asked = issuer.asked["abc"]
        introspection.is_good(ada)
        with trio.fail_after(60):
            # The server is in a thread, and has no event of ours.
            while issuer.asked["abc"] == asked or introspection._again or introspection._asking:  # noqa: ASYNC110
                await trio.sleep(0.01)
        return introspection.is_good(ada)

    assert await looked_again()
    issuer.opaque["abc"] = GOOD | {"groups": []}
    assert not await looked_again()
    assert not introspection.is_good(ada)
    issuer.opaque["abc"] = GOOD
    assert await looked_again()
    del issuer.opaque["abc"]
    assert not await looked_again()


async def test_a_clock_that_is_set_back_makes_no_answer_hold_for_longer(make, issuer):
    """Here, nor where whose a credential is is remembered."""
    now = time.time()
    introspection = make(clock=lambda: now, cache_seconds=10)
    authentication = Authentication(introspection=introspection, clock=lambda: now)
    issuer.opaque["abc"] = GOOD
    headers = [(b"authorization", b"Bearer abc")]
    ada = await found(introspection, b"abc")
    assert authentication.identify(headers) is authentication.identify(headers) is ada
    now -= 3600
    del issuer.opaque["abc"]
    with pytest.raises(KeysAwaited) as awaited:
        authentication.identify(headers)
    await awaited.value.wait()
    with pytest.raises(Unauthenticated):
        authentication.identify(headers)
    assert not introspection.is_good(ada)


async def test_a_token_that_takes_long_leaves_the_others_to_be_looked_at(
    make, issuer, nursery, monkeypatch
):
    monkeypatch.setattr(module, "TIMEOUT", 60.0)
    now = time.time()
    introspection = make(clock=lambda: now, cache_seconds=10)
    nursery.start_soon(introspection.run)
    issuer.opaque |= {"slow": GOOD, "abc": GOOD}
    slow, ada = await found(introspection, b"slow"), await found(introspection, b"abc")
    hangs = threading.Event()

    def tell(form, authorization):
        if "slow" in str(form):
            hangs.set()
            return issuer.hang()
        return issuer.tell(form, authorization)

    issuer.introspect = tell
    del issuer.opaque["abc"]
    now += 11
    introspection.is_good(slow)
    await trio.to_thread.run_sync(hangs.wait, 60)
    with trio.fail_after(30):
        # The server is in a thread, and has no event of ours.
        while introspection.is_good(ada):  # noqa: ASYNC110
            await trio.sleep(0.01)
    nursery.cancel_scope.cancel()


async def test_a_bounded_number_is_remembered(make, issuer, monkeypatch):
    monkeypatch.setattr(module, "MAX_KNOWN", 10)
    introspection = make()
    for number in range(30):
        issuer.opaque[f"t{number}"] = GOOD
        await found(introspection, b"t%d" % number)
    assert len(introspection._known) <= 10

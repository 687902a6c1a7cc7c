import base64
import json
import threading

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as private_key
from joserfc.jwk import ECKey, OctKey, RSAKey

from prism.access import issuer_keys as module
from prism.access.identity import KeysAwaited
from prism.access.issuer_keys import (
    MIN_INTERVAL,
    BadAnswer,
    IssuerKeys,
    discovered,
    read_key_set,
)
from prism.config.types import JWTIssuerConfig
from prism.contract.errors import AuthenticationUnavailable, Unauthenticated


def config(url="http://127.0.0.1:1/keys", **changes):
    return JWTIssuerConfig(issuer="i", audience="a", jwks_url=url, algorithms=["RS256"], **changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"issuer": "https://other.example"}, "another issuer's"),
        ({"issuer": None}, "does not say issuer and jwks_uri"),
        ({"jwks_uri": None}, "does not say issuer and jwks_uri"),
        ({"jwks_uri": "http://idp.example/keys"}, "no https URL"),
        ({"jwks_uri": "file:///etc/passwd"}, "no https URL"),
    ],
)
def test_where_keys_are_by_the_issuers_metadata(changes, why):
    found = {"issuer": "https://idp.example", "jwks_uri": "https://idp.example/keys", "x": 1}
    text = json.dumps(found | changes).encode()
    if not why:
        assert discovered(text, "https://idp.example") == "https://idp.example/keys"
        return
    with pytest.raises(BadAnswer, match=why):
        discovered(text, "https://idp.example")


async def test_an_issuer_says_where_its_keys_are(issuer, nursery):
    """A real server, below whose own address the metadata are."""
    made = JWTIssuerConfig(issuer=issuer.base, audience="a", algorithms=["RS256"])
    keys = IssuerKeys(made, lambda: None)
    nursery.start_soon(keys.run)
    await keys.wait_fetched()
    assert keys.find("rsa-1", "RS256").kid == "rsa-1"


def key_set(*keys, **more):
    return {"keys": [{**key.as_dict(private=False), **more} for key in keys]}


class Source:
    """In the place of the network: what the next fetch brings, and when each was made."""

    def __init__(self, keys, *answers):
        self.answers = list(answers)
        self.times = []
        keys._download = self.download

    async def download(self):
        self.times.append(trio.current_time())
        answer = self.answers[0]
        if len(self.answers) > 1:
            self.answers.pop(0)
        if isinstance(answer, trio.Event):
            await answer.wait()
            raise OSError("late")
        await trio.lowlevel.checkpoint()
        if isinstance(answer, Exception):
            raise answer
        return read_key_set(json.dumps(answer).encode())


@pytest.fixture(scope="module")
def rsa():
    return [RSAKey.generate_key(2048, {"kid": f"k{number}"}) for number in range(2)]


async def settle():
    await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
def started(nursery):
    def start(*answers, **changes):
        changed = []
        keys = IssuerKeys(config(**changes), lambda: changed.append(trio.current_time()))
        source = Source(keys, *answers)
        nursery.start_soon(keys.run)
        return keys, source, changed

    return start


async def test_the_first_fetch_is_waited_for(autojump_clock, started, rsa):
    keys, source, _ = started(key_set(rsa[0]))
    with pytest.raises(KeysAwaited) as caught:
        keys.find("k0", "RS256")
    await caught.value.wait()
    assert keys.find("k0", "RS256").kid == "k0"
    assert keys.find(None, "RS256").kid == "k0"  # the only one
    assert len(source.times) == 1


async def test_unknown_ids_cost_one_fetch_in_thirty_seconds(autojump_clock, started, rsa):
    keys, source, _ = started(key_set(rsa[0]))
    await settle()
    started_at = trio.current_time()
    for _ in range(10):
        for number in range(1000):
            try:
                keys.find(f"unknown-{number}", "RS256")
            except KeysAwaited as awaited:
                await awaited.wait()
            except Unauthenticated:
                pass
        await trio.sleep(7)
    spent = trio.current_time() - started_at
    assert 2 <= len(source.times) <= 1 + spent / MIN_INTERVAL
    pauses = [late - early for early, late in zip(source.times, source.times[1:], strict=False)]
    assert min(pauses) >= MIN_INTERVAL


async def test_a_rotation_is_followed_by_the_token_that_shows_it(autojump_clock, started, rsa):
    keys, source, changed = started(key_set(rsa[0]), key_set(rsa[1]))
    await settle()
    await trio.sleep(MIN_INTERVAL)
    with pytest.raises(KeysAwaited) as caught:
        keys.find("k1", "RS256")
    await caught.value.wait()
    assert keys.find("k1", "RS256").kid == "k1"
    with pytest.raises(Unauthenticated):
        keys.find("k0", "RS256")
    assert len(source.times) == len(changed) == 2


async def test_keys_are_fetched_again_by_themselves_and_a_change_is_told(
    autojump_clock, started, rsa
):
    keys, source, changed = started(
        key_set(rsa[0]), key_set(rsa[0]), key_set(*rsa), refresh_seconds=60.0
    )
    await trio.sleep(130)
    assert source.times == [0, 60, 120]
    assert changed == [0, 120]
    with pytest.raises(Unauthenticated):
        keys.find(None, "RS256")  # there are two


@pytest.mark.parametrize("failure", [OSError("down"), {"keys": []}, "garbage", BadAnswer("500")])
async def test_cached_keys_serve_up_to_their_age_and_nothing_does_after_it(
    autojump_clock, started, rsa, failure
):
    keys, source, changed = started(
        key_set(rsa[0]), failure, refresh_seconds=10.0, keys_max_age_seconds=100.0
    )
    await trio.sleep(99)
    assert keys.find("k0", "RS256").kid == "k0"
    await trio.sleep(2)
    with pytest.raises(AuthenticationUnavailable):
        keys.find("k0", "RS256")
    assert changed == [0, 100]
    source.answers[:] = [key_set(rsa[0])]
    await trio.sleep(module.LONGEST_PAUSE + 1)
    assert keys.find("k0", "RS256").kid == "k0"


async def test_whatever_goes_wrong_in_a_fetch_the_next_one_is_made(
    autojump_clock, started, rsa, caplog
):
    keys, _, _ = started(LookupError("a bug"), key_set(rsa[0]))
    with pytest.raises(KeysAwaited) as caught:
        keys.find("k0", "RS256")
    await caught.value.wait()
    assert "bug in reading the keys of i" in caplog.text
    await trio.sleep(2)
    assert keys.find("k0", "RS256").kid == "k0"


async def test_a_server_that_does_not_answer(autojump_clock, started):
    keys, source, _ = started(trio.Event())
    with pytest.raises(KeysAwaited) as caught:
        keys.find("k0", "RS256")
    before = trio.current_time()
    await caught.value.wait()
    assert trio.current_time() - before == module.FETCH_TIMEOUT
    with pytest.raises(AuthenticationUnavailable):
        keys.find("k0", "RS256")
    await trio.sleep(120)
    pauses = [late - early for early, late in zip(source.times, source.times[1:], strict=False)]
    assert pauses[:6] == [6, 7, 9, 13, 21, 35]


async def test_a_bounded_number_waits(autojump_clock, started, nursery, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    keys, _, _ = started(trio.Event())
    for _ in range(3):
        nursery.start_soon(keys.wait_fetched)
    await settle()
    with pytest.raises(AuthenticationUnavailable, match="too many"):
        await keys.wait_fetched()


async def test_a_key_for_another_algorithm(autojump_clock, started, rsa):
    keys, _, _ = started(key_set(rsa[0], alg="RS512"))
    await settle()
    with pytest.raises(Unauthenticated, match="another algorithm"):
        keys.find("k0", "RS256")


def test_what_is_used_of_a_key_set(rsa):
    number = private_key(65537, 1024).public_key().public_numbers().n.to_bytes(128, "big")
    text = base64.urlsafe_b64encode(number).rstrip(b"=").decode()
    short = {"kty": "RSA", "kid": "short", "n": text, "e": "AQAB"}
    padded = {"kty": "RSA", "kid": "padded", "n": "AAAA" * 50 + text, "e": "AQAB"}
    entries = [
        *key_set(*rsa)["keys"],
        key_set(ECKey.generate_key("P-256", {"kid": "ec"}))["keys"][0],
        OctKey.generate_key(256, {"kid": "secret"}).as_dict(),
        {**rsa[0].as_dict(private=False), "kid": "enc", "use": "enc"},
        {**rsa[0].as_dict(private=False), "kid": "k0", "n": rsa[1].as_dict()["n"]},
        {**rsa[0].as_dict(private=True), "kid": "private"},
        short, padded, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "?"}, {"kty": ["RSA"]}, {"kty": {}, "kid": []}, 5, None, {},
    ]  # fmt: skip
    found = read_key_set(json.dumps({"keys": entries}).encode())
    assert set(found) == {"k0", "k1", "ec", "private"}
    assert not found["private"].is_private
    assert found["k0"].as_dict(private=False)["n"] == rsa[0].as_dict(private=False)["n"]


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b'{"keys":{}}', b'{"keys":[]}', b"[" * 5000, b"\xff", b'{"keys":[5]}'],
)
def test_what_is_no_key_set(text):
    with pytest.raises(BadAnswer):
        read_key_set(text)


@pytest.fixture
async def fetched(issuer, nursery):
    """What one fetch from the real server comes to."""

    async def fetch():
        keys = IssuerKeys(config(issuer.url), lambda: None)
        good = await keys._fetch()
        return good, keys

    return fetch


async def test_over_the_network(issuer, fetched, monkeypatch, caplog):
    threads = []

    def read(text):
        threads.append(threading.get_ident())
        return read_key_set(text)

    monkeypatch.setattr(module, "read_key_set", read)
    good, keys = await fetched()
    assert good
    assert threads != [threading.get_ident()]
    assert keys.find("rsa-1", "RS256").kid == "rsa-1"
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setattr(module, "FETCH_TIMEOUT", 0.2)
    answers = [
        (500, {}, b"{}"),
        (302, {"location": issuer.url + "?"}, b""),
        (200, {}, b"<html>"),
        (200, {}, b" " * (module.MAX_ANSWER + 1)),
    ]
    for answer in answers:
        before = issuer.fetches
        issuer.answer = lambda answer=answer: answer
        assert not (await fetched())[0]
        assert issuer.fetches == before + 1  # a redirect is not followed
    issuer.answer = issuer.hang
    assert not (await fetched())[0]
    assert len(caplog.records) >= 5

import math
import threading

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from prism.access import authentication as module
from prism.access.api_keys import APIKeys, create_key, revoke_key
from prism.access.authentication import MAX_CREDENTIAL, Authentication
from prism.access.identity import Identity
from prism.config.types import JWTIssuerConfig
from prism.contract.errors import InvalidRequest, Unauthenticated


class Clock:
    now = 1_900_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.yaml"


def bearer(token, scheme=b"Bearer "):
    return [(b"host", b"a"), (b"authorization", scheme + token.encode())]


def test_a_key_is_judged_once(file, monkeypatch):
    key, _ = create_key(file, "reports", [])
    clock = Clock()
    keys = APIKeys(file)
    authentication = Authentication(keys, clock=clock)
    first = authentication.identify(bearer(key))
    judged = []
    monkeypatch.setattr(
        keys,
        "identify",
        lambda given, now: judged.append(given) or APIKeys.identify(keys, given, now),
    )
    assert authentication.identify(bearer(key)) is first
    assert authentication.identify(bearer(key, b"bearer ")).name == "reports"
    assert len(judged) == 1  # another spelling is another header
    clock.now += module.KNOWN_SECONDS
    assert authentication.identify(bearer(key)) is not first


def test_a_key_that_has_expired_is_not_remembered_for_longer(file):
    key, _ = create_key(file, "reports", [], "2030-03-17")
    clock = Clock()
    clock.now = 1_900_022_399.0
    authentication = Authentication(APIKeys(file), clock=clock)
    assert authentication.identify(bearer(key)).name == "reports"
    clock.now += 1
    with pytest.raises(Unauthenticated, match="has expired"):
        authentication.identify(bearer(key))


@pytest.mark.parametrize(
    ("headers", "problem", "shown"),
    [
        ([], "say who you are", False),
        (bearer("x", b"Basic "), "must be: Bearer", False),
        (bearer("", b"Bearer"), "must be: Bearer", False),
        (bearer("", b"Bearer "), "must be: Bearer", False),
        (bearer("prism_0"), "this API key is not good", True),
        (bearer("abc"), "this is no API key$", True),
        (bearer("a.b.c"), r"no API key, and no JWTs are taken here \(authentication.jwt\)$", True),
        (bearer("prism_" + "x" * MAX_CREDENTIAL), "at most 8192 bytes", True),
    ],
)
def test_who_does_not_say_who_it_is(file, headers, problem, shown):
    create_key(file, "reports", [])
    with pytest.raises(Unauthenticated, match=problem) as caught:
        Authentication(APIKeys(file)).identify(headers)
    assert caught.value.shown is shown


def test_an_api_key_where_only_jwts_are_taken():
    issuer = JWTIssuerConfig(
        issuer="https://issuer.example", audience="prism", algorithms=["RS256"]
    )
    with pytest.raises(Unauthenticated, match="no API keys are taken here") as caught:
        Authentication(jwt=[issuer]).identify(bearer("prism_0"))
    assert "(authentication.api_keys)" in str(caught.value)


def test_two_credentials_are_one_too_many(file):
    key, _ = create_key(file, "reports", [])
    with pytest.raises(InvalidRequest, match="more than one authorization header"):
        Authentication(APIKeys(file)).identify(bearer(key) + bearer(key))


def test_what_is_remembered_is_bounded(file, monkeypatch):
    monkeypatch.setattr(module, "MAX_KNOWN", 4)
    keys = [create_key(file, f"p{number}", [])[0] for number in range(9)]
    authentication = Authentication(APIKeys(file))
    for key in keys:
        authentication.identify(bearer(key))
        assert 1 <= len(authentication._known) <= 4


def test_a_key_is_not_remembered_once_for_each_way_to_pad_it(file):
    key, _ = create_key(file, "reports", [])
    authentication = Authentication(APIKeys(file))
    for number in range(2, 20):
        assert authentication.identify(bearer(key, b"Bearer" + b" " * number)).name == "reports"
    for scheme in (b"Bearer \t", b"Bearer \x0b"):
        with pytest.raises(Unauthenticated):
            authentication.identify(bearer(key, scheme))
    assert not authentication._known


async def test_the_file_is_read_once_at_a_time(file, nursery, monkeypatch):
    create_key(file, "reports", [])
    authentication = Authentication(APIKeys(file))
    begun, go_on = [], trio.Event()

    async def run_sync(work, **_):
        begun.append(work)
        await go_on.wait()
        return work()

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    nursery.start_soon(authentication.reload)
    nursery.start_soon(authentication.reload)
    await trio.testing.wait_all_tasks_blocked()
    assert len(begun) == 1
    go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    assert len(begun) == 2


async def test_what_is_open_is_looked_at_again_since_credentials_end(file, autojump_clock, nursery):
    key, _ = create_key(file, "reports", [], "2030-03-17")
    clock = Clock()
    authentication = Authentication(APIKeys(file), clock=clock)
    identity = authentication.identify(bearer(key))
    token = Identity("ada", expires=clock.now + 60)
    looks = []
    authentication.changed = lambda: looks.append(trio.current_time())
    nursery.start_soon(authentication.run)
    await trio.sleep(3.5 * module.REVIEW_SECONDS)
    assert len(looks) == 3
    assert authentication.is_good(identity)
    assert authentication.is_good(token)
    clock.now += 60
    assert not authentication.is_good(token)
    clock.now = 1_900_022_400.0
    assert not authentication.is_good(identity)


@pytest.mark.parametrize("change", [{"groups": ["ops"]}, {"principal": "others"}])
def test_what_is_open_ends_where_its_key_is_given_other_groups_or_another_caller(file, change):
    key, entry = create_key(file, "reports", ["billing", "ops"])
    keys = APIKeys(file)
    authentication = Authentication(keys)
    identity = authentication.identify(bearer(key))
    keys.use([replace(entry, groups=["ops", "billing"])])
    assert authentication.is_good(identity)
    keys.use([replace(entry, **change)])
    assert not authentication.is_good(identity)


@pytest.mark.parametrize("look", ["is_changed", "read"])
async def test_a_disk_that_hangs_does_not_hold_up_the_end(file, look, monkeypatch):
    create_key(file, "reports", [])
    keys = APIKeys(file)
    hangs, released, returned = threading.Event(), threading.Event(), threading.Event()

    def hang():
        hangs.set()
        released.wait(60)
        returned.set()
        return []

    monkeypatch.setattr(keys, "is_changed", lambda: True)
    monkeypatch.setattr(keys, look, hang)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Authentication(keys).run)
            await trio.to_thread.run_sync(hangs.wait, 60)
            nursery.cancel_scope.cancel()
        assert not returned.is_set()
    finally:
        released.set()


async def test_a_file_that_changes_is_read_again_and_one_that_breaks_is_not_used(
    file, autojump_clock, nursery, caplog
):
    key, entry = create_key(file, "reports", [])
    authentication = Authentication(APIKeys(file))
    tell, told = trio.open_memory_channel[None](math.inf)
    authentication.changed = lambda: tell.send_nowait(None)
    identity = authentication.identify(bearer(key))
    assert authentication.is_good(identity)
    nursery.start_soon(authentication.run)
    revoke_key(file, entry.id)
    while authentication.is_good(identity):
        await told.receive()
    with pytest.raises(Unauthenticated):
        authentication.identify(bearer(key))
    again, _ = create_key(file, "reports", [])
    await authentication.reload()
    assert authentication.identify(bearer(again)).name == "reports"
    file.write_text("keys: 5\n")
    await authentication.reload()
    assert authentication.identify(bearer(again)).name == "reports"
    assert "the API keys in use stay" in caplog.text

"""Rate limits of one proxy: whose calls are counted together, what is told, what is kept."""

import logging
from contextlib import suppress

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from prism.calls.policies import rate_limit
from prism.calls.policies.rate_limit import RateLimit, network_of
from prism.config.types import (
    LimitsStoreConfig,
    NamespaceLimits,
    RateLimitConfig,
    SecretsConfig,
)
from prism.contract.errors import CallCancelled, LimitsUnavailable, RateLimited
from prism.contract.messages import OperationDeclaration
from prism.limits.store import LimitsStore
from prism.secrets import Secrets


@pytest.fixture
def limited(make_namespace):
    """A namespace with these rate limits; the clock stands still in what does not wait."""

    def make(*rates, **more):
        configs = [RateLimitConfig(**rate) for rate in rates]
        return make_namespace(limits=NamespaceLimits(rate=configs), **more)

    return make


def policy_of(namespace):
    return next(one for one in namespace.policies if isinstance(one, RateLimit))


def change(namespace, *rates):
    limits = NamespaceLimits(rate=[RateLimitConfig(**rate) for rate in rates])
    namespace.update(msgspec.structs.replace(namespace.config, limits=limits))


def declare(namespace, **costs):
    instance = namespace.slot.current
    instance.operations.clear()
    for name, cost in costs.items():
        instance.operations[name] = OperationDeclaration(name=name, cost=cost)


async def passes(ask, namespace, times=1, **more):
    """How many of so many calls pass."""
    passed = 0
    for _ in range(times):
        try:
            await ask(namespace, **more)
            passed += 1
        except RateLimited:
            pass
    return passed


SLOW = {"calls_per_second": 0.001}  # nothing comes back while a test runs


async def test_a_burst_passes_and_the_next_is_told_when_to_come(limited, ask):
    namespace = limited({**SLOW, "burst": 3})
    assert await passes(ask, namespace, 3) == 3
    with pytest.raises(RateLimited, match=r"takes 0\.001 calls a second, 3 at once") as refused:
        await ask(namespace)
    assert refused.value.retry_after == pytest.approx(1000, abs=5)
    assert refused.value.members() == {
        "limit": {"per": "namespace", "calls_per_second": 0.001, "burst": 3}
    }
    assert refused.value.retryable


async def test_it_comes_back_at_its_rate(limited, ask, autojump_clock):
    namespace = limited({"calls_per_second": 10, "burst": 5})
    assert await passes(ask, namespace, 7) == 5
    await trio.sleep(0.31)
    assert await passes(ask, namespace, 7) == 3


def test_without_a_burst_a_second_is_one():
    assert RateLimitConfig(calls_per_second=2.5).most_at_once == 3
    assert RateLimitConfig(calls_per_second=0.1).most_at_once == 1


def test_it_is_in_the_list_only_where_there_is_a_limit(make_namespace, limited):
    assert not [one for one in make_namespace().policies if isinstance(one, RateLimit)]
    assert policy_of(limited(SLOW))


async def test_each_principal_has_its_own(limited, make_call):
    namespace = limited({**SLOW, "burst": 1, "per": "principal"})

    async def call_as(principal):
        call = make_call(namespace)
        call.principal = principal
        call.proceed()
        return await call.outcome()

    await call_as("a")
    await call_as("b")
    with pytest.raises(RateLimited, match="each principal may make in namespace 'kv'"):
        await call_as("a")


async def test_each_client_has_its_own(limited, ask):
    namespace = limited({**SLOW, "burst": 1, "per": "client"})
    await ask(namespace, client="192.0.2.1")
    await ask(namespace, client="192.0.2.2")
    await ask(namespace, client="2001:db8::1")
    for again in ("192.0.2.1", "2001:db8::abcd:1"):
        with pytest.raises(RateLimited, match="each client address"):
            await ask(namespace, client=again)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("a:b", "a:b"),
    ],
)
def test_a_client_of_ipv6_is_a_network(address, network):
    assert network_of(address) == network


async def test_each_operation_has_its_own_and_names_nobody_offers_have_one(limited, make_call):
    namespace = limited({**SLOW, "burst": 1, "per": "operation"})
    declare(namespace, get=0, set=0)

    def refused(operation):
        call = make_call(namespace, operation)
        call.proceed()
        return isinstance(call.error, RateLimited)

    assert [refused(name) for name in ("get", "set", "get", "made_up", "made_up_2")] == [
        False, False, True, False, True,
    ]  # fmt: skip


async def test_some_operations_are_limited_and_some_use_more(limited, ask):
    namespace = limited(
        {
            **SLOW,
            "burst": 10,
            "operations": ["scan", "set", "ping"],
            "costs": {"scan": 4, "ping": 0},
        }
    )
    declare(namespace, get=0, scan=0, set=7, ping=5)
    assert await passes(ask, namespace, 20, operation="get") == 20
    assert await passes(ask, namespace, 20, operation="ping") == 20
    assert await passes(ask, namespace, 3, operation="scan") == 2
    assert await passes(ask, namespace, 1, operation="set") == 0  # 7, as its plugin declares
    with pytest.raises(RateLimited, match="this one uses 4, and there is room for it in"):
        await ask(namespace, operation="scan")


async def test_what_can_never_pass_says_so(limited, ask, caplog):
    namespace = limited({**SLOW, "burst": 5})
    declare(namespace, scan=9)
    with pytest.raises(RateLimited, match="one that uses 9 can never pass") as refused:
        await ask(namespace, operation="scan")
    assert not refused.value.retryable
    assert "no call of scan can pass limits.rate of namespace kv" in caplog.text


async def test_names_that_the_plugin_does_not_offer_are_told_once(limited, ask, caplog):
    namespace = limited({**SLOW, "burst": 50, "operations": ["gett"]})
    declare(namespace, get=0)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await ask(namespace)
        # Another instance, or one of several, that offers the same.
        slot = namespace.slot
        slot.current.operations = slot.operations = dict(slot.operations)
        await ask(namespace)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "limits.rate of namespace kv names the operation gett, which its plugin does not offer; "
        "it offers get"
    )


async def test_of_several_limits_all_must_let_it_pass_and_who_refuses_uses_nothing(limited, ask):
    namespace = limited({**SLOW, "burst": 5, "per": "client"}, {**SLOW, "burst": 2})
    assert await passes(ask, namespace, 4, client="192.0.2.1") == 2
    client = policy_of(namespace)._limits[0]
    assert client.buckets.get("192.0.2.1", trio.current_time()).level == pytest.approx(2, abs=0.1)


async def test_a_change_keeps_what_was_used(limited, ask):
    namespace = limited({**SLOW, "burst": 5, "per": "client"})
    assert await passes(ask, namespace, 4, client="192.0.2.1") == 4
    change(namespace, {**SLOW, "burst": 6, "per": "client"}, {**SLOW, "burst": 100})
    assert await passes(ask, namespace, 4, client="192.0.2.1") == 2
    change(namespace, {**SLOW, "burst": 1, "per": "client"})
    assert await passes(ask, namespace, 1, client="192.0.2.1") == 0
    assert await passes(ask, namespace, 1, client="192.0.2.9") == 1


async def test_who_is_sure_to_be_refused_need_not_send_its_body(limited, make_call, ask):
    namespace = limited({**SLOW, "burst": 2}, {**SLOW, "burst": 9, "operations": ["scan"]})
    waiting = make_call(namespace, body=None)
    waiting.precheck()
    waiting.precheck()  # it only looks
    unknown = make_call(namespace, "", body=None)  # over gRPC the operation is not known yet
    unknown.precheck()
    assert await passes(ask, namespace, 2) == 2
    for call in (waiting, unknown):
        with pytest.raises(RateLimited):
            call.precheck()
        call.end(CallCancelled("the client left"))


async def test_an_operation_that_is_free_is_not_refused_before_it_is_known(limited, make_call, ask):
    namespace = limited({**SLOW, "burst": 1, "costs": {"ping": 0}})
    assert await passes(ask, namespace, 2) == 1
    call = make_call(namespace, "", body=None)
    call.precheck()
    call.operation = "ping"
    call.precheck()
    call.end(CallCancelled("the client left"))


async def test_keys_are_bounded_and_strangers_share_what_is_left(limited, ask, monkeypatch):
    monkeypatch.setattr("prism.limits.gcra.MAX_KEYS", 20)
    monkeypatch.setattr(rate_limit, "CROWDS", 4)
    namespace = limited({**SLOW, "burst": 2, "per": "client"})
    passed = 0
    for number in range(200):
        passed += await passes(ask, namespace, 1, client=f"192.0.2.{number}")
    limit = policy_of(namespace)._limits[0]
    assert (len(limit.buckets), len(limit._crowds)) == (20, 4)
    assert passed == 20 + 4 * 2  # and nobody gets more than the limit
    assert await passes(ask, namespace, 3, client="192.0.2.1") == 1


async def test_a_limit_on_some_operations_names_them(limited, ask):
    scans = {**SLOW, "burst": 1, "operations": ["get", "set"]}
    namespace = limited(scans)
    await ask(namespace, operation="get")
    with pytest.raises(
        RateLimited, match=r"takes 0\.001 calls a second of get, set, 1 at once;"
    ) as refused:
        await ask(namespace, operation="get")
    limit = refused.value.members()["limit"]
    assert limit["operations"] == ["get", "set"]
    assert policy_of(namespace).state()["namespace"]["operations"] == ["get", "set"]
    many = RateLimited("kv", "namespace", 1.0, 1, 1, 1.0, [f"op{number}" for number in range(9)])
    assert "of op0, op1, op2, op3, op4, ..., 1 at once" in str(many)


async def test_what_operators_see(limited, ask):
    namespace = limited({**SLOW, "burst": 1}, {**SLOW, "burst": 5}, {**SLOW, "per": "client"})
    await passes(ask, namespace, 3)
    policy = policy_of(namespace)
    assert policy.state()["namespace"] == {
        "calls_per_second": 0.001,
        "burst": 1,
        "per": "namespace",
        "operations": [],
        "keys": 1,
        "refused": 2,
    }
    assert list(policy.state()) == ["namespace", "namespace-2", "client"]
    measured = {(one.name, labels): value for one, labels, value in policy.measure()}
    assert measured["prism_rate_limited", ("namespace",)] == 2
    assert measured["prism_rate_limited", ("namespace-2",)] == 0
    assert measured["prism_rate_limit_keys", ("client",)] == 1


async def test_what_the_client_is_told(limited, make_call):
    namespace = limited({"calls_per_second": 2, "burst": 10}, {"calls_per_second": 100, "burst": 5})
    call = make_call(namespace)
    call.proceed()
    assert call.standing.headers() == [
        (b"ratelimit-policy", b'"namespace";q=10;w=5, "namespace-2";q=100;w=1'),
        (b"ratelimit", b'"namespace";r=9;t=1, "namespace-2";r=4;t=1'),
    ]
    await call.outcome()


async def test_what_the_client_is_told_of_a_single_limit(limited, make_call, autojump_clock):
    """As it stands when the answer leaves: other calls may have come meanwhile, and time."""
    namespace = limited({"calls_per_second": 2, "burst": 10, "per": "principal"})
    calls = [make_call(namespace) for _ in range(3)]
    for call, name in zip(calls, ("ann", "bob", "ann"), strict=True):
        call.principal = name
        call.proceed()
    left = [dict(call.standing.headers())[b"ratelimit"] for call in calls]
    assert left == [b'"principal";r=8;t=1', b'"principal";r=9;t=1', b'"principal";r=8;t=1']
    policy = dict(calls[0].standing.headers())[b"ratelimit-policy"]
    assert policy == b'"principal";q=10;w=5'
    await trio.sleep(0.5)
    left = [dict(call.standing.headers())[b"ratelimit"] for call in calls]
    assert left == [b'"principal";r=9;t=1', b'"principal";r=10;t=0', b'"principal";r=9;t=1']
    change(namespace, {"calls_per_second": 2, "burst": 5, "per": "principal"})
    assert dict(calls[0].standing.headers())[b"ratelimit"] == b'"principal";r=4;t=1'
    for call in calls:
        await call.outcome()


STORE = LimitsStoreConfig(url="redis://127.0.0.1:1/0")


class Silent(LimitsStore):
    """A store that is reached and never answers."""

    async def _load(self):
        self._loaded.set()

    async def _use(self, *_):
        await trio.sleep_forever()


@pytest.fixture
def with_store(limited):
    """A namespace with three limits, and its store, which is there and never answers."""

    def make(**last):
        pers = ("namespace", "principal", "client")
        *most, one = ({**SLOW, "burst": 5, "per": per} for per in pers)
        namespace = limited(*most, {**one, **last})
        store = Silent.from_config(STORE, SecretsConfig(), Secrets())
        namespace.attach(namespace.deadlines, namespace.is_good, None, namespace.overload, store)
        return namespace, store

    return make


@pytest.mark.parametrize("other", [None, LimitsStoreConfig(url="redis://127.0.0.1:2/0")])
async def test_calls_that_wait_for_a_store_that_is_taken_away_pass_at_once(
    with_store, make_call, nursery, other
):
    namespace, store = with_store()
    nursery.start_soon(store.run)
    calls = [make_call(namespace) for _ in range(2)]
    for call in calls:
        call.proceed()
    await wait_all_tasks_blocked()
    assert store.waiting == 2
    store.configure(other, SecretsConfig())
    await wait_all_tasks_blocked()
    assert [call.result for call in calls] == [b"{}", b"{}"]
    assert store.waiting == 0


@pytest.mark.parametrize("last", [{"when_store_is_down": "deny"}, {"burst": 1}])
async def test_where_the_store_goes_down_each_limit_says_what_passes(
    with_store, ask, autojump_clock, last
):
    """Not only the one that was being asked for."""
    namespace, store = with_store(**last)
    passed = []

    async def call():
        with suppress(LimitsUnavailable, RateLimited):
            passed.append(await ask(namespace))

    async with trio.open_nursery() as calls:
        calls.start_soon(store.run)
        async with trio.open_nursery() as waiting:
            for _ in range(3):
                waiting.start_soon(call)
        assert store.down
        calls.cancel_scope.cancel()
    assert len(passed) == ("burst" in last)

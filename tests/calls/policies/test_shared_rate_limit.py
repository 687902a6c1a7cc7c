"""Limits that proxies share, on a real Redis (and Valkey): each proxy here is a store's client, a
namespace and its policy, as in a process of its own."""

import gc
import logging
import sys
import threading
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
import trustme

from prism.config.types import LimitsStoreConfig, NamespaceLimits, RateLimitConfig, SecretsConfig
from prism.contract.errors import LimitsUnavailable, RateLimited
from prism.limits import store as store_module
from prism.limits.store import PREFIX, LimitsStore
from prism.secrets import Secrets
from tests.services.redis import Redis

pytest.importorskip("coredis")

pytestmark = pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")

KEY = f"{PREFIX}kv:namespace:"
NEVER = {"calls_per_second": 0.001}  # nothing comes back while a test runs
LIMIT = 60.0  # what hangs has failed
PATIENT = 10.0  # for an answer of a store that a busy machine keeps from answering


@pytest.fixture(autouse=True)
def what_coredis_leaves_open():
    """Of a connection that fails, it leaves streams in memory to the collector, which tells so: let
    it do that here, where it is known, and not in a test that comes later."""
    yield
    gc.collect()


@pytest.fixture
def start_proxy(running, make_namespace, make_call):
    """A proxy: a namespace with this limit, and what it shares with others."""

    @asynccontextmanager
    async def start(server, *, secrets=None, url="", **rate):
        more = rate.pop("store", {})
        config = LimitsStoreConfig(
            url=url or server.url(), timeout_seconds=more.pop("timeout_seconds", PATIENT), **more
        )
        store = LimitsStore.from_config(config, SecretsConfig(), secrets or Secrets())
        told = []
        store.on_change = told.append
        namespace = make_namespace(limits=NamespaceLimits(rate=RateLimitConfig(**rate)))
        namespace.attach(namespace.deadlines, namespace.is_good, None, namespace.overload, store)

        async def outcome(**more):
            """The error of a call, if it has one."""
            call = make_call(namespace, **more)
            call.proceed()
            try:
                await call.outcome()
            except (RateLimited, LimitsUnavailable) as error:
                return error
            return None

        async def passes(number, **more):
            """How many of so many calls pass, which come together."""
            passed = 0

            async def one():
                nonlocal passed
                error = await outcome(**more)
                passed += error is None

            async with trio.open_nursery() as calls:
                for _ in range(number):
                    calls.start_soon(one)
            return passed

        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.run)
                yield SimpleNamespace(
                    store=store, namespace=namespace, outcome=outcome, passes=passes, told=told
                )
                nursery.cancel_scope.cancel()

    return start


async def until(check):
    while not check():  # noqa: ASYNC110 - it is told of nothing
        await trio.sleep(0.01)


async def test_two_proxies_have_one_burst_together(redis_server, start_proxy):
    redis_server.ask("FLUSHALL")
    async with (
        start_proxy(redis_server, burst=10, **NEVER) as one,
        start_proxy(redis_server, burst=10, **NEVER) as other,
    ):
        assert await one.passes(7) == 7
        assert await other.passes(7) == 3
        error = await one.outcome()
        assert isinstance(error, RateLimited)
        assert 900 < error.retry_after <= 1001


async def test_no_more_than_the_rate_and_the_burst_pass_and_few_are_asked_for(
    redis_server, start_proxy
):
    redis_server.ask("FLUSHALL")
    rate, burst = 2000, 300
    async with (
        start_proxy(redis_server, calls_per_second=rate, burst=burst) as one,
        start_proxy(redis_server, calls_per_second=rate, burst=burst) as other,
    ):
        passed = calls = 0
        began = trio.current_time()

        async def load(proxy):
            nonlocal passed, calls
            while trio.current_time() < began + 1.5:
                now = await proxy.passes(20)
                passed += now
                calls += 20

        async with trio.open_nursery() as nursery:
            for proxy in (one, one, other, other):
                nursery.start_soon(load, proxy)
        seconds = trio.current_time() - began
        assert burst < passed <= burst + rate * seconds
        # Much less than a round trip for each call that passes; none for what is sure to be
        # refused. How many exactly is a matter of the machine.
        assert one.store.asked + other.store.asked < calls / 4


async def test_a_low_rate_is_asked_singly_and_nothing_is_lost(redis_server, start_proxy):
    redis_server.ask("FLUSHALL")
    async with start_proxy(redis_server, calls_per_second=10, burst=5) as proxy:
        for _ in range(3):
            assert await proxy.outcome() is None
        stored = redis_server.ask("GET", KEY).split(b"\r\n")[1]
        assert float(stored.split()[0]) <= 3.0
        assert proxy.store.asked == 4  # the first is at the connection


async def test_who_is_sure_to_be_refused_costs_no_round_trip(redis_server, start_proxy):
    redis_server.ask("FLUSHALL")
    async with start_proxy(redis_server, burst=1, **NEVER) as proxy:
        assert await proxy.passes(5) == 1
        asked = proxy.store.asked
        assert await proxy.passes(50) == 0
        assert proxy.store.asked == asked


async def test_keys_of_one_moment_share_a_round_trip(redis_server, start_proxy):
    redis_server.ask("FLUSHALL")
    async with start_proxy(redis_server, burst=2, per="client", **NEVER) as proxy:
        await until(lambda: proxy.store.asked == 1)
        async with trio.open_nursery() as nursery:
            for number in range(100):
                client = f"192.0.2.{number}"
                nursery.start_soon(lambda client=client: proxy.passes(1, client=client))
        assert proxy.store.asked <= 4


async def test_calls_that_come_while_it_connects_wait_for_it(redis_server, start_proxy):
    redis_server.ask("FLUSHALL")
    async with start_proxy(redis_server, burst=3, **NEVER) as proxy:
        assert proxy.store.asked == 0
        assert await proxy.passes(5) == 3
        assert not proxy.told


# -- the store goes away ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "passed", "reason"),
    [("local", 4, "rate_limited"), ("deny", 0, "limits_unavailable"), ("allow", 20, None)],
)
async def test_a_store_that_is_gone(start_server, start_proxy, caplog, mode, passed, reason):
    server = start_server(Redis)
    async with start_proxy(server, burst=6, when_store_is_down=mode, **NEVER) as proxy:
        assert await proxy.passes(2) == 2
        server.kill()
        with caplog.at_level(logging.WARNING, "prism.limits"):
            # What this proxy has let through by then counts.
            assert await proxy.passes(20) == passed
            error = await proxy.outcome()
        assert getattr(error, "reason", None) == reason
        assert proxy.told
        assert proxy.store.failures == 1
        line, *more = [r.getMessage() for r in caplog.records if r.name == "prism.limits"]
        assert all("is down still: " in each for each in more)  # as to connect fails otherwise
        assert line.startswith(f"the limits store at {server.url()} is down")
        shown = next(one for one in proxy.namespace.policies if one.name == "rate").state()
        assert shown["store"].startswith("down: ")

        server.restart()
        await until(lambda: not proxy.store.down)
        assert proxy.told[-1] == ""
        assert proxy.told.count("") == 1
        assert server.ask("EXISTS", f"{PREFIX}epoch") == b":1\r\n"


async def test_a_proxy_starts_without_its_store(start_server, start_proxy, caplog):
    server = start_server(Redis)
    server.kill()
    async with start_proxy(server, burst=3, **NEVER) as proxy:
        assert await proxy.passes(5) == 3
        assert proxy.store.down
        server.restart()
        await until(lambda: not proxy.store.down)
        # It tells the store what it has let through meanwhile.
        assert await proxy.passes(5) == 0
    assert caplog.text.count("is down") == 1


async def test_a_connection_that_takes_long_is_no_failure_while_nobody_waits(
    start_server, start_proxy, monkeypatch
):
    monkeypatch.setattr(store_module, "CONNECT_SECONDS", LIMIT)
    server = start_server(Redis)
    server.freeze()
    async with start_proxy(server, burst=5, store={"timeout_seconds": 0.05}, **NEVER) as proxy:
        await trio.sleep(0.3)
        assert not proxy.told
        monkeypatch.setattr(store_module, "CONNECT_SECONDS", 0.05)
        assert await proxy.passes(7) == 5  # by its own count, which nobody had to wait long for
        assert len(proxy.told) == 1
        server.thaw()
        await until(lambda: not proxy.store.down)


async def test_a_call_whose_time_is_up_has_not_been_counted(start_server, start_proxy):
    server = start_server(Redis)
    server.freeze()
    async with start_proxy(server, burst=5, **NEVER) as proxy:
        error = await proxy.outcome(timeout=0.05)
        assert isinstance(error, LimitsUnavailable)
        assert "did not answer before the call's deadline" in str(error)
        assert proxy.store.waiting == 0
        server.thaw()
        assert await proxy.passes(7) == 5


async def test_a_store_that_restarts_empty_makes_no_new_budgets(start_server, start_proxy):
    server = start_server(Redis, settings={"appendonly": "no"})
    async with (
        start_proxy(server, burst=10, **NEVER) as one,
        start_proxy(server, burst=10, **NEVER) as other,
    ):
        assert await one.passes(5) == 5
        assert await other.passes(5) == 5
        server.kill()
        server.restart()
        assert server.ask("DBSIZE") == b":0\r\n"
        # Each has used five itself; together the whole.
        for proxy in (one, other):
            await until(lambda proxy=proxy: not proxy.store.down)
            assert await proxy.passes(20) <= 5 or proxy.store.failures
        async with start_proxy(server, burst=10, **NEVER) as third:
            assert await third.passes(20) == 0


async def test_a_fresh_store_has_whole_budgets(start_server, start_proxy):
    server = start_server(Redis)
    async with start_proxy(server, burst=10, **NEVER) as proxy:
        assert await proxy.passes(20) == 10


async def test_a_store_that_hangs_holds_calls_for_a_bounded_time(start_server, start_proxy):
    server = start_server(Redis)
    async with start_proxy(
        server, burst=5, when_store_is_down="local", store={"timeout_seconds": 0.2}, **NEVER
    ) as proxy:
        await proxy.store.first_try()
        server.freeze()
        # A call may come while another waits: twice the time is what it may take.
        assert await proxy.passes(20) == 5
        assert proxy.store.down == "it did not answer within 0.2 s"
        server.thaw()
        await until(lambda: not proxy.store.down)
        assert await proxy.passes(20) == 0


async def test_a_store_that_has_no_room_counts_as_down(start_server, start_proxy):
    server = start_server(Redis)
    async with start_proxy(server, burst=5, when_store_is_down="deny", **NEVER) as proxy:
        assert await proxy.outcome() is None
        server.ask("CONFIG", "SET", "maxmemory", "1")
        assert isinstance(await proxy.outcome(), LimitsUnavailable)
        assert "used memory > 'maxmemory'" in proxy.store.down


async def test_calls_wait_for_the_first_connection_longer_than_for_an_answer(
    redis_server, start_proxy, monkeypatch
):
    redis_server.ask("FLUSHALL")
    load = store_module._library
    waits = threading.Event()

    def slowly():
        waits.wait(LIMIT)
        return load()

    monkeypatch.setattr(store_module, "_library", slowly)
    monkeypatch.setattr(store_module, "CONNECT_SECONDS", LIMIT)
    async with start_proxy(
        redis_server, burst=3, store={"timeout_seconds": 0.05}, when_store_is_down="deny", **NEVER
    ) as proxy:
        outcomes = []

        async def call():
            outcomes.append(await proxy.outcome())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.sleep(0.3)
            assert not outcomes
            assert not proxy.told
            # An answer may take longer on a busy machine, which is not what this is about.
            waits.set()
            await proxy.store.first_try()
            assert proxy.store.asked >= 1
        assert "" not in proxy.told


async def test_a_first_try_ends_where_there_is_no_store(start_server, start_proxy, monkeypatch):
    server = start_server(Redis)
    server.freeze()
    monkeypatch.setattr(store_module, "CONNECT_SECONDS", 0.05)
    async with start_proxy(server, burst=3, store={"timeout_seconds": 0.05}, **NEVER) as proxy:
        await proxy.store.first_try()
        server.thaw()
        server.kill()
        await until(lambda: proxy.store.down)
        await proxy.store.first_try()  # at once


async def test_it_is_noticed_that_it_is_gone_while_nobody_calls(
    start_server, start_proxy, monkeypatch
):
    monkeypatch.setattr(store_module, "PING_SECONDS", 0.01)
    server = start_server(Redis)
    async with start_proxy(server, burst=3, **NEVER) as proxy:
        await proxy.store.first_try()
        assert not proxy.store.down
        server.kill()
        await until(lambda: proxy.store.down)
        server.restart()
        await until(lambda: not proxy.store.down)


async def test_another_reason_is_told_once_and_a_correction_once(start_server, start_proxy, caplog):
    server = start_server(Redis)
    server.kill()
    async with start_proxy(server, burst=3, **NEVER) as proxy:
        await until(lambda: proxy.told)
        server.options["settings"] = {"requirepass": "correct-horse-battery"}
        server.restart()
        wanted = "it wants a password: set limits_store.password"
        await until(lambda: proxy.store.down == wanted)
        tries = proxy.store.asked
        await until(lambda: proxy.store.asked >= tries + 2)
        assert proxy.told.count(wanted) == 1
        assert caplog.text.count(f"is down still: {wanted}") == 1

        named = SecretsConfig(environment=["LIMITS"])
        proxy.store._secrets = Secrets({"LIMITS": "correct-horse-battery"})
        config = LimitsStoreConfig(
            url=server.url(), password="{{ secret:LIMITS }}", timeout_seconds=PATIENT
        )
        proxy.store.configure(config, named)
        await until(lambda: proxy.told[-1] == "")
        assert caplog.text.count("answers again") == 1
        assert await proxy.passes(5) == 3
        assert proxy.told.count("") == 1


# -- its clock ----------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_clock_that_jumps_locks_nobody_out(redis_server, start_proxy, hours):
    """A time of before a jump is in the future after one back, and long ago after one forward."""
    redis_server.ask("FLUSHALL")
    async with start_proxy(redis_server, calls_per_second=1, burst=10) as proxy:
        assert await proxy.passes(10) >= 10
        level, at = redis_server.ask("GET", KEY).split(b"\r\n")[1].split()
        assert float(level) > 5
        moved = int(at) + hours * 3_600_000_000
        redis_server.ask("SET", KEY, f"{level.decode()} {moved}")
    async with start_proxy(redis_server, calls_per_second=1, burst=10) as proxy:
        passed = await proxy.passes(20)
        # Back: as if no time had passed. Forward: one more burst, and no more.
        assert passed <= (4 if hours > 0 else 10)
        stored = redis_server.ask("GET", KEY).split(b"\r\n")[1].split()
        assert abs(int(stored[1]) - int(at)) < 600e6  # it is now's again


# -- who it is, and who asks ----------------------------------------------------------------------


async def test_tls_and_a_password_that_nobody_sees(start_server, start_proxy, tmp_path, caplog):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "server.key")
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    server = start_server(Redis, tls=tmp_path, settings={"requirepass": "correct-horse-battery"})
    secrets = Secrets({"LIMITS": "correct-horse-battery", "WRONG": "wrong-horse-battery"})

    @asynccontextmanager
    async def proxy_with(password, ca_cert):
        config = LimitsStoreConfig(
            url=server.url(),
            password=password,
            ca_cert=str(ca_cert),
            timeout_seconds=PATIENT,
        )
        named = SecretsConfig(environment=["LIMITS", "WRONG"])
        async with start_proxy(server, burst=5, when_store_is_down="deny", **NEVER) as proxy:
            proxy.store._secrets = secrets
            proxy.store.configure(config, named)
            yield proxy

    async with proxy_with("{{ secret:LIMITS }}", tmp_path / "ca.pem") as proxy:
        assert await proxy.passes(7) == 5
    async with proxy_with("{{ secret:WRONG }}", tmp_path / "ca.pem") as proxy:
        assert await proxy.passes(1) == 0
        assert "invalid username-password pair" in proxy.store.down
    async with proxy_with("{{ secret:LIMITS }}", other) as proxy:
        assert await proxy.passes(1) == 0
        assert "certificate verify failed" in proxy.store.down
    async with proxy_with("{{ secret:MISSING }}", tmp_path / "ca.pem") as proxy:
        assert await proxy.passes(1) == 0
        assert 'the secret "MISSING" cannot be read' in proxy.store.down
    assert "horse" not in caplog.text
    assert not [record for record in caplog.records if record.name.startswith("coredis")]


async def test_without_its_library_it_is_down_and_says_what_to_install(
    start_server, start_proxy, monkeypatch
):
    server = start_server(Redis)
    monkeypatch.setitem(sys.modules, "coredis", None)
    async with start_proxy(server, burst=5, **NEVER) as proxy:
        assert await proxy.passes(7) == 5
        assert "which the extra 'limits' brings" in proxy.store.down


async def test_another_store_is_used_at_once(start_server, start_proxy):
    server = start_server(Redis)
    async with start_proxy(server, burst=5, **NEVER) as proxy:
        assert await proxy.passes(7) == 5
        config = LimitsStoreConfig(url=server.url(1), timeout_seconds=PATIENT)
        proxy.store.configure(config, SecretsConfig())
        assert await proxy.passes(7) == 0  # what it knows itself it brings along
        proxy.store.configure(None, SecretsConfig())
        assert await proxy.passes(7) == 0


async def test_so_many_wait_for_it_at_a_time(start_server, start_proxy, monkeypatch):
    monkeypatch.setattr("prism.calls.policies.rate_limit.MAX_WAITING", 3)
    server = start_server(Redis)
    server.freeze()
    async with start_proxy(
        server, burst=50, when_store_is_down="allow", store={"timeout_seconds": 0.3}, **NEVER
    ) as proxy:
        assert await proxy.passes(5) == 3
        assert proxy.store.waiting == 0
    server.thaw()


def test_the_script_is_one_command_for_many_keys():
    assert store_module.MAX_ASKS * 6 + 3 < 7999  # Lua's unpack, and what a stack may hold

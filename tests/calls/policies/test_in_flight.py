import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from prism.calls.policies.in_flight import InFlightLimit
from prism.config.resilience_types import AdaptiveLimit
from prism.config.types import NamespaceLimits
from prism.contract.errors import (
    CallCancelled,
    Draining,
    InternalError,
    InvalidRequest,
    QueueTooLong,
    TooManyInFlight,
)
from prism.contract.messages import ExecuteResponse

ANSWER = ExecuteResponse(success=True)


class Backend:
    """A handler whose calls end when they are told to. ``running`` are those that have begun."""

    def __init__(self):
        self.running = {}

    async def __call__(self, request):
        answer = self.running[request.metadata["prism-request-id"]] = trio.Event()
        await answer.wait()
        return ANSWER

    async def answer(self, name):
        await wait_all_tasks_blocked()
        self.running.pop(name).set()
        await wait_all_tasks_blocked()

    async def names(self):
        await wait_all_tasks_blocked()
        return sorted(self.running)


@pytest.fixture
def start(make_call):
    """Begin a call by the name of ``name``."""

    def start(namespace, name, principal="", **more):
        call = make_call(namespace, **more)
        call.request_id = name
        call.principal = principal
        call.proceed()
        return call

    return start


def limit(namespace, **limits):
    namespace.update(msgspec.structs.replace(namespace.config, limits=NamespaceLimits(**limits)))


def policy_of(namespace):
    return next(each for each in namespace.policies if isinstance(each, InFlightLimit))


def counted(namespace):
    """The policy's metrics that are not 0, but for the limit."""
    return {
        (measure.name.removeprefix("prism_"), *labels): value
        for measure, labels, value in policy_of(namespace).measure()
        if value and measure.name != "prism_in_flight_limit"
    }


async def test_one_too_many_and_the_place_is_free_again(make_namespace, make_call, ask):
    async def hang(request):
        await trio.sleep_forever()

    namespace = make_namespace(hang, limits=NamespaceLimits(max_in_flight=1))
    call = make_call(namespace)
    call.proceed()
    await wait_all_tasks_blocked()
    for _ in range(3):
        with pytest.raises(TooManyInFlight, match="1 calls in flight"):
            await ask(namespace)
    assert namespace.in_flight == 1
    call.end(CallCancelled("the client left"))
    assert namespace.in_flight == 0


async def test_waiting_for_a_body_holds_no_place(make_namespace, make_call, ask):
    namespace = make_namespace(limits=NamespaceLimits(max_in_flight=1))
    waiting = make_call(namespace, body=None)
    waiting.proceed()
    assert namespace.in_flight == 0
    await ask(namespace)
    waiting.deliver(b"{}")
    await waiting.outcome()
    assert namespace.in_flight == 0


async def test_refused_before_the_body_is_waited_for(make_namespace, make_call):
    async def hang(request):
        await trio.sleep_forever()

    namespace = make_namespace(hang, limits=NamespaceLimits(max_in_flight=1))
    running, refused = make_call(namespace), make_call(namespace, body=None)
    running.proceed()
    with pytest.raises(TooManyInFlight):
        refused.precheck()
    running.end(CallCancelled("the client left"))


async def test_failures_give_the_place_back(make_namespace, ask, caplog):
    async def fail(request):
        raise RuntimeError("secret")

    namespace = make_namespace(fail)
    with pytest.raises(InternalError, match="internal error"):
        await ask(namespace)
    assert namespace.in_flight == 0
    assert "secret" in caplog.text


async def test_a_call_waits_for_a_place_and_needs_no_task(make_namespace, start):
    backend = Backend()
    namespace = make_namespace(backend, limits=NamespaceLimits(max_in_flight=1, max_queued=2))
    first = start(namespace, "first")
    tasks = trio.lowlevel.current_statistics().tasks_living
    late, soon = start(namespace, "late", timeout=20), start(namespace, "soon", timeout=10)
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    with pytest.raises(TooManyInFlight, match="1 calls in flight, its limit, and 2 in its queue"):
        await start(namespace, "refused").outcome()
    assert policy_of(namespace).state() == {"limit": 1, "refused": 1, "queued": 2}
    for name, call in (("first", first), ("soon", soon), ("late", late)):
        assert await backend.names() == [name]
        await backend.answer(name)
        await call.outcome()
    assert namespace.in_flight == 0
    assert {
        name: number for name, number in counted(namespace).items() if "wait" not in name[0]
    } == {
        ("in_flight_refused", "queue_full"): 1,
        ("queue_left", "admitted"): 2,
    }


async def test_a_deadline_in_the_queue(make_namespace, start, autojump_clock):
    namespace = make_namespace(Backend(), limits=NamespaceLimits(max_in_flight=1, max_queued=2))
    running = start(namespace, "running")
    with pytest.raises(QueueTooLong, match="it never ran") as ending:
        await start(namespace, "waits", timeout=3).outcome()
    assert ending.value.retryable
    assert trio.current_time() - running.started == pytest.approx(3, abs=0.1)
    assert counted(namespace) == {
        ("queue_left", "expired"): 1,
        ("queue_wait_seconds",): pytest.approx(3, abs=0.1),
    }
    running.end(CallCancelled("the client left"))
    assert namespace.in_flight == 0


async def test_a_call_that_would_wait_too_long_is_refused_before_its_body(
    make_namespace, start, make_call, ask, autojump_clock
):
    async def take_a_second(request):
        await trio.sleep(1)
        return ANSWER

    namespace = make_namespace(take_a_second, limits=NamespaceLimits(max_in_flight=1, max_queued=9))
    await ask(namespace)
    for number in range(3):
        start(namespace, str(number))
    hopeless = make_call(namespace, body=None, timeout=0.5)
    with pytest.raises(
        QueueTooLong, match=r"would wait for some 1 s, and may take 0\.5 s"
    ) as refusal:
        hopeless.precheck()
    assert refusal.value.retry_after == pytest.approx(1)
    assert (await ask(namespace, timeout=6)) == b"{}"


async def test_calls_that_leave_the_queue(make_namespace, start):
    backend = Backend()
    namespace = make_namespace(backend, limits=NamespaceLimits(max_in_flight=1, max_queued=5))
    start(namespace, "running")
    left, stopped, stays = (start(namespace, name) for name in ("left", "stopped", "stays"))
    left.end(CallCancelled("the client left"))
    stopped.end(Draining("the proxy stopped"))
    assert policy_of(namespace).state()["queued"] == 1
    await backend.answer("running")
    assert await backend.names() == ["stays"]
    await backend.answer("stays")
    await stays.outcome()
    assert namespace.in_flight == 0


async def test_calls_that_end_as_soon_as_they_come_in_need_no_depth(make_namespace, start):
    """Thousands of bodies that are no JSON, which is seen when they have their place."""
    backend = Backend()
    namespace = make_namespace(backend, limits=NamespaceLimits(max_in_flight=1, max_queued=5000))
    start(namespace, "running")
    bad = [start(namespace, "bad", body=b"no JSON") for _ in range(4999)]
    good = start(namespace, "good", timeout=99)
    await backend.answer("running")
    for call in bad:
        with pytest.raises(InvalidRequest):
            await call.outcome()
    await backend.answer("good")
    await good.outcome()
    assert namespace.in_flight == 0


async def test_principals_share(make_namespace, start):
    backend = Backend()
    limits = NamespaceLimits(max_in_flight=2, max_queued=3, fair_shares=True)
    namespace = make_namespace(backend, limits=limits)
    flood = [start(namespace, f"many-{number}", "many") for number in range(5)]
    few = start(namespace, "few", "few")
    with pytest.raises(TooManyInFlight, match="made room for a caller who has fewer"):
        await flood[4].outcome()
    await backend.answer("many-0")
    assert await backend.names() == ["few", "many-1"]
    assert policy_of(namespace).state()["principals"] == 2
    await backend.answer("few")
    await few.outcome()
    for name in ("many-1", "many-2", "many-3"):
        await backend.answer(name)
    assert namespace.in_flight == 0


async def test_the_limits_change_under_calls(make_namespace, start):
    """Which began when there was a count only; and it becomes that again."""
    backend = Backend()
    namespace = make_namespace(backend, limits=NamespaceLimits(max_in_flight=2))
    start(namespace, "a")
    start(namespace, "b")
    with pytest.raises(TooManyInFlight):
        await start(namespace, "refused").outcome()
    limit(namespace, max_in_flight=1, max_queued=3)
    for name in ("c", "d", "e"):
        start(namespace, name)
    await backend.answer("a")
    assert await backend.names() == ["b"]
    limit(namespace, max_in_flight=3)
    assert await backend.names() == ["b", "c", "d"]
    with pytest.raises(TooManyInFlight):
        await start(namespace, "refused").outcome()
    for name in ("b", "c", "d", "e"):
        await backend.answer(name)
    assert (namespace.in_flight, counted(namespace)["in_flight_refused", "in_flight"]) == (0, 2)
    start(namespace, "f")
    assert namespace.in_flight == 1
    await backend.answer("f")
    assert namespace.in_flight == 0


async def test_the_limit_follows_what_calls_take(make_namespace, make_call, autojump_clock):
    """A plugin that serves four at a time is given hardly more, and clients never fewer."""
    serves = trio.CapacityLimiter(4)

    async def serve(request):
        async with serves:
            await trio.sleep(0.05)
        return ANSWER

    limits = NamespaceLimits(max_queued=100, adaptive=AdaptiveLimit(min=2, max=200))
    namespace = make_namespace(serve, limits=limits)
    seen = []

    async def client():
        for _ in range(60):
            call = make_call(namespace)
            call.proceed()
            await call.outcome()
            seen.append(policy_of(namespace).state()["limit"])

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(client)
    assert min(seen) >= 2
    assert max(seen[2000:]) <= 24
    assert namespace.in_flight == 0

"""When a call is made a second time, which answer counts, and what becomes of the other one."""

import copy
import gc
from contextlib import suppress

import pytest
import trio
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked

from prism.calls.budget import FLOOR, WINDOW
from prism.calls.namespace import Namespace
from prism.calls.policies.hedging import ENOUGH, MAX_OPERATIONS, SHORTEST, Hedging
from prism.config.plugin_types import BalanceConfig
from prism.config.types import BreakerConfig, HedgingConfig, RetriesConfig
from prism.contract.errors import (
    CallCancelled,
    DeadlineExceeded,
    Overloaded,
    PluginCrashed,
    PluginError,
)
from prism.contract.messages import ExecuteResponse, OperationDeclaration
from prism.contract.status import StatusCode
from prism.supervision.balance import Balance
from prism.supervision.breaker import CircuitState
from prism.supervision.replica_slot import ReplicaSlot, SharedSlot

UNAVAILABLE = ExecuteResponse(error="away", error_code=StatusCode.UNAVAILABLE)
MISSING = ExecuteResponse(error="no such key", error_code=StatusCode.NOT_FOUND)
AFTER = 0.1


def fine(number):
    return ExecuteResponse(success=True, result_json=f'"{number}"')


class Attempts:
    """What a plugin makes of the attempts, in the order in which they come: ``(seconds,
    outcome)``. Those that were cancelled are in ``cancelled``, by their number from 1."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.begun = []
        self.cancelled = []

    async def answer(self, request):
        self.begun.append(trio.current_time())
        number = len(self.begun)
        seconds, outcome = self.outcomes[min(number, len(self.outcomes)) - 1]
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.cancelled.append(number)
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def hedging(make_namespace):
    """A namespace that hedges after ``AFTER`` seconds, and what its plugin sees."""

    def make(*outcomes, retries=None, **config):
        attempts = Attempts(*outcomes)
        namespace = make_namespace(attempts.answer)
        hedged = HedgingConfig(**{"after": AFTER, **config})
        namespace.update(replace(namespace.config, hedging=hedged, retries=retries))
        return namespace, attempts

    return make


def policy(namespace):
    (found,) = [each for each in namespace.policies if isinstance(each, Hedging)]
    return found


def counted(namespace):
    found = policy(namespace)
    return found.sent, found.won, found.lost


def check_leases(instance, **expected):
    names = ("opened", "finished", "refused", "cancelled", "failed")
    seen = {name: getattr(instance, name) for name in names if getattr(instance, name)}
    assert seen == expected
    assert (instance.leases, instance.lost, instance.channel.open_calls) == (0, 0, 0)


async def over(namespace):
    """All attempts have ended."""
    await trio.sleep(100)
    assert namespace.in_flight == 0
    assert not namespace.deadlines.alarms._alarms


async def test_one_that_is_quick_is_made_once(hedging, make_call, autojump_clock):
    namespace, attempts = hedging((AFTER * 0.9, fine(1)))
    call = make_call(namespace)
    call.proceed()
    assert await call.outcome() == b'"1"'
    await over(namespace)
    assert (len(attempts.begun), call.attempts, call.is_hedged) == (1, 1, False)
    check_leases(namespace.slot.current, opened=1, finished=1)
    assert counted(namespace) == (0, 0, 0)


@pytest.mark.parametrize("result", [fine(2), MISSING])
async def test_the_second_answers_first(hedging, make_call, autojump_clock, result):
    namespace, attempts = hedging((60, fine(1)), (0.05, result))
    call = make_call(namespace)
    call.proceed()
    if result is MISSING:
        with pytest.raises(PluginError, match="no such key"):
            await call.outcome()
    else:
        assert await call.outcome() == b'"2"'
    assert trio.current_time() == pytest.approx(AFTER + 0.05)
    await over(namespace)
    assert attempts.cancelled == [1]
    assert (call.attempts, call.is_hedged, call.retries, call.observed) == (2, True, 0, 1)
    assert call.plugin_seconds == pytest.approx(0.05)
    check_leases(namespace.slot.current, opened=2, finished=1, cancelled=1)
    assert counted(namespace) == (1, 1, 0)


async def test_the_first_answers_first(hedging, make_call, autojump_clock):
    namespace, attempts = hedging((AFTER * 2, fine(1)), (60, fine(2)))
    call = make_call(namespace)
    call.proceed()
    assert await call.outcome() == b'"1"'
    await over(namespace)
    assert attempts.cancelled == [2]
    check_leases(namespace.slot.current, opened=2, finished=1, cancelled=1)
    assert counted(namespace) == (1, 0, 1)


@pytest.mark.parametrize(
    ("outcome", "how"),
    [
        (UNAVAILABLE, "finished"),
        (PluginCrashed("gone"), "failed"),
        (Overloaded("full"), "refused"),
        (RuntimeError("a bug"), "finished"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
async def test_one_that_fails_leaves_it_to_the_other(
    hedging, make_call, autojump_clock, outcome, how, first
):
    fails, answers = (AFTER * 2, outcome), (AFTER * 4, fine(0))
    namespace, attempts = hedging(*((fails, answers) if first else (answers, fails)))
    call = make_call(namespace)
    call.proceed()
    assert await call.outcome() == b'"0"'
    await over(namespace)
    assert not attempts.cancelled
    wanted = {"opened": 2, "finished": 1}
    wanted[how] = wanted.get(how, 0) + 1
    check_leases(namespace.slot.current, **wanted)
    assert counted(namespace) == (1, first, 0)


async def test_when_both_fail_the_last_one_is_told(hedging, make_call, autojump_clock):
    namespace, _attempts = hedging((AFTER * 3, PluginCrashed("one")), (AFTER, UNAVAILABLE))
    one = make_call(namespace)
    one.proceed()
    with pytest.raises(PluginCrashed):
        await one.outcome()
    namespace, _attempts = hedging((AFTER * 2, PluginCrashed("one")), (AFTER * 2, UNAVAILABLE))
    other = make_call(namespace)
    other.proceed()
    with pytest.raises(PluginError, match="away"):
        await other.outcome()
    await over(namespace)
    assert counted(namespace) == (1, 0, 0)
    check_leases(namespace.slot.current, opened=2, finished=1, failed=1)


async def test_when_one_was_not_begun_the_other_may_have_run(hedging, make_call, autojump_clock):
    """What the call is told in the end is true of both."""
    namespace, _ = hedging((AFTER * 2, Overloaded("full")), (AFTER / 2, PluginCrashed("gone")))
    call = make_call(namespace)
    call.proceed()
    with pytest.raises(Overloaded) as caught:
        await call.outcome()
    assert not caught.value.retryable
    assert call.plugin_seconds == pytest.approx(AFTER / 2)

    namespace, _ = hedging((AFTER * 2, Overloaded("full")), (60, fine(2)))
    call = make_call(namespace, timeout=1)
    call.proceed()
    with pytest.raises(DeadlineExceeded, match="it may have run"):
        await call.outcome()
    assert call.plugin_seconds == pytest.approx(1 - AFTER)


async def test_when_both_fail_a_retry_is_made_and_not_hedged(hedging, make_call, autojump_clock):
    namespace, attempts = hedging(
        (AFTER * 2, UNAVAILABLE),
        (AFTER * 2, UNAVAILABLE),
        (5, fine(3)),
        retries=RetriesConfig(),
    )
    call = make_call(namespace)
    call.proceed()
    assert await call.outcome() == b'"3"'
    await over(namespace)
    assert (len(attempts.begun), call.attempts, call.retries) == (3, 3, 1)
    check_leases(namespace.slot.current, opened=3, finished=3)


async def test_a_retry_is_hedged_if_the_first_was_not(hedging, make_call, autojump_clock):
    namespace, attempts = hedging(
        (0, UNAVAILABLE), (60, fine(2)), (0, fine(3)), retries=RetriesConfig()
    )
    call = make_call(namespace)
    call.proceed()
    assert await call.outcome() == b'"3"'
    await over(namespace)
    assert (call.attempts, call.retries, call.is_hedged) == (3, 1, True)
    assert attempts.begun[2] - attempts.begun[1] == pytest.approx(AFTER)


@pytest.mark.parametrize("operation", ["set", "nothing"])
async def test_what_is_not_idempotent_never_is(hedging, make_call, autojump_clock, operation):
    namespace, attempts = hedging((20, fine(1)))
    call = make_call(namespace, operation)
    call.proceed()
    if operation == "set":
        assert await call.outcome() == b'"1"'
    assert len(attempts.begun) <= 1
    assert call.hedge is None
    assert counted(namespace) == (0, 0, 0)


@pytest.mark.parametrize("which", ["first", "second"])
async def test_both_instances_must_have_declared_it(hedging, make_call, autojump_clock, which):
    """An operation may be another one in the next version of a plugin."""
    namespace, attempts = hedging((1, fine(1)))
    slot = namespace.slot
    writes = copy.copy(slot.current)
    writes.generation, writes.id = 2, "kv/2"
    writes.operations = {"get": OperationDeclaration(name="get")}
    if which == "first":
        slot.canary, slot.share = writes, 1.0
    call = make_call(namespace)
    call.proceed()
    slot.canary = None
    if which == "second":
        slot.fill(writes)
    assert await call.outcome() == b'"1"'
    assert len(attempts.begun) == 1
    assert counted(namespace) == (0, 0, 0)


async def test_the_next_instance_is_taken_if_there_is_one(hedging, make_call, autojump_clock):
    namespace, attempts = hedging((60, fine(1)), (0, fine(2)))
    old = namespace.slot.current
    new = copy.copy(old)
    new.generation, new.id = 2, "kv/2"
    call = make_call(namespace)
    call.proceed()
    new.channel = type(old.channel)(attempts.answer)
    namespace.slot.fill(new)
    assert await call.outcome() == b'"2"'
    await over(namespace)
    assert call.instance_id == "kv/2"
    check_leases(old, opened=1, cancelled=1)
    check_leases(new, opened=1, finished=1)


async def test_not_while_a_breaker_is_open(hedging, make_call, ask, autojump_clock):
    """Nor while it is half open: then one call at a time is let through."""
    namespace, attempts = hedging((1, fine(1)))
    breaker = BreakerConfig(min_calls=1, open_seconds=1, probes=5)
    namespace.update(replace(namespace.config, breaker=breaker))
    call = make_call(namespace)
    call.proceed()
    await wait_all_tasks_blocked()
    attempts.outcomes = [(0, UNAVAILABLE)]
    with pytest.raises(PluginError):
        await ask(namespace)
    assert await call.outcome() == b'"1"'
    attempts.outcomes = [(1, fine(2))]
    await trio.sleep(2)
    assert await ask(namespace) == b'"2"'
    assert counted(namespace) == (0, 0, 0)
    assert len(attempts.begun) == 3


async def test_a_loser_is_nothing_to_a_breaker(hedging, ask, autojump_clock):
    namespace, _attempts = hedging((60, fine(1)), (0.05, fine(2)))
    namespace.update(replace(namespace.config, breaker=BreakerConfig(min_calls=1)))
    assert await ask(namespace) == b'"2"'
    await over(namespace)
    window = namespace.slot.current.breaker.window
    window.slide(trio.current_time() - 100)
    assert (window.calls, window.bad) == (1, 0)


@pytest.fixture
def two_replicas(make_namespace):
    """A namespace that hedges, with a replica that hangs and a good one."""

    def make(after):
        async def hang(_request):
            await trio.sleep_forever()

        async def answer(_request):
            return fine(2)

        balance = Balance(BalanceConfig(slow_start_seconds=0), "", now=trio.current_time)
        slot = SharedSlot("kv", balance)
        namespace = make_namespace()
        declared = namespace.slot.current
        for number, plugin in (("1", hang), ("2", answer)):
            member = ReplicaSlot("kv", number)
            slot.join(member, "")
            instance = copy.copy(declared)
            instance.id, instance.channel = f"kv/{number}", type(declared.channel)(plugin)
            member.fill(instance)
        hedged, breaker = HedgingConfig(after=after, budget=1.0), BreakerConfig(min_calls=5)
        return Namespace(replace(namespace.config, hedging=hedged, breaker=breaker), slot)

    return make


async def test_a_replica_that_hangs_is_not_hidden(two_replicas, ask, autojump_clock):
    namespace = two_replicas(0.2)
    for _ in range(60):
        assert await ask(namespace) == b'"2"'
    hangs, good = namespace.slot.instances()
    assert (hangs.replica.ejections, good.replica.ejections) == (1, 0)
    assert hangs.breaker.window.bad == hangs.opened == hangs.cancelled == 5
    assert (hangs.breaker.state, good.breaker.state) == (CircuitState.OPEN, CircuitState.CLOSED)


async def test_a_replica_is_not_judged_by_what_takes_no_tenth_of_a_second(
    two_replicas, ask, autojump_clock
):
    namespace = two_replicas(0.09)
    for _ in range(60):
        assert await ask(namespace) == b'"2"'
    hangs, _good = namespace.slot.instances()
    assert hangs.opened > 5
    assert (hangs.replica.ejections, hangs.breaker.window.calls) == (0, 0)


async def test_no_plugin_then(hedging, make_call, autojump_clock):
    namespace, _attempts = hedging((1, fine(1)))
    call = make_call(namespace)
    call.proceed()
    slot, instance = namespace.slot, namespace.slot.current
    slot.clear(instance, "gone")
    assert await call.outcome() == b'"1"'
    assert counted(namespace) == (0, 0, 0)


async def test_a_channel_that_ends_then(hedging, make_call, autojump_clock):
    namespace, _attempts = hedging((1, fine(1)))
    call = make_call(namespace)
    call.proceed()
    await wait_all_tasks_blocked()
    await namespace.slot.current.channel.aclose()
    assert await call.outcome() == b'"1"'
    assert counted(namespace) == (0, 0, 0)


async def test_one_that_its_channel_refuses(hedging, make_call, autojump_clock):
    namespace, attempts = hedging((1, fine(1)))
    call = make_call(namespace)
    call.proceed()
    await wait_all_tasks_blocked()
    instance = namespace.slot.current

    def refuse(_):
        raise Overloaded("full")

    instance.channel.start = refuse
    assert await call.outcome() == b'"1"'
    check_leases(instance, opened=2, finished=1, refused=1)
    assert counted(namespace) == (1, 0, 0)
    assert len(attempts.begun) == 1


@pytest.mark.parametrize("first_is_over", [True, False])
@pytest.mark.parametrize("by", ["deadline", "client"])
async def test_the_call_ends_while_they_run(hedging, make_call, autojump_clock, by, first_is_over):
    first = (AFTER * 2, PluginCrashed("gone")) if first_is_over else (60, fine(1))
    namespace, attempts = hedging(first, (60, fine(2)))
    call = make_call(namespace, timeout=1.0)
    call.proceed()
    if by == "client":
        await trio.sleep(0.5)
        call.end(CallCancelled("the client left"))
    with pytest.raises(DeadlineExceeded if by == "deadline" else CallCancelled):
        await call.outcome()
    assert trio.current_time() == (1.0 if by == "deadline" else 0.5)
    await over(namespace)
    assert sorted(attempts.cancelled) == ([2] if first_is_over else [1, 2])
    ends = {"cancelled": 1, "failed": 1} if first_is_over else {"cancelled": 2}
    check_leases(namespace.slot.current, opened=2, **ends)
    assert counted(namespace) == (1, 0, 0)


async def test_no_more_than_the_budget_allows(hedging, ask, autojump_clock, nursery):
    namespace, attempts = hedging((1, fine(1)), budget=0.05)
    began, number = trio.current_time(), 1000
    async with trio.open_nursery() as nursery:
        for _ in range(number):
            nursery.start_soon(ask, namespace)
            await trio.sleep(0.002)
    seconds = trio.current_time() - began
    sent = len(attempts.begun) - number
    assert FLOOR * WINDOW <= sent <= 0.05 * number + FLOOR * (seconds + WINDOW)
    found = policy(namespace)
    assert found.sent == sent
    assert found.budget.refused == number - sent


async def test_a_percentile_is_learnt(hedging, make_call, ask, autojump_clock):
    namespace, attempts = hedging(
        *[(0.2, fine(0))] * 5, *[(0.01, fine(0))] * 95, (60, fine(1)), (0, fine(2)), after="p90"
    )
    found = policy(namespace)
    for number in range(100):
        if number < ENOUGH:
            assert found.after("get") == float("inf")
        await ask(namespace)
    assert len(attempts.begun) == 100
    assert 0.01 <= found.after("get") <= 0.012
    call = make_call(namespace)
    call.proceed()
    assert await call.outcome() == b'"2"'
    assert attempts.begun[-1] - attempts.begun[-2] == pytest.approx(found.after("get"))


async def test_slow_calls_that_were_hedged_still_count_as_slow(hedging, ask, autojump_clock):
    """Else the percentile would fall and fall, as there would be none but quick ones."""
    slow, quick = (0.5, fine(1)), (0.01, fine(2))
    begun = []
    namespace, _attempts = hedging(after="p90", budget=1.0)

    async def answer(request):
        is_hedge = request.metadata["prism-request-id"] in begun
        begun.append(request.metadata["prism-request-id"])
        seconds, response = slow if not is_hedge and len(set(begun)) % 5 == 0 else quick
        await trio.sleep(seconds)
        return response

    namespace.slot.current.channel.answer = answer
    found = policy(namespace)
    for number in range(3000):

        def name(call, number=number):
            call.request_id = f"{number}"

        await ask(namespace, prepare=name)
    # One in five is slow, and p90 is among the slow ones, however long those really are: as long
    # as they were waited for.
    assert found.after("get") > 0.1
    assert found.sent < 0.12 * 3000


async def test_what_a_percentile_goes_by(hedging, ask, make_call, autojump_clock):
    """Answers count, and what was given up at the deadline; failures and clients that leave not."""
    namespace, attempts = hedging((0.01, fine(1)), after="p95")
    latencies = policy(namespace)._operation("get").latencies
    attempts.outcomes = [(0.01, MISSING)]
    with pytest.raises(PluginError):
        await ask(namespace)
    assert latencies.count == 1
    for outcome in (UNAVAILABLE, PluginCrashed("gone")):
        attempts.outcomes = [(0.01, outcome)]
        with pytest.raises((PluginError, PluginCrashed)):
            await ask(namespace)
    assert latencies.count == 1
    attempts.outcomes = [(60, fine(1))]
    with pytest.raises(DeadlineExceeded):
        await ask(namespace, timeout=5.0)
    assert latencies.count == 2
    call = make_call(namespace)
    call.proceed()
    call.end(CallCancelled("the client left"))
    assert latencies.count == 2


async def test_very_quick_calls_are_not_hedged_within_a_millisecond(hedging, ask, autojump_clock):
    namespace, _attempts = hedging((0, fine(1)), after="p50")
    for _ in range(ENOUGH + 1):
        await ask(namespace)
    assert policy(namespace).after("get") == SHORTEST


async def test_the_operations_kept_are_bounded(hedging):
    namespace, _attempts = hedging((0, fine(1)), after="p95")
    found = policy(namespace)
    for number in range(2 * MAX_OPERATIONS):
        found.take(f"operation{number}", 1.0)
    assert len(found.state()["after_ms"]) == 0
    assert len(found._operations) <= MAX_OPERATIONS


async def test_what_operators_see_and_change(hedging, ask, autojump_clock):
    namespace, _attempts = hedging((1, fine(1)))
    found = policy(namespace)
    await ask(namespace)
    state = found.state()
    assert state.pop("left") == pytest.approx(9.95, abs=0.1)
    assert state == {
        "after": 0.1,
        "after_ms": {"get": 100.0},
        "budget": 0.05,
        "sent": 1,
        "won": 0,
        "lost": 1,
        "over_budget": 0,
    }
    hedged = HedgingConfig(after="p99.9", budget=0.0)
    namespace.update(replace(namespace.config, hedging=hedged))
    assert policy(namespace) is found
    state = found.state()
    assert (state["after"], state["after_ms"], state["budget"]) == ("p99.9", {}, 0.0)
    measured = {measure.name: value for measure, _labels, value in found.measure()}
    assert measured.pop("prism_hedges_left") > 0
    assert measured == {
        "prism_hedges": 1,
        "prism_hedges_won": 0,
        "prism_hedges_lost": 1,
        "prism_hedges_over_budget": 0,
    }


async def test_it_is_switched_off_under_a_call(hedging, make_call, autojump_clock):
    namespace, attempts = hedging((1, fine(1)), (0.01, fine(2)))
    call = make_call(namespace)
    call.proceed()
    namespace.update(replace(namespace.config, hedging=None))
    assert await call.outcome() == b'"2"'  # it keeps to what there was when it came
    await over(namespace)
    assert attempts.cancelled == [1]
    other = make_call(namespace)
    other.proceed()
    assert other.hedge is None


@pytest.mark.parametrize(
    ("attempts", "counts"),
    [
        ([(0, fine(1))], (0, 0, 0)),
        ([(1, fine(1)), (0.01, fine(2))], (1, 1, 0)),
        ([(0.2, fine(1)), (1, fine(2))], (1, 0, 1)),
        ([(0.2, PluginCrashed("gone")), (0.2, PluginCrashed("gone"))], (1, 0, 0)),
    ],
)
async def test_a_call_that_is_over_leaves_no_garbage(
    hedging, make_call, autojump_clock, attempts, counts
):
    """It and its alarm must not hold each other: each call would be the collector's to find."""
    namespace, _attempts = hedging(*attempts)
    call = make_call(namespace)
    call.proceed()
    with suppress(PluginCrashed):
        await call.outcome()
    assert counted(namespace) == counts
    near = gc.get_referents(call.hedge)
    assert call not in near
    assert call not in gc.get_referents(*near)


async def test_attempts_that_cannot_be_given_up_hold_nothing(
    hedging, make_call, autojump_clock, monkeypatch, caplog
):
    namespace, attempts = hedging((60, fine(1)))
    instance = namespace.slot.current

    def fail(*_arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(instance.channel, "cancel", fail)
    call = make_call(namespace)
    call.proceed()
    await trio.sleep(AFTER * 2)
    assert len(attempts.begun) == 2
    call.end(CallCancelled("the client left"))
    assert (namespace.in_flight, instance.leases, instance.lost) == (0, 0, 0)
    assert "RuntimeError: a bug" in caplog.text

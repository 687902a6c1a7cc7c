"""What is repeated, how often, after which pause; and what never is."""

import copy
from itertools import pairwise

import pytest
import trio
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked

from prism.calls.budget import FLOOR, WINDOW
from prism.calls.policies.circuit_breaker import CircuitBreaker
from prism.calls.policies.retries import FIRST_PAUSE, MAX_PAUSE, Retries
from prism.calls.stream import ClientStream
from prism.config.plugin_types import BalanceConfig
from prism.config.types import BreakerConfig, NamespaceLimits, RetriesConfig
from prism.contract.errors import (
    CallCancelled,
    CircuitOpen,
    Draining,
    Overloaded,
    PluginCrashed,
    PluginError,
    PluginMisbehaved,
    PluginUnavailable,
)
from prism.contract.messages import ExecuteResponse
from prism.contract.status import StatusCode
from prism.observability.audit_lines import ran
from prism.supervision.balance import Balance
from prism.supervision.replica_slot import ReplicaSlot, SharedSlot

UNAVAILABLE = ExecuteResponse(error="its backend is away", error_code=StatusCode.UNAVAILABLE)
FINE = ExecuteResponse(success=True, result_json='"fine"')
GONE = PluginCrashed("gone")
LIMITS = NamespaceLimits()
RESERVE = FLOOR * WINDOW


@pytest.fixture
def retrying(make_namespace):
    """A namespace with retries whose plugin answers what it is given, one after the other, and
    the last of them for ever; and the times at which it was called."""

    def make(*outcomes, limits=LIMITS, **config):
        left = list(outcomes)
        times = []

        async def answer(request):
            times.append(trio.current_time())
            outcome = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(outcome, Exception):
                raise copy.copy(outcome)
            return outcome

        namespace = make_namespace(answer, limits=limits)
        namespace.update(replace(namespace.config, retries=RetriesConfig(**config)))
        return namespace, times

    return make


def policy(namespace):
    (found,) = [each for each in namespace.policies if isinstance(each, Retries)]
    return found


@pytest.mark.parametrize(
    ("outcome", "operation", "why"),
    [
        (UNAVAILABLE, "get", "unavailable"),
        (Overloaded("full"), "get", "refused"),
        (Overloaded("full"), "set", "refused"),
    ],
)
async def test_what_is_repeated_while_the_instance_serves(
    retrying, make_call, autojump_clock, outcome, operation, why
):
    namespace, times = retrying(outcome, FINE)
    call = make_call(namespace, operation)
    call.proceed()
    assert await call.outcome() == b'"fine"'
    assert (call.retries, call.attempts, call.is_hedged) == (1, 2, False)
    assert namespace.slot.retried == {why: 1}
    first, second = times
    assert FIRST_PAUSE / 2 <= second - first <= FIRST_PAUSE * 1.01
    instance = namespace.slot.current
    assert (instance.opened, instance.leases, instance.lost) == (2, 0, 0)


@pytest.mark.parametrize(
    ("outcome", "operation"),
    [
        (UNAVAILABLE, "set"),
        (PluginCrashed("gone"), "set"),
        (Draining("too long"), "set"),
        (PluginMisbehaved("no JSON"), "get"),
        (ExecuteResponse(error="no", error_code=StatusCode.RESOURCE_EXHAUSTED), "get"),
        (ExecuteResponse(error="no", error_code=StatusCode.NOT_FOUND), "get"),
        (RuntimeError("a bug"), "get"),
    ],
)
async def test_what_never_is(retrying, ask, autojump_clock, outcome, operation):
    namespace, times = retrying(outcome, FINE)
    with pytest.raises(Exception):  # noqa: B017 - whichever; that it is one is what matters
        await ask(namespace, operation)
    assert len(times) == 1
    assert not namespace.slot.retried


async def test_without_the_policy_nothing_of_it(retrying, ask, autojump_clock):
    namespace, times = retrying(UNAVAILABLE, FINE)
    namespace.update(replace(namespace.config, retries=None))
    with pytest.raises(PluginError, match="its backend is away"):
        await ask(namespace)
    assert len(times) == 1


async def test_pauses_grow_and_the_last_answer_stands(retrying, make_call, autojump_clock):
    namespace, times = retrying(UNAVAILABLE, attempts=9)
    call = make_call(namespace, timeout=60)
    call.proceed()
    with pytest.raises(PluginError, match="its backend is away"):
        await call.outcome()
    assert (len(times), call.attempts) == (9, 9)
    for number, (earlier, later) in enumerate(pairwise(times)):
        whole = min(FIRST_PAUSE * 2**number, MAX_PAUSE)
        assert whole / 2 * 0.99 <= later - earlier <= whole * 1.01
    assert namespace.in_flight == 0


@pytest.mark.parametrize(
    ("outcomes", "operation", "never_ran"),
    [
        ([Overloaded("full")], "set", True),
        ([UNAVAILABLE, Overloaded("full")], "get", False),
        ([Overloaded("full"), UNAVAILABLE, Overloaded("full")], "get", False),
        ([UNAVAILABLE, Overloaded("full"), Overloaded("full")], "get", False),
    ],
)
async def test_an_error_of_the_last_attempt_is_true_of_all(
    retrying, make_call, autojump_clock, outcomes, operation, never_ran
):
    namespace, _ = retrying(*outcomes, attempts=3)
    call = make_call(namespace, operation)
    call.proceed()
    with pytest.raises(Overloaded) as caught:
        await call.outcome()
    assert (call.attempts, caught.value.retryable) == (3, never_ran)
    assert ran(call) == ("no" if never_ran else "unknown")


async def test_the_pause_that_is_asked_for_is_kept(retrying, ask, autojump_clock):
    refusal = Overloaded("full")
    refusal.retry_after = 7.0
    namespace, times = retrying(refusal, FINE)
    await ask(namespace)
    assert times[1] - times[0] == pytest.approx(7.0)


@pytest.mark.parametrize("asked", [30.0, float("inf")])
async def test_one_that_could_not_be_made_in_time_is_not_begun(
    retrying, ask, autojump_clock, asked
):
    refusal = Overloaded("full")
    refusal.retry_after = asked
    namespace, times = retrying(refusal, FINE)
    with pytest.raises(Overloaded):
        await ask(namespace, timeout=30.0)
    assert len(times) == 1
    assert trio.current_time() == times[0]  # it was told at once
    assert policy(namespace).budget.left == pytest.approx(RESERVE + 0.1)


async def test_a_place_is_held_through_the_pause(retrying, make_call, autojump_clock):
    namespace, times = retrying(UNAVAILABLE, FINE, limits=NamespaceLimits(max_in_flight=1))
    call = make_call(namespace)
    call.proceed()
    await wait_all_tasks_blocked()
    assert (len(times), namespace.in_flight, namespace.slot.current.leases) == (1, 1, 0)
    await call.outcome()
    assert namespace.in_flight == 0


async def test_a_client_that_leaves_in_the_pause(retrying, make_call, autojump_clock):
    namespace, times = retrying(Overloaded("full"), FINE)
    call = make_call(namespace)
    call.proceed()
    await wait_all_tasks_blocked()
    assert policy(namespace).budget.left == pytest.approx(RESERVE + 0.1 - 1)
    call.end(CallCancelled("the client left"))
    assert policy(namespace).budget.left == pytest.approx(RESERVE + 0.1)
    await trio.sleep(5)
    assert (len(times), call.observed, namespace.in_flight) == (1, 1, 0)
    assert call.plugin_seconds is None  # it never ran


async def waits_for_its_plugin(namespace, make_call):
    """A call whose plugin has gone in the pause before its second attempt; and that plugin."""
    call = make_call(namespace)
    call.proceed()
    await wait_all_tasks_blocked()
    slot, gone = namespace.slot, namespace.slot.current
    slot.say_absent("it crashed", expected=True)
    slot.clear(gone)
    await trio.sleep(1)
    assert slot.waiting == 1
    return call, gone


async def test_the_plugin_goes_in_the_pause(retrying, make_call, autojump_clock):
    namespace, _times = retrying(UNAVAILABLE, FINE)
    call, gone = await waits_for_its_plugin(namespace, make_call)
    namespace.slot.fill(gone)
    assert await call.outcome() == b'"fine"'
    assert call.retries == 1


async def test_a_client_that_leaves_while_the_plugin_is_waited_for(
    retrying, make_call, autojump_clock
):
    namespace, times = retrying(UNAVAILABLE, FINE)
    call, gone = await waits_for_its_plugin(namespace, make_call)
    left = policy(namespace).budget.left
    call.end(CallCancelled("the client left"))
    await wait_all_tasks_blocked()
    assert namespace.slot.waiting == 0
    assert policy(namespace).budget.left == pytest.approx(left + 1)
    namespace.slot.fill(gone)
    await trio.sleep(1)
    assert (len(times), call.attempts, call.observed, namespace.in_flight) == (1, 1, 1, 0)


async def test_it_goes_for_good_in_the_pause(retrying, ask, autojump_clock, nursery):
    namespace, times = retrying(UNAVAILABLE, FINE)
    slot = namespace.slot

    @nursery.start_soon
    async def leave():
        await trio.sleep(FIRST_PAUSE / 4)
        slot.clear(slot.current, "it is gone")

    with pytest.raises(PluginError, match="its backend is away"):
        await ask(namespace)
    assert len(times) == 1
    assert policy(namespace).budget.left == pytest.approx(RESERVE + 0.1, abs=0.1)


def crash_each_time(namespace, times, *, gone=GONE):
    """Each call ends the instance; the next one is there at once."""
    slot = namespace.slot

    async def crash(request):
        times.append(trio.current_time())
        instance = slot.current
        await trio.sleep(0.01)
        if slot.current is instance:
            successor = copy.copy(instance)
            successor.generation += 1
            successor.id = f"kv/{successor.generation}"
            slot.fill(successor)
        if isinstance(gone, Exception):
            raise copy.copy(gone)
        return gone

    slot.current.channel.answer = crash


async def test_when_instances_go_away_the_first_retry_is_at_once(
    retrying, make_call, autojump_clock
):
    namespace, times = retrying(FINE, attempts=4)
    crash_each_time(namespace, times)
    call = make_call(namespace)
    call.proceed()
    with pytest.raises(PluginCrashed):
        await call.outcome()
    assert call.attempts == 4
    assert namespace.slot.retried == {"idempotent": 3}
    first, second, third = (later - earlier - 0.01 for earlier, later in pairwise(times))
    assert first == pytest.approx(0, abs=1e-9)
    assert second >= FIRST_PAUSE
    assert third >= 2 * FIRST_PAUSE


@pytest.mark.parametrize("gone", [GONE, Overloaded("it goes"), UNAVAILABLE])
@pytest.mark.parametrize(("attempts", "budget"), [(2, 0.1), (10, 0.1), (10, 0.0), (5, 1.0)])
async def test_no_storm(retrying, ask, autojump_clock, nursery, attempts, budget, gone):
    """A plugin that breaks under every call is not called more often than the budget says, beside
    the once that a call is repeated whose instance is gone."""
    namespace, times = retrying(FINE, attempts=attempts, budget=budget)
    crash_each_time(namespace, times, gone=gone)
    callers, calls = 50, 20
    began = trio.current_time()

    async def insist():
        for _ in range(calls):
            with pytest.raises((PluginCrashed, Overloaded, PluginError)):
                await ask(namespace)

    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(insist)
    seconds = trio.current_time() - began
    number = callers * calls
    free = 0 if gone is UNAVAILABLE else number
    paid = len(times) - number - free
    if attempts == 2 and free:
        assert paid == 0
    else:
        assert RESERVE <= paid <= budget * number + FLOOR * (seconds + WINDOW)
        assert policy(namespace).budget.refused > 0 or budget == 1.0
    assert (namespace.in_flight, namespace.slot.waiting) == (0, 0)


@pytest.mark.parametrize("config", [None, RetriesConfig(), RetriesConfig(budget=0.0)])
async def test_all_calls_that_one_death_ends_are_made_again(
    retrying, make_call, autojump_clock, config
):
    """However many they are: the budget has nothing to say of what is done without it."""
    namespace, _times = retrying(FINE)
    namespace.update(replace(namespace.config, retries=config))
    slot, gone, dies = namespace.slot, namespace.slot.current, trio.Event()

    async def die(request):
        await dies.wait()
        raise copy.copy(GONE)

    successor = copy.copy(gone)
    successor.generation, successor.id = 2, "kv/2"
    successor.channel = type(gone.channel)(gone.channel.answer)
    gone.channel.answer = die
    calls = [make_call(namespace) for _ in range(200)]
    for call in calls:
        call.proceed()
    slot.fill(successor)
    began = trio.current_time()
    dies.set()
    for call in calls:
        assert await call.outcome() == b'"fine"'
    assert trio.current_time() == began
    assert slot.retried == {"idempotent": 200}
    if config is not None:
        assert policy(namespace).budget.refused == 0


async def test_a_dead_plugin_is_not_called_at_all(retrying, ask, autojump_clock):
    namespace, times = retrying(FINE)
    namespace.slot.clear(namespace.slot.current, "it is dead")
    for _ in range(100):
        with pytest.raises(PluginUnavailable):
            await ask(namespace)
    assert not times


class Messages(ClientStream):
    """A client that takes messages, and sends none."""

    def __init__(self, *, one_way=True):
        self.one_way = one_way

    async def receive(self):
        await trio.sleep_forever()

    async def begin(self):
        self.begun = True

    async def send(self, response):
        self.begun = True

    async def end(self, error):
        pass


@pytest.mark.parametrize(
    ("one_way", "idempotent", "error", "attempts"),
    [
        (True, True, PluginError(StatusCode.UNAVAILABLE, "away"), 2),
        (True, False, PluginError(StatusCode.UNAVAILABLE, "away"), 1),
        (True, False, Overloaded("full"), 2),
        (False, True, PluginError(StatusCode.UNAVAILABLE, "away"), 1),
        (False, True, Overloaded("full"), 1),
    ],
)
async def test_streams_are_repeated_before_their_first_message(
    retrying, make_call, autojump_clock, one_way, idempotent, error, attempts
):
    namespace, _ = retrying(FINE)
    opened = []

    class Opening:
        async def __aenter__(self):
            opened.append(trio.current_time())
            raise error

        async def __aexit__(self, *_):
            pass

    instance = namespace.slot.current
    instance.channel.execute_stream = lambda *_: Opening()
    declared = instance.operations["watch"]
    instance.operations["watch"] = replace(declared, idempotent=idempotent)
    call = make_call(namespace, "watch", stream=Messages(one_way=one_way))
    call.proceed()
    with pytest.raises(type(error)):
        await call.outcome()
    assert len(opened) == attempts == call.attempts


async def test_what_operators_see_and_change(retrying, ask, autojump_clock):
    namespace, _times = retrying(UNAVAILABLE, attempts=3)
    retries = policy(namespace)
    with pytest.raises(PluginError):
        await ask(namespace)
    state = retries.state()
    assert state.pop("left") == pytest.approx(8.15, abs=0.1)  # by how long the pauses were
    assert state == {"attempts": 3, "budget": 0.1, "used": 2, "over_budget": 0}
    config = RetriesConfig(attempts=2, budget=0.0)
    namespace.update(replace(namespace.config, retries=config))
    assert policy(namespace) is retries
    while retries.budget.take():
        pass
    with pytest.raises(PluginError):
        await ask(namespace)
    measured = {measure.name: value for measure, _labels, value in retries.measure()}
    assert measured["prism_retries_over_budget"] == 2
    assert measured["prism_retries_left"] < 1


@pytest.mark.parametrize("opened", ["by its calls", "by hand"])
async def test_not_where_a_breaker_has_opened(retrying, ask, autojump_clock, opened):
    """The call keeps its own error: it has run, which ``circuit_open`` would deny."""
    namespace, times = retrying(UNAVAILABLE, attempts=5)
    breaker = BreakerConfig(min_calls=3, open_seconds=60)
    namespace.update(replace(namespace.config, breaker=breaker))
    [circuit] = [each for each in namespace.policies if isinstance(each, CircuitBreaker)]
    if opened == "by hand":

        async def open_it(request):
            times.append(trio.current_time())
            circuit.operate("open", "ann")
            return UNAVAILABLE

        namespace.slot.current.channel.answer = open_it
    with pytest.raises(PluginError, match="its backend is away"):
        await ask(namespace)
    assert len(times) == (1 if opened == "by hand" else 3)
    assert circuit.refused == 0
    with pytest.raises(CircuitOpen):
        await ask(namespace)
    assert len(times) == (1 if opened == "by hand" else 3)


async def test_one_that_opens_in_the_pause(retrying, make_call, autojump_clock):
    namespace, times = retrying(UNAVAILABLE, FINE)
    namespace.update(replace(namespace.config, breaker=BreakerConfig()))
    [circuit] = [each for each in namespace.policies if isinstance(each, CircuitBreaker)]
    call = make_call(namespace)
    call.proceed()
    await wait_all_tasks_blocked()
    circuit.operate("open", "ann")
    with pytest.raises(PluginError, match="its backend is away"):
        await call.outcome()
    assert (len(times), call.attempts) == (1, 1)
    assert policy(namespace).budget.left == pytest.approx(RESERVE + 0.1, abs=0.1)


async def test_one_that_the_breaker_of_its_instance_refuses_was_not_made(
    retrying, make_call, autojump_clock
):
    """It does for the instance in service alone, and not for a canary, which gets no retries."""
    namespace, times = retrying(UNAVAILABLE)
    breaker = BreakerConfig(min_calls=1, open_seconds=60)
    namespace.update(replace(namespace.config, breaker=breaker))
    slot = namespace.slot

    async def fail(request):
        times.append(trio.current_time())
        slot.canary = copy.copy(slot.current)
        slot.canary.breaker = None
        return UNAVAILABLE

    slot.current.channel.answer = fail
    call = make_call(namespace)
    call.proceed()
    with pytest.raises(PluginError, match="its backend is away"):
        await call.outcome()
    assert (len(times), call.attempts, namespace.in_flight) == (1, 1, 0)
    assert not slot.retried
    assert policy(namespace).budget.left == pytest.approx(RESERVE + 0.1, abs=0.1)


def serve_both(namespace, first, second):
    """Have two replicas in the place of the one, of which ``first`` is chosen first."""
    balance = Balance(BalanceConfig(slow_start_seconds=0), "", now=trio.current_time)
    slot = namespace.slot = SharedSlot(namespace.name, balance)
    for name, instance in (("1", first), ("2", second)):
        instance.id = f"kv/{name}"
        member = ReplicaSlot(namespace.name, name)
        slot.join(member, "")
        member.fill(instance)
    second.acquire()


@pytest.mark.parametrize("config", [None, RetriesConfig()])
@pytest.mark.parametrize(
    ("one_way", "error", "moves"),
    [
        (True, Overloaded("full"), True),
        (False, Overloaded("full"), False),  # what the client has sent may be gone with it
        (False, PluginUnavailable("gone"), True),
        (True, GONE, False),
    ],
)
async def test_a_stream_that_never_began_moves_to_another_replica_at_once(
    retrying, make_call, autojump_clock, one_way, error, moves, config
):
    namespace, _ = retrying(FINE)
    namespace.update(replace(namespace.config, retries=config))

    class Opening:
        def __init__(self, number):
            self.number = number

        async def __aenter__(self):
            opened.append((self.number, trio.current_time()))
            raise error if self.number == 1 else PluginError(StatusCode.NOT_FOUND, "no such thing")

        async def __aexit__(self, *_):
            pass

    opened = []
    full, free = namespace.slot.current, copy.copy(namespace.slot.current)
    for number, instance in enumerate((full, free), 1):
        instance.channel = type(full.channel)(full.channel.answer)
        instance.channel.execute_stream = lambda *_, number=number: Opening(number)
    serve_both(namespace, full, free)
    call = make_call(namespace, "watch", stream=Messages(one_way=one_way))
    began = trio.current_time()
    call.proceed()
    with pytest.raises(PluginError if moves else type(error)):
        await call.outcome()
    assert opened == [(1, began), (2, began)][: 1 + moves]
    assert call.attempts == 1 + moves


async def test_another_replica_is_taken(retrying, make_call, autojump_clock):
    """The one that has answered that it cannot is asked again only where there is no other."""
    namespace, times = retrying(FINE)
    ill, well = namespace.slot.current, copy.copy(namespace.slot.current)
    well.channel = type(ill.channel)(ill.channel.answer)

    async def refuse(request):
        times.append("refused")
        return UNAVAILABLE

    ill.channel.answer = refuse
    serve_both(namespace, ill, well)
    call = make_call(namespace)
    call.proceed()
    assert await call.outcome() == b'"fine"'
    assert times[0] == "refused"
    assert (call.instance_id, len(times)) == ("kv/2", 2)

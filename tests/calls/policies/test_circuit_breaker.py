"""What of calls counts for a breaker, what it refuses, and what operators see and do."""

import time
from contextlib import asynccontextmanager

import pytest
import trio
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked

from prism.calls.namespace import Namespace
from prism.calls.policies.circuit_breaker import CircuitBreaker
from prism.calls.stream import ClientStream
from prism.config.plugin_types import BalanceConfig
from prism.config.types import BreakerConfig, NamespaceConfig
from prism.contract.errors import (
    AnswerTooLarge,
    CallCancelled,
    CallError,
    CircuitOpen,
    DeadlineExceeded,
    Draining,
    InternalError,
    Overloaded,
    PluginCrashed,
    PluginError,
    PluginMisbehaved,
    PluginUnavailable,
)
from prism.contract.messages import ExecuteResponse, StreamResponse
from prism.contract.status import StatusCode
from prism.observability.collectors import policy_metrics
from prism.streams.outlet import turn_time
from prism.supervision.balance import SHORTEST, Balance
from prism.supervision.breaker import CircuitState
from prism.supervision.instance import Instance
from prism.supervision.replica_slot import ReplicaSlot, SharedSlot
from tests.conftest import FunctionChannel

CONFIG = BreakerConfig(min_calls=4, probes=2)


class Plugin:
    """What its plugin does with a call: ``answer`` is a status, or an error to raise."""

    def __init__(self):
        self.answer = StatusCode.OK
        self.seconds = 0.0
        self.called = 0

    async def execute(self, request):
        self.called += 1
        answer = self.answer
        await trio.sleep(self.seconds)
        if isinstance(answer, Exception):
            raise answer
        if answer is StatusCode.OK:
            return ExecuteResponse(success=True, result_json="{}")
        return ExecuteResponse(success=False, error="no", error_code=answer)


@pytest.fixture
def plugin():
    return Plugin()


@pytest.fixture
def namespace(make_namespace, plugin):
    made = make_namespace(plugin.execute)
    configure(made, CONFIG)
    return made


def configure(namespace, config):
    namespace.update(replace(namespace.config, breaker=config))


def policy_of(namespace):
    return next(one for one in namespace.policies if isinstance(one, CircuitBreaker))


def state_of(namespace):
    return policy_of(namespace).state()


@pytest.fixture
def fail(ask, plugin):
    """Make ``times`` calls that end with ``answer``."""

    async def fail(namespace, answer=StatusCode.UNAVAILABLE, times=4, **more):
        plugin.answer = answer
        for _ in range(times):
            with pytest.raises(CallError):
                await ask(namespace, **more)

    return fail


async def test_each_that_is_refused_is_told_when_it_is_tried_again(
    namespace, ask, fail, autojump_clock
):
    await fail(namespace)
    pauses = []
    for _ in range(2):
        with pytest.raises(CircuitOpen) as refused:
            await ask(namespace)
        pauses.append(refused.value.retry_after)
        assert refused.value.detail.endswith(f"it is tried again in {pauses[-1]:.3g} s")
        shown = state_of(namespace)
        assert (shown["tried_in"], "tried" in shown["reason"]) == (round(pauses[-1], 3), False)
        await trio.sleep(1)
    assert pauses[0] - pauses[1] == pytest.approx(1)


@pytest.mark.parametrize(
    "answer",
    [
        StatusCode.UNAVAILABLE,
        StatusCode.INTERNAL,
        StatusCode.RESOURCE_EXHAUSTED,
        PluginMisbehaved("nonsense"),
        PluginCrashed("gone"),
        PluginError(StatusCode.UNAVAILABLE, "over gRPC"),
    ],
    ids=str,
)
async def test_failures_of_the_plugin_open_it(namespace, ask, fail, plugin, answer):
    await fail(namespace, answer, operation="set")
    with pytest.raises(CircuitOpen) as refused:
        await ask(namespace)
    assert plugin.called == 4
    assert str(refused.value) == (
        "the circuit breaker of namespace 'kv' is open: 4 of 4 calls within 10 s failed "
        f"(100%, opens at 50%); it is tried again in {refused.value.retry_after:.3g} s"
    )
    assert 3 < refused.value.retry_after <= 6
    assert refused.value.retryable
    assert namespace.slot.current.opened == 4  # it is no lease


@pytest.mark.parametrize(
    "answer",
    [
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
        StatusCode.PERMISSION_DENIED,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.ABORTED,
        StatusCode.UNKNOWN,
        Draining("replaced"),
        Overloaded("it takes no more"),
        AnswerTooLarge(5),
        InternalError(),
    ],
    ids=str,
)
async def test_the_clients_faults_and_the_proxys_do_not(namespace, fail, answer):
    await fail(namespace, answer, times=20)
    assert state_of(namespace)["state"] == "closed"


async def test_a_call_that_runs_into_its_deadline_counts(namespace, fail, plugin, autojump_clock):
    plugin.seconds = 60
    await fail(namespace, timeout=1.0)
    assert state_of(namespace)["state"] == "open"


async def test_a_deadline_too_short_for_any_plugin_does_not(
    namespace, fail, plugin, autojump_clock
):
    plugin.seconds = 60
    await fail(namespace, times=20, timeout=SHORTEST / 2)
    await fail(namespace, StatusCode.DEADLINE_EXCEEDED, times=20, timeout=SHORTEST / 2)
    assert state_of(namespace)["state"] == "closed"


@pytest.mark.parametrize("slow_seconds", [None, 2.0])
async def test_a_client_that_leaves_counts_only_if_it_was_slow(
    namespace, make_call, plugin, autojump_clock, slow_seconds
):
    configure(namespace, replace(CONFIG, slow_seconds=slow_seconds))
    plugin.seconds = 60
    for seconds in [1.0] * 4 + [3.0] * 4:
        call = make_call(namespace)
        call.proceed()
        await trio.sleep(seconds)
        call.end(CallCancelled("the client left"))
    assert state_of(namespace)["state"] == ("closed" if slow_seconds is None else "open")


async def test_what_the_proxy_refuses_is_not_counted(namespace, ask):
    for _ in range(10):
        with pytest.raises(CallError):
            await ask(namespace, "nonsense")
    assert "calls" not in state_of(namespace)  # it was never asked


async def test_only_the_operation_that_fails_lets_it_be_unless_the_rate_says_so(
    namespace, ask, fail, plugin
):
    for _ in range(10):
        plugin.answer = StatusCode.OK
        await ask(namespace)
        await ask(namespace)
        await fail(namespace, StatusCode.INTERNAL, times=1, operation="set")
    assert (state_of(namespace)["state"], state_of(namespace)["error_rate"]) == ("closed", 0.3333)
    await fail(namespace, StatusCode.INTERNAL, times=10, operation="set")
    with pytest.raises(CircuitOpen):
        await ask(namespace, "get")


async def test_it_refuses_before_the_body_is_read(namespace, make_call, fail):
    await fail(namespace)
    call = make_call(namespace, body=None)
    with pytest.raises(CircuitOpen):
        call.precheck()
    policy = policy_of(namespace)
    assert policy.refused == 1
    policy.operate("close", "ann")
    call.precheck()
    policy.operate("open", "ann")
    with pytest.raises(CircuitOpen, match="an operator has opened it"):
        call.precheck()


async def test_one_probe_at_a_time_and_then_it_closes(
    namespace, ask, make_call, fail, plugin, autojump_clock
):
    await fail(namespace)
    await trio.sleep(6)
    plugin.answer, plugin.seconds = StatusCode.OK, 1.0
    probe = make_call(namespace)
    probe.proceed()
    for _ in range(1000):
        with pytest.raises(CircuitOpen, match="a call was let through") as refused:
            await ask(namespace)
    assert refused.value.retry_after == 1
    assert plugin.called == 5
    assert state_of(namespace)["good_probes"] == "0 of 2"
    assert await probe.outcome()
    assert await ask(namespace)
    assert state_of(namespace)["state"] == "closed"
    events = namespace.slot.journal.events.recent()
    assert {(event.kind, event.instance) for event in events} == {("breaker", "kv/1")}
    assert [event.reason.partition("; it is tried")[0] for event in events] == [
        "open: 4 of 4 calls within 10 s failed (100%, opens at 50%)",
        "half open: a call is let through, to see how it goes",
        "closed: 2 calls in a row went well",
    ]


async def test_a_new_instance_has_a_new_breaker(namespace, ask, fail, plugin):
    await fail(namespace)
    old = namespace.slot.current
    new = Instance("kv", 2, "function", "1.1", old.channel, old.operations)
    namespace.slot.fill(new)
    plugin.answer = StatusCode.OK
    assert await ask(namespace)
    assert (old.breaker.state, new.breaker.state) == (CircuitState.OPEN, CircuitState.CLOSED)
    assert state_of(namespace)["state"] == "closed"


async def test_a_canary_that_fails_is_passed_over(namespace, ask, plugin, autojump_clock):
    bad = Plugin()
    bad.answer = StatusCode.INTERNAL
    stable = namespace.slot.current
    canary = Instance(
        "kv", 2, "function", "2", type(stable.channel)(bad.execute), stable.operations
    )
    with namespace.slot.sharing(canary, 0.5):
        for _ in range(8):
            try:
                await ask(namespace)
            except PluginError:
                continue
        assert bad.called == 4
        for _ in range(20):
            assert await ask(namespace)
        assert bad.called == 4
        described = state_of(namespace)["instances"]
        assert [(one["instance"], one["state"]) for one in described] == [
            ("kv/1", "closed"),
            ("kv/2", "open"),
        ]
        await trio.sleep(7)
        for _ in range(2):  # one of them is its probe
            try:
                await ask(namespace)
            except PluginError:
                continue
        assert bad.called == 5


async def test_another_configuration_keeps_the_state(namespace, ask, fail):
    await fail(namespace)
    policy, breaker = policy_of(namespace), namespace.slot.current.breaker
    configure(namespace, replace(CONFIG, probes=5))
    assert policy_of(namespace) is policy
    with pytest.raises(CircuitOpen):
        await ask(namespace)
    assert (breaker.config.probes, breaker.state) == (5, CircuitState.OPEN)


async def test_without_one_calls_pass_again(namespace, ask, fail, plugin):
    await fail(namespace)
    configure(namespace, None)
    plugin.answer = StatusCode.OK
    assert await ask(namespace)
    assert not any(isinstance(one, CircuitBreaker) for one in namespace.policies)
    configure(namespace, CONFIG)
    await fail(namespace)
    assert state_of(namespace)["opened"] == 1  # another one, which knows nothing of before
    with pytest.raises(CircuitOpen):
        await ask(namespace)


async def test_by_hand(namespace, ask, fail, plugin):
    policy = policy_of(namespace)
    policy.operate("open", "ann")
    with pytest.raises(CircuitOpen, match="an operator has opened it"):
        await ask(namespace)
    state = state_of(namespace)
    assert (state["state"], state["by"], plugin.called) == ("open", "ann", 0)
    assert time.time() - 60 < state["since"] <= time.time()
    policy.operate("close", "ann")
    await fail(namespace, times=20)
    assert (state_of(namespace)["state"], plugin.called) == ("closed", 20)
    policy.operate("auto", "ann")
    policy.operate("auto", "ann")
    await fail(namespace, times=4)
    assert state_of(namespace)["state"] == "open"
    assert not {"by", "since"} & state_of(namespace).keys()
    reasons = [event.reason for event in namespace.slot.journal.events.recent()]
    assert reasons[:3] == [
        "opened by hand, by ann",
        "closed by hand, by ann",
        "left to itself again, by ann",
    ]
    assert len(reasons) == 4


async def test_what_an_operator_wants_holds_for_the_next_instance(namespace, ask):
    policy_of(namespace).operate("open", "ann")
    old = namespace.slot.current
    namespace.slot.fill(Instance("kv", 2, "function", "1.1", old.channel, old.operations))
    with pytest.raises(CircuitOpen):
        await ask(namespace)


async def test_it_is_measured(namespace, ask, fail):
    await fail(namespace)
    with pytest.raises(CircuitOpen):
        await ask(namespace)
    samples = {
        (sample.name, sample.labels.get("state", "")): sample.value
        for family in policy_metrics([namespace])
        for sample in family.samples
        if sample.name.startswith("prism_breaker")
    }
    assert samples[("prism_breaker_state", "open")] == 1
    assert samples[("prism_breaker_state", "closed")] == 0
    assert samples[("prism_breaker_changes_total", "open")] == 1
    assert samples[("prism_breaker_refused_total", "")] == 1


async def test_no_plugin_is_no_breakers_concern(namespace, make_call, ask):
    namespace.slot.say_absent("it crashed")
    namespace.slot.clear(namespace.slot.current)
    policy_of(namespace).precheck(make_call(namespace, body=None))
    with pytest.raises(PluginUnavailable):
        await ask(namespace)


# -- streams ----------------------------------------------------------------------


class Client(ClientStream):
    """A client that takes everything."""

    def __init__(self):
        self.ended = trio.Event()

    async def begin(self):
        self.begun = True

    async def send(self, response):
        self.begun = True

    async def receive(self):
        return None

    async def end(self, error):
        self.error = error
        self.ended.set()


@pytest.fixture
def open_stream(namespace, make_call, monkeypatch):
    """Open a stream whose plugin's end does ``steps``: a message, an error, a pause up to then."""

    class Stream:
        def __init__(self, steps):
            self.steps = list(steps)
            self.counts_sent = True

        async def end(self):
            pass

        async def receive_some(self):
            while self.steps:
                step = self.steps[0]
                if isinstance(step, float):
                    await trio.sleep_until(step)  # which the relay does not wait for in one go
                del self.steps[0]
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, StreamResponse):
                    return [step]
            raise trio.EndOfChannel

    async def run(*steps, seconds=1000.0):
        @asynccontextmanager
        async def execute_stream(first, memory=None):
            yield Stream(steps)

        monkeypatch.setattr(namespace.slot.current.channel, "execute_stream", execute_stream)
        call = make_call(namespace, "watch", stream=Client(), timeout=seconds)
        call.proceed()
        await wait_all_tasks_blocked()
        return call

    return run


def counted(namespace):
    window = namespace.slot.current.breaker.window
    return (window.calls, window.bad, window.slow)


async def test_of_a_stream_its_opening_counts(namespace, open_stream, autojump_clock):
    configure(namespace, replace(CONFIG, slow_seconds=1.0))
    call = await open_stream(StreamResponse(result_json="1"), 200.0, PluginCrashed("gone"))
    assert counted(namespace) == (1, 0, 0)
    await call.stream.ended.wait()
    assert isinstance(call.stream.error, PluginCrashed)
    assert namespace.slot.current.failed == 1
    assert counted(namespace) == (1, 0, 0)


async def test_a_stream_that_does_not_open_counts(namespace, open_stream, autojump_clock):
    for _ in range(4):
        call = await open_stream(PluginError(StatusCode.UNAVAILABLE, "no broker"))
        assert isinstance(call.error, PluginError)
    assert state_of(namespace)["state"] == "open"


async def test_a_stream_on_which_nothing_happens_says_nothing(
    namespace, open_stream, autojump_clock
):
    configure(namespace, replace(CONFIG, slow_seconds=1.0))
    for _ in range(8):
        call = await open_stream(10_000.0, seconds=50.0)
        await call.stream.ended.wait()
        assert isinstance(call.stream.error, DeadlineExceeded)
    assert counted(namespace) == (0, 0, 0)


async def test_of_several_replicas_one_that_fails_is_called_only_if_there_is_no_other(
    make_namespace, make_call, ask
):
    plugins = [Plugin(), Plugin()]
    plugins[0].answer = StatusCode.UNAVAILABLE
    slot = SharedSlot("kv", Balance(BalanceConfig(eject_after_failures=0), "", turn_time))
    declared = make_namespace().slot.operations
    for number, plugin in enumerate(plugins):
        member = ReplicaSlot("kv", str(number))
        channel = FunctionChannel(plugin.execute)
        member.fill(Instance("kv", 1, "it", "1", channel, declared, replica_name=str(number)))
        slot.join(member, "")
    namespace = Namespace(NamespaceConfig("kv", "memory", breaker=CONFIG), slot)
    for _ in range(100):
        try:
            await ask(namespace)
        except PluginError:
            continue
    assert plugins[0].called == CONFIG.min_calls
    described = state_of(namespace)["instances"]
    assert [(one["instance"], one["state"]) for one in described] == [
        ("kv/0/1", "open"),
        ("kv/1/1", "closed"),
    ]
    waiting = make_call(namespace, body=None)
    waiting.precheck()
    plugins[1].answer = StatusCode.INTERNAL
    for _ in range(200):
        with pytest.raises(CallError):
            await ask(namespace)
    with pytest.raises(CircuitOpen):
        waiting.precheck()
    with pytest.raises(CircuitOpen):
        await ask(namespace)

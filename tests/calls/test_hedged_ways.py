"""Whatever happens to two attempts, in whatever order: one answer, exact counts, no lease lost.

Clients and plugins are played step by step on a mock clock, over frames, as in ``test_both_ways``;
here a plugin gets every attempt, answers each of them or not, crashes, or is replaced, while calls
are hedged and repeated, reach their deadlines, or are left by their clients.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from prism.calls.call import Call
from prism.calls.namespace import Namespace
from prism.calls.policies.hedging import Hedging
from prism.channels.frames.channel import FramedChannel
from prism.config.types import (
    BreakerConfig,
    HedgingConfig,
    NamespaceConfig,
    RetriesConfig,
)
from prism.contract.errors import CallCancelled, CallError, Draining
from prism.contract.messages import ExecuteResponse, OperationDeclaration
from prism.contract.status import StatusCode
from prism.streams.tasks import TaskPool
from prism.supervision.instance import Instance
from prism.supervision.slot import Slot
from prism.wire import ConnectionState, Role
from prism.wire.connection import Connection
from prism.wire.events import Cancel, Close, Hello, Open, Ping

sys.path.append(str(Path(__file__).parent))

from test_both_ways import OPERATIONS, SETTINGS, ChannelOfTasks

AFTER = 0.1
TICK = 0.0137
"""Seconds after each step; no multiple of it is a hedge's or a deadline's time."""


class AskedCall(Call):
    """A call of a client that keeps what it was told."""

    __slots__ = ("observed", "told")

    def __init__(self, tasks: TaskPool) -> None:
        super().__init__(trio.current_time(), tasks)
        self.told: list[object] = []
        self.observed = 0

    def read_params(self, limit: int) -> bool:
        self.params = b"{}"
        return False

    def send_result(self, result: bytes, content_type: bytes) -> None:
        self.told.append(result)

    def send_error(self, error: CallError) -> None:
        self.told.append(error)

    def observe(self) -> None:
        self.observed += 1


class Attempt(NamedTuple):
    """One that a plugin has: the call's id, and the frame's stream."""

    call: str
    stream: int


class Plugin:
    """Answers an attempt when a step says so. ``open`` are those that it owes a CLOSE."""

    def __init__(self, stream: trio.abc.Stream, seen: list[Attempt]) -> None:
        self.stream = stream
        self.connection = Connection(Role.PLUGIN, Hello(name="played", codecs=("msgpack",)))
        self.seen = seen
        self.open: list[Attempt] = []
        self.cancelled: list[Attempt] = []

    async def run(self) -> None:
        self.connection.send(self.connection.local_hello)
        try:
            while self.connection.state is not ConnectionState.CLOSED:
                await self.flush()
                self.connection.receive_data(await self.stream.receive_some(65536))
                while (event := self.connection.next_event()) is not None:
                    self.take(event)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass

    def take(self, event: object) -> None:
        match event:
            case Open():
                attempt = Attempt(event.message.metadata["prism-request-id"], event.stream)
                self.open.append(attempt)
                self.seen.append(attempt)
            case Cancel():
                self.cancelled += [each for each in self.open if each.stream == event.stream]
            case Ping(ack=False):
                self.connection.send(Ping(event.token, ack=True))

    async def close(self, attempt: Attempt, status: StatusCode, **fields: object) -> None:
        self.open.remove(attempt)
        if self.connection.state is not ConnectionState.CLOSED:
            self.connection.send(Close(attempt.stream, status, **fields))
            await self.flush()

    async def flush(self) -> None:
        try:
            while data := self.connection.data_to_send():
                await self.stream.send_all(data)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass


class World:
    def __init__(self, nursery, kind, **config) -> None:
        self.nursery = nursery
        self.kind = kind
        self.tasks = TaskPool(nursery)
        self.slot = Slot("kv")
        config = NamespaceConfig("kv", "memory", hedging=HedgingConfig(AFTER, 1.0), **config)
        self.namespace = Namespace(config, self.slot)
        self.plugins: list[Plugin] = []
        self.instances: list[Instance] = []
        self.calls: list[AskedCall] = []
        self.seen: list[Attempt] = []
        nursery.start_soon(self.namespace.deadlines.run)

    async def start(self) -> None:
        """A plugin starts; one that is there drains, and is cut off soon."""
        ours, theirs = trio.testing.memory_stream_pair()
        plugin = Plugin(theirs, self.seen)
        self.plugins.append(plugin)
        self.nursery.start_soon(plugin.run)
        channel = self.kind(ours, SETTINGS, name="it")
        await channel.handshake()
        self.nursery.start_soon(channel.run)
        operations = {operation.name: operation for operation in OPERATIONS}
        instance = Instance("kv", len(self.plugins), "played", "1.0", channel, operations)
        self.instances.append(instance)
        self.nursery.start_soon(self._watch, instance)
        previous = self.slot.fill(instance)
        if previous is not None:
            self.nursery.start_soon(self._drain, previous)

    async def _watch(self, instance: Instance) -> None:
        await instance.channel.wait_broken()
        if self.slot.current is instance:
            self.slot.say_absent("it went away", expected=True)
            self.slot.clear(instance)

    async def _drain(self, instance: Instance) -> None:
        with trio.move_on_after(0.5):
            await instance.wait_no_leases()
        instance.channel.cancel_calls(Draining("it is replaced"))

    async def ask(self, operation: str, seconds: float) -> None:
        call = AskedCall(self.tasks)
        self.calls.append(call)
        call.namespace, call.operation, call.target = "kv", operation, self.namespace
        call.request_id = f"call-{len(self.calls)}"
        call.traceparent = f"00-{'1' * 32}-{'2' * 16}-00"
        call.is_call = True
        call.deadline = call.started + seconds
        call.proceed()

    async def answer(self, number: int, status: StatusCode, fields: dict[str, object]) -> None:
        """One attempt is answered, cancelled or not."""
        owed = [(plugin, attempt) for plugin in self.plugins for attempt in plugin.open]
        if owed:
            plugin, attempt = owed[number % len(owed)]
            await plugin.close(attempt, status, **fields)

    async def leave(self, number: int) -> None:
        if self.calls:
            self.calls[number % len(self.calls)].end(CallCancelled("the client left"))

    async def crash(self) -> None:
        if self.plugins:
            await self.plugins[-1].stream.aclose()
            self.plugins[-1].open.clear()

    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def end(self) -> None:
        """All deadlines pass, and the plugins close what they owe."""
        await trio.sleep(60)
        for plugin in self.plugins:
            for attempt in list(plugin.open):
                await plugin.close(attempt, StatusCode.CANCELLED)
        await trio.sleep(1)

    def check(self) -> None:
        for call in self.calls:
            assert (len(call.told), call.observed, call.done) == (1, 1, True)
            assert call.instance is None
            if call.hedge is not None:
                assert not call.hedge.is_running
        made = Counter(attempt.call for attempt in self.seen)
        for call in self.calls:
            assert made[call.request_id] <= call.attempts
            if call.operation == "set":
                assert not call.is_hedged
        for instance in self.instances:
            assert (instance.leases, instance.lost, instance.channel.open_calls) == (0, 0, 0)
        assert self.namespace.in_flight == self.slot.waiting == 0
        assert not self.namespace.deadlines.alarms._alarms
        opened = sum(instance.opened for instance in self.instances)
        invoked = [call for call in self.calls if call.instance_id]
        assert opened <= sum(call.attempts for call in invoked)
        [policy] = [each for each in self.namespace.policies if isinstance(each, Hedging)]
        assert policy.sent == sum(call.is_hedged for call in self.calls) >= policy.won + policy.lost

    def check_writes(self) -> None:
        """What may have run is not made again, unless it may be."""
        for call in self.calls:
            if call.operation == "set":
                ran = [each for each in self.seen if each.call == call.request_id]
                refused = self.not_started.get(call.request_id, 0)
                assert len(ran) <= 1 + refused

    not_started: Counter[str]


async def play(steps, kind, config) -> World:
    async with trio.open_nursery() as nursery:
        world = World(nursery, kind, **config)
        world.not_started = Counter()
        for name, arguments in steps:
            if name == "answer" and arguments[2].get("not_started"):
                owed = [each for plugin in world.plugins for each in plugin.open]
                if owed:
                    world.not_started[owed[arguments[0] % len(owed)].call] += 1
            await getattr(world, name)(*arguments)
            await trio.sleep(TICK)
        await world.end()
        world.check()
        world.check_writes()
        nursery.cancel_scope.cancel()
    return world


OK = (StatusCode.OK, {"message": ExecuteResponse(success=True, result_json='{"a":1}')})
NOT_STARTED = (StatusCode.UNAVAILABLE, {"not_started": True})
ANSWERS = [
    OK,
    (StatusCode.NOT_FOUND, {"message": ExecuteResponse(error_code=StatusCode.NOT_FOUND)}),
    (StatusCode.UNAVAILABLE, {"message": ExecuteResponse(error_code=StatusCode.UNAVAILABLE)}),
    (StatusCode.DATA_LOSS, {}),
    NOT_STARTED,
]
CONFIGS = [
    {},
    {"retries": RetriesConfig(attempts=3, budget=1.0)},
    {"retries": RetriesConfig(), "breaker": BreakerConfig(min_calls=2, open_seconds=0.5)},
]
numbers = st.integers(0, 7)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"),
            st.tuples(st.sampled_from(["get", "get", "get", "set"]), st.sampled_from([0.25, 5.0])),
        ),
        st.tuples(
            st.just("answer"),
            st.builds(lambda n, a: (n, *a), numbers, st.sampled_from([OK, *ANSWERS])),
        ),
        st.tuples(st.just("wait"), st.sampled_from([(AFTER,), (AFTER,), (0.3,)])),
        st.tuples(st.just("leave"), st.tuples(numbers)),
        st.tuples(st.sampled_from(["start", "crash"]), st.just(())),
    ),
    max_size=20,
)


@pytest.mark.parametrize("examples", [150, pytest.param(20_000, marks=pytest.mark.soak)])
def test_one_answer_and_exact_counts_whatever_happens(examples):
    @settings(max_examples=examples)
    @given(STEPS, st.sampled_from([FramedChannel, ChannelOfTasks]), st.sampled_from(CONFIGS))
    def check(steps, kind, config):
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(play, [("start", ()), *steps], kind, config, clock=clock)

    check()


@pytest.mark.parametrize("kind", [FramedChannel, ChannelOfTasks])
def test_a_scenario(kind):
    """What the plugins see of two attempts: the loser's CANCEL, and of a write one alone."""
    steps = [
        ("start", ()),
        ("ask", ("get", 5.0)),
        ("ask", ("set", 5.0)),
        ("wait", (AFTER,)),
        ("answer", (2, *OK)),  # the second attempt of the first call
        ("answer", (1, *OK)),  # the write
        ("ask", ("get", 5.0)),
        ("wait", (AFTER,)),
        ("crash", ()),
        ("start", ()),
        ("answer", (0, *OK)),
    ]
    clock = trio.testing.MockClock(autojump_threshold=0)
    world = trio.run(play, steps, kind, {}, clock=clock)
    first, write, crashed = world.calls
    assert first.told == write.told == crashed.told == [b'{"a":1}']
    assert [call.attempts for call in world.calls] == [2, 1, 3]
    assert [call.retries for call in world.calls] == [0, 0, 1]
    old, new = world.plugins
    assert [each.call for each in old.seen if each in old.cancelled] == ["call-1"]
    assert not new.cancelled
    one, other = world.instances
    assert (one.opened, one.finished, one.cancelled, one.failed) == (5, 2, 1, 2)
    assert (other.opened, other.finished) == (1, 1)


def test_the_operations_are_what_these_tests_take_them_for():
    assert [(each.name, each.idempotent) for each in OPERATIONS] == [("get", True), ("set", False)]
    assert isinstance(OPERATIONS[0], OperationDeclaration)

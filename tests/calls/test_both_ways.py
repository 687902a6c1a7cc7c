"""Calls without tasks, and the same calls in tasks, are seen to do the same.

An ordinary call has no task: the channel starts, cancels and answers it in plain code. What
truly waits has one of the pool. Here the same clients and the same plugins meet both, step by
step and on a mock clock: once as it is, and once with every call made to wait wherever one can,
for its body, in a policy, and for its answer (the channels' default ``start``). Compared are the
answers, what the plugins were sent, the access log, the metrics and the leases. A plugin in this
process is held to the same: once it leaves its answers for later, and once each call waits for its
own in a task.

Calls that one step ends are ended in any order, so each is compared by itself.
"""

import logging
import sys
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from prism.calls.call import Call
from prism.calls.namespace import Namespace
from prism.calls.policies.policy import Policy
from prism.calls.policies.read_params import CheckParams
from prism.calls.router import Router
from prism.channels.channel import PluginChannel
from prism.channels.frames.channel import ChannelSettings, FramedChannel
from prism.channels.in_process import InProcessChannel
from prism.config.types import NamespaceConfig, NamespaceLimits
from prism.contract.errors import Draining
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    OperationDeclaration,
    PluginMetrics,
)
from prism.contract.status import StatusCode
from prism.frontends.answering import Observer
from prism.frontends.rest import RestApp
from prism.observability.access_log import AccessLog
from prism.observability.metrics import Metrics
from prism.sdk.later import Later
from prism.sdk.plugin import PendingResponse
from prism.server.exchange import Cancelled, Phase
from prism.streams.tasks import TaskPool
from prism.supervision.instance import Instance
from prism.supervision.slot import Slot
from prism.wire import ConnectionState, Role
from prism.wire.connection import Connection
from prism.wire.events import Cancel, Close, Hello, Open, Ping

sys.path.append(str(Path(__file__).parents[1] / "frontends"))

from probe_exchange import ProbeExchange

TICK = 0.0137
"""Seconds after each step; no multiple of it is a time-out of a call."""
DRAIN_TIMEOUT = 0.5
LIMITS = NamespaceLimits(max_in_flight=4, max_payload_bytes=100)
WITH_QUEUE = NamespaceLimits(max_in_flight=1, max_queued=3, fair_shares=True, max_payload_bytes=100)
SETTINGS = ChannelSettings(max_queued=400)
OPERATIONS = [
    OperationDeclaration(name="get", idempotent=True),
    OperationDeclaration(name="set"),
]
OF_THE_PROCESS = ("prism_build", "prism_tasks", "prism_log_lines_dropped", "process_")
"""Metrics that say nothing of calls."""


class ChannelOfTasks(FramedChannel):
    """Awaits every call in a task, as a channel does that has no better way."""

    start = PluginChannel.start
    cancel = PluginChannel.cancel


class WaitInTask(Policy):
    """Has every call wait, though for nothing."""

    def enter(self, call: Call) -> bool:
        call.wait_in_task(trio.lowlevel.checkpoint)
        return True


class PlayedPlugin:
    """A plugin that answers when a step says so. ``sent`` is what came for each call."""

    def __init__(self, number: int, stream: trio.abc.Stream, codec: str) -> None:
        self.number = number
        self.stream = stream
        self.connection = Connection(Role.PLUGIN, Hello(name="played", codecs=(codec,)))
        self.sent: dict[str, list[object]] = defaultdict(list)
        self.owed: dict[str, int] = {}
        self.reads = trio.Event()
        self.reads.set()
        self._calls: dict[int, str] = {}

    async def run(self) -> None:
        self.connection.send(self.connection.local_hello)
        with suppress(trio.ClosedResourceError):
            while self.connection.state is not ConnectionState.CLOSED:
                await self._flush()
                self.connection.receive_data(await self.stream.receive_some(65536))
                while (event := self.connection.next_event()) is not None:
                    self._take(event)

    def _take(self, event: object) -> None:
        match event:
            case Open():
                call = event.message.metadata["prism-request-id"]
                self._calls[event.stream] = call
                self.owed[call] = event.stream
                self.sent[call].append((event.method, event.message, event.deadline_ms, event.end))
            case Cancel():
                self.sent[self._calls[event.stream]].append(event.status)
            case Ping(ack=False):
                self.connection.send(Ping(event.token, ack=True))

    async def close(self, call: str, status: StatusCode, **fields: Any) -> None:
        stream = self.owed.pop(call, None)
        if stream is not None and self.connection.state is not ConnectionState.CLOSED:
            self.connection.send(Close(stream, status, **fields))
            await self._flush()

    async def _flush(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := self.connection.data_to_send():
                await self.stream.send_all(data)


class PlayedInProcess:
    """The same without frames, for a channel in this process: it awaits each answer."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.reads = trio.Event()
        self.reads.set()
        self.sent: dict[str, list[object]] = defaultdict(list)
        self.owed: dict[str, Later[ExecuteResponse]] = {}
        self.finished = 0
        self.begun = 0

    async def execute(self, request: ExecuteRequest) -> ExecuteResponse:
        return await self.leave(request)

    def leave(self, request: ExecuteRequest) -> PendingResponse:
        call = request.metadata["prism-request-id"]
        self.sent[call].append((request.operation, request.params_json, request.params_raw))
        self.begun += 1
        later: Later[ExecuteResponse] = Later(lambda answer: answer)
        self.owed[call] = later

        def finish(*_: object) -> ExecuteResponse | None:
            self.finished += 1
            if not later.abandoned:
                return later.result()
            self.owed.pop(call, None)
            self.sent[call].append("abandoned")
            return None

        return PendingResponse(later, finish, request, 0.0)

    async def close(self, call: str, status: StatusCode, **fields: Any) -> None:
        later = self.owed.pop(call, None)
        if later is not None:
            later.settle(fields.get("message") or ExecuteResponse(error_code=status))


class LeavesForLater(PlayedInProcess):
    """No task waits for its answers."""

    async def begin_execution(self, request: ExecuteRequest) -> PendingResponse:
        return self.leave(request)

    async def execute(self, request: ExecuteRequest) -> ExecuteResponse:
        raise AssertionError("its answers are left for later")


class Leases(NamedTuple):
    """An instance's counts of them."""

    opened: int
    finished: int
    refused: int
    cancelled: int
    failed: int


class Seen(NamedTuple):
    """What was seen of all calls: their answers, frames and log lines by the call's id."""

    answers: dict[str, object]
    sent: dict[str, list[object]]
    log: dict[str, list[object]]
    metrics: list[object]
    leases: list[Leases]
    retried: dict[str, int]


class World:
    """Clients, one namespace, and its plugins, one after the other."""

    def __init__(
        self,
        nursery: trio.Nursery,
        codec: str,
        *,
        in_tasks: bool,
        in_process: type[PlayedInProcess] | None = None,
        limits: NamespaceLimits = LIMITS,
    ) -> None:
        self.in_process = in_process
        self.in_tasks = in_tasks
        self.codec = codec
        self.slot = Slot("kv")
        self.namespace = Namespace(NamespaceConfig("kv", "memory", limits=limits), self.slot)
        self.plugins: list[PlayedPlugin | PlayedInProcess] = []
        self.instances: list[Instance] = []
        self.asked: list[ProbeExchange] = []
        router = Router([self.namespace])  # which builds the policies anew
        if in_tasks:
            policies = []
            for policy in self.namespace.policies:
                if not isinstance(policy, CheckParams):
                    policies.append(WaitInTask(self.namespace))
                policies.append(policy)
            self.namespace.policies = tuple(policies)
        self.metrics = Metrics(router)
        self.front = RestApp(router, Observer(self.metrics, AccessLog()))
        self.nursery = nursery
        self.tasks = TaskPool(nursery)
        nursery.start_soon(router.deadlines.run)

    # -- the steps ---------------------------------------------------------------

    async def start(self) -> None:
        """A plugin starts; one that is there drains."""
        number = len(self.plugins) + 1
        if self.in_process is not None:
            in_process = self.in_process(number)
            self.plugins.append(in_process)
            await self._fill(number, InProcessChannel(in_process, "it"))
            return
        ours, theirs = trio.testing.memory_stream_pair()
        plugin = PlayedPlugin(number, theirs, self.codec)
        carry = ours.send_stream.send_all_hook

        async def carry_when_it_reads() -> None:
            await plugin.reads.wait()
            await carry()

        ours.send_stream.send_all_hook = carry_when_it_reads
        self.plugins.append(plugin)
        self.nursery.start_soon(plugin.run)
        kind = ChannelOfTasks if self.in_tasks else FramedChannel
        channel = kind(ours, SETTINGS, name="it")
        await channel.handshake()
        self.nursery.start_soon(channel.run)
        await self._fill(number, channel)

    async def _fill(self, number: int, channel: PluginChannel) -> None:
        operations = {operation.name: operation for operation in OPERATIONS}
        instance = Instance("kv", number, "played", "1.0", channel, operations)
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
        instance.channel.go_away("it is replaced")
        with trio.move_on_after(DRAIN_TIMEOUT):
            await instance.wait_no_leases()
        instance.channel.cancel_calls(Draining("it is replaced"))

    async def ask(
        self, operation: str, body: bytes = b"{}", within: str = "", late: bool = False
    ) -> None:
        """A client asks; the rest of its body comes with ``feed`` if it is ``late``."""
        number = len(self.asked) + 1
        headers = [
            (b"x-request-id", b"call-%d" % number),
            (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-%016x-00" % number),
        ]
        if within:
            headers.append((b"prism-timeout", within.encode()))
        exchange = ProbeExchange(self.tasks, "POST", f"/v1/kv/{operation}", headers)
        self.asked.append(exchange)
        if late:
            exchange.feed(body[:1])
        elif not self.in_tasks:
            exchange.feed(body, ended=True)
        self.front.begin(exchange)
        if self.in_tasks and not late:
            await trio.lowlevel.checkpoint()
            exchange.feed(body[:1])
            await trio.lowlevel.checkpoint()
            exchange.feed(body[1:], ended=True)

    async def feed(self, number: int, rest: bytes) -> None:
        """The rest of a body comes."""
        exchange = self.exchange(number)
        if exchange is not None and exchange.phase is Phase.WAITING and not exchange.received_all:
            exchange.feed(rest, ended=True)

    async def answer(self, number: int, status: StatusCode, fields: dict[str, Any]) -> None:
        """The plugins that have the call answer it, cancelled or not."""
        if self.asked:
            call = f"call-{number % len(self.asked) + 1}"
            for plugin in self.plugins:
                await plugin.close(call, status, **fields)

    async def leave(self, number: int, why: Cancelled) -> None:
        """A client leaves, or the proxy will not wait for its call."""
        if (exchange := self.exchange(number)) is not None:
            exchange.cancel(why)

    async def crash(self) -> None:
        """The plugin's connection ends."""
        if self.plugins and self.in_process is not None:
            await self.instances[-1].channel.aclose()
        elif self.plugins:
            await self.plugins[-1].stream.aclose()

    async def misbehave(self) -> None:
        """The plugin says what no plugin may."""
        if self.plugins and self.in_process is None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.plugins[-1].stream.send_all(b"\xff" * 64)

    async def stop_reading(self) -> None:
        """The plugin takes nothing more."""
        if self.plugins and self.plugins[-1].reads.is_set():
            self.plugins[-1].reads = trio.Event()

    async def read_on(self) -> None:
        """All plugins read again."""
        for plugin in self.plugins:
            plugin.reads.set()

    async def wait(self, seconds: float) -> None:
        """Time passes."""
        await trio.sleep(seconds)

    async def let_none_wait(self) -> None:
        """From now on calls do not wait for a plugin."""
        self.namespace.config = replace(self.namespace.config, while_unavailable="fail")

    async def give_plugin_up(self) -> None:
        """No plugin will come."""
        if self.slot.current is None:
            self.slot.say_absent("it does not start")

    def exchange(self, number: int) -> ProbeExchange | None:
        return self.asked[number % len(self.asked)] if self.asked else None

    # -- what is seen ------------------------------------------------------------

    async def end(self) -> None:
        """All time-outs pass, and the plugins close what they owe."""
        await self.read_on()
        await trio.sleep(60)
        for plugin in self.plugins:
            for call in list(plugin.owed):
                await plugin.close(call, StatusCode.CANCELLED)
        await trio.sleep(1)

    def seen(self, log: list[dict[str, Any]]) -> Seen:
        answers = {}
        for number, exchange in enumerate(self.asked, 1):
            head = (exchange.status, exchange.response_headers, exchange.written)
            answers[f"call-{number}"] = (*head, exchange.phase, exchange.cancelled)
        sent: dict[str, list[object]] = defaultdict(list)
        for plugin in self.plugins:
            for call, frames in plugin.sent.items():
                sent[call].append((plugin.number, frames))
        lines = defaultdict(list)
        for line in log:
            lines[line["request_id"]].append(line)
        metrics = [
            (sample.name, sample.labels, round(sample.value, 6))  # sums of them, in any order
            for family in self.metrics.collect()
            for sample in family.samples
            if not family.name.startswith(OF_THE_PROCESS)
        ]
        leases = []
        for instance in self.instances:
            assert (instance.leases, instance.lost) == (0, 0)
            assert instance.channel.open_calls == 0
            leases.append(Leases(*(getattr(instance, name) for name in Leases._fields)))
        assert self.namespace.in_flight == 0
        assert self.slot.waiting == 0
        assert set(answers) == set(lines)
        assert {len(told) for told in lines.values()} <= {1}
        return Seen(
            answers, dict(sent), dict(lines), sorted(map(repr, metrics)), leases, self.slot.retried
        )


class Step(NamedTuple):
    """A method of ``World`` and its arguments."""

    name: str
    arguments: tuple[Any, ...] = ()


def play(
    steps: list[Step],
    codec: str,
    *,
    in_tasks: bool,
    in_process: type[PlayedInProcess] | None = None,
    limits: NamespaceLimits = LIMITS,
) -> Seen:
    """What is seen of ``steps``."""
    log: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log.append(record.fields)

    async def main() -> Seen:
        async with trio.open_nursery() as nursery:
            world = World(nursery, codec, in_tasks=in_tasks, in_process=in_process, limits=limits)
            for name, arguments in steps:
                await getattr(world, name)(*arguments)
                await trio.sleep(TICK)
            await world.end()
            seen = world.seen(log)
            for plugin in world.plugins:
                if isinstance(plugin, PlayedInProcess):
                    assert (plugin.finished, plugin.owed) == (plugin.begun, {})
            nursery.cancel_scope.cancel()
        return seen

    logger, handler = logging.getLogger("prism.access"), Keep()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


def compare(steps: list[Step], codec: str = "msgpack", limits: NamespaceLimits = LIMITS) -> Seen:
    """The same of ``steps`` is seen both ways; returns it."""
    without_tasks = play(steps, codec, in_tasks=False, limits=limits)
    same(without_tasks, play(steps, codec, in_tasks=True, limits=limits))
    return without_tasks


def compare_in_process(steps: list[Step]) -> Seen:
    """Likewise of a plugin in this process, whose answers are left for later, or waited for."""
    left = play(steps, "", in_tasks=False, in_process=LeavesForLater)
    same(left, play(steps, "", in_tasks=False, in_process=PlayedInProcess))
    return left


def same(one_way: Seen, other_way: Seen) -> None:
    for name, one, other in zip(Seen._fields, one_way, other_way, strict=True):
        assert one == other, name


def answered(**fields: Any) -> tuple[StatusCode, dict[str, Any]]:
    return StatusCode.OK, {"message": ExecuteResponse(**fields)}


OK = answered(success=True, result_json='{"a":1}')
NOT_STARTED = (StatusCode.UNAVAILABLE, {"not_started": True})
ANSWERS = [
    OK,
    answered(success=True),
    answered(success=True, result_raw=b"\x80", metrics=PluginMetrics(requests_total=5)),
    answered(success=False, error_code=StatusCode.NOT_FOUND, error="no such key"),
    answered(success=False, error_code=StatusCode.UNAVAILABLE),
    answered(success=False),
    (StatusCode.DATA_LOSS, {}),
    NOT_STARTED,
]


def test_a_scenario():
    """What is compared says how each call ended, and what its plugins were told."""
    seen = compare(
        [
            Step("start"),
            Step("ask", ("get",)),
            Step("answer", (-1, *OK)),
            Step("ask", ("set", b'{"b":2}', "250ms")),
            Step("wait", (0.5,)),
            Step("ask", ("set", b"[1]")),
            Step("ask", ("get", b"{}", "", True)),
            Step("leave", (-1, Cancelled.CLIENT_LEFT)),
            Step("ask", ("set",)),
            Step("ask", ("get",)),
            Step("crash"),
            Step("start"),
            Step("answer", (-1, *OK)),
            Step("ask", ("set",)),
            Step("start"),
        ]
    )
    ended = [(line["http_status"], line.get("reason")) for [line] in seen.log.values()]
    assert ended == [
        (200, None),
        (504, "deadline_exceeded"),
        (400, "invalid_request"),
        (499, "client_gone"),
        (502, "plugin_crashed"),
        (200, None),
        (503, "draining"),
    ]
    told = {
        call: [(plugin, *frames[1:]) for plugin, frames in sent] for call, sent in seen.sent.items()
    }
    assert told == {
        "call-1": [(1,)],
        "call-2": [(1, StatusCode.DEADLINE_EXCEEDED)],
        "call-5": [(1,)],
        "call-6": [(1,), (2,)],
        "call-7": [(2, StatusCode.UNAVAILABLE)],
    }
    assert seen.retried == {"idempotent": 1}
    first, second, third = seen.leases
    assert first == Leases(opened=4, finished=1, refused=0, cancelled=1, failed=2)
    assert second == Leases(opened=2, finished=1, refused=0, cancelled=1, failed=0)
    assert third == Leases(opened=0, finished=0, refused=0, cancelled=0, failed=0)


def test_a_scenario_with_a_queue():
    seen = compare(
        [
            Step("start"),
            Step("ask", ("get",)),
            Step("ask", ("get", b"{}", "40s")),
            Step("ask", ("set", b"{}", "2s")),
            Step("ask", ("set", b"{}", "250ms")),
            Step("ask", ("get",)),
            Step("wait", (0.5,)),
            Step("crash"),
            Step("start"),
            Step("answer", (0, *OK)),
            Step("answer", (2, *OK)),
            Step("leave", (1, Cancelled.CLIENT_LEFT)),
        ],
        limits=WITH_QUEUE,
    )
    ended = [(line["http_status"], line.get("reason")) for [line] in seen.log.values()]
    assert ended == [
        (429, "too_many_in_flight"),
        (429, "queue_too_long"),
        (200, None),
        (200, None),
        (499, "client_gone"),
    ]
    assert list(seen.log) == ["call-5", "call-4", "call-1", "call-3", "call-2"]
    told = {call: [plugin for plugin, _ in sent] for call, sent in seen.sent.items()}
    assert told == {"call-1": [1, 2], "call-3": [2], "call-2": [2]}


def test_a_call_that_has_its_turn_by_a_crash_waits_for_the_next_instance():
    seen = compare(
        [
            Step("start"),
            Step("ask", ("set",)),
            Step("ask", ("get",)),
            Step("crash"),
            Step("start"),
            Step("answer", (1, *OK)),
        ],
        limits=WITH_QUEUE,
    )
    [line] = seen.log["call-2"]
    assert (line["http_status"], line["instance"]) == (200, "kv/2")
    assert [leases.opened for leases in seen.leases] == [1, 1]
    assert not seen.retried


# The first of each is what is usual, and the last call the one that something happens to.
ORDINARY = [Step("ask", (operation, b"{}", "", False)) for operation in ("get", "set")]
BODIES = [b"", b'{"a":"b"}', b"[]", b"{", b'{"a":1,"a":2}', b"{" + b" " * 100]
numbers = st.sampled_from([-1, -1, -2, 0, 1])
steps = st.one_of(
    st.sampled_from(ORDINARY),
    st.sampled_from(ORDINARY),
    st.sampled_from(ORDINARY),
    st.builds(
        lambda *arguments: Step("ask", arguments),
        st.sampled_from(["get", "set", "nothing"]),
        st.sampled_from([b"{}", b"{}", *BODIES]),
        st.sampled_from(["", "50ms", "250ms", "2s", "40s"]),
        st.booleans(),
    ),
    st.builds(lambda *arguments: Step("feed", arguments), numbers, st.sampled_from([b"}", b"]"])),
    st.builds(lambda number: Step("answer", (number, *OK)), numbers),
    st.builds(
        lambda number, answer: Step("answer", (number, *answer)), numbers, st.sampled_from(ANSWERS)
    ),
    st.builds(
        lambda *arguments: Step("leave", arguments), numbers, st.sampled_from(list(Cancelled))
    ),
    st.sampled_from([0.1, 0.6, 8.0]).map(lambda seconds: Step("wait", (seconds,))),
    st.sampled_from(["start", "start", "crash", "misbehave"]).map(Step),
    st.sampled_from(["stop_reading", "stop_reading", "read_on"]).map(Step),
    st.sampled_from(["give_plugin_up", "let_none_wait"]).map(Step),
)


@pytest.mark.parametrize("examples", [200, pytest.param(20_000, marks=pytest.mark.soak)])
def test_the_same_is_seen_both_ways(examples):
    @settings(max_examples=examples)
    @given(
        st.lists(steps, max_size=14),
        st.sampled_from(["msgpack", "json"]),
        st.sampled_from([LIMITS, LIMITS, WITH_QUEUE]),
    )
    def check(steps, codec, limits):
        compare([Step("start"), *steps], codec, limits)

    check()


def test_a_scenario_in_process():
    seen = compare_in_process(
        [
            Step("start"),
            Step("ask", ("get",)),
            Step("answer", (-1, *OK)),
            Step("ask", ("set", b"{}", "250ms")),
            Step("wait", (0.5,)),
            Step("ask", ("set",)),
            Step("leave", (-1, Cancelled.CLIENT_LEFT)),
            Step("ask", ("set",)),
            Step("crash"),
            Step("start"),
            Step("ask", ("set",)),
            Step("start"),
        ]
    )
    ended = [(line["http_status"], line.get("reason")) for [line] in seen.log.values()]
    assert ended == [
        (200, None),
        (504, "deadline_exceeded"),
        (499, "client_gone"),
        (502, "plugin_crashed"),
        (503, "draining"),
    ]
    told = {call: [frames[1:] for _, frames in sent] for call, sent in seen.sent.items()}
    assert told == {
        "call-1": [[]],
        **{f"call-{number}": [["abandoned"]] for number in (2, 3, 4, 5)},
    }


@pytest.mark.parametrize("examples", [200, pytest.param(20_000, marks=pytest.mark.soak)])
def test_the_same_is_seen_in_process(examples):
    @settings(max_examples=examples)
    @given(st.lists(steps, max_size=14))
    def check(steps):
        compare_in_process([Step("start"), *steps])

    check()

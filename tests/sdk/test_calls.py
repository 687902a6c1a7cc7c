"""Calls from OPEN to CLOSE, on trio and on asyncio."""

import contextvars
import logging
import math

import anyio
import pytest
from msgspec import Struct

from prism.contract.messages import (
    ExecuteRequest,
    HealthCheckRequest,
    InitializeRequest,
    ShutdownRequest,
    StreamRequest,
)
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.sdk import Call, Plugin, operation
from prism.wire.events import Cancel, Close, Data, Open, Ping
from prism.wire.frames import FrameType

variable = contextvars.ContextVar("variable", default="unset")


class Params(Struct):
    n: float = 0


class Scripted(Plugin):
    def __init__(self):
        super().__init__()
        self.seen = []
        self.release = anyio.Event()
        self.lock = anyio.Lock()

    @operation
    async def at_once(self, params: Params) -> str:
        self.seen.append("at_once")
        return "at once"

    @operation
    async def once(self, params: Params) -> str:
        await anyio.lowlevel.checkpoint()
        self.seen.append("once")
        return "once"

    @operation
    async def wait(self, params: Params) -> str:
        self.seen.append("wait")
        await self.release.wait()
        return "waited"

    @operation
    async def wait_in_vain(self, params: Params) -> None:
        try:
            await anyio.sleep(math.inf)
        finally:
            self.seen.append("cancelled")

    @operation
    async def go(self, params: Params) -> None:
        self.release.set()

    @operation
    async def answer_though_cancelled(self, params: Params) -> str:
        with anyio.CancelScope(shield=True):
            await self.release.wait()
        return "done all the same"

    @operation
    async def deadline(self, params: Params) -> list[float]:
        at_once = anyio.current_effective_deadline() - anyio.current_time()
        await anyio.lowlevel.checkpoint()
        later = anyio.current_effective_deadline() - anyio.current_time()
        return [min(at_once, 1e6), min(later, 1e6)]

    @operation
    async def time_left(self, params: Params, call: Call) -> float:
        return min(call.time_left(), 1e6)

    @operation
    async def own_timeout(self, params: Params) -> bool:
        with anyio.move_on_after(params.n) as scope:
            await anyio.sleep(math.inf)
        return scope.cancelled_caught

    @operation
    async def locked(self, params: Params) -> str:
        async with self.lock:
            await anyio.lowlevel.checkpoint()
        return "had the lock"

    @operation
    async def child(self, params: Params) -> list[str]:
        seen = []

        async def run():
            seen.append(variable.get())

        variable.set("of the parent")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
        return seen

    @operation
    async def changes_context(self, params: Params) -> str:
        before = variable.get()
        variable.set("changed")
        return before

    @operation
    async def changes_context_and_waits(self, params: Params) -> list[str]:
        before = variable.get()
        token = variable.set("changed")
        await anyio.lowlevel.checkpoint()
        after = variable.get()
        if params.n:
            variable.reset(token)
        return [before, after]

    @operation
    async def changes_context_and_sleeps(self, params: Params) -> None:
        variable.set("left behind")
        await anyio.sleep(math.inf)

    @operation
    async def large(self, params: Params) -> str:
        return "x" * int(params.n)

    @operation
    async def large_after_a_wait(self, params: Params) -> str:
        await anyio.lowlevel.checkpoint()
        return "x" * int(params.n)

    @operation
    async def count(self, params: Params):
        for n in range(int(params.n)):
            yield n

    @operation
    async def forever(self, params: Params):
        self.seen.append("forever")
        yield 0
        await anyio.sleep(math.inf)


def execute(name, n=0):
    return ExecuteRequest(operation=name, params_json=f'{{"n":{n}}}')


@pytest.fixture
def with_session(run, session_of):
    """Runs a scenario of (host, plugin, session) with a session of ``Scripted``."""

    def with_session(scenario, **options):
        async def go():
            plugin = Scripted()
            async with session_of(plugin, **options) as (host, session, _ended):
                await scenario(host, plugin, session)

        run(go)

    return with_session


@pytest.mark.parametrize("codec", ["msgpack", "json"])
def test_calls_that_wait_and_calls_that_do_not(codec, with_session):
    async def scenario(host, _plugin, _session):
        assert (await host.execute("at_once")).message.result_json == '"at once"'
        assert (await host.execute("once")).message.result_json == '"once"'
        stream = await host.open(Method.EXECUTE, execute("wait"))
        assert (await host.execute("at_once")).message.result_json == '"at once"'
        assert (await host.execute("go")).status is StatusCode.OK
        close = await host.expect(Close)
        assert (close.stream, close.message.result_json) == (stream, '"waited"')

    with_session(scenario, codec=codec)


def test_calls_that_never_wait_are_answered_in_their_order_and_in_one_piece(with_session):
    async def scenario(host, plugin, session):
        sends = []
        plugin_end = session._stream
        send = plugin_end.send

        async def counted(data):
            sends.append(data)
            await send(data)

        plugin_end.send = counted
        session._calls.now = lambda: 0.0  # a turn that takes long is written in pieces
        streams = await host.burst(*["at_once"] * 20)
        assert [(await host.expect(Close)).stream for _ in streams] == streams
        assert sum(data.count(b"at once") for data in sends) == 20
        assert len(sends) <= 3

    with_session(scenario)


def test_in_a_burst_those_that_wait_hold_up_nobody(with_session):
    async def scenario(host, plugin, _session):
        streams = await host.burst("wait", "at_once", "once", "wait", "at_once", "go", "at_once")
        closes = [await host.expect(Close) for _ in streams]
        assert {close.stream for close in closes} == set(streams)
        assert all(close.status is StatusCode.OK for close in closes)
        order = [close.stream for close in closes]
        assert order.index(streams[1]) < order.index(streams[4]) < order.index(streams[6])
        assert order.index(streams[0]) > order.index(streams[5])
        assert plugin.seen.count("wait") == 2

    with_session(scenario)


def test_many_bursts_of_all_kinds_end_each_call_once(with_session):
    async def scenario(host, _plugin, session):
        for _ in range(20):
            streams = await host.burst(*["at_once", "once", "locked", "changes_context"] * 25)
            closes = [await host.expect(Close) for _ in streams]
            assert sorted(close.stream for close in closes) == streams
            assert all(close.status is StatusCode.OK for close in closes)
        assert session._connection.open_streams == 0
        assert session._calls._running == {}

    with_session(scenario)


# -- cancelling ---------------------------------------------------------------


def test_a_call_whose_cancel_came_with_it_is_not_begun(with_session):
    async def scenario(host, plugin, _session):
        stream = host.connection.next_stream()
        other = Open(stream + 2, Method.EXECUTE, execute("at_once"))
        await host.send(Open(stream, Method.EXECUTE, execute("wait")), Cancel(stream), other)
        close = await host.expect(Close)
        assert (close.stream, close.status, close.not_started) == (
            stream,
            StatusCode.CANCELLED,
            True,
        )
        assert (await host.expect(Close)).stream == stream + 2
        assert plugin.seen == ["at_once"]

    with_session(scenario)


def test_a_stream_whose_cancel_came_with_it_is_not_begun(with_session):
    async def scenario(host, plugin, _session):
        stream = host.connection.next_stream()
        request = StreamRequest(operation="forever")
        await host.send(Open(stream, Method.EXECUTE_STREAM, request, end=False), Cancel(stream))
        close = await host.expect(Close)
        assert (close.status, close.not_started) == (StatusCode.CANCELLED, True)
        assert plugin.seen == []

    with_session(scenario)


def test_a_call_is_cancelled_while_it_waits(with_session):
    async def scenario(host, plugin, _session):
        stream = await host.open(Method.EXECUTE, execute("wait_in_vain"))
        await anyio.wait_all_tasks_blocked()
        await host.send(Cancel(stream))
        close = await host.expect(Close)
        assert (close.status, close.not_started) == (StatusCode.CANCELLED, False)
        assert plugin.seen == ["cancelled"]
        assert (await host.execute("once")).status is StatusCode.OK

    with_session(scenario)


def test_a_cancel_ends_its_own_call_alone(with_session):
    async def scenario(host, plugin, _session):
        streams = await host.burst(*["wait"] * 10)
        await anyio.wait_all_tasks_blocked()
        for stream in streams[::2]:
            await host.send(Cancel(stream))
        closes = [await host.expect(Close) for _ in streams[::2]]
        assert {close.status for close in closes} == {StatusCode.CANCELLED}
        assert {close.stream for close in closes} == set(streams[::2])
        plugin.release.set()
        closes = [await host.expect(Close) for _ in streams[1::2]]
        assert {close.status for close in closes} == {StatusCode.OK}

    with_session(scenario)


def test_a_cancelled_call_that_answers_all_the_same_is_answered(with_session):
    async def scenario(host, plugin, _session):
        stream = await host.open(Method.EXECUTE, execute("answer_though_cancelled"))
        await anyio.wait_all_tasks_blocked()
        await host.send(Cancel(stream))
        await anyio.wait_all_tasks_blocked()
        plugin.release.set()
        assert (await host.expect(Close)).message.result_json == '"done all the same"'
        for name in ("once", "at_once", "once"):  # the cancel reached none of the next calls
            assert (await host.execute(name)).status is StatusCode.OK

    with_session(scenario)


def test_a_cancel_after_the_close_is_nothing(with_session):
    async def scenario(host, _plugin, _session):
        for name in ("at_once", "once"):
            stream = await host.open(Method.EXECUTE, execute(name))
            await anyio.wait_all_tasks_blocked()
            await host.send(Cancel(stream))  # the host has not read the CLOSE yet
            assert (await host.expect(Close)).status is StatusCode.OK
            await host.send(Ping(1))
            assert await host.expect(Ping) == Ping(1, ack=True)

    with_session(scenario)


# -- deadlines ----------------------------------------------------------------


def test_a_call_whose_time_was_over_before_its_turn_is_not_begun(with_session):
    async def scenario(host, plugin, session):
        session._calls.now = lambda: session._read_at + 0.2
        close = await host.execute("at_once", deadline_ms=100)
        assert (close.status, close.not_started) == (StatusCode.DEADLINE_EXCEEDED, True)
        close = await host.call(
            Method.EXECUTE_STREAM, StreamRequest(operation="forever"), deadline_ms=100
        )
        assert (close.status, close.not_started) == (StatusCode.DEADLINE_EXCEEDED, True)
        assert (await host.execute("at_once", deadline_ms=300)).status is StatusCode.OK
        assert plugin.seen == ["at_once"]

    with_session(scenario)


def test_a_call_ends_at_its_deadline(with_session):
    async def scenario(host, plugin, _session):
        close = await host.execute("wait_in_vain", deadline_ms=20)
        assert (close.status, close.not_started) == (StatusCode.DEADLINE_EXCEEDED, False)
        assert plugin.seen == ["cancelled"]
        assert (await host.execute("once")).status is StatusCode.OK

    with_session(scenario)


def test_the_handler_sees_its_deadline_before_and_after_its_first_wait(with_session):
    async def scenario(host, _plugin, _session):
        for deadline_ms in (15_000, 15_000, 25_000, 0, 20_000):
            limit = deadline_ms / 1000 or 30  # the test's own
            close = await host.execute("deadline", deadline_ms=deadline_ms)
            for seen in close.message.result_json.strip("[]").split(","):
                assert limit - 4 < float(seen) <= limit
            close = await host.execute("time_left", deadline_ms=deadline_ms)
            assert limit - 4 < float(close.message.result_json) <= limit

    with_session(scenario)


def test_in_a_burst_each_call_has_its_own_deadline(with_session):
    async def scenario(host, _plugin, _session):
        limits = {}
        for deadline_ms in (15_000, 25_000, 0, 25_000, 15_000, 15_000):
            stream = host.connection.next_stream()
            host.connection.send(Open(stream, Method.EXECUTE, execute("time_left"), deadline_ms))
            limits[stream] = deadline_ms / 1000 or 30  # the test's own
        await host.send()
        for stream, limit in limits.items():
            close = await host.expect(Close)
            assert close.stream == stream
            assert limit - 4 < float(close.message.result_json) <= limit

    with_session(scenario)


def test_the_deadline_of_a_call_ends_neither_reading_nor_the_next_call(with_session):
    async def scenario(host, _plugin, _session):
        for name in ("at_once", "once"):
            close = await host.execute(name, deadline_ms=30)
            # The latter where the machine is busy, which ends neither of them more.
            assert close.status in (StatusCode.OK, StatusCode.DEADLINE_EXCEEDED)
        await anyio.sleep(0.05)
        stream = await host.open(Method.EXECUTE, execute("own_timeout", 0.05))
        close = await host.expect(Close)
        assert (close.stream, close.message.result_json) == (stream, "true")

    with_session(scenario)


# -- what a handler does before its first wait --------------------------------


def test_scopes_and_locks_entered_before_the_first_wait(with_session):
    async def scenario(host, _plugin, _session):
        close = await host.call(Method.EXECUTE, execute("own_timeout", 0.01), deadline_ms=60_000)
        assert close.message.result_json == "true"
        streams = await host.burst(*["locked"] * 5)
        closes = [await host.expect(Close) for _ in streams]
        assert [close.stream for close in closes] == streams
        assert {close.message.result_json for close in closes} == {'"had the lock"'}

    with_session(scenario)


def test_every_call_begins_with_the_sessions_context(with_session):
    async def scenario(host, _plugin, _session):
        mixed = ["changes_context", "changes_context_and_waits", "child"] * 5
        for stream in await host.burst(*mixed):
            assert (await host.expect(Close)).status is StatusCode.OK, stream
        for _ in range(3):
            close = await host.execute("changes_context")
            assert close.message.result_json == '"unset"'
            for n in (0, 1):
                close = await host.call(Method.EXECUTE, execute("changes_context_and_waits", n))
                assert close.message.result_json == '["unset","changed"]'
            close = await host.execute("child")
            assert close.message.result_json == '["of the parent"]'

    with_session(scenario)


def test_a_cancelled_call_leaves_no_changed_context_behind(with_session):
    async def scenario(host, _plugin, _session):
        for _ in range(3):
            stream = await host.open(Method.EXECUTE, execute("changes_context_and_sleeps"))
            await anyio.wait_all_tasks_blocked()
            await host.send(Cancel(stream))
            assert (await host.expect(Close)).status is StatusCode.CANCELLED
            assert (await host.execute("changes_context")).message.result_json == '"unset"'

    with_session(scenario)


# -- what cannot be sent ------------------------------------------------------


@pytest.mark.parametrize("name", ["large", "large_after_a_wait"])
def test_a_result_that_is_too_large_is_refused(name, with_session):
    async def scenario(host, _plugin, _session):
        close = await host.call(Method.EXECUTE, execute(name, 3000))
        assert close.status is StatusCode.RESOURCE_EXHAUSTED
        assert "the plugin's answer is too large" in close.message.error
        assert (await host.call(Method.EXECUTE, execute(name, 1000))).status is StatusCode.OK

    with_session(scenario, max_frame=2000)


def test_a_host_that_takes_next_to_nothing_gets_a_bare_status(with_session):
    async def scenario(host, _plugin, _session):
        close = await host.call(Method.EXECUTE, execute("large", 3000))
        assert (close.status, close.message) == (StatusCode.RESOURCE_EXHAUSTED, None)

    with_session(scenario, max_frame=20, initialize=False)


@pytest.mark.parametrize("waits", [False, True])
def test_a_plugin_that_raises_outside_its_operations(waits, run, session_of, caplog):
    class Broken:
        async def initialize(self, _request):
            if waits:
                await anyio.lowlevel.checkpoint()
            raise ValueError("secret")

        health_check = execute = shutdown = initialize

    async def scenario():
        async with session_of(Broken(), initialize=False) as (host, _session, _ended):
            for method, message in (
                (Method.INITIALIZE, InitializeRequest()),
                (Method.EXECUTE, ExecuteRequest()),
                (Method.HEALTH_CHECK, HealthCheckRequest()),
                (Method.SHUTDOWN, ShutdownRequest()),
            ):
                close = await host.call(method, message)
                assert (close.status, close.message) == (StatusCode.INTERNAL, None)

    with caplog.at_level(logging.CRITICAL):
        run(scenario)


# -- streams ------------------------------------------------------------------


def test_a_streams_messages_come_before_its_close(with_session):
    async def scenario(host, _plugin, _session):
        request = StreamRequest(operation="count", params_json='{"n":500}')
        stream = await host.open(Method.EXECUTE_STREAM, request)
        for n in range(500):
            assert (await host.expect(Data)).message.result_json == str(n)
        close = await host.expect(Close)
        assert (close.stream, close.status) == (stream, StatusCode.OK)

    with_session(scenario)


def test_a_stream_that_never_waits_holds_up_nobody(with_session, monkeypatch):
    monkeypatch.setattr("prism.sdk.calls.TURN", 0)

    async def scenario(host, _plugin, _session):
        request = StreamRequest(operation="count", params_json='{"n":100000}')
        await host.open(Method.EXECUTE_STREAM, request)
        call = await host.open(Method.EXECUTE, execute("at_once"))
        messages = 0
        while isinstance(event := await host.next(), Data):
            messages += 1
        assert (event.stream, messages < 100) == (call, True)

    with_session(scenario)


def test_a_stream_ends_at_its_deadline(with_session):
    async def scenario(host, _plugin, _session):
        request = StreamRequest(operation="forever")
        await host.open(Method.EXECUTE_STREAM, request, deadline_ms=20)
        event = await host.next()
        while isinstance(event, Data):  # on a busy machine there may be none
            event = await host.next()
        assert isinstance(event, Close), event
        assert event.status is StatusCode.DEADLINE_EXCEEDED

    with_session(scenario)


# -- the end ------------------------------------------------------------------


def test_what_came_after_shutdown_is_not_begun(with_session):
    async def scenario(host, plugin, _session):
        first = host.connection.next_stream()
        await host.send(
            Open(first, Method.SHUTDOWN, ShutdownRequest()),
            Open(first + 2, Method.EXECUTE, execute("at_once")),
        )
        close = await host.expect(Close)
        assert (close.stream, close.message.success) == (first, True)
        assert await host.next() is None
        assert plugin.seen == []

    with_session(scenario)


def test_calls_that_run_when_the_host_goes_are_cancelled(with_session):
    async def scenario(host, plugin, _session):
        await host.burst(*["wait_in_vain"] * 5)
        await anyio.wait_all_tasks_blocked()
        await host.stream.aclose()
        await anyio.wait_all_tasks_blocked()
        assert plugin.seen == ["cancelled"] * 5

    with_session(scenario)


def test_of_a_host_that_breaks_the_protocol_nothing_more_is_begun(with_session, caplog):
    async def scenario(host, plugin, _session):
        host.connection.send(Open(host.connection.next_stream(), Method.EXECUTE, execute("once")))
        await host.stream.send(host.connection.data_to_send() + bytes([FrameType.OPEN] * 16))
        await anyio.wait_all_tasks_blocked()
        assert plugin.seen == []

    with_session(scenario)
    assert "the host broke the frame protocol" in caplog.text

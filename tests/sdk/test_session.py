"""A plugin's session with a host that is scripted by hand, over streams in memory."""

import contextvars
import logging
import math
from collections import deque
from contextlib import asynccontextmanager

import anyio
import pytest
import trio
import trio.testing
from msgspec import Struct

from prism.contract.errors import HandshakeFailed
from prism.contract.messages import (
    ExecuteRequest,
    HealthCheckRequest,
    InitializeRequest,
    PluginMetrics,
    ShutdownRequest,
    StreamRequest,
)
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.sdk import Plugin, operation
from prism.sdk import session as session_module
from prism.sdk.reporting import NoteHandler, send_logs
from prism.sdk.session import MAX_QUEUED_FOR_NOTES, Session
from prism.wire import ConnectionState, Role
from prism.wire.connection import Connection
from prism.wire.events import (
    Cancel,
    Close,
    Credit,
    Data,
    GoAway,
    Hello,
    LogRecord,
    Note,
    Open,
    Ping,
)
from prism.wire.frames import FrameType, pack
from prism.wire.handshake import answer

variable = contextvars.ContextVar("variable", default="unset")


class Params(Struct):
    n: int = 0


class Scripted(Plugin):
    def __init__(self):
        super().__init__()
        self.seen = []
        self.stopped = 0

    async def stop(self):
        self.stopped += 1

    @operation
    async def variable(self, params: Params) -> str:
        before = variable.get()
        variable.set("set by a call")
        return before

    @operation
    async def wait(self, params: Params) -> None:
        self.seen.append("wait")
        await anyio.sleep(math.inf)

    @operation
    async def nap(self, params: Params) -> None:
        await anyio.sleep(params.n)

    @operation
    async def fail_when_cancelled(self, params: Params) -> None:
        async def fails():
            try:
                await anyio.sleep(math.inf)
            finally:
                raise ValueError("while it was cancelled")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fails)
            tasks.start_soon(anyio.sleep, math.inf)

    @operation
    async def flood(self, params: Params):
        while True:
            yield "x" * 10_000
            self.seen.append("sent")

    @operation
    async def one(self, params: Params, call):
        yield 1


class Stream:
    """A trio stream as a session wants it."""

    def __init__(self, stream):
        self.stream = stream

    async def receive(self, max_bytes=65536):
        try:
            data = await self.stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise anyio.BrokenResourceError from error
        if not data:
            raise anyio.EndOfStream
        return bytes(data)

    async def send(self, item):
        try:
            await self.stream.send_all(item)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise anyio.BrokenResourceError from error

    async def aclose(self):
        await self.stream.aclose()


class Host:
    """The host's end, played by hand."""

    def __init__(self, stream, **limits):
        self.stream = stream
        self.connection = Connection(Role.HOST, Hello(name="host", **limits))
        self.events = deque()

    async def next(self):
        while True:
            event = self.connection.next_event()
            if event is not None:
                return event
            if self.connection.state is ConnectionState.CLOSED:
                return None
            self.connection.receive_data(await self.stream.receive_some(65536))

    async def expect(self, kind):
        event = await self.next()
        assert isinstance(event, kind), event
        return event

    async def send(self, *events):
        for event in events:
            self.connection.send(event)
        await self.stream.send_all(self.connection.data_to_send())

    async def greet(self):
        offer = await self.expect(Hello)
        await self.send(answer(offer, self.connection.local_hello))

    async def open(self, method, message, **fields):
        stream = self.connection.next_stream()
        await self.send(Open(stream, method, message, **fields))
        return stream

    async def call(self, method, message, **fields):
        stream = await self.open(method, message, **fields)
        close = await self.expect(Close)
        assert close.stream == stream
        return close

    async def execute(self, operation):
        return await self.call(Method.EXECUTE, ExecuteRequest(operation=operation))


@asynccontextmanager
async def session_with(host_limits=None, *, plugin=None, initialize=True):
    """(host, plugin, session, ended): a session that runs, greeted and initialized."""
    ours, theirs = trio.testing.memory_stream_pair()
    plugin = plugin or Scripted()
    session = Session(Stream(theirs), plugin, name="scripted", version="1")
    host = Host(ours, **(host_limits or {}))
    ended = []

    async def run():
        await session.run()
        ended.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await host.greet()
        if initialize:
            await host.call(Method.INITIALIZE, InitializeRequest(namespace="ns"))
        yield host, plugin, session, ended
        await host.stream.aclose()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "closed the connection"),
        (b"\xff" * 16, "closed the connection"),
        (pack(FrameType.GOAWAY, 0, b'{"reason":"too old"}', codec=1), "too old"),
        (b"", "closed the connection"),
    ],
)
async def test_a_host_that_does_not_greet(said, message, caplog):
    ours, theirs = trio.testing.memory_stream_pair()
    plugin = Scripted()
    await ours.send_all(said) if said else None
    await ours.send_eof()
    with pytest.raises(HandshakeFailed, match=message):
        await Session(Stream(theirs), plugin, name="s", version="1").run()


async def test_a_host_that_says_nothing(autojump_clock):
    _ours, theirs = trio.testing.memory_stream_pair()
    with pytest.raises(HandshakeFailed, match="did not answer HELLO in time"):
        await Session(Stream(theirs), Scripted(), name="s", version="1").run()
    assert trio.current_time() == session_module.HANDSHAKE_TIMEOUT


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 16, pack(FrameType.OPEN, 2, b"{}", codec=1, method=3)]
)
async def test_a_host_that_breaks_the_rules_is_told_and_left(garbage, caplog):
    async with session_with() as (host, plugin, _session, ended):
        await host.open(Method.EXECUTE, ExecuteRequest(operation="wait"))
        await trio.testing.wait_all_tasks_blocked()
        await host.stream.send_all(garbage)
        assert (await host.expect(GoAway)).reason
        await trio.testing.wait_all_tasks_blocked()
    assert ended
    assert plugin.stopped == 1
    assert [r.levelname for r in caplog.records] == ["ERROR"]


async def test_a_host_that_goes_ends_the_calls_without_noise(caplog, autojump_clock):
    async with session_with() as (host, plugin, session, ended):
        for _ in range(3):
            await host.open(Method.EXECUTE, ExecuteRequest(operation="wait"))
        await host.open(Method.EXECUTE_STREAM, StreamRequest(operation="flood"), end=False)
        await trio.testing.wait_all_tasks_blocked()
    assert (ended, plugin.stopped) == ([True], 1)
    assert [r for r in caplog.records if r.levelname != "DEBUG"] == []
    assert trio.current_time() == 0
    session.note(Note())
    await session.drain("late")


async def test_shutdown_is_the_last_thing_answered(autojump_clock):
    async with session_with() as (host, plugin, _session, ended):
        await host.open(Method.EXECUTE, ExecuteRequest(operation="wait"))
        await trio.testing.wait_all_tasks_blocked()
        close = await host.call(Method.SHUTDOWN, ShutdownRequest(timeout_seconds=3))
        assert (close.status, close.message.success) == (StatusCode.UNKNOWN, False)
        assert (await host.expect(Close)).status is StatusCode.CANCELLED
        assert await host.next() is None
    assert ended
    assert plugin.stopped == 1
    assert trio.current_time() == 3


async def test_pings_are_answered_while_calls_run():
    async with session_with() as (host, *_rest):
        await host.open(Method.EXECUTE, ExecuteRequest(operation="wait"))
        await host.send(Ping(77))
        assert await host.expect(Ping) == Ping(77, ack=True)


async def test_every_call_begins_with_a_clean_context():
    async with session_with() as (host, *_rest):
        for _ in range(3):
            close = await host.execute("variable")
            assert close.message.result_json == '"unset"'
        opened = [
            Open(host.connection.next_stream() + 2 * n, Method.EXECUTE, request)
            for n, request in enumerate([ExecuteRequest(operation="variable")] * 20)
        ]
        await host.send(*opened)
        closes = [await host.expect(Close) for _ in opened]
        assert {close.message.result_json for close in closes} == {'"unset"'}


async def test_a_call_cancelled_before_it_started_never_runs():
    async with session_with() as (host, plugin, *_rest):
        stream = host.connection.next_stream()
        await host.send(
            Open(stream, Method.EXECUTE, ExecuteRequest(operation="wait")), Cancel(stream)
        )
        close = await host.expect(Close)
        assert (close.status, close.not_started) == (StatusCode.CANCELLED, True)
        assert plugin.seen == []


async def test_a_running_call_is_cancelled():
    async with session_with() as (host, plugin, *_rest):
        stream = await host.open(Method.EXECUTE, ExecuteRequest(operation="wait"))
        await trio.testing.wait_all_tasks_blocked()
        await host.send(Cancel(stream))
        close = await host.expect(Close)
        assert (close.status, close.not_started) == (StatusCode.CANCELLED, False)
        assert plugin.seen == ["wait"]


async def test_the_plugin_keeps_the_deadline_itself(autojump_clock):
    async with session_with() as (host, *_rest):
        close = await host.call(Method.EXECUTE, ExecuteRequest(operation="wait"), deadline_ms=1500)
        assert close.status is StatusCode.DEADLINE_EXCEEDED
        assert trio.current_time() == 1.5


async def test_a_deadline_is_the_calls_own_though_its_worker_goes_on(autojump_clock):
    async with session_with() as (host, *_rest):
        nap = ExecuteRequest(operation="nap", params_json='{"n":3}')
        for deadline_ms, status in (
            (4000, StatusCode.OK),
            (0, StatusCode.OK),
            (1000, StatusCode.DEADLINE_EXCEEDED),
            (0, StatusCode.OK),
        ):
            close = await host.call(Method.EXECUTE, nap, deadline_ms=deadline_ms)
            assert close.status is status
        assert trio.current_time() == 3 + 3 + 1 + 3


async def test_a_cancelled_call_that_fails_as_well_harms_no_other(caplog):
    async with session_with() as (host, *_rest):
        stream = await host.open(Method.EXECUTE, ExecuteRequest(operation="fail_when_cancelled"))
        await trio.testing.wait_all_tasks_blocked()
        await host.send(Cancel(stream))
        assert (await host.expect(Close)).status is StatusCode.CANCELLED
        assert (await host.execute("nap")).status is StatusCode.OK
    assert [record.message for record in caplog.records] == ["a cancelled call failed as well"]


async def test_a_stream_stops_when_credit_runs_out():
    async with session_with({"window": 50_000}) as (host, plugin, *_rest):
        stream = await host.open(Method.EXECUTE_STREAM, StreamRequest(operation="flood"), end=False)
        for _ in range(5):
            data = await host.expect(Data)
        await trio.testing.wait_all_tasks_blocked()
        assert len(plugin.seen) == 5
        await host.send(Credit(stream, data.size))
        await host.expect(Data)
        await trio.testing.wait_all_tasks_blocked()
        assert len(plugin.seen) == 6
        await host.send(Cancel(stream))
        assert (await host.expect(Close)).status is StatusCode.CANCELLED


async def test_a_stream_that_may_go_on_and_is_cancelled_at_once_ends_without_noise(caplog):
    async with session_with({"window": 50_000}) as (host, *_rest):
        stream = await host.open(Method.EXECUTE_STREAM, StreamRequest(operation="flood"), end=False)
        for _ in range(5):
            data = await host.expect(Data)
        await trio.testing.wait_all_tasks_blocked()
        received_together = b""
        for event in (Credit(stream, data.size), Cancel(stream)):
            host.connection.send(event)
            received_together += host.connection.data_to_send()
        await host.stream.send_all(received_together)
        assert (await host.expect(Close)).status is StatusCode.CANCELLED
    assert not caplog.records


async def test_requests_beyond_the_credit_end_their_stream():
    async with session_with() as (host, *_rest):
        stream = await host.open(Method.EXECUTE_STREAM, StreamRequest(operation="flood"), end=False)
        window = host.connection.peer_hello.window
        host.connection._streams[stream].send_credit += 10 * window
        message = StreamRequest(params_json="x" * 60_000)
        for _ in range(6):
            await host.send(Data(stream, message))
        while not isinstance(event := await host.next(), Close):
            pass
        assert event.status is StatusCode.CANCELLED


async def test_draining_refuses_calls_unstarted_until_the_host_has_seen_it():
    async with session_with() as (host, _plugin, session, _ended), trio.open_nursery() as nursery:
        stream = await host.open(Method.EXECUTE, ExecuteRequest(operation="wait"))
        await trio.testing.wait_all_tasks_blocked()
        drained = trio.Event()

        async def drain():
            await session.drain("upgrade")
            drained.set()

        nursery.start_soon(drain)
        await trio.testing.wait_all_tasks_blocked()
        late = Open(host.connection.next_stream(), Method.EXECUTE, ExecuteRequest(operation="wait"))
        await host.send(late, Cancel(stream))
        assert (await host.expect(GoAway)).reason == "upgrade"
        ping = await host.expect(Ping)
        closes = [await host.expect(Close), await host.expect(Close)]
        assert {(close.stream, close.not_started) for close in closes} == {
            (stream, False),
            (late.stream, True),
        }
        await trio.testing.wait_all_tasks_blocked()
        assert not drained.is_set()
        await host.send(Ping(ping.token, ack=True))
        with trio.fail_after(60):
            await drained.wait()


async def test_news_for_a_host_that_does_not_read_is_bounded(autojump_clock):
    handler = NoteHandler()

    async def send(_data):
        await trio.sleep_forever()

    async with session_with() as (_host, _plugin, session, _ended):
        session._stream.send = send
        for second in range(100):
            for _ in range(1000):
                handler.handle(logging.makeLogRecord({"msg": "x" * 1000}))
            send_logs(session, handler)
            session.note(Note(metrics=PluginMetrics(requests_total=second)))
            await trio.sleep(1)
        assert session._connection.queued_bytes < MAX_QUEUED_FOR_NOTES + 64 * 1024
        assert not session.takes_notes
        assert "were dropped" in handler.take()[-1].message


async def test_a_note_too_large_for_the_host_is_dropped():
    async with session_with({"max_frame": 2000}) as (host, _plugin, session, _ended):
        session.note(Note(logs=[LogRecord("x" * 3000)]))
        session.note(Note(logs=[LogRecord("short")]))
        assert (await host.expect(Note)).logs[0].message == "short"
        close = await host.call(Method.HEALTH_CHECK, HealthCheckRequest())
        assert close.status is StatusCode.OK


async def test_a_plugin_that_raises_where_it_should_answer(caplog):
    class Broken:
        async def initialize(self, request):
            raise ValueError("secret")

        health_check = execute = initialize

        def execute_stream(self, requests):
            raise ValueError("secret")

        async def shutdown(self, request):
            raise ValueError("secret")

    async with session_with(plugin=Broken(), initialize=False) as (host, *_rest):
        for method, message in (
            (Method.INITIALIZE, InitializeRequest()),
            (Method.EXECUTE, ExecuteRequest()),
            (Method.HEALTH_CHECK, HealthCheckRequest()),
            (Method.SHUTDOWN, ShutdownRequest()),
        ):
            assert (await host.call(method, message)).status is StatusCode.INTERNAL
        close = await host.call(Method.EXECUTE_STREAM, StreamRequest())
        assert close.status is StatusCode.INTERNAL
    assert len(caplog.records) >= 5


async def test_a_plugin_that_does_not_read_requests_to_the_end():
    async with session_with() as (host, *_rest):
        stream = await host.open(Method.EXECUTE_STREAM, StreamRequest(operation="one"), end=False)
        assert (await host.expect(Data)).message.result_json == "1"
        close = await host.expect(Close)
        assert (close.stream, close.status) == (stream, StatusCode.OK)

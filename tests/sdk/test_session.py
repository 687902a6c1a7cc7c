"""A plugin's session with a host that is scripted by hand, over streams in memory."""

import contextvars
import logging
import math
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
from prism.sdk.serving import NoteHandler, send_logs
from prism.sdk.session import MAX_QUEUED_FOR_NOTES, Session
from prism.wire.events import (
    Cancel,
    Close,
    Credit,
    Data,
    GoAway,
    LogRecord,
    Note,
    Open,
    Ping,
)
from prism.wire.frames import FrameType, pack

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


@pytest.fixture
def session_with(session_of):
    """(host, plugin, session, ended) of a plugin that is made for it."""

    @asynccontextmanager
    async def session_with(limits=None, *, plugin=None, initialize=True):
        plugin = plugin or Scripted()
        async with session_of(plugin, initialize=initialize, **(limits or {})) as running:
            host, session, ended = running
            yield host, plugin, session, ended

    return session_with


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "closed the connection"),
        (b"\xff" * 16, "closed the connection"),
        (pack(FrameType.GOAWAY, 0, b'{"reason":"too old"}', codec=1), "too old"),
        (b"", "closed the connection"),
    ],
)
async def test_a_host_that_says_no_hello(said, message, stream_pair, caplog):
    ours, theirs = stream_pair()
    plugin = Scripted()
    await ours.send(said) if said else None
    await ours.send_eof()
    with pytest.raises(HandshakeFailed, match=message):
        await Session(theirs, plugin, name="s", version="1").run()


async def test_a_host_that_says_nothing(stream_pair, autojump_clock):
    _ours, theirs = stream_pair()
    with pytest.raises(HandshakeFailed, match="did not answer HELLO in time"):
        await Session(theirs, Scripted(), name="s", version="1").run()
    assert trio.current_time() == session_module.HANDSHAKE_TIMEOUT


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 16, pack(FrameType.OPEN, 2, b"{}", codec=1, method=3)]
)
async def test_a_host_that_breaks_the_rules_is_told_and_left(garbage, caplog, session_with):
    async with session_with() as (host, plugin, _session, ended):
        await host.open(Method.EXECUTE, ExecuteRequest(operation="wait"))
        await trio.testing.wait_all_tasks_blocked()
        await host.stream.send(garbage)
        assert (await host.expect(GoAway)).reason
        await trio.testing.wait_all_tasks_blocked()
    assert ended
    assert plugin.stopped == 1
    assert [r.levelname for r in caplog.records] == ["ERROR"]


async def test_a_host_that_goes_ends_the_calls_without_noise(caplog, autojump_clock, session_with):
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


async def test_a_call_that_comes_with_the_hosts_hello_has_its_whole_deadline(session_with):
    async with session_with(initialize=False) as (host, *_rest):
        first = host.connection.next_stream()
        request = InitializeRequest(namespace="ns")
        host.connection.send(Open(first, Method.INITIALIZE, request, deadline_ms=60_000))
        # The session has not read the HELLO yet: nobody has waited since.
        host.stream.peer._received += host.connection.data_to_send()
        assert (await host.expect(Close)).status is StatusCode.OK


async def test_shutdown_is_the_last_thing_answered(autojump_clock, session_with):
    async with session_with() as (host, plugin, _session, ended):
        waiting = await host.open(Method.EXECUTE, ExecuteRequest(operation="wait"))
        await trio.testing.wait_all_tasks_blocked()
        await host.open(Method.SHUTDOWN, ShutdownRequest(timeout_seconds=3))
        close = await host.expect(Close)  # nobody has cancelled it
        assert (close.stream, close.status) == (waiting, StatusCode.UNAVAILABLE)
        assert (
            close.message.error == "the plugin stopped before the call had ended; it may have run"
        )
        close = await host.expect(Close)
        assert (close.status, close.message.success) == (StatusCode.UNKNOWN, False)
        assert await host.next() is None
    assert ended
    assert plugin.stopped == 1
    assert trio.current_time() == 3


async def test_pings_are_answered_while_calls_run(session_with):
    async with session_with() as (host, *_rest):
        await host.open(Method.EXECUTE, ExecuteRequest(operation="wait"))
        await host.send(Ping(77))
        assert await host.expect(Ping) == Ping(77, ack=True)


async def test_every_call_begins_with_a_clean_context(session_with):
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


async def test_a_call_cancelled_before_it_started_never_runs(session_with):
    async with session_with() as (host, plugin, *_rest):
        stream = host.connection.next_stream()
        await host.send(
            Open(stream, Method.EXECUTE, ExecuteRequest(operation="wait")), Cancel(stream)
        )
        close = await host.expect(Close)
        assert (close.status, close.not_started) == (StatusCode.CANCELLED, True)
        assert plugin.seen == []


async def test_a_running_call_is_cancelled(session_with):
    async with session_with() as (host, plugin, *_rest):
        stream = await host.open(Method.EXECUTE, ExecuteRequest(operation="wait"))
        await trio.testing.wait_all_tasks_blocked()
        await host.send(Cancel(stream))
        close = await host.expect(Close)
        assert (close.status, close.not_started) == (StatusCode.CANCELLED, False)
        assert plugin.seen == ["wait"]


async def test_the_plugin_keeps_the_deadline_itself(autojump_clock, session_with):
    async with session_with() as (host, *_rest):
        close = await host.call(Method.EXECUTE, ExecuteRequest(operation="wait"), deadline_ms=1500)
        assert close.status is StatusCode.DEADLINE_EXCEEDED
        assert trio.current_time() == 1.5


async def test_a_deadline_is_the_calls_own_though_its_worker_goes_on(autojump_clock, session_with):
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


async def test_a_cancelled_call_that_fails_as_well_harms_no_other(caplog, session_with):
    async with session_with() as (host, *_rest):
        stream = await host.open(Method.EXECUTE, ExecuteRequest(operation="fail_when_cancelled"))
        await trio.testing.wait_all_tasks_blocked()
        await host.send(Cancel(stream))
        assert (await host.expect(Close)).status is StatusCode.CANCELLED
        assert (await host.execute("nap")).status is StatusCode.OK
    assert [record.message for record in caplog.records] == ["a cancelled call failed as well"]


async def test_a_stream_stops_when_credit_runs_out(session_with):
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


async def test_a_stream_that_may_go_on_and_is_cancelled_at_once_ends_without_noise(
    caplog, session_with
):
    async with session_with({"window": 50_000}) as (host, *_rest):
        stream = await host.open(Method.EXECUTE_STREAM, StreamRequest(operation="flood"), end=False)
        for _ in range(5):
            data = await host.expect(Data)
        await trio.testing.wait_all_tasks_blocked()
        received_together = b""
        for event in (Credit(stream, data.size), Cancel(stream)):
            host.connection.send(event)
            received_together += host.connection.data_to_send()
        await host.stream.send(received_together)
        assert (await host.expect(Close)).status is StatusCode.CANCELLED
    assert not caplog.records


async def test_requests_beyond_the_credit_end_their_stream(session_with):
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


async def test_draining_refuses_calls_unstarted_until_the_host_has_seen_it(session_with):
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


async def test_notes_for_a_host_that_does_not_read_are_bounded(autojump_clock, session_with):
    handler = NoteHandler()

    async def send(_data):
        await trio.sleep_forever()

    async with session_with() as (_host, _plugin, session, _ended):
        session._stream.send = send
        for second in range(100):
            for _ in range(1000):
                handler.handle(logging.makeLogRecord({"msg": "x" * 1000, "levelno": logging.INFO}))
            send_logs(session, handler)
            session.note(Note(metrics=PluginMetrics(requests_total=second)))
            await trio.sleep(1)
        assert session._connection.queued_bytes < MAX_QUEUED_FOR_NOTES + 64 * 1024
        assert not session.takes_notes
        assert "were dropped" in handler.take()[-1].message


async def test_a_note_too_large_for_the_host_is_dropped(session_with):
    async with session_with({"max_frame": 2000}) as (host, _plugin, session, _ended):
        session.note(Note(logs=[LogRecord("x" * 3000)]))
        session.note(Note(logs=[LogRecord("short")]))
        assert (await host.expect(Note)).logs[0].message == "short"
        close = await host.call(Method.HEALTH_CHECK, HealthCheckRequest())
        assert close.status is StatusCode.OK


async def test_a_plugin_that_raises_where_it_should_answer(caplog, session_with):
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


async def test_a_plugin_that_does_not_read_requests_to_the_end(session_with):
    async with session_with() as (host, *_rest):
        stream = await host.open(Method.EXECUTE_STREAM, StreamRequest(operation="one"), end=False)
        assert (await host.expect(Data)).message.result_json == "1"
        close = await host.expect(Close)
        assert (close.stream, close.status) == (stream, StatusCode.OK)

"""Calls of the host's side, against a plugin that the tests play."""

from math import inf
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from prism.channels.channel import MAX_CHECKED, UnaryCall
from prism.channels.frames import channel as framed_module
from prism.channels.frames.channel import ROOM_TIMEOUT, ChannelSettings
from prism.contract.errors import (
    Overloaded,
    PluginCrashed,
    PluginMisbehaved,
)
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    HealthCheckRequest,
    HealthCheckResponse,
    HealthStatus,
    InitializeRequest,
    InitializeResponse,
    StreamRequest,
    StreamResponse,
)
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.streams.tasks import TaskPool
from prism.wire.events import (
    Cancel,
    Close,
    Data,
    GoAway,
    Hello,
    LogRecord,
    Note,
    Open,
)
from prism.wire.frames import Codec, FrameType
from tests.channels.frames.conftest import ANSWER, REQUEST, channel_over, failing_call


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("codec", [Codec.JSON, Codec.MSGPACK])
@pytest.mark.parametrize("streaming", [False, True])
async def test_results_are_looked_at_in_either_codec_and_in_streams(
    streams, codec, streaming, strict
):
    _ours, plugin = streams
    plugin.connection.local_hello = Hello(name="it", codecs=(codec.name.lower(),))
    faults = []
    settings = ChannelSettings(strict=strict)
    async with channel_over(streams, settings, on_fault=faults.append) as (channel, plugin):

        async def ask():
            if not streaming:
                return await channel.execute(REQUEST)
            try:
                async with channel.execute_stream(StreamRequest(operation="s")) as call:
                    return await call.receive()
            finally:
                if channel.ended is None:
                    await plugin.expect(Cancel)

        async def say(text):
            stream = (await plugin.expect(Open)).stream
            if streaming:
                await plugin.send(Data(stream, StreamResponse(result_json=text)))
            else:
                answer = ExecuteResponse(success=True, result_json=text)
                await plugin.send(Close(stream, StatusCode.OK, answer))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, "[1]")
            assert (await ask()).result_json == "[1]"
        long = "[" + " " * MAX_CHECKED
        for text, looked_at in ("[1", True), (long, strict):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(say, text)
                if not looked_at:
                    assert (await ask()).result_json == text
                    continue
                with pytest.raises(PluginMisbehaved, match="no JSON"):
                    await ask()
            assert (channel.ended is not None) is strict
            if strict:
                break
        assert [fault.rule for fault in faults] == ["not_json"]


async def test_frames_for_calls_that_are_over_are_ignored(streams):
    async with channel_over(streams) as (channel, plugin):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.execute, REQUEST)
            opened = await plugin.expect(Open)
            await plugin.send(Close(opened.stream, StatusCode.OK, ANSWER))
        for kind in (FrameType.CLOSE, FrameType.DATA, FrameType.CREDIT):
            await plugin.raw(kind, opened.stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.execute, REQUEST)
            opened = await plugin.expect(Open)
            await plugin.send(Close(opened.stream, StatusCode.OK, ANSWER))


async def test_calls_that_a_plugin_opens_are_declined(streams):
    async with channel_over(streams) as (_channel, plugin):
        await plugin.send(Open(2, Method.EXECUTE, REQUEST))
        assert await plugin.expect(Close) == Close(
            2, StatusCode.UNIMPLEMENTED, None, not_started=True
        )


async def test_credentials_come_back_in_no_message_and_no_note(streams):
    taken = []
    async with channel_over(streams, on_note=taken.append) as (channel, plugin):
        answers = []

        async def initialize():
            request = InitializeRequest(credentials={"password": "canary"})
            answers.append(await channel.initialize(request))
            answers.append(await channel.health_check(HealthCheckRequest()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(initialize)
            opened = await plugin.expect(Open)
            refused = InitializeResponse(error="cannot connect to db://u:canary@h")
            await plugin.send(Close(opened.stream, StatusCode.UNAVAILABLE, refused))
            opened = await plugin.expect(Open)
            sick = HealthCheckResponse(message="canary", details={"dsn": "u:canary"})
            await plugin.send(Close(opened.stream, StatusCode.OK, sick))
            await plugin.send(Note(logs=[LogRecord("login canary", "ERROR")], health=sick))
        await trio.testing.wait_all_tasks_blocked()
        assert answers[0].error == "cannot connect to db://u:[redacted]@h"
        assert len(answers) == 2
        assert len(taken) == 1
        assert "canary" not in repr([answers, taken])
        assert taken[0].logs[0].level == "ERROR"


async def test_a_cancelled_call_that_is_never_closed_breaks_the_channel(streams, autojump_clock):
    async with channel_over(streams, ChannelSettings(cancel_grace=5)) as (channel, plugin):
        with trio.move_on_after(1):
            await channel.execute(REQUEST)
        opened = await plugin.expect(Open)
        assert opened.deadline_ms == 1000
        assert await plugin.expect(Cancel) == Cancel(opened.stream, StatusCode.DEADLINE_EXCEEDED)
        assert channel.open_calls == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plugin.next)
            assert "did not close a cancelled call" in str(await channel.wait_broken())
            nursery.cancel_scope.cancel()
        assert 6 <= trio.current_time() <= 10
        assert channel.open_calls == 0


async def test_a_late_close_of_a_cancelled_call_settles_it(streams, autojump_clock):
    async with channel_over(streams, ChannelSettings(cancel_grace=5)) as (channel, plugin):
        with trio.move_on_after(1):
            await channel.execute(REQUEST)
        opened = await plugin.expect(Open)
        await plugin.send(Close(opened.stream, StatusCode.OK, ANSWER))
        with trio.move_on_after(60):
            await plugin.expect(Cancel)
            await plugin.next()
        assert channel.open_calls == 0


async def test_calls_wait_behind_a_large_one(streams, autojump_clock):
    ours, _theirs = streams
    async with channel_over(streams, ChannelSettings(max_queued=1000)) as (channel, plugin):
        reads, send_all = trio.Event(), ours.send_all

        async def send_when_read(data):
            await reads.wait()
            await send_all(data)

        ours.send_all = send_when_read
        answered = []

        async def call(size):
            await channel.execute(ExecuteRequest(operation="x", params_json="x" * size))
            answered.append(size)

        async with trio.open_nursery() as nursery:
            for size in (2000, 2001, 1, 2):
                nursery.start_soon(call, size)
                await trio.testing.wait_all_tasks_blocked()
            assert channel._connection.queued_bytes < 3000
            with trio.move_on_after(ROOM_TIMEOUT / 2) as impatient:
                await channel.execute(ExecuteRequest(operation="x"))
            assert impatient.cancelled_caught
            reads.set()
            for _ in range(4):
                opened = await plugin.expect(Open)
                await plugin.send(Close(opened.stream, StatusCode.OK, ANSWER))
        assert sorted(answered) == [1, 2, 2000, 2001]
        assert channel.open_calls == 0


async def test_a_call_that_ends_when_there_is_room_is_not_begun(streams, nursery):
    async with channel_over(streams) as (channel, _plugin):
        scopes, texts = [], dict.fromkeys(UnaryCall.__annotations__, "")
        more = {"done": False, "deadline": inf, "params": b"", "tasks": TaskPool(nursery)}
        call = SimpleNamespace(**{**texts, **more}, wait_for=scopes.append, plugin_metadata=dict)
        channel.settings = ChannelSettings(max_queued=-1)
        channel.start(call)
        await trio.testing.wait_all_tasks_blocked()
        channel.settings = ChannelSettings()
        channel._callers.unpark_all()
        call.done = True
        scopes[0].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert channel.open_calls == 0


async def test_a_plugin_that_does_not_read(streams, autojump_clock):
    ours, _theirs = streams
    settings = ChannelSettings(send_timeout=10, max_queued=1000, ping_interval=1000)
    async with channel_over(streams, settings) as (channel, _plugin):

        async def never(*_args):
            await trio.sleep_forever()

        ours.send_all = never
        async with trio.open_nursery() as nursery:

            async def call(expected, size):
                with pytest.raises(expected):
                    await channel.execute(ExecuteRequest(operation="x", params_json="x" * size))

            for _ in range(2):
                nursery.start_soon(call, PluginCrashed, 2000)
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(call, Overloaded, 1)
            assert "read nothing for 10 seconds" in str(await channel.wait_broken())
        assert trio.current_time() == 10


# -- answers -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("close", "answer"),
    [
        (Close(1, StatusCode.OK, ANSWER), ANSWER),
        (Close(1, StatusCode.ABORTED, ANSWER), (False, StatusCode.ABORTED)),
        (Close(1, StatusCode.OK), (False, StatusCode.UNKNOWN)),
        (Close(1, StatusCode.DATA_LOSS), (False, StatusCode.DATA_LOSS)),
        (Close(1, StatusCode.OK, ExecuteResponse(error_code=99)), (False, StatusCode.UNKNOWN)),
    ],
)
async def test_status_of_frame_and_message_together(streams, close, answer):
    async with channel_over(streams) as (channel, plugin), trio.open_nursery() as nursery:

        async def call():
            found = await channel.execute(REQUEST)
            expected = (found.success, found.error_code) if isinstance(answer, tuple) else found
            assert expected == answer

        nursery.start_soon(call)
        await plugin.expect(Open)
        await plugin.send(close)


async def test_a_call_that_was_not_started_is_overloaded(streams):
    async with channel_over(streams) as (channel, plugin), failing_call(channel, Overloaded):
        await plugin.expect(Open)
        await plugin.send(Close(1, StatusCode.UNAVAILABLE, None, not_started=True))


async def test_no_more_calls_than_the_plugin_takes(streams):
    _ours, plugin = streams
    plugin.connection.local_hello = Hello(name="one", codecs=("json",), max_streams=1)
    async with channel_over(streams) as (channel, plugin), failing_call(channel, PluginCrashed):
        with pytest.raises(Overloaded):
            await channel.execute(REQUEST)
        await plugin.stream.aclose()


async def test_a_full_plugin_is_asked_for_its_health(streams):
    _ours, plugin = streams
    plugin.connection.local_hello = Hello(name="one", codecs=("json",), max_streams=1)
    async with channel_over(streams) as (channel, plugin), failing_call(channel, PluginCrashed):
        await plugin.expect(Open)
        async with trio.open_nursery() as nursery:

            async def check():
                answer = await channel.health_check(HealthCheckRequest())
                assert answer.status is HealthStatus.HEALTHY

            nursery.start_soon(check)
            opened = await plugin.expect(Open)
            good = HealthCheckResponse(status=HealthStatus.HEALTHY)
            await plugin.send(Close(opened.stream, StatusCode.OK, good))
        await plugin.stream.aclose()


async def test_goaway_stops_new_calls_and_is_reported(streams):
    said = []
    async with channel_over(streams, on_goaway=said.append) as (channel, plugin):
        await plugin.send(GoAway(0, "upgrade"))
        await trio.testing.wait_all_tasks_blocked()
        assert [goaway.reason for goaway in said] == ["upgrade"]
        with pytest.raises(Overloaded):
            await channel.execute(REQUEST)


async def test_used_up_call_ids_ask_for_a_successor_in_time(streams, monkeypatch):
    said = []
    monkeypatch.setattr(framed_module, "STREAMS_LEFT_TO_LEAVE", 1)
    monkeypatch.setattr(framed_module, "LAST_STREAM", 5)
    monkeypatch.setattr("prism.wire.connection.MAX_STREAM_ID", 5)
    async with channel_over(streams, on_goaway=said.append) as (channel, plugin):
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.execute, REQUEST)
                opened = await plugin.expect(Open)
                await plugin.send(Close(opened.stream, StatusCode.OK, ANSWER))
        assert len(said) == 1
        with pytest.raises(Overloaded):
            await channel.execute(REQUEST)


# -- torn frames -------------------------------------------------------------


class CancelAtStep(trio.abc.Instrument):
    """Cancels ``scope`` the n-th time that ``task`` was given a step."""

    def __init__(self, scope, steps):
        self.scope, self.steps, self.task = scope, steps, None

    def after_task_step(self, task):
        if task is self.task:
            self.steps -= 1
            if self.steps == 0:
                self.scope.cancel()


@pytest.mark.parametrize("steps", range(1, 6))
async def test_cancelling_a_call_at_any_checkpoint_tears_no_frame(streams, steps):
    ours, theirs = trio.testing.lockstep_stream_pair()
    streams[1].stream = theirs
    async with channel_over((ours, streams[1])) as (channel, plugin):
        scope = trio.CancelScope()
        instrument = CancelAtStep(scope, steps)
        trio.lowlevel.add_instrument(instrument)

        async def doomed():
            instrument.task = trio.lowlevel.current_task()
            with scope:
                async with channel.execute_stream(StreamRequest(operation="s")) as call:
                    for _ in range(3):
                        await call.send(StreamRequest(params_json="x" * 100_000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(doomed)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(channel.execute, REQUEST)
            while True:
                event = await plugin.next()
                if isinstance(event, Open) and event.method is Method.EXECUTE:
                    await plugin.send(Close(event.stream, StatusCode.OK, ANSWER))
                    break
        trio.lowlevel.remove_instrument(instrument)
        assert not plugin.connection.mid_frame

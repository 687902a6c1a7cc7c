"""The host's side against a plugin that breaks the rules, or is merely slow."""

import struct
from contextlib import asynccontextmanager, suppress
from math import inf
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from prism.calls.memory import Account, AnswerHold, Hold
from prism.channels.channel import MAX_CHECKED, UnaryCall
from prism.channels.frames import channel as framed_module
from prism.channels.frames.channel import ROOM_TIMEOUT, ChannelSettings, FramedChannel
from prism.channels.frames.stream import BATCH
from prism.contract.errors import (
    AnswerDropped,
    CallError,
    ChannelBroken,
    ChannelClosed,
    HandshakeFailed,
    Overloaded,
    PluginCrashed,
    PluginError,
    PluginMisbehaved,
    PluginUnavailable,
    RemoteProtocolError,
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
from prism.streams.unix import socket_pair
from prism.wire import Role
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
from prism.wire.frames import END, Codec, FrameType, pack

REQUEST = ExecuteRequest(operation="get")
ANSWER = ExecuteResponse(success=True, result_json="1")


@asynccontextmanager
async def channel_over(streams, settings=None, **callbacks):
    """A running channel and the scripted plugin at its other end."""
    ours, plugin = streams
    channel = FramedChannel(ours, settings or ChannelSettings(), name="it", **callbacks)
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as handshakes:
            handshakes.start_soon(plugin.handshake)
            await channel.handshake()
        nursery.start_soon(channel.run)
        try:
            yield channel, plugin
        finally:
            with trio.CancelScope(shield=True):
                await channel.aclose()


@asynccontextmanager
async def failing_call(channel, expected):
    """A call that is open inside the block and has failed as ``expected`` after it."""
    async with trio.open_nursery() as nursery:

        async def call():
            with pytest.raises(expected):
                await channel.execute(REQUEST)

        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        yield


async def receive_all(call):
    while True:
        await call.receive()


# -- the handshake -----------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "does not speak the frame protocol"),
        (b"\x00" * 16, "does not speak the frame protocol"),
        (b"\xff" * 64, "does not speak the frame protocol"),
        (pack(FrameType.HELLO, 0, b"{", codec=Codec.JSON, aux=1), "does not speak"),
        (pack(FrameType.HELLO, 0, b"[" * 5000, codec=Codec.JSON, aux=1), "does not speak"),
        (pack(FrameType.PING), "does not speak"),
        (struct.pack("!IIBBBBI", 70_000, 0, 1, 0, 1, 0, 1), "over the limit"),
        (pack(FrameType.HELLO, 0, b'{"codecs":["json"]}', codec=1, aux=9), "speaks protocol 9"),
        (pack(FrameType.HELLO, 0, b'{"codecs":["xml"]}', codec=1, aux=1), "offers codecs"),
        (pack(FrameType.GOAWAY, 0, b'{"reason":"no licence"}', codec=1), "no licence"),
        (b"", "closed the connection"),
        (b"\x00\x00", "ended in the middle of a frame"),
    ],
)
async def test_a_handshake_that_fails_says_why(streams, said, message):
    ours, plugin = streams
    channel = FramedChannel(ours, name="it")
    if said:
        await plugin.stream.send_all(said)
    await plugin.stream.send_eof()
    with pytest.raises(HandshakeFailed, match=message):
        await channel.handshake()
    await channel.aclose()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "does not speak the frame protocol"),
        (pack(FrameType.HELLO, 0, b'{"codecs":["json"]}', codec=1, aux=9), "speaks protocol 9"),
    ],
)
async def test_the_reason_counts_although_nobody_stayed_to_hear_it(said, message):
    ours, theirs = socket_pair()
    channel = FramedChannel(ours, name="it")
    with theirs:
        theirs.sendall(said)
    with pytest.raises(HandshakeFailed, match=message):
        await channel.handshake()
    await channel.aclose()


async def test_a_refused_plugin_is_told_why(streams):
    ours, plugin = streams
    channel = FramedChannel(ours, name="it")
    await plugin.raw(FrameType.HELLO, 0, b'{"codecs":["json"]}', codec=1, aux=9)
    with pytest.raises(HandshakeFailed):
        await channel.handshake()
    told = await plugin.stream.receive_some()
    assert b"this host 1 to 1" in told
    await channel.aclose()


async def test_silence_instead_of_hello(streams, autojump_clock):
    ours, _plugin = streams
    channel = FramedChannel(ours, ChannelSettings(handshake_timeout=3), name="it")
    with pytest.raises(HandshakeFailed, match="did not begin the handshake within 3 seconds"):
        await channel.handshake()
    assert trio.current_time() == 3
    await channel.aclose()
    assert trio.current_time() == 3


# -- broken rules ------------------------------------------------------------


def _oversized(_stream):
    return struct.pack("!IIBBBBI", 0xFFFFFFFF, 1, FrameType.CLOSE, 0, 1, 0, 0)


MISTAKES = {
    "after_close": (pack(FrameType.CLOSE, 1, b'{"success":true}', codec=1) * 2, "1"),
    "no_success": (
        pack(FrameType.CLOSE, 1, b'{"result_json":"1"}', codec=1),
        'with status OK, but without "success": true',
    ),
    "not_json": (
        pack(FrameType.CLOSE, 1, b'{"success":true,"result_json":"{\'a\': 1}"}', codec=1),
        "what is no JSON: malformed",
    ),
    "long_note": (
        pack(FrameType.NOTE, 0, b'{"logs":[' + b"{}," * 1000 + b"{}]}", codec=1)
        + pack(FrameType.CLOSE, 1, b'{"success":true}', codec=1),
        "1",
    ),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("rule", MISTAKES)
async def test_a_mistake_is_counted_and_named_and_ends_only_a_strict_connection(
    streams, rule, strict
):
    _ours, plugin = streams
    plugin.connection.local_hello = Hello(name="json", codecs=("json",))
    said, answer = MISTAKES[rule]
    faults, outcomes = [], []
    settings = ChannelSettings(strict=strict)
    async with channel_over(streams, settings, on_fault=faults.append) as (channel, plugin):
        channel.start(
            SimpleNamespace(
                raw=b"",
                params=b"{}",
                operation="get",
                plugin_metadata=dict,
                deadline=trio.current_time() + 60,
                metadata=None,
                tracestate="",
                answered=lambda response: outcomes.append(response.error or "1"),
                failed=lambda error: outcomes.append(str(error)),
            )
        )
        await plugin.expect(Open)
        await plugin.stream.send_all(said)
        await trio.testing.wait_all_tasks_blocked()
        assert [fault.rule for fault in faults] == [rule]
        assert (channel.ended is not None) is strict
        if strict:
            assert str(channel.ended).startswith("strict: ")
            assert b"strict: " in await plugin.stream.receive_some()
        assert len(outcomes) == 1
        if not (strict and rule != "after_close"):
            assert answer in outcomes[0]


@pytest.mark.parametrize(
    "said",
    [
        pack(FrameType.PING, aux=7),
        pack(FrameType.OPEN, 2, b"{}", codec=1, method=Method.EXECUTE, flags=END),
        pack(FrameType.CLOSE, 1, b'{"success":true}', codec=1),
    ],
    ids=["that_is_answered", "a_call_that_is_refused", "whose_answer_has_another_call_cancelled"],
)
async def test_what_comes_together_with_garbage_is_dealt_with(streams, said, caplog):
    _ours, plugin = streams
    plugin.connection.local_hello = Hello(name="json", codecs=("json",))
    failed = []

    def call(answered):
        return SimpleNamespace(
            raw=b"", params=b"{}", operation="get", plugin_metadata=dict, metadata=None,
            tracestate="", deadline=trio.current_time() + 60, answered=answered,
            failed=lambda error: failed.append(error.reason),
        )  # fmt: skip

    async with channel_over(streams, ChannelSettings()) as (channel, plugin):
        second = call(None)
        channel.start(call(lambda _: channel.cancel(second, StatusCode.CANCELLED)))
        channel.start(second)
        for _ in range(2):
            await plugin.expect(Open)
        await plugin.stream.send_all(said + b"\xff" * 16)
        reason = await channel.wait_broken()
        assert "unknown frame type 255" in str(reason)
    assert not [record for record in caplog.records if record.exc_info]
    assert failed == ([] if said[8] == FrameType.CLOSE else ["protocol_error"] * 2)


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


BROKEN_RULES = {
    "garbage": lambda _: b"\xde\xad\xbe\xef" * 16,
    "oversized": _oversized,
    "wrong codec": lambda n: pack(FrameType.CLOSE, n, b"\x80", codec=Codec.MSGPACK),
    "not the message": lambda n: pack(FrameType.CLOSE, n, b'{"success":7}', codec=Codec.JSON),
    "nested deeply": lambda n: pack(FrameType.CLOSE, n, b'{"x":' * 5000, codec=Codec.JSON),
    "open with our id": lambda _: pack(FrameType.OPEN, 7, b"{}", codec=1, method=3),
    "close for a call never made": lambda _: pack(FrameType.CLOSE, 77),
    "second hello": lambda _: pack(FrameType.HELLO, 0, b"{}", codec=1, aux=1),
}


@pytest.mark.parametrize("rule", BROKEN_RULES)
async def test_a_broken_rule_ends_the_channel(streams, rule):
    async with channel_over(streams) as (channel, plugin):
        async with failing_call(channel, PluginMisbehaved):
            opened = await plugin.expect(Open)
            await plugin.stream.send_all(BROKEN_RULES[rule](opened.stream))
        assert isinstance(await channel.wait_broken(), RemoteProtocolError)
        assert (await plugin.expect(GoAway)).reason
        assert channel.open_calls == 0
        with pytest.raises(PluginUnavailable):
            await channel.execute(REQUEST)


async def test_a_call_cancelled_while_the_channel_sends_its_last_frames(streams, autojump_clock):
    async with channel_over(streams) as (channel, plugin):
        with trio.move_on_after(0.5):
            async with failing_call(channel, PluginMisbehaved):
                await plugin.expect(Open)
                await plugin.stream.send_all(b"\xff" * 16)
        channel.go_away("late")


async def test_a_frame_cut_off_by_the_end(streams):
    async with channel_over(streams) as (channel, plugin):
        async with failing_call(channel, PluginMisbehaved):
            await plugin.expect(Open)
            await plugin.stream.send_all(pack(FrameType.CLOSE, 1, b"{}", codec=1)[:-1])
            await plugin.stream.send_eof()
        assert "middle of a frame" in str(await channel.wait_broken())


async def test_the_end_between_frames_is_a_crash(streams):
    async with channel_over(streams) as (channel, plugin):
        async with failing_call(channel, PluginCrashed):
            await plugin.stream.aclose()
        assert isinstance(await channel.wait_broken(), ChannelBroken)


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


# -- slowness ----------------------------------------------------------------


async def test_a_dribbled_frame_hits_its_deadline(streams, autojump_clock):
    async with channel_over(streams, ChannelSettings(frame_timeout=5)) as (channel, plugin):
        async with trio.open_nursery() as nursery:

            async def dribble():
                for byte in pack(FrameType.NOTE, 0, b"{}", codec=1):
                    await plugin.stream.send_all(bytes([byte]))
                    await trio.sleep(1)

            nursery.start_soon(dribble)
            assert "more than 5 seconds" in str(await channel.wait_broken())
            nursery.cancel_scope.cancel()
        assert trio.current_time() == 5


async def test_a_busy_plugin_that_is_always_within_a_frame_is_not_cut_off(streams, autojump_clock):
    taken = []
    settings = ChannelSettings(frame_timeout=5)
    async with channel_over(streams, settings, on_note=taken.append) as (_channel, plugin):
        frame = pack(FrameType.NOTE, 0, b"{}", codec=1)
        await plugin.stream.send_all(frame[:4])
        for _ in range(10):
            await trio.sleep(2)
            await plugin.stream.send_all(frame[4:] + frame[:4])
        await trio.testing.wait_all_tasks_blocked()
        assert taken == [Note()] * 10


async def test_silence_ends_the_channel(streams, autojump_clock):
    async with channel_over(streams, ChannelSettings(ping_interval=4)) as (channel, _plugin):
        async with failing_call(channel, PluginCrashed):
            assert "silent" in str(await channel.wait_broken())
        assert 8 < trio.current_time() <= 12


async def test_answered_pings_keep_a_quiet_channel(streams, autojump_clock):
    async with channel_over(streams, ChannelSettings(ping_interval=4)) as (channel, plugin):
        with trio.move_on_after(100):
            await plugin.next()
        await plugin.send(Ping(5))
        assert channel.open_calls == 0
        with trio.move_on_after(1) as still_up:
            await channel.wait_broken()
        assert still_up.cancelled_caught


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


async def test_streams_wait_for_a_plugin_that_does_not_read(streams, autojump_clock):
    """However much credit it gives: the credit bounds its memory, not ours."""
    ours, plugin = streams
    hello = Hello(name="generous", codecs=("json",), window=2**32 - 1)
    plugin.connection = Connection(Role.PLUGIN, hello)
    settings = ChannelSettings(max_queued=1000, send_timeout=100)
    async with channel_over(streams, settings) as (channel, _plugin):
        sent = []
        reads, send_all = trio.Event(), ours.send_all

        async def send_when_read(data):
            await reads.wait()
            await send_all(data)

        ours.send_all = send_when_read

        async def stream(text):
            async with channel.execute_stream(StreamRequest(operation="x")) as call:
                for _ in range(10):
                    await call.send(StreamRequest(params_json=text * 600))
                    sent.append(text)
                await call.end()
                with pytest.raises(trio.EndOfChannel):
                    await call.receive()

        async with trio.open_nursery() as nursery:
            for text in "ab":
                nursery.start_soon(stream, text)
            await trio.sleep(1)
            assert channel._connection.queued_bytes < 2000
            assert len(sent) < 10
            reads.set()
            ends = 0
            while ends < 2:
                event = await plugin.next()
                if isinstance(event, Data) and event.end:
                    ends += 1
                    await plugin.send(Close(event.stream, StatusCode.OK))
        assert sorted(sent) == ["a"] * 10 + ["b"] * 10


async def test_a_pause_of_the_proxy_itself_is_no_silence_of_the_plugin(streams, mock_clock):
    async with channel_over(streams, ChannelSettings(ping_interval=4)) as (channel, plugin):
        broken = []

        async def watch():
            broken.append(await channel.wait_broken())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            nursery.start_soon(plugin.next)  # answers pings
            for _ in range(20):  # the clock shows silence, but there was no time to listen
                mock_clock.jump(100)
                await trio.testing.wait_all_tasks_blocked()
            assert not broken
            nursery.cancel_scope.cancel()


async def test_a_cancelled_aclose_closes_all_the_same(streams):
    async with channel_over(streams) as (channel, _plugin):
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            channel.go_away("so that there is something to write")
            await channel.aclose()
        assert scope.cancelled_caught
        assert isinstance(await channel.wait_broken(), ChannelClosed)
        with pytest.raises(PluginUnavailable):
            await channel.execute(REQUEST)


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


# -- streams -----------------------------------------------------------------


async def test_data_beyond_the_credit_ends_that_call_only(streams):
    async with channel_over(streams) as (channel, plugin):
        async with channel.execute_stream(StreamRequest(operation="s")) as call:
            opened = await plugin.expect(Open)
            payload = b'{"result_json":"' + b"1" * 1000 + b'"}'
            for _ in range(300):
                await plugin.raw(FrameType.DATA, opened.stream, payload, codec=Codec.JSON)
            with pytest.raises(PluginMisbehaved, match="credit"):
                await receive_all(call)
            while not isinstance(event := await plugin.next(), Cancel):
                assert isinstance(event, Credit)
            assert event.status is StatusCode.RESOURCE_EXHAUSTED
        await plugin.send(Close(opened.stream, StatusCode.CANCELLED))
        await trio.testing.wait_all_tasks_blocked()
        assert channel.open_calls == 0


async def test_what_arrived_before_the_channel_broke_can_be_received(streams):
    async with (
        channel_over(streams) as (channel, plugin),
        channel.execute_stream(StreamRequest(operation="s")) as call,
    ):
        opened = await plugin.expect(Open)
        message = StreamResponse(result_json="1" * 1000)
        for _ in range(200):
            await plugin.send(Data(opened.stream, message))
        await plugin.stream.send_all(b"\xff" * 16)
        await channel.wait_broken()
        for _ in range(200):
            assert await call.receive() == message
        with pytest.raises(PluginMisbehaved):
            await call.receive()
        with pytest.raises(CallError):
            await call.send(StreamRequest())


async def test_a_message_larger_than_the_window_needs_room(streams):
    """What the window lets through is there without; what is beyond it ends its stream."""
    account = Account("all answers", 200_000)
    other = Hold(account)
    large = StreamResponse(result_json="1" * 400_000)
    async with channel_over(streams) as (channel, plugin):
        for expected in (large, None):
            stream = channel.execute_stream(StreamRequest(operation="s"), AnswerHold(account))
            async with stream as call:
                opened = await plugin.expect(Open)
                await plugin.send(Data(opened.stream, large))
                if expected is not None:
                    await trio.testing.wait_all_tasks_blocked()
                    assert 100_000 < account.used < 200_000
                    assert await call.receive() == large
                    assert account.used == 0
                    other.resize(150_000)
                else:
                    with pytest.raises(AnswerDropped):
                        await call.receive()
            while not isinstance(event := await plugin.next(), Cancel):
                assert isinstance(event, Credit)
            await plugin.send(Close(opened.stream, StatusCode.CANCELLED))
        assert account.used == 150_000


async def test_what_has_come_is_received_in_portions(streams):
    async with (
        channel_over(streams) as (channel, plugin),
        channel.execute_stream(StreamRequest(operation="s")) as call,
    ):
        opened = await plugin.expect(Open)
        sent = [StreamResponse(result_json=str(n).ljust(1000)) for n in range(200)]
        for message in sent:
            plugin.connection.send(Data(opened.stream, message))
        await plugin.send(Close(opened.stream, StatusCode.DATA_LOSS))
        await trio.testing.wait_all_tasks_blocked()
        portions = [await call.receive_some() for _ in range(3)]
        portions.append([await call.receive(), *await call.receive_some()])
        assert [message for portion in portions for message in portion] == sent
        assert all(len(portion) <= BATCH / 1000 + 1 for portion in portions)
        with pytest.raises(PluginError):
            await call.receive_some()


async def test_sending_waits_for_credit_and_ends_with_the_stream(streams):
    async with (
        channel_over(streams) as (channel, plugin),
        channel.execute_stream(StreamRequest(operation="s")) as call,
    ):
        opened = await plugin.expect(Open)
        sent = []

        async def send():
            with suppress(PluginError):
                while True:
                    await call.send(StreamRequest(params_json="x" * 1000))
                    sent.append(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while len(sent) < 250:
                await plugin.expect(Data)
            await trio.testing.wait_all_tasks_blocked()
            stopped_at = len(sent)
            assert stopped_at * 1000 < 300 * 1024
            plugin.connection._streams[opened.stream].receive_credit -= 50_000
            await plugin.send(Credit(opened.stream, 50_000))
            await trio.testing.wait_all_tasks_blocked()
            assert stopped_at < len(sent) < stopped_at + 60
            await plugin.send(Close(opened.stream, StatusCode.OK))


@pytest.mark.parametrize(
    ("close", "expected"),
    [
        (Close(1, StatusCode.OK), trio.EndOfChannel),
        (Close(1, StatusCode.OK, StreamResponse(error_code=5, error="no")), PluginError),
        (Close(1, StatusCode.NOT_FOUND), PluginError),
        (Close(1, StatusCode.UNAVAILABLE, None, not_started=True), Overloaded),
    ],
)
async def test_how_a_stream_ends(streams, close, expected):
    async with (
        channel_over(streams) as (channel, plugin),
        channel.execute_stream(StreamRequest(operation="s")) as call,
    ):
        await plugin.expect(Open)
        await plugin.send(close)
        with pytest.raises(expected):
            await call.receive()


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

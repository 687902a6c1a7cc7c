"""The connection to a plugin that breaks the rules, or is merely slow."""

import struct
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from prism.channels.frames.channel import ChannelSettings, FramedChannel, _ill_failed
from prism.contract.errors import (
    ChannelBroken,
    ChannelClosed,
    HandshakeFailed,
    PluginCrashed,
    PluginMisbehaved,
    PluginUnavailable,
    RemoteProtocolError,
)
from prism.contract.messages import ExecuteResponse
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.streams.unix import socket_pair
from prism.wire.events import (
    Close,
    GoAway,
    Hello,
    Note,
    Open,
    Ping,
)
from prism.wire.frames import END, Codec, FrameType, pack
from tests.channels.frames.conftest import REQUEST, channel_over, failing_call

# -- the handshake -------------------------------------------------------------


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


async def test_a_refused_plugin_is_told_why(streams, mock_clock):
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


# -- broken rules --------------------------------------------------------------


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
    "ill_failed": (
        pack(FrameType.CLOSE, 1, b'{"error":"1","error_code":5}', codec=1, aux=3),
        "1",
    ),
    "note_level": (
        pack(FrameType.NOTE, 0, b'{"logs":[{"level":"warn"}]}', codec=1)
        + pack(FrameType.CLOSE, 1, b'{"success":true}', codec=1),
        "1",
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
    streams, rule, strict, mock_clock
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
    ("said", "wrong"),
    [
        (Close(1, StatusCode.NOT_FOUND, ExecuteResponse(error="it is not there")), ""),
        (Close(1, StatusCode.NOT_FOUND, ExecuteResponse(error="so", error_code=5)), ""),
        (Close(1, StatusCode.UNKNOWN, ExecuteResponse(error="so", error_code=99)), ""),
        (Close(1, StatusCode.CANCELLED), ""),
        (Close(1, StatusCode.DEADLINE_EXCEEDED), ""),
        (
            Close(1, StatusCode.NOT_FOUND, ExecuteResponse(error="so", error_code=3)),
            "status 5 of its CLOSE is not its error_code, 3",
        ),
        (
            Close(1, StatusCode.OK, ExecuteResponse(error="so", error_code=3)),
            "status 0 of its CLOSE is not its error_code, 3",
        ),
        (
            Close(1, StatusCode.INTERNAL, ExecuteResponse(success=True)),
            '"success": true with status 13',
        ),
    ],
)
def test_how_a_call_says_that_it_has_failed(said, wrong):
    assert _ill_failed(said) == wrong


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
async def test_a_broken_rule_ends_the_channel(streams, rule, mock_clock):
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


# -- slowness ------------------------------------------------------------------


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

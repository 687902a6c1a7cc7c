"""Streams of a channel, and their credit."""

from contextlib import suppress

import pytest
import trio
import trio.testing

from prism.calls.memory import Account, AnswerHold, Hold
from prism.channels.frames.channel import ChannelSettings
from prism.channels.frames.stream import BATCH
from prism.contract.errors import (
    AnswerDropped,
    CallError,
    Overloaded,
    PluginError,
    PluginMisbehaved,
)
from prism.contract.messages import (
    StreamRequest,
    StreamResponse,
)
from prism.contract.status import StatusCode
from prism.wire import Role
from prism.wire.connection import Connection
from prism.wire.events import (
    Cancel,
    Close,
    Credit,
    Data,
    Hello,
    Open,
)
from prism.wire.frames import Codec, FrameType
from tests.channels.frames.conftest import channel_over


async def receive_all(call):
    while True:
        await call.receive()


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

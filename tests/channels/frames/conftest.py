"""A channel over a stream in memory, and a call on it."""

from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from prism.channels.frames.channel import ChannelSettings, FramedChannel
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
)

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

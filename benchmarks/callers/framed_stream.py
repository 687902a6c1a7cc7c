"""One stream over the hop alone: a ``FramedChannel`` on a socketpair to a spawned SDK plugin.

Usage: python -m benchmarks.callers.framed_stream
"""

import os
import subprocess
import sys
import time

import trio

from benchmarks.callers.meter import StreamMeter, next_order
from prism.channels.frames.channel import FramedChannel
from prism.contract.messages import InitializeRequest, ShutdownRequest, StreamRequest
from prism.streams.unix import FD_VARIABLE, socket_pair

ENDLESS = StreamRequest(operation="give", params_json='{"messages":1000000000}')


async def main() -> None:
    stream, theirs = socket_pair()
    plugin = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
        [sys.executable, "-m", "benchmarks.sides.stream_plugin"],
        pass_fds=[theirs.fileno()],
        env={**os.environ, FD_VARIABLE: str(theirs.fileno())},
    )
    theirs.close()
    async with trio.open_nursery() as nursery:
        channel = FramedChannel(stream)
        await channel.handshake()
        nursery.start_soon(channel.run)
        await channel.initialize(InitializeRequest(namespace="demo", config_json="{}"))
        while order := await trio.to_thread.run_sync(next_order):
            _, seconds = order
            meter = StreamMeter(plugin.pid)
            until = time.perf_counter() + seconds
            async with channel.execute_stream(ENDLESS) as call:
                while time.perf_counter() < until:
                    meter.messages += len(await call.receive_some())
            meter.report()
        await channel.shutdown(ShutdownRequest(timeout_seconds=1))
        await channel.aclose()
    plugin.wait()


trio.run(main)

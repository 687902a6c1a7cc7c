"""A native library behind a channel: in this process, or in its host; or a Python class instead.

Usage: python -m benchmarks.callers.native class | here LIBRARY | host LIBRARY
"""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from benchmarks.callers.meter import METADATA, OPERATION, PARAMS, Meter, next_order
from benchmarks.sides.echo_plugin import Echo
from prism.channels.channel import PluginChannel
from prism.channels.frames.channel import FramedChannel
from prism.channels.in_process import InProcessChannel
from prism.contract.messages import ExecuteRequest, InitializeRequest, ShutdownRequest
from prism.hosts.library import plugin_class
from prism.hosts.loading import load_library
from prism.streams.unix import FD_VARIABLE, socket_pair

REQUEST = ExecuteRequest(operation=OPERATION, params_json=PARAMS, metadata=METADATA)


@asynccontextmanager
async def in_host(library: str) -> AsyncIterator[tuple[PluginChannel, int]]:
    """The channel to a host's process, and its pid."""
    stream, theirs = socket_pair()
    process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
        [sys.executable, "-m", "prism.hosts.native", library],
        pass_fds=[theirs.fileno()],
        env={**os.environ, FD_VARIABLE: str(theirs.fileno())},
    )
    theirs.close()
    async with trio.open_nursery() as nursery:
        channel = FramedChannel(stream)
        await channel.handshake()
        nursery.start_soon(channel.run)
        yield channel, process.pid
    process.wait()


@asynccontextmanager
async def in_here(plugin: type) -> AsyncIterator[tuple[PluginChannel, int]]:
    """The channel to a plugin in this process, and its pid."""
    yield InProcessChannel(plugin()), os.getpid()


async def main(kind: str, library: str = "") -> None:
    if kind == "host":
        reached = in_host(library)
    else:
        reached = in_here(Echo if kind == "class" else plugin_class(load_library(library, library)))
    async with reached as (channel, pid):
        await channel.initialize(InitializeRequest(namespace="demo", config_json="{}"))

        async def call() -> None:
            assert (await channel.execute(REQUEST)).success

        while order := await trio.to_thread.run_sync(next_order):
            in_flight, seconds = order
            meter = Meter(pid, seconds)
            async with trio.open_nursery() as calls:
                for _ in range(in_flight):
                    calls.start_soon(meter.keep_calling, call)
            meter.report()
        await channel.shutdown(ShutdownRequest(timeout_seconds=1))
        await channel.aclose()


trio.run(main, *sys.argv[1:])

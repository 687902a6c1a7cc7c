"""Prism's own way: a ``FramedChannel`` over a socketpair to a spawned SDK plugin.

Usage: python -m benchmarks.callers.framed trio|asyncio|wasm msgpack|json
"""

import os
import subprocess
import sys

import trio

from benchmarks.callers.meter import METADATA, OPERATION, PARAMS, Meter, next_order
from prism.channels.frames.channel import FramedChannel
from prism.contract.messages import ExecuteRequest, InitializeRequest, ShutdownRequest
from prism.streams.unix import FD_VARIABLE, socket_pair

REQUEST = ExecuteRequest(operation=OPERATION, params_json=PARAMS, metadata=METADATA)


async def main(backend: str, codec: str) -> None:
    stream, theirs = socket_pair()
    side = ["echo_wasm"] if backend == "wasm" else ["echo_plugin", backend]
    plugin = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
        [sys.executable, "-m", f"benchmarks.sides.{side[0]}", *side[1:], codec],
        pass_fds=[theirs.fileno()],
        env={**os.environ, FD_VARIABLE: str(theirs.fileno())},
    )
    theirs.close()
    async with trio.open_nursery() as nursery:
        channel = FramedChannel(stream)
        assert (await channel.handshake()).codecs == (codec,)
        nursery.start_soon(channel.run)
        await channel.initialize(InitializeRequest(namespace="demo", config_json="{}"))

        async def call() -> None:
            assert (await channel.execute(REQUEST)).result_json == PARAMS

        while order := await trio.to_thread.run_sync(next_order):
            in_flight, seconds = order
            meter = Meter(plugin.pid, seconds)
            async with trio.open_nursery() as calls:
                for _ in range(in_flight):
                    calls.start_soon(meter.keep_calling, call)
            meter.report()
        await channel.shutdown(ShutdownRequest(timeout_seconds=1))
        await channel.aclose()
    plugin.wait()


trio.run(main, sys.argv[1], sys.argv[2])

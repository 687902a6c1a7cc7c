"""The plugin whose streams are measured.

Usage: python -m benchmarks.sides.stream_plugin [OPTION ...]
"""

import sys
from collections.abc import AsyncIterator

import anyio
from msgspec import Struct

from prism.sdk import Plugin, operation, serve


class Shape(Struct):
    """So many messages of so many bytes."""

    messages: int = 0
    size: int = 1024


class Streams(Plugin):
    name = "streams"
    version = "1.0.0"

    @operation
    async def give(self, params: Shape) -> AsyncIterator[str]:
        message = "x" * (params.size - 2)  # two quotes around it
        for _ in range(params.messages):
            yield message

    @operation
    async def idle(self, params: Shape) -> AsyncIterator[str]:
        yield "here"
        await anyio.sleep_forever()


if __name__ == "__main__":
    serve(Streams, sys.argv[1:])

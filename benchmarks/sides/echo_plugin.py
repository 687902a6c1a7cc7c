"""The plugin under measurement: an echo on the SDK, as an author would write it.

Usage: python -m benchmarks.sides.echo_plugin trio|asyncio msgpack|json [OPTION ...]
"""

import sys
from typing import Any, Literal, cast

from prism.sdk import Plugin, operation, serve, session
from prism.wire.codecs import CODEC_NAMES


class Echo(Plugin):
    name = "echo"
    version = "1.0.0"

    @operation(idempotent=True)
    async def echo(self, params: dict[str, Any]) -> dict[str, Any]:
        return params


if __name__ == "__main__":
    backend, codec, *options = sys.argv[1:]
    # The SDK offers every codec it knows, and the proxy takes the fastest.
    vars(session)["CODEC_NAMES"] = {codec: CODEC_NAMES[codec]}
    serve(Echo, options, backend=cast("Literal['trio', 'asyncio']", backend))

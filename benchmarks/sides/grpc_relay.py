"""A proxy on grpc.aio: hands messages on without decoding them.

Usage: python -m benchmarks.sides.grpc_relay ADDRESS UPSTREAM; it prints "ready PORT".
"""

import asyncio
import sys

import grpc.aio  # type: ignore[import-untyped]

from benchmarks.sides.grpc_aio import METHOD
from benchmarks.sides.grpc_service import serve


async def main(address: str, upstream: str) -> None:
    async with grpc.aio.insecure_channel(upstream) as channel:
        forward = channel.unary_unary(METHOD)

        async def relay(request: bytes, _context: object) -> bytes:
            answer: bytes = await forward(request)
            return answer

        await serve({"Execute": grpc.unary_unary_rpc_method_handler(relay)}, address)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

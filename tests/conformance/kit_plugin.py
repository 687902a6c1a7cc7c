"""What ``sdks/README.md`` has every kit's example offer, as far as the protocol is concerned: in
Python, on the SDK."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
from msgspec import Struct

from prism.sdk import Call, Plugin, operation, serve


class Sleep(Struct):
    seconds: float


class Count(Struct):
    to: int
    size: int = 0


class Sum(Struct):
    n: int


class Big(Struct):
    bytes: int


class Kit(Plugin):
    name = "kit"
    version = "1.0.0"

    @operation(idempotent=True, access="read")
    async def echo(self, params: dict[str, Any]) -> dict[str, Any]:
        return params

    @operation(access="read")
    async def sleep(self, params: Sleep) -> dict[str, Any]:
        await anyio.sleep(params.seconds)
        return {}

    @operation(access="read")
    async def big(self, params: Big) -> dict[str, Any]:
        return {"data": "x" * params.bytes}

    @operation(access="read")
    async def count(self, params: Count) -> AsyncIterator[dict[str, Any]]:
        for n in range(1, params.to + 1):
            yield {"n": n, "padding": "x" * params.size}

    @operation(access="read")
    async def sum(self, params: Sum, call: Call) -> AsyncIterator[dict[str, Any]]:
        total = params.n
        async for message in call.messages(Sum):
            total += message.n
        yield {"sum": total}


if __name__ == "__main__":
    serve(Kit)

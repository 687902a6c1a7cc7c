"""A plugin whose operations do what stream tests ask for, on every channel alike."""

import os
from collections.abc import AsyncIterator
from typing import Any

import anyio
from msgspec import Struct

from prism.sdk import Call, Plugin, PluginError, Positioned, StatusCode, operation, serve


class Text(Struct):
    text: str = ""


class Number(Struct):
    n: int = 3
    size: int = 0


class Streams(Plugin):
    name = "streams"
    version = "1.0"

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0
        self.cancelled = 0
        self.sent = 0
        self.awake = anyio.Event()

    @operation(idempotent=True)
    async def echo(self, params: Any) -> Any:
        return params

    @operation
    async def metadata(self, params: Text, call: Call) -> dict[str, Any]:
        return {**call.metadata, "time_left": min(call.time_left(), 1e6)}

    @operation
    async def seen(self, params: Text) -> dict[str, int]:
        return {"begun": self.begun, "cancelled": self.cancelled, "sent": self.sent}

    @operation
    async def refuse(self, params: Text) -> None:
        raise PluginError(StatusCode.FAILED_PRECONDITION, params.text)

    @operation
    async def wait(self, params: Text) -> None:
        try:
            await anyio.sleep(3600)
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise

    @operation
    async def count(self, params: Number, call: Call) -> AsyncIterator[Any]:
        for n in range(int(call.resume_after or 0), params.n):
            yield Positioned("x" * params.size or n, str(n + 1))

    @operation
    async def fail(self, params: Number) -> AsyncIterator[int]:
        for n in range(params.n):
            yield n
        raise PluginError(StatusCode.DATA_LOSS, "broken off")

    @operation
    async def chat(self, params: Text, call: Call) -> AsyncIterator[str]:
        yield params.text
        async for message in call.messages(Text):
            yield message.text.upper()
        yield "bye"

    @operation
    async def total(self, params: Number, call: Call) -> AsyncIterator[int]:
        total = params.n
        async for message in call.messages(Number):
            total += message.n
        yield total

    @operation
    async def told(self, params: Text, call: Call) -> AsyncIterator[dict[str, str]]:
        yield call.metadata

    @operation
    async def wake(self, params: Text) -> None:
        self.awake.set()
        self.awake = anyio.Event()

    @operation
    async def deaf(self, params: Text, call: Call) -> AsyncIterator[Any]:
        yield "I take nothing"
        await self.awake.wait()
        yield len([message async for message in call.messages(Text)])

    @operation
    async def die(self, params: Text) -> AsyncIterator[str]:
        yield "last words"
        await anyio.sleep(0.1)  # for them to leave
        os._exit(9)

    @operation
    async def flood(self, params: Number) -> AsyncIterator[str]:
        self.begun += 1
        try:
            while True:
                yield "x" * params.size
                self.sent += 1
        finally:
            self.cancelled += 1

    @operation
    async def quiet(self, params: Text) -> AsyncIterator[str]:
        self.begun += 1
        try:
            await anyio.sleep(3600)
            yield "never"
        finally:
            self.cancelled += 1


if __name__ == "__main__":
    serve(Streams)

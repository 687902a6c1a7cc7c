"""A plugin that writes down, for each call that it runs, for whom it does: before its answer."""

import os
from collections.abc import AsyncIterator

import anyio
from msgspec import Struct

from prism.sdk import Call, Plugin, operation, serve


class Work(Struct):
    seconds: float = 0.0


class Witness(Plugin):
    name = "witness"
    version = "1.0"

    async def start(self) -> None:
        self.file = os.open(self.config["path"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def stop(self) -> None:
        os.close(self.file)

    def note(self, call: Call) -> None:
        told = call.metadata
        who = f"{told['prism-request-id']} {told['prism-principal']} {told['prism-namespace']}"
        os.write(self.file, f"{who} {call.operation}\n".encode())

    @operation(access="read")
    async def look(self, params: Work, call: Call) -> str:
        self.note(call)
        await anyio.sleep(params.seconds)
        return "seen"

    @operation(access="write")
    async def put(self, params: Work, call: Call) -> str:
        self.note(call)
        await anyio.sleep(params.seconds)
        return "kept"

    @operation(access="admin")
    async def drop(self, params: Work, call: Call) -> str:
        self.note(call)
        return "gone"

    @operation(access="read")
    async def count(self, params: Work, call: Call) -> AsyncIterator[int]:
        self.note(call)
        for number in range(3):
            yield number

    @operation(access="read")
    async def follow(self, params: Work, call: Call) -> AsyncIterator[str]:
        self.note(call)
        yield "begun"
        await anyio.sleep_forever()

    @operation(access="write")
    async def confess(self, params: Work, call: Call) -> str:
        self.note(call)
        raise RuntimeError(f"cannot log in with {self.credentials['password']}")


if __name__ == "__main__":
    serve(Witness)

"""A plugin that keeps what it is given: a line in a file for each call, before its answer."""

import os
import sys
from typing import Any

import anyio
from msgspec import Struct

from prism.sdk import Plugin, operation, serve


class Put(Struct):
    id: str
    seconds: float = 0.0


class Store(Plugin):
    name = "store"
    version = sys.argv.pop(1) if len(sys.argv) > 1 else "none"

    async def start(self) -> None:
        self.file = os.open(self.config["path"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def stop(self) -> None:
        os.close(self.file)

    @operation
    async def put(self, params: Put) -> dict[str, str]:
        await anyio.sleep(params.seconds)
        os.write(self.file, f"{params.id}\n".encode())
        return {"id": params.id, "version": self.version}

    @operation(idempotent=True)
    async def look(self, params: Put) -> dict[str, str]:
        await anyio.sleep(params.seconds)
        return {"id": params.id, "version": self.version}

    @operation(idempotent=True)
    async def which(self, params: dict[str, Any]) -> dict[str, str]:
        return {"version": self.version}


if __name__ == "__main__":
    serve(Store)

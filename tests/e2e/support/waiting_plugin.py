"""A plugin whose calls take as long as the caller says; it counts what is open."""

from typing import Any

import anyio
from msgspec import Struct

from prism.sdk import Call, Plugin, operation, serve


class Wait(Struct):
    seconds: float = 0.0


class Until(Struct):
    file: str


class Fail(Struct):
    with_: str


class Waiting(Plugin):
    name = "waiting"
    version = "1.0.0"

    async def start(self) -> None:
        self.open = 0
        self.begun = 0

    @operation
    async def wait(self, params: Wait) -> dict[str, float]:
        self.open += 1
        self.begun += 1
        try:
            await anyio.sleep(params.seconds)
        finally:
            self.open -= 1
        return {"waited": params.seconds}

    @operation
    async def wait_until(self, params: Until) -> dict[str, str]:
        """Until the file exists."""
        self.open += 1
        try:
            while not await anyio.Path(params.file).exists():  # noqa: ASYNC110 - made by a test
                await anyio.sleep(0.02)
        finally:
            self.open -= 1
        return {"found": params.file}

    @operation(idempotent=True)
    async def echo(self, params: dict[str, Any]) -> dict[str, Any]:
        return params

    @operation(idempotent=True)
    async def metadata(self, params: dict[str, Any], call: Call) -> dict[str, str]:
        return dict(call.metadata)

    @operation(idempotent=True)
    async def count(self, params: dict[str, Any]) -> dict[str, int]:
        return {"open": self.open, "begun": self.begun}

    @operation
    async def fail(self, params: Fail) -> None:
        """Fail as drivers do: with a credential in the message."""
        raise RuntimeError(f"cannot log in with {self.credentials[params.with_]}")


if __name__ == "__main__":
    serve(Waiting)

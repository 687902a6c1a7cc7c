"""A plugin in thirty lines: an echo, and a little store in memory.

Serve it with the ten lines of examples/echo.yaml, or dial in by hand:
PLUGIN_SOCKET=/run/prism/echo.sock python echo.py
"""

from typing import Any

from msgspec import Struct

from prism.sdk import Plugin, operation, serve


class Key(Struct, forbid_unknown_fields=True):
    key: str


class Entry(Struct, forbid_unknown_fields=True):
    key: str
    value: Any


class Echo(Plugin):
    name = "echo"
    version = "1.0.0"

    async def start(self) -> None:
        self.store: dict[str, Any] = {}

    @operation(idempotent=True, access="read")
    async def echo(self, params: dict[str, Any]) -> dict[str, Any]:
        return params

    @operation(idempotent=True, access="read")
    async def get(self, params: Key) -> dict[str, Any]:
        found = params.key in self.store
        return {"found": True, "value": self.store[params.key]} if found else {"found": False}

    @operation(idempotent=True, access="write")
    async def set(self, params: Entry) -> dict[str, Any]:
        self.store[params.key] = params.value
        return {"stored": True}


if __name__ == "__main__":
    serve(Echo)

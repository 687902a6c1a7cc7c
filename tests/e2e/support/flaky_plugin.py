"""A plugin that breaks at every nth attempt: ``flaky_plugin.py FILE N``.

FILE has a line for each attempt, of all processes: what it was asked for, and for whom. Every nth
of an operation crashes the process, never answers, or says that it cannot; with ``_write`` it is
one that may not be repeated.
"""

import os
import sys
from pathlib import Path

import anyio
from msgspec import Struct

from prism.sdk import Plugin, PluginError, StatusCode, operation, serve

FILE, EVERY = Path(sys.argv.pop(1)), int(sys.argv.pop(1))


class Asked(Struct):
    id: str = ""


def is_nth(name: str, asked: Asked) -> bool:
    """Write the attempt down; is it one of those?"""
    with FILE.open("a") as file:
        file.write(f"{name} {asked.id}\n")
    made = [line for line in FILE.read_text().splitlines() if line.split()[0] == name]
    return len(made) % EVERY == 0


class Flaky(Plugin):
    name = "flaky"
    version = "1.0.0"

    @operation(idempotent=True)
    async def crash(self, params: Asked) -> Asked:
        if is_nth("crash", params):
            os._exit(1)
        return params

    @operation
    async def crash_write(self, params: Asked) -> Asked:
        if is_nth("crash_write", params):
            os._exit(1)
        return params

    @operation(idempotent=True)
    async def stall(self, params: Asked) -> Asked:
        if is_nth("stall", params):
            await anyio.sleep_forever()
        return params

    @operation
    async def stall_write(self, params: Asked) -> Asked:
        if is_nth("stall_write", params):
            await anyio.sleep(0.5)
        return params

    @operation(idempotent=True)
    async def refuse(self, params: Asked) -> Asked:
        if is_nth("refuse", params):
            raise PluginError(StatusCode.UNAVAILABLE, "not now")
        return params


if __name__ == "__main__":
    serve(Flaky)

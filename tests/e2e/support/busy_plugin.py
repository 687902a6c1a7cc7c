"""A plugin within the proxy that takes more of it than it should: of its time, of its memory."""

import time
from pathlib import Path

import anyio
from msgspec import Struct

from prism.sdk import Plugin, operation


class Work(Struct):
    seconds: float = 0.0


class Hold(Struct):
    size: int
    until: str


class Busy(Plugin):
    @operation(access="read")
    async def work(self, params: Work) -> dict[str, float]:
        """Nothing else runs for so long."""
        time.sleep(params.seconds)  # noqa: ASYNC251 - that is what it is for
        return {"seconds": params.seconds}

    @operation(access="read")
    async def hold(self, params: Hold) -> dict[str, int]:
        """So many bytes are taken until there is the file ``until``."""
        held = bytearray(b"x") * params.size
        while not Path(params.until).exists():  # noqa: ASYNC110, ASYNC240 - a moment
            await anyio.sleep(0.05)
        return {"held": len(held)}

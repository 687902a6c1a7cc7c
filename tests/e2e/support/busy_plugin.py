"""A plugin within the proxy that holds up its event loop, as a handler that computes would."""

import time

from msgspec import Struct

from prism.sdk import Plugin, operation


class Work(Struct):
    seconds: float = 0.0


class Busy(Plugin):
    @operation(access="read")
    async def work(self, params: Work) -> dict[str, float]:
        """Nothing else runs for so long."""
        time.sleep(params.seconds)  # noqa: ASYNC251 - that is what it is for
        return {"seconds": params.seconds}

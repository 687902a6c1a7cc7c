"""One of several replicas: says its name. It fails while the file FAULT exists.

replica_plugin.py NAME FAULT [options of serve]
"""

import sys
from pathlib import Path

import anyio
from msgspec import Struct

from prism.sdk import Plugin, operation, serve

NAME, FAULT = sys.argv.pop(1), Path(sys.argv.pop(1))


class Ask(Struct):
    seconds: float = 0.0


class Replica(Plugin):
    name = "replica"
    version = NAME

    @operation(idempotent=True)
    async def who(self, params: Ask) -> str:
        if FAULT.exists():  # noqa: ASYNC240 - it takes no time
            raise RuntimeError("it cannot")
        await anyio.sleep(params.seconds)
        return NAME


if __name__ == "__main__":
    serve(Replica)

"""A plugin in two versions, of which ``FAILS`` makes one bad."""

import os
from typing import Any

from prism.sdk import Plugin, PluginError, StatusCode, operation, serve


class Canary(Plugin):
    name = "canary"
    version = "2" if "FAILS" in os.environ else "1"

    @operation
    async def echo(self, params: dict[str, Any]) -> dict[str, Any]:
        if "FAILS" in os.environ:
            raise PluginError(StatusCode.INTERNAL, "a bad release")
        return params


if __name__ == "__main__":
    serve(Canary)

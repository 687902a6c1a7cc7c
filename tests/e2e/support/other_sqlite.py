"""The SQLite plugin in another version, which is wrong in the way that ``MODE`` names.

``same``, ``other`` (each read has another version, and a key more), ``slow``, ``hangs``,
``crashes``, ``fails``. It writes each call's operation, whether it is a shadow's, and the namespace
that it was told when it started, to the file that ``SEEN`` names.
"""

import os
from pathlib import Path
from typing import Any

import anyio
import msgspec

from prism.contract.messages import ExecuteRequest, ExecuteResponse
from prism.sdk import StatusCode, serve
from prism_plugins.sqlite import SQLitePlugin

SEEN = Path(os.environ.get("SEEN", os.devnull))
MODE = os.environ["MODE"]


class OtherSQLite(SQLitePlugin):
    version = f"2-{MODE}"

    async def begin_execution(self, request: ExecuteRequest) -> Any:
        with SEEN.open("a") as seen:  # noqa: ASYNC230 - a test's
            is_shadow = request.metadata.get("prism-shadow", "-")
            seen.write(f"{request.operation} {is_shadow} {self.namespace}\n")
        if MODE == "hangs":
            await anyio.sleep_forever()
        if MODE == "crashes":
            os._exit(3)
        if MODE == "slow":
            await anyio.sleep(0.3)
        if MODE == "fails":
            return ExecuteResponse(error="no luck", error_code=StatusCode.INTERNAL)
        response = await self.execute(request) if MODE == "other" else None
        if response is None or not response.success or request.operation != "get":
            return response or await super().begin_execution(request)
        result = msgspec.json.decode(response.result_json)
        result["version"] = 1_000_000
        result["fresh"] = True
        return msgspec.structs.replace(response, result_json=msgspec.json.encode(result).decode())

    async def execute(self, request: ExecuteRequest) -> ExecuteResponse:
        pending = await super().begin_execution(request)
        return pending if isinstance(pending, ExecuteResponse) else await pending


if __name__ == "__main__":
    serve(OtherSQLite)

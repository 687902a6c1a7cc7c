"""The same plugin, unchanged, under the other event loop."""

import anyio
import pytest

from prism.sdk import PluginError

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


@pytest.mark.parametrize("config", [{}, {"path": ":memory:"}])
def test_under_asyncio(open_plugin, config: dict[str, str]) -> None:
    async def scenario() -> None:
        async with open_plugin(**config) as sqlite:

            async def add() -> None:
                for _ in range(5):
                    await sqlite.call("increment", key="n")

            async def query_for_ever() -> None:
                await sqlite.call("query", sql=ENDLESS)

            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(add)
            assert (await sqlite.call("get", key="n"))["value"] == 100
            with pytest.raises(PluginError, match="not allowed"):
                await sqlite.call("query", sql="DELETE FROM _prism_keyvalue")
            for _ in range(3):
                async with anyio.create_task_group() as group:
                    for _ in range(6):
                        group.start_soon(query_for_ever)
                    for _ in range(10):
                        await anyio.lowlevel.checkpoint()
                    group.cancel_scope.cancel()
            assert (await sqlite.call("query", sql="SELECT 1"))["rows"] == [[1]]
            assert (await sqlite.call("get", key="n"))["value"] == 100

    anyio.run(scenario, backend="asyncio")

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from prism.sdk.testing import RunningPlugin, run_plugin
from prism_plugins.sqlite import SQLitePlugin


class FakeClock:
    """Wall clock and passing time: ``now`` moves both, ``step`` sets the wall clock alone."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.step = 0.0

    def __call__(self) -> float:
        return self.now + self.step

    def elapsed(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "a database?.db")


OpenPlugin = Callable[..., AbstractAsyncContextManager[RunningPlugin[SQLitePlugin]]]


@pytest.fixture
def open_plugin(path: str, clock: FakeClock) -> OpenPlugin:
    class Plugin(SQLitePlugin):
        pass

    Plugin.clock = staticmethod(clock)
    Plugin.elapsed = staticmethod(clock.elapsed)

    @asynccontextmanager
    async def opened(
        namespace: str = "test", **config: Any
    ) -> AsyncIterator[RunningPlugin[SQLitePlugin]]:
        async with run_plugin(Plugin, config={"path": path} | config, namespace=namespace) as run:
            yield run

    return opened


@pytest.fixture(params=["file", "memory"])
async def sqlite(
    request: pytest.FixtureRequest, open_plugin: OpenPlugin
) -> AsyncIterator[RunningPlugin[SQLitePlugin]]:
    config = {"path": ":memory:"} if request.param == "memory" else {}
    async with open_plugin(**config) as plugin:
        yield plugin

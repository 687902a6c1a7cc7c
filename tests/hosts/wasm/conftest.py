"""Runs modules in the test's own process, as plugins."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from prism.hosts.wasm.http import Origin
from prism.hosts.wasm.plugin import Settings, WasmPlugin
from prism.hosts.wasm.services import Grants
from prism.sdk.testing import RunningPlugin, run_plugin
from tests.hosts.wasm.modules import checksums, counter, greeter, save

__all__ = ["checksums", "counter", "greeter"]  # fixtures

LIMIT = 60.0
"""Seconds after which what should happen fails its test."""
Run = Callable[..., contextlib.AbstractAsyncContextManager[RunningPlugin[WasmPlugin]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``async with run(wat(...), grants=...) as plugin``: the module in this process."""

    @contextlib.asynccontextmanager
    async def run(
        module: str | Path, *, config: Any = None, credentials: Any = None, **settings: Any
    ) -> AsyncIterator[RunningPlugin[WasmPlugin]]:
        path = module if isinstance(module, Path) else save(tmp_path / "module.wasm", module)
        grants = settings.pop("grants", {})
        grants["http"] = [Origin(**each) for each in grants.get("http", [])]

        class Module(WasmPlugin):
            name = "module"

        Module.module = str(path)
        Module.module_name = path.name
        Module.settings = Settings(grants=Grants(**grants), **settings)
        async with run_plugin(Module, config=config, credentials=credentials) as plugin:
            yield plugin

    return run


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what a guest's thread does."""
    with trio.fail_after(LIMIT):
        while not condition():  # noqa: ASYNC110 - a thread that has nobody to tell
            await trio.sleep(0.005)

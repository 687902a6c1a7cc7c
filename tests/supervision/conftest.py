"""Plugins as small programs, and no test may leave one behind."""

import math
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

sys.path.append(str(Path(__file__).parent))

from supervised_plugin import Model

from prism.config.types import PluginConfig, SecretsConfig
from prism.secrets import Secrets
from prism.supervision.instance import InstanceSpec
from tests.services.server import children

PROGRAM = """
import os, signal, sys, time
from msgspec import Struct
import anyio
from prism.sdk import Health, Plugin, operation, serve

class Nothing(Struct):
    pass

class Small(Plugin):
    name = "small"
    async def start(self):
        if self.config.get("refuse"):
            raise ValueError(self.config["refuse"])
        if self.config.get("slow"):
            await anyio.sleep(60)
        self.sick = False
    async def health(self):
        return Health.unhealthy("sick") if self.sick else Health.healthy()
    @operation
    async def pid(self, params: Nothing) -> int:
        return os.getpid()
    @operation
    async def wait(self, params: Nothing) -> None:
        await anyio.sleep(60)
    @operation
    async def short(self, params: Nothing) -> str:
        await anyio.sleep(0.3)
        return "done"
    @operation
    async def wedge(self, params: Nothing) -> None:
        time.sleep(60)
    @operation
    async def fall_sick(self, params: Nothing) -> None:
        self.sick = True

serve(Small)
"""


@pytest.fixture
def autojump_clock(monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    """Trio's own would jump while a worker thread is at work, of which it knows nothing."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    run_sync = trio.to_thread.run_sync
    running = 0

    async def run_and_hold(*args: Any, **options: Any) -> Any:
        nonlocal running
        running += 1
        clock.autojump_threshold = math.inf
        try:
            return await run_sync(*args, **options)
        finally:
            running -= 1
            clock.autojump_threshold = math.inf if running else 0

    monkeypatch.setattr(trio.to_thread, "run_sync", run_and_hold)
    return clock


@pytest.fixture(autouse=True)
def no_children_left() -> Iterator[None]:
    """No process that this one has started is left, and none is left to be reaped."""
    before = children(os.getpid())
    yield
    assert children(os.getpid()) == before


@pytest.fixture
def program(tmp_path: Path) -> str:
    """The path of a plugin's program."""
    path = tmp_path / "small.py"
    path.write_text(PROGRAM)
    return str(path)


MakeSpec = Callable[..., InstanceSpec]


@pytest.fixture
def make_spec(program: str) -> MakeSpec:
    """The spec of a spawned plugin, or of whatever ``plugin`` says."""

    def make(
        config: dict[str, Any] | None = None, *, namespace: str = "ns", **plugin: Any
    ) -> InstanceSpec:
        if not plugin.keys() & {"command", "socket", "module", "endpoint", "library"}:
            plugin["command"] = [sys.executable, program]
        plugin = {"type": "sidecar", "kill_timeout_seconds": 1, **plugin}
        return InstanceSpec(
            namespace=namespace,
            backend="memory",
            plugin_name="small",
            plugin=msgspec.convert(plugin, PluginConfig),
            config_json=msgspec.json.encode(config or {}).decode(),
            credentials=Secrets().credentials({}, SecretsConfig()),
        )

    return make


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    """Does this process run? One that has ended and is not reaped does not."""

    def check(pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        return state not in "ZX"

    return check


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Model]:
    """The class of an in-process plugin, at ``a_model:Fresh``, however often that is imported."""
    kind = type("Fresh", (Model,), {"made": []})
    what_it_has = types.ModuleType("a_models_class")
    what_it_has.Fresh = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_models_class", what_it_has)
    monkeypatch.delitem(sys.modules, "a_model", raising=False)
    (tmp_path / "a_model.py").write_text(
        "import a_models_class\ndef __getattr__(name): return getattr(a_models_class, name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return kind


@pytest.fixture
def in_process(make_spec: MakeSpec, model: type[Model]) -> MakeSpec:
    """The spec of an in-process plugin of the class ``model``."""

    def make(**plugin: Any) -> InstanceSpec:
        return make_spec(type="in_process", module="a_model:Fresh", **plugin)

    return make


@pytest.fixture
def several(in_process: MakeSpec) -> MakeSpec:
    """The spec of a plugin of which there are so many."""

    def make(processes: int = 3, **plugin: Any) -> InstanceSpec:
        # All get the same at once, so that some calls are sure to get to each.
        balance = {"slow_start_seconds": 0}
        return in_process(processes=processes, **{"balance": balance, **plugin})

    return make

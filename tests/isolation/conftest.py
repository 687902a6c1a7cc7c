"""A hostile plugin, and a place outside ``/tmp`` for it and for what is not its."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from prism.config.isolation_types import IsolationConfig
from prism.config.types import PluginConfig, SecretsConfig
from prism.contract.messages import ExecuteRequest
from prism.isolation.machine import machine
from prism.isolation.policy import IsolationPolicy
from prism.secrets import Secrets
from prism.supervision.connect import Connector, initialize
from prism.supervision.instance import InstanceSpec
from tests.services.server import children

HOSTILE = Path(__file__).with_name("hostile.py")


@pytest.fixture(autouse=True)
def no_children_left() -> Iterator[None]:
    """No process that this one has started is left, and none is left to be reaped."""
    before = children(os.getpid())
    yield
    assert children(os.getpid()) == before


@pytest.fixture(params=["landlock", "bubblewrap"])
def mechanism(request: pytest.FixtureRequest) -> str:
    """Each that this machine has."""
    name: str = request.param
    why = {"landlock": machine().no_landlock, "bubblewrap": machine().no_bubblewrap}[name]
    if why:
        pytest.skip(f"{name}: {why}")
    return name


class Place:
    """``own`` is the plugin's directory, ``others`` has what is not its: the files of the proxy and
    of another namespace, and its socket."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.own, self.others = root / "own", root / "others"
        self.own.mkdir()
        self.others.mkdir()
        self.program = str(self.own / "hostile.py")
        shutil.copy(HOSTILE, self.program)
        for name in ("prism.yaml", "other.db", "key.pem"):
            (self.others / name).write_text("not for the plugin")
        self.secrets = self.others / "secrets"
        self.secrets.mkdir()
        (self.secrets / "password").write_text("not for the plugin")
        self.socket = str(self.others / "other.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.socket)
        self.listener.listen()

    @property
    def closed(self) -> tuple[str, ...]:
        """What a configuration would close."""
        return tuple(map(str, [*self.others.glob("*.*"), self.secrets]))

    def spec(self, **isolation: Any) -> InstanceSpec:
        """The hostile plugin, confined so."""
        plugin = {
            "type": "sidecar",
            "command": [sys.executable, self.program],
            "working_directory": str(self.own),
            "kill_timeout_seconds": 1,
            "start_timeout_seconds": 60,
            "environment": {"PYTHONDONTWRITEBYTECODE": "1"},
        }
        return InstanceSpec(
            namespace="ns",
            backend="memory",
            plugin_name="hostile",
            plugin=msgspec.convert(plugin, PluginConfig),
            config_json="{}",
            credentials=Secrets().credentials({}, SecretsConfig()),
            isolation=IsolationPolicy(msgspec.convert(isolation, IsolationConfig), self.closed),
        )


@pytest.fixture
def place() -> Iterator[Place]:
    """A place in a directory that Landlock may split, where root can make one."""
    parent = "/srv" if os.access("/srv", os.W_OK) else "/var/tmp"
    root = Path(tempfile.mkdtemp(prefix="prism-test-", dir=parent)).resolve()
    made = Place(root)
    yield made
    made.listener.close()
    shutil.rmtree(root)


Attempt = Callable[..., Any]


@pytest.fixture
def hostile() -> Any:
    """A plugin of a spec, running: a function that has it try something, and its connector."""

    @asynccontextmanager
    async def running(spec: InstanceSpec) -> Any:
        connector = Connector(spec)
        async with trio.open_nursery() as nursery:
            async with connector.connect(nursery) as channel:
                await initialize(channel, spec, {})

                async def attempt(what: str, *values: str | int) -> Any:
                    params = msgspec.json.encode({"what": what, "values": values}).decode()
                    if what == "inherited":
                        request = ExecuteRequest(operation=what, params_json="{}")
                    else:
                        request = ExecuteRequest(operation="attempt", params_json=params)
                    with trio.fail_after(60):
                        answer = await channel.execute(request)
                    assert not answer.error, answer
                    return msgspec.json.decode(answer.result_json)

                yield attempt, connector
            nursery.cancel_scope.cancel()

    return running

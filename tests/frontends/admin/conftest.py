"""The admin port's front end before a supervisor with plugins in this process."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio

from prism.calls.namespace import Namespace
from prism.calls.router import Router
from prism.config import LoadedConfig
from prism.config.types import Config, NamespaceConfig, PluginConfig, SecretsConfig
from prism.control.live_config import LiveConfig
from prism.frontends.admin import Access, AdminApp, Administered, Right
from prism.frontends.asgi import asgi
from prism.observability.metrics import Metrics
from prism.secrets import Secrets
from prism.supervision.instance import InstanceSpec
from prism.supervision.supervisor import Supervisor

MODULE = "prism_plugins.sqlite:SQLitePlugin"
JSON = {"content-type": "application/json"}
CLIENT = ("192.0.2.7", 4711)
"""Where requests come from."""


def at_version(version: str) -> PluginConfig:
    if version == "broken":
        return PluginConfig(type="in_process", module="no_such_module:Plugin", version=version)
    return PluginConfig(type="in_process", module=MODULE, version=version)


def spec(namespace: str) -> InstanceSpec:
    return InstanceSpec(
        namespace=namespace,
        backend="sqlite",
        plugin_name="sqlite",
        plugin=PluginConfig(type="in_process", module=MODULE),
        config_json=json.dumps({"path": ":memory:"}),
        credentials=Secrets().credentials({}, SecretsConfig()),
        at_version=at_version,
    )


class Asked:
    """An answer, and its JSON."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Admin:
    """Asks the admin port's front end as an ASGI server would; ``stops`` counts what drain-all
    did."""

    def __init__(self, front: AdminApp, proxy: Administered) -> None:
        self.front = front
        self.proxy = proxy
        self.stops: list[bool] = []

    async def ask(
        self,
        method: str,
        target: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        until: Callable[[bytes], bool] = lambda _body: False,
    ) -> Asked:
        """One request. A stream is read until ``until`` likes what came; then its client
        leaves."""
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body)
        content = content.encode() if isinstance(content, str) else content
        path, _, query = target.partition("?")
        given = (JSON if body is not None else {}) | (headers or {})
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "client": CLIENT,
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        }
        head: dict[str, Any] = {}
        came = bytearray()
        coming = [{"type": "http.request", "body": content, "more_body": False}]
        left = trio.Event()

        async def receive() -> dict[str, Any]:
            await trio.lowlevel.checkpoint()
            if coming:
                return coming.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            await trio.lowlevel.checkpoint()
            if message["type"] == "http.response.start":
                head.update(message)
            elif not left.is_set():
                came.extend(message["body"])
                if until(bytes(came)):
                    left.set()

        await asgi(self.front)(scope, receive, send)
        headers_sent = {name.decode(): value.decode() for name, value in head["headers"]}
        return Asked(head["status"], headers_sent, bytes(came))


@pytest.fixture
async def admin(nursery: trio.Nursery) -> Admin:
    """Two namespaces, ``kv`` and ``other``, whose plugins run; changes are open to everybody."""
    supervisor = Supervisor([spec("kv"), spec("other")])
    router = Router(
        Namespace(NamespaceConfig(name, "memory"), slot) for name, slot in supervisor.slots.items()
    )
    await nursery.start(supervisor.run)
    stops: list[bool] = []
    config = Config(
        namespaces=[NamespaceConfig(name=name, backend="sqlite") for name in ("kv", "other")]
    )
    live = LiveConfig(config, router, supervisor, lambda: LoadedConfig(config, (), "prism.yaml"))
    metrics = Metrics(router, supervisor)
    proxy = Administered(router, supervisor, metrics, live, lambda: stops.append(True))
    made = Admin(AdminApp(proxy, Access(without_token=Right.CHANGE)), proxy)
    made.stops = stops
    return made

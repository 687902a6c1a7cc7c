"""The stream plugin behind each kind of channel."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prism_process import SUPPORT, Proxy, eventually, unused_port
from stream_doors import SCHEMAS

PLUGIN = [sys.executable, str(SUPPORT / "stream_plugin.py")]
LIMITS = {"max_payload_bytes": 300_000}
NAMESPACES: dict[str, dict[str, Any]] = {
    "kv": {},
    "idle": {"stream_idle_timeout_seconds": 0.4},
    "few": {"max_streams": 1},
    "doomed": {},
}
"""Each has a plugin of its own, and these limits beside ``LIMITS``."""

StartProcess = Callable[..., subprocess.Popen[bytes]]


class PluginBehind:
    """One kind of channel: how its plugin is configured, started, and started again."""

    can_die = True
    reloads = True

    def __init__(self, start_process: StartProcess, directory: Path) -> None:
        self._start_process = start_process
        self._directory = directory

    def config(self, namespace: str) -> dict[str, Any]:
        """``plugin`` in the configuration; what listens has been started by then."""
        raise NotImplementedError

    def revive(self, namespace: str) -> None:
        """Start again what died; the proxy does it itself where it spawns."""


class InProcess(PluginBehind):
    """The plugin's class, in the proxy."""

    can_die = False  # it would be the proxy

    def config(self, namespace: str) -> dict[str, Any]:
        return {"type": "in_process", "module": "stream_plugin:Streams"}


class Spawned(PluginBehind):
    """A child of the proxy, over a socket pair."""

    def config(self, namespace: str) -> dict[str, Any]:
        return {"type": "sidecar", "command": PLUGIN}


class Listening(PluginBehind):
    """A process that listens, on a port of its own for each namespace."""

    kind = ""
    arguments: list[str] = []

    def __init__(self, start_process: StartProcess, directory: Path) -> None:
        super().__init__(start_process, directory)
        self._ports: dict[str, int] = {}

    def config(self, namespace: str) -> dict[str, Any]:
        self._ports[namespace] = unused_port()
        self.revive(namespace)
        endpoint = self.endpoint(self._ports[namespace])
        return {"type": self.kind, "endpoint": endpoint, "insecure": True}

    def revive(self, namespace: str) -> None:
        port = self._ports[namespace]
        self._start_process(*self.command(port), log=self._directory / f"{namespace}.log")

        def listens() -> bool:
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", port)) == 0

        eventually(listens)

    def command(self, port: int) -> list[str]:
        """What listens on ``port``."""
        raise NotImplementedError

    def endpoint(self, port: int) -> str:
        """What the proxy dials."""
        return f"127.0.0.1:{port}"


class TCP(Listening):
    """Frames over TCP."""

    kind = "remote"

    def command(self, port: int) -> list[str]:
        return [*PLUGIN, "--listen", f"tcp:127.0.0.1:{port}", "--insecure"]


class WebSocket(Listening):
    """Frames inside a WebSocket."""

    kind = "websocket"

    def command(self, port: int) -> list[str]:
        return [*PLUGIN, "--listen", f"ws:127.0.0.1:{port}", "--insecure"]

    def endpoint(self, port: int) -> str:
        return f"ws://127.0.0.1:{port}/plugin"


class GRPC(Listening):
    """A stock gRPC server."""

    kind = "grpc"

    def command(self, port: int) -> list[str]:
        server = SUPPORT / "stream_grpc_plugin.py"
        return [sys.executable, str(server), str(SCHEMAS), str(port)]


STREAM_CHANNELS: dict[str, type[PluginBehind]] = {
    "in process": InProcess,
    "spawned": Spawned,
    "tcp": TCP,
    "websocket": WebSocket,
    "grpc": GRPC,
}


def open_streams(start: Callable[..., Proxy], plugin: PluginBehind) -> Proxy:
    """A proxy with ``NAMESPACES``, all of them behind ``plugin``."""
    namespaces = [
        {
            "name": name,
            "backend": "streams",
            "limits": LIMITS | limits,
            "plugin": plugin.config(name) | {"drain_timeout_seconds": 0.5},
        }
        for name, limits in NAMESPACES.items()
    ]
    proxy = start({"namespaces": namespaces, "admin": {"without_token": "change"}})
    eventually(proxy.ready)
    return proxy

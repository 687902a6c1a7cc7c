"""The Node example, which knows nothing but docs/protocol.md, behind a real proxy."""

import os
import shutil
from pathlib import Path

import pytest
from prism_process import eventually

ECHO = Path(__file__).parents[2] / "examples" / "plugins" / "node" / "echo.js"


@pytest.fixture
def node() -> str:
    found = shutil.which("node")
    if found is None:
        message = "node is not installed (Debian: apt-get install nodejs)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return found


def test_spawned(start_prism, node: str) -> None:
    plugin = {"type": "sidecar", "command": [node, str(ECHO)]}
    proxy = start_prism({"namespaces": [{"name": "e", "backend": "m", "plugin": plugin}]})
    value = {"n": [1, "ü"], "deep": {"quote": '"\\'}}
    assert proxy.call("e", "set", {"key": "ä", "value": value}).json() == {"stored": True}
    assert proxy.call("e", "get", {"key": "ä"}).json() == {"found": True, "value": value}
    assert proxy.call("e", "get", {"key": "b"}).json() == {"found": False}
    assert proxy.call("e", "echo", value).json() == value
    assert proxy.call("e", "nope").status_code == 404
    told = proxy.client.get(f"{proxy.url}/v1/e").json()["operations"]
    assert told["get"]["description"] == "Read a key."
    assert told["set"]["params"] == {"type": "object", "required": ["key", "value"]}
    described = proxy.client.get(f"{proxy.url}/v1/e/openapi.json").json()
    assert described["paths"]["/v1/e/get"]["post"]["requestBody"]["required"] is True
    assert proxy.call("e", "get", {"key": 7}).json()["code"] == "INVALID_ARGUMENT"
    assert proxy.stop() == 0
    assert proxy.logged("exited with status 0")


def test_dialling_in(start_prism, start_process, node: str, tmp_path: Path) -> None:
    socket = tmp_path / "run" / "echo.sock"
    plugin = {"type": "sidecar", "socket": str(socket)}
    start_process(node, str(ECHO), log=tmp_path / "node.log", PLUGIN_SOCKET=str(socket))
    for _ in range(2):  # the plugin outlives its proxy
        proxy = start_prism({"namespaces": [{"name": "e", "backend": "m", "plugin": plugin}]})
        eventually(proxy.ready)
        assert proxy.call("e", "echo", {"a": 1}).json() == {"a": 1}
        assert proxy.stop() == 0

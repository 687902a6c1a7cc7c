"""A stock gRPC server behind the proxy: served, lost, and served again."""

import re
import sys
from pathlib import Path

import yaml
from prism_process import eventually

ROOT = Path(__file__).parents[2]
SERVER = [sys.executable, str(ROOT / "examples/plugins/grpc/echo.py"), str(ROOT / "schemas")]


def test_the_example_is_served_and_comes_back(start_prism, start_process, tmp_path):
    log = tmp_path / "plugin.log"

    def start(port):
        process = start_process(*SERVER, str(port), log=log)
        eventually(lambda: "listening on" in log.read_text())
        return process, int(re.findall(r"listening on (\d+)", log.read_text())[-1])

    server, port = start(0)
    config = yaml.safe_load((ROOT / "examples/config/grpc.yaml").read_text())
    config["namespaces"][0]["plugin"]["endpoint"] = f"127.0.0.1:{port}"
    proxy = start_prism(config)
    eventually(proxy.ready)
    assert proxy.call("echo", "set", {"key": "a", "value": [1]}).json() == {"stored": True}
    assert proxy.call("echo", "get", {"key": "a"}).json() == {"found": True, "value": [1]}
    described = proxy.client.get(f"{proxy.url}/v1/echo").json()["operations"]
    assert {name: one["access"] for name, one in described.items()} == {
        "get": "read",
        "set": "write",
    }
    unknown = proxy.call("echo", "scan", {})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "UNIMPLEMENTED")
    server.kill()
    server.wait()
    eventually(lambda: not proxy.ready())

    def tells_where():
        assert proxy.call("echo", "get", {"key": "a"}).status_code == 503
        return f"cannot connect to 127.0.0.1:{port}" in proxy.absence("echo")

    eventually(tells_where)
    log.write_text("")
    start(port)
    eventually(proxy.ready)
    assert proxy.call("echo", "get", {"key": "a"}).json() == {"found": False}
    assert proxy.stop() == 0

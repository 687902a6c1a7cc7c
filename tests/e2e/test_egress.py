"""Plugins that may connect to their own backend alone: real drivers, real servers, unchanged."""

import json
import sys
from typing import Any

import pytest
from prism_process import eventually

from tests.services.fixtures import StartServer
from tests.services.kafka import Kafka
from tests.services.postgres import PASSWORD, USER, PostgreSQL, new_name
from tests.services.redis import Redis

CALLER = """
import socket
from msgspec import Struct
from prism.sdk import Plugin, operation, serve

class Address(Struct):
    host: str
    port: int

class Caller(Plugin):
    name = "caller"

    @operation
    async def greet(self, params: Address) -> str:
        try:
            socket.create_connection((params.host, params.port), timeout=60).close()
        except OSError as error:
            return type(error).__name__
        return "connected"

if __name__ == "__main__":
    serve(Caller)
"""


def sidecar(backend: str) -> dict[str, Any]:
    return {"type": "sidecar", "command": [sys.executable, "-m", f"prism_plugins.{backend}"]}


def namespace(
    backend: str, config: dict[str, Any], egress: list[str], **more: Any
) -> dict[str, Any]:
    return {
        "name": backend,
        "backend": backend,
        "plugin": sidecar(backend),
        "config": config,
        "isolation": {"egress": egress},
        **more,
    }


@pytest.mark.parametrize("mechanism", ["landlock", "bubblewrap"])
def test_drivers_need_no_change(
    start_prism: Any,
    debian_postgres: PostgreSQL,
    shared_server: StartServer,
    kafka: Kafka,
    mechanism: str,
) -> None:
    """libpq, a Redis client and librdkafka, which connects to what the cluster names."""
    redis_server = shared_server(Redis)
    topic = new_name()
    connection = f"postgres://127.0.0.1:{debian_postgres.port}/postgres?sslmode=disable"
    proxy = start_prism(
        {
            "isolation": {"mechanism": mechanism},
            "namespaces": [
                namespace(
                    "postgres",
                    {"connection_string": connection},
                    [f"127.0.0.1:{debian_postgres.port}"],
                    credentials={"username": USER, "password": PASSWORD},
                ),
                namespace("redis", {"url": redis_server.url()}, [f"127.0.0.1:{redis_server.port}"]),
                namespace(
                    "kafka",
                    {"brokers": [f"127.0.0.1:{kafka.port}"], "topic_prefix": topic},
                    [f"127.0.0.1:{kafka.port}"],
                ),
            ],
        }
    )
    eventually(proxy.ready)
    for name in ("postgres", "redis"):
        stored = proxy.call(name, "set", {"key": topic, "value": {"a": 1}})
        assert stored.json() == {"stored": True}, stored.text
        assert proxy.call(name, "get", {"key": topic}).json()["value"] == {"a": 1}
    made = proxy.call("kafka", "create_topic", {"topic": "t"})
    assert made.status_code == 200, made.text
    published = proxy.call("kafka", "publish", {"topic": "t", "value": {"a": 1}})
    assert published.status_code == 200, published.text


def test_what_is_not_declared_is_denied_and_told(
    start_prism: Any, tmp_path: Any, shared_server: StartServer
) -> None:
    program = tmp_path / "caller.py"
    program.write_text(CALLER)
    port = shared_server(Redis).port
    audit = tmp_path / "audit.jsonl"
    proxy = start_prism(
        {
            "audit": {"file": str(audit)},
            "namespaces": [
                {
                    "name": "calls",
                    "backend": "caller",
                    "plugin": {"type": "sidecar", "command": [sys.executable, str(program)]},
                    "isolation": {"egress": [f"127.0.0.1:{port}"]},
                }
            ],
        }
    )
    eventually(proxy.ready)

    def greet(port: int) -> str:
        answer: str = proxy.call("calls", "greet", {"host": "127.0.0.1", "port": port}).json()
        return answer

    admin = int(proxy.admin.rpartition(":")[2])
    assert greet(port) == "connected"
    assert [greet(each) for each in (proxy.port, admin, 1)] == ["PermissionError"] * 3
    denied = f"it may not connect to 127.0.0.1:{admin}, which `egress` does not declare"
    [told] = eventually(lambda: proxy.logged(denied))
    assert told["level"] == "warning"
    assert proxy.metric("prism_plugin_egress_total", namespace="calls", outcome="denied") == 3
    assert proxy.metric("prism_plugin_egress_total", namespace="calls", outcome="allowed") == 1

    def audited() -> list[dict[str, Any]]:
        """It is in the audit log, which is written by a thread."""
        whole = audit.read_text().rpartition("\n")[0].splitlines()
        lines = [json.loads(line) for line in whole]
        return [line for line in lines if line.get("reason") == denied]

    [line] = eventually(audited)
    assert (line["principal"], line["namespace"]) == ("plugin:calls/1", "calls")
    assert (line["operation"], line["decision"], line["rule"]) == ("connect", "deny", "egress")
    shown = proxy.client.get(f"{proxy.admin}/admin/plugins/calls").json()
    assert shown["isolation"]["holds"]["network"] == f"connections to 127.0.0.1:{port} alone"

"""PostgreSQL behind a whole proxy: the RFC's namespace, inside it and as a process of its own."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from prism_process import FAST_CHECKS, eventually

from tests.services.fixtures import StartServer
from tests.services.postgres import PASSWORD, USER, DebianPostgreSQL, PostgreSQL, new_name

ROOT = Path(__file__).parents[2]
SIDECAR = {"type": "sidecar", "command": [sys.executable, "-m", "prism_plugins.postgres"]}
WAYS = [None, SIDECAR]


def rfc_namespace(server: PostgreSQL) -> dict[str, Any]:
    """As examples/config has it, but for the library, which is the built-in plugin, and for the
    address."""
    text = (ROOT / "examples/config/namespaces.yaml").read_text()
    (namespace,) = [
        each for each in yaml.safe_load(text)["namespaces"] if each["backend"] == "postgres"
    ]
    del namespace["plugin"]
    config = namespace["config"]
    config["connection_string"] = f"postgres://127.0.0.1:{server.port}/postgres?sslmode=disable"
    return namespace


def secret(directory: Path, value: str) -> dict[str, str]:
    """A directory of secrets with the password in it."""
    secrets = directory / "secrets"
    secrets.mkdir(mode=0o700, exist_ok=True)
    file = secrets / "postgres_password"
    file.touch(mode=0o600)
    file.write_text(value)
    return {"directory": str(secrets)}


@pytest.mark.parametrize("plugin", WAYS, ids=["in_process", "sidecar"])
def test_the_namespace_of_the_rfc(
    start_prism, tmp_path: Path, postgres18: PostgreSQL, plugin: dict[str, Any] | None
) -> None:
    role = new_name()
    with psycopg.connect(postgres18.url(), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'a: secret / one'")
    namespace = rfc_namespace(postgres18)
    namespace["name"] = name = role.replace("_", "-")
    namespace["credentials"]["username"] = role
    if plugin is not None:
        namespace["plugin"] = plugin
    secrets = secret(tmp_path, "a: secret / one\n")
    proxy = start_prism({"secrets": secrets, "namespaces": [namespace]})
    eventually(proxy.ready)
    key = {"key": "user:1"}
    assert proxy.call(name, "set", {**key, "value": {"a": 1}}).json() == {"stored": True}
    found = proxy.call(name, "get", key).json()
    assert (found["found"], found["value"]) == (True, {"a": 1})
    query = {"sql": "SELECT :a::int8 AS a", "params": {"a": 6988349663661260800}}
    assert proxy.call(name, "query", query).json()["rows"] == [[6988349663661260800]]
    error = proxy.call(name, "query", {"sql": "SELECT * FROM nowhere"})
    assert error.status_code == 404
    # A call whose deadline has passed runs no longer on the server, either.
    sleep = {"sql": "SELECT pg_sleep(3600)"}
    for operation in ("query", "execute"):
        late = proxy.call(name, operation, sleep, prism_timeout="0.5s")
        assert (late.status_code, late.json()["code"]) == (504, "DEADLINE_EXCEEDED")
    active = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND state = 'active'"
    with psycopg.connect(postgres18.url(), autocommit=True) as connection:
        eventually(lambda: connection.execute(active, [role]).fetchone() == (0,))
    schema = proxy.client.get(f"{proxy.url}/v1/{name}/openapi.json").json()
    assert f"/v1/{name}/transaction" in schema["paths"]
    described = proxy.client.get(f"{proxy.url}/v1/{name}").json()
    assert {"key_value", "kv_versions", "queue", "sql"} <= set(described["groups"])
    assert "a: secret" not in proxy.log


def test_a_reload_under_load_and_a_password_that_is_wrong(
    start_prism, tmp_path: Path, start_server: StartServer
) -> None:
    """No call fails over reloads; with a wrong password the old instance goes on."""
    server = start_server(DebianPostgreSQL)
    namespace = rfc_namespace(server)
    namespace["credentials"]["username"] = USER
    namespace["name"] = "pg"
    secrets = secret(tmp_path, PASSWORD)
    settings = {"secrets": secrets, "namespaces": [namespace], "admin": {"without_token": "change"}}
    proxy = start_prism(settings)
    eventually(proxy.ready)
    failed: list[str] = []
    counted = 0
    ends = threading.Event()

    def load() -> None:
        nonlocal counted
        while not ends.is_set():
            for operation, params in (
                ("increment", {"key": "n"}),
                ("query", {"sql": "SELECT pg_sleep(0.01)"}),
            ):
                answer = proxy.call("pg", operation, params)
                if answer.status_code != 200:
                    failed.append(answer.text)
            counted += 1

    def reload() -> dict[str, Any]:
        address = f"{proxy.admin}/admin/plugin/reload"
        response = proxy.client.post(address, json={"namespace": "pg"})
        receipt: dict[str, Any] = response.json()
        return receipt

    thread = threading.Thread(target=load)
    thread.start()
    try:
        eventually(lambda: counted > 3)
        assert reload()["outcome"] == "swapped"
        secret(tmp_path, "not the one")
        receipt = reload()
        assert receipt["outcome"] == "rolled_back"
        assert "credentials.password" in json.dumps(receipt)
        secret(tmp_path, PASSWORD)
        assert reload()["outcome"] == "swapped"
        before = counted
        eventually(lambda: counted > before + 3)
    finally:
        ends.set()
        thread.join()
    assert not failed
    assert proxy.call("pg", "get", {"key": "n"}).json()["value"] == counted
    assert "not the one" not in proxy.log


def test_a_database_that_comes_late_and_later_comes_back_empty(
    start_prism, start_server: StartServer
) -> None:
    """Nobody has to start anything anew for it; the plugin makes its tables again."""
    server = start_server(DebianPostgreSQL)
    address = f"postgresql://127.0.0.1:{server.port}/postgres?sslmode=disable"
    namespace = {
        "name": "pg",
        "backend": "postgres",
        "plugin": {"health": FAST_CHECKS},
        "config": {"connection_string": address},
        "credentials": {"username": USER, "password": PASSWORD},
    }
    server.kill()
    proxy = start_prism({"namespaces": [namespace]})
    eventually(lambda: "Connection refused" in proxy.absence("pg"))

    def stored() -> bool:
        answer = proxy.call("pg", "set", {"key": "k", "value": 1}, prism_timeout="5s")
        assert answer.status_code in (200, 503, 504), answer.text
        return answer.status_code == 200

    server.restart()
    eventually(stored)
    server.kill()
    server.restart()
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("DROP SCHEMA _prism CASCADE")
    eventually(stored)
    assert proxy.call("pg", "get", {"key": "k"}).json()["value"] == 1

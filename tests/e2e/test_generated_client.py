"""A client that openapi-python-client makes from a namespace's description, with classes for what
goes in and out, calls the plugin; the generator has nothing to complain of in any plugin's."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from prism.access.api_keys import create_key
from prism.calls.namespace import Namespace
from prism.config.types import NamespaceConfig
from prism.frontends.rest.openapi import openapi
from prism.sdk.declaration import declare
from prism.supervision.instance import Instance
from prism.supervision.slot import Slot

pytestmark = pytest.mark.slow
SETTINGS = """\
package_name_override: {name}
post_hooks: []
"""


def generate(description: dict[str, Any], directory: Path, name: str) -> Path:
    """The package ``name`` in ``directory``; any warning of the generator fails the test."""
    if not os.environ.get("CI"):
        pytest.importorskip("openapi_python_client", reason="make installs it")
    directory.mkdir(exist_ok=True)
    file = directory / "openapi.json"
    file.write_text(json.dumps(description))
    settings = directory / "settings.yaml"
    settings.write_text(SETTINGS.format(name=name))
    made = directory / name
    command = ["openapi_python_client", "generate", "--fail-on-warning", "--meta", "none"]
    options = ["--path", str(file), "--config", str(settings), "--output-path", str(made)]
    done = subprocess.run(
        [sys.executable, "-m", *command, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.mark.parametrize(
    "plugin",
    ["sqlite:SQLitePlugin", "postgres:PostgresPlugin", "redis:RedisPlugin", "kafka:KafkaPlugin"],
)
def test_every_operation_of_a_plugin_is_in_its_client(
    plugin: str, make_described, tmp_path: Path
) -> None:
    module, _, name = plugin.partition(":")
    kind = getattr(importlib.import_module(f"prism_plugins.{module}"), name)
    described = make_described([declare(operation) for operation in kind.operations.values()])
    made = generate(described, tmp_path, f"{module}_client")
    functions = {file.stem.rstrip("_") for file in (made / "api" / "default").glob("[a-z]*.py")}
    assert functions == set(kind.operations)


@pytest.fixture
def make_described():
    """A description as the door gives it, of these operations."""

    def make(declared: list[Any]) -> dict[str, Any]:
        namespace = Namespace(NamespaceConfig("demo", "sqlite"), Slot("demo"))
        operations = {each.name: each for each in declared}
        channel: Any = None  # nobody calls it
        namespace.slot.fill(Instance("demo", 1, "demo", "1.0.0", channel, operations))
        return openapi(namespace)

    return make


def test_a_generated_client_calls_the_plugin(
    start_prism, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys.yaml"
    key, _ = create_key(keys, "ada", [])
    proxy = start_prism(
        {
            "authentication": {"api_keys": {"file": str(keys)}},
            "namespaces": [
                {
                    "name": "notes",
                    "backend": "sqlite",
                    "config": {"path": str(tmp_path / "notes.db")},
                    "access": {"owners": ["ada"]},
                }
            ],
        }
    )
    headers = {"authorization": f"Bearer {key}"}
    answer = proxy.client.get(f"{proxy.url}/v1/notes/openapi.json", headers=headers)
    described = answer.json()
    assert described["security"] == [{"token": []}]
    name = f"notes_client_{os.getpid()}"
    generate(described, tmp_path / "client", name)
    monkeypatch.syspath_prepend(str(tmp_path / "client"))

    def load(path: str) -> ModuleType:
        return importlib.import_module(f"{name}.{path}")

    models = load("models")
    calls = {each: load(f"api.default.{each}") for each in ("get", "set_", "execute", "query")}
    with load("client").AuthenticatedClient(base_url=proxy.url, token=key) as client:
        stored = calls["set_"].sync(
            client=client, body=models.VersionedSet(key="user:1", value={"name": "Ada"})
        )
        assert stored.stored is True
        found = calls["get"].sync(client=client, body=models.Key(key="user:1"))
        assert (found.found, found.value, found.version) == (True, {"name": "Ada"}, "1")
        for sql, params in (
            ("CREATE TABLE book (title TEXT, year INTEGER)", []),
            ("INSERT INTO book VALUES (?, ?)", ["Emma", 1815]),
        ):
            statement = models.Statement(sql=sql, params=params)
            assert isinstance(calls["execute"].sync(client=client, body=statement), models.Executed)
        rows = calls["query"].sync(client=client, body=models.Statement(sql="SELECT * FROM book"))
        assert (rows.columns, rows.rows) == (["title", "year"], [["Emma", 1815]])
        problem = calls["query"].sync(client=client, body=models.Statement(sql="SELECT"))
        assert isinstance(problem, models.Problem)
        assert (problem.status, problem.code, problem.retryable) == (
            400,
            "INVALID_ARGUMENT",
            False,
        )
    with load("client").Client(base_url=proxy.url) as nobody:
        refused = calls["get"].sync(client=nobody, body=models.Key(key="user:1"))
        assert (refused.status, refused.code) == (401, "UNAUTHENTICATED")

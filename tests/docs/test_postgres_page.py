"""The commands of docs/postgres.md print what it shows, on a real server."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import yaml

from prism_plugins.postgres.config import PostgresConfig
from prism_plugins.postgres.errors import BY_CLASS, BY_CODE
from tests.docs.test_commands import PRISM, ROOT, Served, matches, serve, steps
from tests.services.fixtures import StartServer
from tests.services.postgres import PostgreSQL18

__all__ = ["serve"]  # the fixture
PAGE = "docs/postgres.md"


def test_the_page_tells_the_truth(
    start_server: StartServer, serve: Callable[..., Served], tmp_path: Path
) -> None:
    server = start_server(PostgreSQL18)
    password = "it's / secret @ 1:%"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE prism_user LOGIN PASSWORD 'it''s / secret @ 1:%'")
        connection.execute("CREATE DATABASE prism OWNER prism_user")
    (tmp_path / "secrets").mkdir(mode=0o700)
    secret = tmp_path / "secrets" / "postgres_password"
    secret.touch(mode=0o600)
    secret.write_text(f"{password}\n")
    config = (ROOT / "examples/config/postgres.yaml").read_text()
    (tmp_path / "postgres.yaml").write_text(config.replace(":5432/", f":{server.port}/"))
    proxy = serve("--config", "postgres.yaml")
    for command, expected in steps(PAGE):
        environment = {
            "PATH": f"{PRISM.parent}{os.pathsep}{os.environ['PATH']}",
            "PRISM_URL": proxy.as_run("http://127.0.0.1:50051"),
            "TERM": "dumb",
        }
        ran = subprocess.run(
            ["sh", "-c", proxy.as_run(command).replace("curl ", "curl -sS ")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        printed = (ran.stdout + ran.stderr).replace("\r", "")
        assert matches(expected, printed), f"{command}\nprinted\n{printed}\ninstead of\n{expected}"


def test_every_setting_is_on_the_page() -> None:
    text = (ROOT / PAGE).read_text()
    for name in PostgresConfig.__struct_fields__:
        assert f"| `{name}` |" in text, name


def test_every_class_of_errors_is_on_the_page_with_its_status() -> None:
    table = (ROOT / PAGE).read_text().partition("| SQLSTATE | status |")[2].partition("\n\n")[0]
    shown: dict[str, str] = {}
    for row in table.splitlines()[2:]:
        _, codes, status, _ = row.split("|")
        for code in re.findall(r"\b[0-9A-Z][0-9A-Z](?:[0-9A-Z]{3})?\b", codes):
            shown.setdefault(code, status)
    for name, status in BY_CLASS.items():
        assert status.name in shown.get(name, ""), name
    for code, status in BY_CODE.items():
        if code in shown:
            assert status.name in shown[code], code


def test_the_pages_configuration_is_the_example() -> None:
    """But for the server, which the example has on this machine."""
    block = (ROOT / PAGE).read_text().partition("```yaml\n")[2].partition("```")[0]
    shown, example = (
        yaml.safe_load(text)
        for text in (block, (ROOT / "examples/config/postgres.yaml").read_text())
    )
    example["namespaces"][0]["config"]["connection_string"] = shown["namespaces"][0]["config"][
        "connection_string"
    ]
    assert shown == example

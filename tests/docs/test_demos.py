"""The first page's steps on PostgreSQL, Redis and Kafka print what it shows, on real servers."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from prism.cli.demo import BACKENDS, SERVER
from tests.docs.test_commands import PRISM, ROOT, Served, matches, serve, steps
from tests.services.fixtures import StartServer
from tests.services.kafka import Kafka
from tests.services.postgres import PASSWORD, PostgreSQL18
from tests.services.redis import Redis

__all__ = ["serve"]  # the fixture
START = "make serve DEMO="
USUAL = {"postgres": 5432, "redis": 6379, "kafka": 9092}


def demo_steps() -> dict[str, list[tuple[str, str]]]:
    """Those of each backend; ``backend`` alone starts it."""
    found: dict[str, list[tuple[str, str]]] = {}
    backend = ""
    for command, expected in steps("README.md"):
        if command.startswith(START):
            backend = command.removeprefix(START)
        if backend:
            found.setdefault(backend, []).append((command, expected))
    return found


def start(backend: str, start_server: StartServer) -> tuple[int, dict[str, str]]:
    """A server; its port, and the environment in which the demo finds it."""
    if backend == "postgres":
        server = start_server(PostgreSQL18)
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE prism")
        return server.port, {"PGPORT": str(server.port), "PGPASSWORD": PASSWORD}
    server = start_server({"redis": Redis, "kafka": Kafka}[backend])
    scheme = "redis://" if backend == "redis" else ""
    return server.port, {SERVER: f"{scheme}127.0.0.1:{server.port}"}


def test_the_page_shows_each_backend_that_needs_a_server() -> None:
    assert ["sqlite", *demo_steps()] == list(BACKENDS)


@pytest.mark.parametrize("backend", USUAL)
def test_the_page_tells_the_truth(
    backend: str,
    start_server: StartServer,
    serve: Callable[..., Served],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, environment = start(backend, start_server)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = None
    for command, expected in demo_steps()[backend]:
        if command.startswith(START) and "can be reached" in expected:
            continue  # the next test
        if command.startswith(START):
            proxy = serve("--demo", backend)
            printed = proxy.printed.replace(f":{port}", f":{USUAL[backend]}")
        else:
            assert proxy is not None
            ran = subprocess.run(
                ["sh", "-c", proxy.as_run(command).replace("curl ", "curl -sS ")],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            printed = ran.stdout + ran.stderr
        assert matches(expected, printed), f"{command}\nprinted\n{printed}\ninstead of\n{expected}"


def test_without_a_server_the_page_shows_what_is_said(tmp_path: Path) -> None:
    ((_, expected),) = (step for step in demo_steps()["postgres"] if "can be reached" in step[1])
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        port = bound.getsockname()[1]
        ran = subprocess.run(
            [PRISM, "serve", "--demo", "postgres"],
            cwd=tmp_path,
            env={**os.environ, "PGPORT": str(port)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ran.returncode == 1
    assert matches(expected, ran.stderr.replace(f".1:{port}: ", ".1:5432: ")), ran.stderr
    assert list(tmp_path.iterdir()) == [], "nothing was made"


def test_each_backends_page_shows_its_command() -> None:
    for backend in USUAL:
        text = (ROOT / f"docs/{backend}.md").read_text()
        assert f"prism serve --demo {backend} --server " in text


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"PGPASSWORD": "wrong"}, "password authentication failed"),
        ({"PGDATABASE": "nodb"}, 'database "nodb" does not exist'),
    ],
)
def test_a_server_that_refuses_is_told_instead_of_what_to_try(
    wrong: dict[str, str],
    why: str,
    start_server: StartServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, environment = start("postgres", start_server)
    for name, value in (environment | wrong).items():
        monkeypatch.setenv(name, value)
    command = [PRISM, "serve", "--demo", "postgres", "--port", "0", "--admin-port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        printed = ""
        while (line := proxy.stdout.readline()) and "tried again" not in line:
            printed += line
        proxy.terminate()
    assert "cannot be served: " in printed
    assert why in printed
    assert "curl" not in printed

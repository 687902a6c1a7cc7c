"""Servers for tests, one of each kind for a worker's whole session.

What takes one down, or fills it, starts its own with ``start_server``.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.services.__main__ import running
from tests.services.kafka import Kafka
from tests.services.postgres import DebianPostgreSQL, PgBouncer, PostgreSQL, PostgreSQL18
from tests.services.redis import Redis, Valkey
from tests.services.server import Missing, Server

S = TypeVar("S", bound=Server)
StartServer = Callable[..., Any]
"""``start_server(Kind, **options)``: a server of that kind."""


def start_or_skip(kind: type[S], directory: Path, **options: Any) -> S:
    """A server of this kind; where it is not installed, the test is skipped, in CI it fails."""
    check_installed(kind)
    return kind.start(directory, **options)


def check_installed(kind: type[Server]) -> None:
    """Skip the test where the server is not installed; in CI fail."""
    try:
        kind.check_installed()
    except Missing as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """``shared_server(Kind)``: this session's server of that kind."""
    started: dict[type[Server], Server] = {}
    own: list[Server] = []

    def get(kind: type[Server], **options: Any) -> Server:
        if kind not in started:
            found = running(kind)
            if found is None:
                found = start_or_skip(kind, tmp_path_factory.mktemp(kind.name), **options)
                own.append(found)
            started[kind] = found
        return started[kind]

    yield get
    for server in reversed(own):
        server.stop()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start servers that end with the test."""
    own: list[Server] = []

    def start(kind: type[Server], **options: Any) -> Server:
        own.append(start_or_skip(kind, tmp_path, **options))
        return own[-1]

    yield start
    for server in reversed(own):
        server.stop()


@pytest.fixture(scope="session")
def debian_postgres(shared_server: StartServer) -> PostgreSQL:
    server: PostgreSQL = shared_server(DebianPostgreSQL)
    return server


@pytest.fixture(scope="session")
def postgres18(shared_server: StartServer) -> PostgreSQL:
    server: PostgreSQL = shared_server(PostgreSQL18)
    return server


@pytest.fixture(
    scope="session", params=[DebianPostgreSQL, PostgreSQL18], ids=lambda kind: kind.name
)
def postgres(request: pytest.FixtureRequest, shared_server: StartServer) -> PostgreSQL:
    """Each version in turn."""
    server: PostgreSQL = shared_server(request.param)
    return server


@pytest.fixture(scope="session")
def pgbouncer(shared_server: StartServer, debian_postgres: PostgreSQL) -> PgBouncer:
    """In transaction mode, before Debian's PostgreSQL."""
    server: PgBouncer = shared_server(PgBouncer, before=debian_postgres)
    return server


@pytest.fixture(scope="session")
def kafka(shared_server: StartServer) -> Kafka:
    server: Kafka = shared_server(Kafka)
    return server


@pytest.fixture(scope="session", params=[Redis, Valkey], ids=lambda kind: kind.name)
def redis_server(request: pytest.FixtureRequest, shared_server: StartServer) -> Redis:
    """Each kind in turn."""
    server: Redis = shared_server(request.param)
    return server

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import psycopg
import pytest
import trio

from prism.contract.errors import PluginError
from prism.contract.status import StatusCode
from prism.sdk.testing import RunningPlugin, run_plugin
from prism_plugins.postgres import PostgresPlugin
from tests.services.postgres import PASSWORD, USER, PgBouncer, PostgreSQL, new_name

CREDENTIALS = {"username": USER, "password": PASSWORD}
Running = RunningPlugin[PostgresPlugin]
OpenPlugin = Callable[..., AbstractAsyncContextManager[Running]]
LIMIT = 60.0


class Database:
    """A database of its own on a server, and a plain connection to it, to look from outside."""

    def __init__(self, server: PostgreSQL | PgBouncer, name: str) -> None:
        self.server = server
        self.name = name

    def connection_string(self, **parameters: str) -> str:
        given = {"sslmode": "disable", **parameters}
        query = "&".join(f"{name}={value}" for name, value in given.items())
        return f"postgresql://127.0.0.1:{self.server.port}/{self.name}?{query}"

    def ask(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Run a statement by itself."""
        with psycopg.connect(self.server.url(self.name), autocommit=True) as connection:
            cursor = connection.execute(sql, params)
            return cursor.fetchall() if cursor.description else []

    @asynccontextmanager
    async def plugin(
        self,
        namespace: str = "test",
        credentials: Any = None,
        parameters: Any = None,
        **config: Any,
    ) -> AsyncIterator[Running]:
        """A plugin on this database."""
        settings = {"connection_string": self.connection_string(**parameters or {})} | config
        async with run_plugin(
            PostgresPlugin,
            config=settings,
            credentials=credentials or CREDENTIALS,
            namespace=namespace,
        ) as running:
            yield running


def make_database(server: PostgreSQL) -> Database:
    name = new_name()
    Database(server, "postgres").ask(f"CREATE DATABASE {name}")
    return Database(server, name)


@pytest.fixture(scope="module")
def database(debian_postgres: PostgreSQL) -> Iterator[Database]:
    """A module's own, on Debian's PostgreSQL."""
    made = make_database(debian_postgres)
    yield made
    Database(debian_postgres, "postgres").ask(f"DROP DATABASE {made.name} WITH (FORCE)")


@pytest.fixture(scope="module")
def each_database(postgres: PostgreSQL) -> Iterator[Database]:
    """A module's own, on each version of PostgreSQL in turn."""
    made = make_database(postgres)
    yield made
    Database(postgres, "postgres").ask(f"DROP DATABASE {made.name} WITH (FORCE)")


@pytest.fixture
async def pg(database: Database) -> AsyncIterator[Running]:
    """A plugin on Debian's PostgreSQL."""
    async with database.plugin() as running:
        yield running


async def refused(call: Any) -> PluginError:
    """The error that a call is answered with."""
    with pytest.raises(PluginError) as caught:
        await call
    return caught.value


async def status_of(call: Any) -> StatusCode:
    return (await refused(call)).status


async def eventually(check: Callable[[], Any]) -> Any:
    """Wait until ``check`` returns something true, and return that."""
    with trio.fail_after(LIMIT):
        while not (found := check()):  # noqa: ASYNC110 - what is looked at has no event
            await trio.sleep(0.02)
    return found

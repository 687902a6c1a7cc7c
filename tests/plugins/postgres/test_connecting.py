"""How connections are made: TLS, connection strings, credentials, event loops."""

from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trustme

from prism.contract.errors import PluginError
from prism.contract.settings import settings_problems
from prism.contract.status import StatusCode
from prism_plugins.postgres.config import ConnectionSettings, PostgresConfig
from tests.services.fixtures import StartServer
from tests.services.postgres import PASSWORD, USER, DebianPostgreSQL, PostgreSQL

from .conftest import Database, new_name, refused

CREDENTIALS = {"username": USER, "password": PASSWORD}


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey"])
def test_a_file_that_any_user_may_change_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "a.pem"
    config = PostgresConfig(f"host=h dbname=d {name}={file}")
    with pytest.raises(PluginError, match=f"{name} {file}: No such file"):
        ConnectionSettings(config, CREDENTIALS, "ns")
    file.touch()
    file.chmod(0o602)
    with pytest.raises(PluginError, match=f"{name} {file}: any user may change it"):
        ConnectionSettings(config, CREDENTIALS, "ns")
    file.chmod(0o600)
    ConnectionSettings(config, CREDENTIALS, "ns")
    plain = PostgresConfig(f"host=h dbname=d sslmode=disable {name}={tmp_path}/none")
    ConnectionSettings(plain, CREDENTIALS, "ns")


async def test_a_server_is_verified(start_server: StartServer, tmp_path: Path) -> None:
    authority = trustme.CA()
    server = start_server(DebianPostgreSQL, certificate=authority.issue_cert("localhost"))
    right, wrong = tmp_path / "right ca.pem", tmp_path / "wrong.pem"
    authority.cert_pem.write_to_path(str(right))
    trustme.CA().cert_pem.write_to_path(str(wrong))
    place = f"port={server.port} dbname=postgres"
    database = Database(server, "postgres")

    def plugin(connection_string: str) -> Any:
        return database.plugin(connection_string=connection_string)

    async with plugin(f"host=localhost {place} sslrootcert='{right}'") as pg:
        sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert (await pg.call("query", sql=sql))["rows"] == [[True]]
        assert await pg.call("set", key="k", value=1) == {"stored": True}
        with trio.move_on_after(0.3):  # a cancel request goes over TLS, too
            await pg.call("query", sql="SELECT pg_sleep(3600)")
        assert (await pg.call("query", sql="SELECT 1"))["rows"] == [[1]]
    for words, connection_string in [
        ("certificate", f"host=localhost {place} sslrootcert='{wrong}'"),
        ("certificate", f"host=localhost {place}"),  # the system's authorities
        ("127.0.0.1", f"host=127.0.0.1 {place} sslrootcert='{right}'"),  # another name
    ]:
        error = await refused(plugin(connection_string).__aenter__())
        assert error.status is StatusCode.FAILED_PRECONDITION
        assert words in error.detail
        assert "sslrootcert" in error.detail


@pytest.mark.parametrize(
    ("connection_string", "words"),
    [
        ("postgres://user:pass@localhost:5432/prism", "credentials.username"),
        ("postgres://localhost:5432/prism?password=pass", "credentials.password"),
        ("host=localhost password=pass", "credentials.password"),
        ("postgres://:pass@localhost/prism", "credentials.password"),
        ("host=localhost passfile=/etc/pass", "passfile"),
        ("postgres://user:pa:ss/wo@rd@localhost:5432/prism", "cannot be read"),
        ("postgres://us@er:pa@localhost/pass", "cannot be read"),
        ("postgres://user:pa/ss@localhost/prism", "cannot be read"),
        ("mysql://localhost", "cannot be read"),
        ("host=localhost colour=red", 'there is no parameter "colour"'),
        ("postgresql://h/d?sslmod=require", '"sslmod"; did you mean "sslmode"?'),
        ("host=h sslmod=require", '"sslmod"; did you mean "sslmode"?'),
        ("host=h password=two pass=3", "cannot be read"),
        ("service=other", "service"),
    ],
)
def test_connection_strings_that_are_refused(connection_string: str, words: str) -> None:
    config = PostgresConfig(connection_string)
    said = "; ".join(map(str, settings_problems(PostgresConfig, config, CREDENTIALS)))
    assert words in said
    assert said.startswith("config.connection_string: ")
    assert "pass" not in said.replace("password", "").replace("passfile", "")


def test_credentials_that_are_refused() -> None:
    (said,) = settings_problems(PostgresConfig, PostgresConfig("host=a"), {"user": "x"})
    assert said == (
        ("credentials", "user"),
        'unknown credential; did you mean "username"? (accepted: username, password)',
    )


def test_several_hosts_are_libpqs_business() -> None:
    text = "postgresql://a:1,b:2/db?target_session_attrs=read-write"
    settings = ConnectionSettings(PostgresConfig(text), CREDENTIALS, "ns")
    assert settings.hosts == ["a", "b"]
    assert b"hostaddr='1.2.3.4,5.6.7.8'" in settings.conninfo("1.2.3.4,5.6.7.8")
    assert settings.parameters["sslmode"] == "verify-full"


async def test_a_second_host_where_the_first_is_away(debian_postgres: PostgreSQL) -> None:
    address = f"postgresql://127.0.0.1:9,127.0.0.1:{debian_postgres.port}/postgres?sslmode=disable"
    database = Database(debian_postgres, "postgres")
    async with database.plugin(connection_string=address, key_value=False) as pg:
        assert (await pg.call("query", sql="SELECT 1"))["rows"] == [[1]]


async def test_a_host_without_an_address() -> None:
    address = "postgresql://nowhere.invalid/postgres"
    database = Database(DebianPostgreSQL(Path()), "postgres")
    error = await refused(database.plugin(connection_string=address).__aenter__())
    assert error.status is StatusCode.UNAVAILABLE
    assert "nowhere.invalid" in error.detail


async def test_a_libpq_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psycopg.pq.version", lambda: 150_018)
    database = Database(DebianPostgreSQL(Path()), "postgres")
    error = await refused(database.plugin().__aenter__())
    assert error.status is StatusCode.FAILED_PRECONDITION
    assert "libpq 15" in error.detail


def test_on_asyncio(debian_postgres: PostgreSQL) -> None:
    """All of it but what tests of the SDK show: calls, cancelled ones, streams, notifications."""
    database = Database(debian_postgres, "postgres")

    async def main() -> None:
        async with database.plugin(new_name(), pool_size=2) as pg:
            await pg.call("set", key="k", value=1)
            assert (await pg.call("get", key="k"))["value"] == 1
            for _ in range(3):
                with anyio.move_on_after(0.1):
                    await pg.call("query", sql="SELECT pg_sleep(3600)")
            async with anyio.create_task_group() as group:
                for number in range(50):
                    group.start_soon(lambda n=number: pg.call("query", sql=f"SELECT {n}"))
                    group.start_soon(lambda n=number: pg.call("increment", key=f"k{n % 5}"))
            sql = "SELECT generate_series(1, 1000)"
            rows = [m async for m in pg.stream("query", sql=sql)][1:]
            assert sum(len(message["rows"]) for message in rows) == 1000
            with anyio.fail_after(60):
                async for message in pg.stream("listen", channels=["c"]):
                    if message == {"event": "ready"}:
                        await pg.call("notify", channel="c", value=7)
                    else:
                        assert message == {"channel": "c", "value": 7}
                        break
                while pg.plugin.pool.idle != pg.plugin.pool.count:  # noqa: ASYNC110 - has no event
                    await anyio.sleep(0.02)
            assert pg.plugin.pool.count <= 2

    anyio.run(main, backend="asyncio")

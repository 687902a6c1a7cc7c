import psycopg
import pytest

from tests.services.fixtures import StartServer
from tests.services.postgres import DebianPostgreSQL, PgBouncer, PostgreSQL, PostgreSQL18
from tests.services.server import start_time


def ask(server: PostgreSQL | PgBouncer, sql: str) -> object:
    with psycopg.connect(server.url(), connect_timeout=30) as connection:
        return connection.execute(sql).fetchone()[0]


def debian_version() -> str:
    return DebianPostgreSQL.programs().parent.name


def test_both_versions_answer(postgres: PostgreSQL) -> None:
    version = ask(postgres, "SHOW server_version")
    assert str(version).startswith("18" if postgres.name == "postgres18" else debian_version())


def test_pgbouncer_stands_before_one(pgbouncer: PgBouncer) -> None:
    assert str(ask(pgbouncer, "SHOW server_version")).startswith(debian_version())


@pytest.mark.parametrize("kind", [DebianPostgreSQL, PostgreSQL18])
def test_what_was_written_survives_a_kill(
    kind: type[PostgreSQL], start_server: StartServer
) -> None:
    server = start_server(kind)
    with psycopg.connect(server.url()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    pid = server.pid
    server.kill()
    assert not start_time(pid)
    with pytest.raises(psycopg.OperationalError):
        ask(server, "SELECT 1")
    server.restart()
    assert ask(server, "SELECT one FROM kept") == 1


def test_a_frozen_server_answers_when_it_is_thawed(start_server: StartServer) -> None:
    server = start_server(DebianPostgreSQL)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        server.freeze()
        connection.pgconn.send_query(b"SELECT 1")
        connection.pgconn.flush()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.url(), connect_timeout=2)
        assert connection.pgconn.is_busy()
        server.thaw()
        while (result := connection.pgconn.get_result()) is not None:
            assert result.get_value(0, 0) == b"1"


def test_a_stopped_server_leaves_nothing(start_server: StartServer) -> None:
    server = start_server(DebianPostgreSQL)
    directory = server.directory
    server.stop()
    assert not directory.exists()

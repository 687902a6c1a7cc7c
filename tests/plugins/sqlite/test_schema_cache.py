"""Limits are kept until the schema changes, by whomever."""

import sqlite3
from contextlib import closing

import pytest

from prism_plugins.sqlite.schema_cache import MOST_STATEMENTS, SchemaCache
from prism_plugins.sqlite.statement_limits import QUADRATIC_BYTES, UNKNOWN, VALUE_BYTES

VIEW = "CREATE VIEW v AS SELECT {} AS x FROM t"
SELECT = "SELECT x FROM v"


@pytest.fixture
def connection(tmp_path):
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute(VIEW.format("a"))
        yield connection


@pytest.fixture
def limit_of(connection):
    cache = SchemaCache()

    def limit_of(sql, params=()):
        cache.refresh(connection)
        return cache.limits(connection, "query", sql, params).value

    limit_of.cache = cache
    return limit_of


def test_a_change_of_the_schema_is_noticed(connection, limit_of, tmp_path):
    assert limit_of(SELECT) == limit_of(SELECT) == VALUE_BYTES
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as other:
        other.execute("DROP VIEW v")
        other.execute(VIEW.format("instr(a, 'x')"))
    assert limit_of(SELECT) == QUADRATIC_BYTES
    assert limit_of.cache.shadows == set()
    connection.execute("CREATE VIRTUAL TABLE F USING fts5(x)")
    limit_of(SELECT)
    assert "f_data" in limit_of.cache.shadows


def test_what_is_undone_is_forgotten(connection, limit_of):
    connection.execute("BEGIN")
    connection.execute("CREATE VIEW w AS SELECT a AS x FROM t")
    assert limit_of("SELECT x FROM w") == VALUE_BYTES
    connection.execute("ROLLBACK")
    limit_of.cache.forget()
    connection.execute("CREATE VIEW w AS SELECT replace(a, 'x', 'y') AS x FROM t")
    assert limit_of("SELECT x FROM w") == QUADRATIC_BYTES


def test_what_does_not_explain_gets_little(limit_of):
    assert limit_of("EXPLAIN SELECT 1") == UNKNOWN.value
    assert limit_of("SELECT * FROM nowhere") == UNKNOWN.value


def test_only_some_are_kept(limit_of):
    for number in range(MOST_STATEMENTS + 10):
        limit_of(f"SELECT {number}")
    assert len(limit_of.cache._limits) == 10

"""How large values may be, by what SQLite compiled."""

import sqlite3
from contextlib import closing

import pytest

from prism_plugins.sqlite.statement_limits import (
    LIKE_PATTERN_BYTES,
    QUADRATIC_BYTES,
    RESULT_ROW_BYTES,
    VALUE_BYTES,
    limits_of,
)


@pytest.fixture
def limits():
    with closing(sqlite3.connect(":memory:")) as connection:
        columns = ", ".join(f"c{number}" for number in range(100))
        connection.execute(f"CREATE TABLE wide ({columns})")
        connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        connection.execute("CREATE INDEX i ON t (b)")
        connection.execute("CREATE VIEW v AS SELECT instr(b, 'x') AS found FROM t")
        connection.execute(
            "CREATE TRIGGER g AFTER DELETE ON t BEGIN SELECT replace(old.b, 'a', 'b'); END"
        )
        yield lambda sql: limits_of(connection.execute(f"EXPLAIN {sql}"))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT * FROM t WHERE b > 'x' ORDER BY a",
        "INSERT INTO t(b) VALUES ('x'), ('y') RETURNING a",
        "UPDATE t SET b = b || 'x'",
        "SELECT t.b, u.b, count(*) FROM t JOIN t AS u USING (a) GROUP BY t.b ORDER BY 3",
        "UPDATE wide SET c1 = 5 WHERE c2 = 6",
        "CREATE TABLE x (a)",
    ],
)
def test_ordinary_statements_may_have_the_largest_values(limits, sql):
    assert limits(sql) == (VALUE_BYTES, LIKE_PATTERN_BYTES, False)


def test_the_wider_a_result_the_smaller_a_value(limits):
    assert limits("SELECT * FROM wide").value == RESULT_ROW_BYTES // 100
    sixteen = ", ".join(f"c{number}" for number in range(16))
    assert limits(f"SELECT {sixteen} FROM wide").value == VALUE_BYTES


@pytest.mark.parametrize("sql", ["SELECT instr(b, 'x') FROM t", "SELECT * FROM v", "DELETE FROM t"])
def test_functions_that_take_the_square_are_found_wherever_they_are(limits, sql):
    assert limits(sql).value == QUADRATIC_BYTES


def test_the_more_functions_the_smaller_a_value(limits):
    four = "+".join(["instr(b, 'x' || a)"] * 4)
    assert limits(f"SELECT {four} FROM t").value == QUADRATIC_BYTES // 2
    many = "+".join(f"length(hex(zeroblob({number})))" for number in range(900))
    assert limits(f"SELECT {many}").value < VALUE_BYTES // 8
    five = " OR ".join(f"b LIKE '%' || {number}" for number in range(5))
    assert limits(f"SELECT 1 FROM t WHERE {five}").pattern == LIKE_PATTERN_BYTES // 5

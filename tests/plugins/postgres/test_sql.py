import math
from contextlib import aclosing
from typing import Any

import pytest
import trio

from prism.contract.status import StatusCode
from prism_plugins.postgres.placeholders import Parsed

from .conftest import Database, Running, eventually, refused, status_of


@pytest.fixture
async def table(pg: Running) -> Any:
    """A table of its own for each test."""
    await pg.call("execute", sql="CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL)")
    yield pg
    await pg.call("execute", sql="DROP TABLE t")


async def test_on_both_versions(each_database: Database) -> None:
    async with each_database.plugin() as pg:
        await pg.call("execute", sql="CREATE TABLE IF NOT EXISTS v (a int)")
        inserted = await pg.call("execute", sql="INSERT INTO v VALUES ($1), ($2)", params=[1, 2])
        assert inserted == {"rows_affected": 2}
        found = await pg.call("query", sql="SELECT a FROM v ORDER BY a LIMIT :n", params={"n": 1})
        assert found == {"columns": ["a"], "rows": [[1]], "truncated": False}


async def test_rows_of_execute(table: Running) -> None:
    sql = "INSERT INTO t VALUES ($1, $2) RETURNING id, name"
    assert await table.call("execute", sql=sql, params=[1, "x"]) == {
        "rows_affected": 1, "columns": ["id", "name"], "rows": [[1, "x"]], "truncated": False,
    }  # fmt: skip
    sql = "INSERT INTO t SELECT g, 'y' FROM generate_series(2, 9) g RETURNING id"
    result = await table.call("execute", sql=sql, max_rows=3)
    assert (result["rows_affected"], len(result["rows"]), result["truncated"]) == (8, 3, True)
    assert await table.call("execute", sql="SELECT * FROM t WHERE id < 0") == {
        "rows_affected": 0, "columns": ["id", "name"], "rows": [], "truncated": False,
    }  # fmt: skip
    made = await table.call("execute", sql="CREATE TEMP TABLE u AS SELECT * FROM t")
    assert made == {"rows_affected": 9}


@pytest.mark.parametrize(
    ("sql", "params", "words"),
    [
        ("SELECT $1::int", [], "1 parameters, and params 0"),
        ("SELECT 1", [1], "0 parameters, and params 1"),
        ("SELECT $1::int", {"a": 1}, "must be a list"),
        ("SELECT :a::int", [1], "must be an object"),
        ("SELECT :a::int", {"b": 1}, "lacks 'a'"),
        ("SELECT :a::int", {"a": 1, "b": 1}, "'b'"),
        ("SELECT $1::int", [[1]], "$1 is a list"),
        ("SELECT :a::int", {"a": {"b": 1}}, ":a is an object"),
        ("SELECT $1::int", [{"value": "AA==", "encoding": "base64"}], "$1 is binary"),
        ("SELECT $1::bytea", [{"value": "?", "encoding": "base64"}], "base64"),
        ("SELECT $1::text", ["a\0b"], "U+0000"),
        ("SELECT $1::jsonb", ["a\0b"], "\\u0000"),
        ("SELECT $1::int", ["x"], 'invalid input syntax for type integer: "x"'),
        ("SELECT '\0'", [], "U+0000"),
        ("SELEC 1", [], "at character 1"),
        ("SELECT 1; SELECT 2", [], "multiple commands"),
        ("", [], "length"),
    ],
)
async def test_what_is_wrong_is_said(pg: Running, sql: str, params: Any, words: str) -> None:
    error = await refused(pg.call("query", sql=sql, params=params))
    assert error.status is StatusCode.INVALID_ARGUMENT
    assert words in error.detail
    assert pg.plugin.pool.count == 1
    assert pg.plugin.pool.idle == 1  # at once: no cancel was needed


async def test_bound_parameters_are_values_whatever_they_look_like(table: Running) -> None:
    name = "'); DROP TABLE t; -- :a $1"
    await table.call("execute", sql="INSERT INTO t VALUES (1, :name)", params={"name": name})
    assert (await table.call("query", sql="SELECT name FROM t"))["rows"] == [[name]]


async def test_query_only_reads(table: Running) -> None:
    for sql in (
        "INSERT INTO t VALUES (1, 'x')",
        "WITH a AS (DELETE FROM t RETURNING 1) SELECT * FROM a",
        "CREATE TABLE u (a int)",
        "SELECT nextval('pg_catalog.x')",
    ):
        assert await status_of(table.call("query", sql=sql)) in (
            StatusCode.PERMISSION_DENIED,
            StatusCode.NOT_FOUND,
        )
    error = await refused(table.call("query", sql="INSERT INTO t VALUES (1, 'x')"))
    assert "use 'execute'" in error.detail


@pytest.mark.parametrize(
    "sql",
    ["BEGIN", "commit", "/* a */ SET search_path = x", "LISTEN a", "PREPARE a AS SELECT 1",
     "DECLARE a CURSOR FOR SELECT 1", "DISCARD ALL", "ROLLBACK"],
)  # fmt: skip
async def test_statements_about_sessions_are_refused(pg: Running, sql: str) -> None:
    assert await status_of(pg.call("execute", sql=sql)) is StatusCode.PERMISSION_DENIED


async def test_copy_is_refused_and_holds_nobody_up(
    table: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sql in ("COPY t FROM STDIN", "/* a */ copy t TO STDOUT"):
        for operation in ("query", "execute"):
            status = await status_of(table.call(operation, sql=sql))
            assert status is StatusCode.UNIMPLEMENTED
    # And where a statement were not known for what it is:
    monkeypatch.setattr("prism_plugins.postgres.placeholders.parse", parsed_as_select)
    with trio.fail_after(60):
        assert await status_of(table.call("execute", sql=sql)) is StatusCode.UNIMPLEMENTED
        monkeypatch.undo()
        assert (await table.call("query", sql="SELECT 1"))["rows"] == [[1]]


def parsed_as_select(sql: str) -> Parsed:
    return Parsed(sql, (), False, "select")


async def test_nothing_of_a_session_is_left_to_the_next_call(database: Database) -> None:
    async with database.plugin(pool_size=1) as pg:
        for operation in ("query", "execute"):
            await pg.call(operation, sql="SELECT set_config('search_path', 'nowhere', false)")
            await pg.call(operation, sql="SELECT set_config('timezone', 'Asia/Tokyo', false)")
            await pg.call(operation, sql="SELECT set_config('role', 'pg_monitor', false)")
            await pg.call(operation, sql="SELECT pg_advisory_lock(1)")
            shown = await pg.call(
                "query",
                sql="SELECT current_setting('search_path'), current_setting('timezone'), "
                "current_user::text",
            )
            assert shown["rows"] == [['"$user", public', "UTC", "prism"]]
            await pg.call("query", sql="SELECT 1")
            locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            assert database.ask(locks) == [(0,)], operation
        assert database.ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
        await pg.call("execute", sql="CREATE TEMP TABLE mine (a int)")
        assert await status_of(pg.call("query", sql="SELECT * FROM mine")) is StatusCode.NOT_FOUND
        await pg.call(
            "execute",
            sql="CREATE FUNCTION maker() RETURNS void LANGUAGE plpgsql AS "
            "$$ BEGIN CREATE TEMP TABLE made_inside (a int); END $$",
        )
        for _ in range(2):
            await pg.call("execute", sql="SELECT maker()")


async def test_a_result_is_cut(pg: Running) -> None:
    sql = "SELECT generate_series(1, 100000000)"  # one after the other; not so after FROM
    with trio.fail_after(60):
        result = await pg.call("query", sql=sql, max_rows=200)
    assert result["rows"] == [[number] for number in range(1, 201)]
    assert result["truncated"]
    assert (await pg.call("query", sql=sql))["rows"][-1] == [1000]  # max_rows
    wide = await pg.call("query", sql="SELECT repeat('x', 100000) FROM generate_series(1, 50)")
    assert wide["truncated"]
    assert 5 <= len(wide["rows"]) <= 7
    exact = await pg.call("query", sql="SELECT g FROM generate_series(1, 200) g", max_rows=200)
    assert not exact["truncated"]


async def test_a_stream_gives_all_rows(pg: Running) -> None:
    sql = "SELECT g, repeat('x', g % 2000) FROM generate_series(1, $1) g"
    messages = [message async for message in pg.stream("query", sql=sql, params=[5000])]
    assert messages[0] == {"columns": ["g", "repeat"]}
    rows = [row for message in messages[1:] for row in message["rows"]]
    assert [row[0] for row in rows] == list(range(1, 5001))
    assert max(len(str(message)) for message in messages) < 1024 * 1024
    assert pg.plugin.pool.idle == pg.plugin.pool.count


async def test_a_stream_that_is_left_gives_its_connection_back(pg: Running) -> None:
    stream = pg.stream("query", sql="SELECT repeat('x', 1000), generate_series(1, 10000000)")
    async with aclosing(stream):
        await anext(stream)
        await anext(stream)
    await eventually(lambda: pg.plugin.pool.idle == pg.plugin.pool.count == 1)


async def test_other_statements_as_streams(pg: Running) -> None:
    messages = [message async for message in pg.stream("query", sql="SHOW timezone")]
    assert messages == [{"columns": ["TimeZone"]}, {"rows": [["UTC"]]}]
    assert [m async for m in pg.stream("query", sql="SELECT 1 WHERE false")] == [
        {"columns": ["?column?"]}
    ]
    sql = "SELECT 1 / (3 - g) FROM generate_series(1, 5) g"
    with pytest.raises(Exception, match="division by zero"):
        [message async for message in pg.stream("query", sql=sql)]
    assert pg.plugin.pool.idle == pg.plugin.pool.count


async def test_execute_many(table: Running) -> None:
    sql = "INSERT INTO t VALUES (:id, :name)"
    sets = [{"id": number, "name": "x"} for number in range(1000)]
    assert await table.call("execute_many", sql=sql, params_list=sets) == {"rows_affected": 1000}
    assert await table.call("execute_many", sql=sql, params_list=[]) == {"rows_affected": 0}
    more = [{"id": 5000, "name": "x"}, {"id": 7, "name": "x"}]
    error = await refused(table.call("execute_many", sql=sql, params_list=more))
    assert error.status is StatusCode.ALREADY_EXISTS
    assert error.detail.startswith("params_list[1]: ")
    error = await refused(
        table.call("execute_many", sql=sql, params_list=[*sets, {"id": [1], "name": "x"}])
    )
    assert error.detail.startswith("params_list[")
    count = await table.call("query", sql="SELECT count(*) FROM t")
    assert count["rows"] == [[1000]]


async def test_a_transaction_is_all_or_nothing(table: Running) -> None:
    first = {"sql": "INSERT INTO t VALUES (1, 'a')"}
    result = await table.call(
        "transaction",
        statements=[
            first,
            {"sql": "UPDATE t SET name = :n WHERE id = :id", "params": {"n": "b", "id": 1},
             "expect_rows": 1},
            {"sql": "SELECT * FROM t", "expect_rows": 1},
        ],
    )  # fmt: skip
    assert [each["rows_affected"] for each in result["results"]] == [1, 1, 0]
    assert result["results"][2]["rows"] == [[1, "b"]]

    insert = {"sql": "INSERT INTO t VALUES (2, 'c')"}
    update = {"sql": "UPDATE t SET name = 'd' WHERE id = 99", "expect_rows": 1}
    error = await refused(table.call("transaction", statements=[insert, update]))
    assert error.status is StatusCode.ABORTED
    assert error.detail == "statements[1]: 0 rows where expect_rows is 1; nothing was changed"
    error = await refused(table.call("transaction", statements=[insert, first]))
    assert error.status is StatusCode.ALREADY_EXISTS
    assert error.detail.startswith("statements[1]: ")
    assert (await table.call("query", sql="SELECT count(*) FROM t"))["rows"] == [[1]]
    assert table.plugin.pool.idle == table.plugin.pool.count == 1


async def test_a_table_that_a_transaction_makes_can_be_used_in_it(pg: Running) -> None:
    await pg.call(
        "transaction",
        statements=[
            {"sql": "CREATE TABLE made (a int)"},
            {"sql": "INSERT INTO made VALUES ($1)", "params": [1]},
            {"sql": "DROP TABLE made"},
        ],
    )


async def test_serialization_failures_are_aborted(table: Running) -> None:
    """Two transactions each read what the other writes; one of them is to try again."""
    await table.call("execute", sql="INSERT INTO t VALUES (1, 'a'), (2, 'a')")
    statuses = []

    async def run(read: int, write: int) -> None:
        statements = [
            {"sql": f"SELECT name FROM t WHERE id = {read}"},
            {"sql": "SELECT pg_sleep(0.2)"},
            {"sql": f"UPDATE t SET name = 'b' WHERE id = {write}"},
        ]
        try:
            await table.call("transaction", statements=statements, isolation="serializable")
            statuses.append(StatusCode.OK)
        except Exception as error:
            statuses.append(error.status)  # type: ignore[attr-defined] # a PluginError

    for _ in range(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, 1, 2)
            nursery.start_soon(run, 2, 1)
        if StatusCode.ABORTED in statuses:
            break
    assert set(statuses) == {StatusCode.OK, StatusCode.ABORTED}


async def test_a_schema_that_changes_needs_no_restart(table: Running) -> None:
    await table.call("execute", sql="INSERT INTO t VALUES (1, 'a')")
    select = {"sql": "SELECT * FROM t"}
    assert (await table.call("query", **select))["columns"] == ["id", "name"]
    await table.call("execute", sql="ALTER TABLE t ADD more int")
    assert (await table.call("query", **select))["columns"] == ["id", "name", "more"]
    await table.call("execute", sql="ALTER TABLE t ALTER more TYPE text")
    result = await table.call("transaction", statements=[select])
    assert result["results"][0]["rows"] == [[1, "a", None]]


async def test_describe(table: Running) -> None:
    tables = await table.call("describe")
    assert {"schema": "public", "name": "t", "kind": "table"} in tables["tables"]
    described = await table.call("describe", table="public.t")
    assert described["columns"] == [
        {"name": "id", "type": "integer", "nullable": False, "default": None},
        {"name": "name", "type": "text", "nullable": False, "default": None},
    ]
    assert [key["definition"] for key in described["keys"] if key["kind"] == "primary key"] == [
        "PRIMARY KEY (id)"
    ]
    assert await status_of(table.call("describe", table="nope")) is StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("sql", "status"),
    [
        ("SELECT * FROM nowhere", StatusCode.NOT_FOUND),
        ("SELECT * FROM nowhere.t", StatusCode.NOT_FOUND),
        ("CREATE TABLE t (a int)", StatusCode.ALREADY_EXISTS),
        ("INSERT INTO t VALUES (1, NULL)", StatusCode.FAILED_PRECONDITION),
        ("SELECT 2147483647::int4 + 1", StatusCode.OUT_OF_RANGE),
        ("SELECT 1/0", StatusCode.INVALID_ARGUMENT),
        ("SELECT (SELECT g FROM generate_series(1, 2) g)", StatusCode.FAILED_PRECONDITION),
        ("DO $$ BEGIN RAISE EXCEPTION 'no'; END $$", StatusCode.FAILED_PRECONDITION),
        ("DO $$ BEGIN RAISE serialization_failure; END $$", StatusCode.ABORTED),
        ("DO $$ BEGIN RAISE disk_full; END $$", StatusCode.RESOURCE_EXHAUSTED),
        ("DO $$ BEGIN RAISE insufficient_privilege; END $$", StatusCode.PERMISSION_DENIED),
        ("DO $$ BEGIN RAISE data_corrupted; END $$", StatusCode.DATA_LOSS),
        ("DO $$ BEGIN RAISE internal_error; END $$", StatusCode.INTERNAL),
        ("DO $$ BEGIN RAISE lock_not_available; END $$", StatusCode.ABORTED),
    ],
)
async def test_statuses(table: Running, sql: str, status: StatusCode) -> None:
    assert await status_of(table.call("execute", sql=sql)) is status


@pytest.mark.parametrize(("mode", "allowed"), [("off", []), ("read", ["query", "describe"])])
async def test_sql_can_be_switched_off(database: Database, mode: str, allowed: list[str]) -> None:
    statement = {"sql": "SELECT 1"}
    calls = {
        "query": statement, "describe": {}, "execute": statement,
        "execute_many": statement | {"params_list": [[]]},
        "transaction": {"statements": [statement]},
    }  # fmt: skip
    async with database.plugin(sql=mode) as pg:
        for name, params in calls.items():
            if name in allowed:
                await pg.call(name, **params)
            else:
                error = await refused(pg.call(name, **params))
                assert error.status is StatusCode.PERMISSION_DENIED
                assert f"config.sql: {mode}" in error.detail


async def test_large_parameters_and_large_rows_at_the_same_time(pg: Running) -> None:
    """More than the kernel's buffers hold in both directions: nobody may wait for the other."""
    many = [[math.pi] * 200_000] * 4
    sql = "SELECT sum(x)::text, repeat('y', 3000000) FROM unnest($1::float8[]) x"
    statements = [{"sql": sql, "params": [each]} for each in many]
    with trio.fail_after(120):
        result = await pg.call("transaction", statements=statements)
    assert len(result["results"]) == 4


async def test_statements_are_kept_up_to_the_size_of_the_cache(database: Database) -> None:
    async with database.plugin(pool_size=1, statement_cache_size=3) as pg:
        for number in range(8):
            await pg.call("query", sql=f"SELECT {number}")
        sql = "SELECT count(*) FROM pg_prepared_statements"
        assert (await pg.call("query", sql=sql))["rows"] == [[3]]

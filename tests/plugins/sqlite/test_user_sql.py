import sqlite3
from contextlib import closing

import pytest
import trio

from prism.sdk import PluginError, StatusCode
from prism_plugins.sqlite import job as job_module

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


@pytest.fixture
async def table(sqlite):
    await sqlite.call("execute", sql="CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    return sqlite


async def test_execute_and_query(table) -> None:
    sql = "INSERT INTO t VALUES (?, ?), (?, ?)"
    assert await table.call("execute", sql=sql, params=[1, "x", 2, None]) == {"rows_affected": 2}
    assert await table.call("query", sql="SELECT * FROM t WHERE a = :a", params={"a": 1}) == {
        "columns": ["a", "b"],
        "rows": [[1, "x"]],
        "truncated": False,
    }
    assert await table.call("execute", sql="UPDATE t SET b = 5") == {"rows_affected": 2}
    assert await table.call("execute", sql="DELETE FROM t WHERE a = 1 RETURNING b") == {
        "rows_affected": 1,
        "columns": ["b"],
        "rows": [[5]],
        "truncated": False,
    }


async def test_bytes(table) -> None:
    cell = {"value": "AAE=", "encoding": "base64"}
    await table.call("execute", sql="INSERT INTO t VALUES (1, ?)", params=[cell])
    assert (await table.call("query", sql="SELECT b FROM t"))["rows"] == [[cell]]
    raw = await table.request("query", {"sql": "SELECT b FROM t"}, binary=True)
    assert raw["rows"] == [[b"\0\1"]]


async def test_rows_are_limited(table) -> None:
    numbers = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n) SELECT i FROM n"
    result = await table.call("query", sql=numbers, limit=3)
    assert result == {"columns": ["i"], "rows": [[1], [2], [3]], "truncated": True}
    assert len((await table.call("query", sql=numbers))["rows"]) == table.plugin.config.max_rows
    large = await table.call("query", sql=f"SELECT i, hex(zeroblob(100000)) FROM ({numbers})")
    assert large["truncated"]
    assert len(large["rows"]) == 3


async def test_a_row_is_limited(table) -> None:
    """A value may have 1 MiB, and a row twice that: more would hold up everybody else."""
    half = "zeroblob(1048576)"
    large = await table.request("query", {"sql": f"SELECT 1, {half}"}, binary=True)
    assert large["rows"] == [[1, bytes(1024 * 1024)]]
    with pytest.raises(PluginError, match=r"row 2 has \d+ bytes; the limit is 2097152") as raised:
        await table.call("query", sql=f"SELECT 1, 2, 3 UNION ALL SELECT {half}, {half}, 1")
    assert raised.value.status is StatusCode.RESOURCE_EXHAUSTED
    insert = f"INSERT INTO t VALUES (1, 1) RETURNING {half}, {half}, a"
    with pytest.raises(PluginError, match="too large"):
        await table.call("execute", sql=insert)
    assert (await table.call("query", sql="SELECT count(*) FROM t"))["rows"] == [[0]]


async def test_what_a_row_may_have_is_bounded_before_it_is_read(table) -> None:
    """100 columns of 1 MB would be in memory twice before anybody could refuse them."""
    numbers = "WITH c(b) AS (SELECT randomblob(1000000)) SELECT b"
    wide = numbers + ", b" * 99 + " FROM c"
    with pytest.raises(PluginError, match="may have 167772 bytes") as raised:
        await table.call("query", sql=wide)
    assert raised.value.status is StatusCode.INVALID_ARGUMENT
    assert (await table.call("query", sql=f"SELECT length(b) FROM ({numbers}, 1 FROM c)"))["rows"]


@pytest.mark.parametrize(
    ("statement", "affected"),
    [
        ("INSERT INTO t(b) SELECT value FROM json_each(?) RETURNING a", 1500),
        ("WITH c AS (SELECT value FROM json_each(?)) INSERT INTO t(b) SELECT * FROM c", 1500),
        (
            "WITH c AS (SELECT value FROM json_each(?)) "
            "INSERT INTO t(b) SELECT * FROM c RETURNING a",
            1500,
        ),
        ("UPDATE t SET b = 1 WHERE a < json_array_length(?) RETURNING a", 0),
        ("CREATE TABLE copied AS SELECT value FROM json_each(?)", 0),
    ],
)
async def test_rows_affected(table, statement: str, affected: int) -> None:
    many = str(list(range(1500)))
    done = await table.call("execute", sql=statement.replace("?", f"'{many}'"))
    assert done["rows_affected"] == affected
    if "RETURNING" in statement:
        assert done["truncated"] == (affected > 1000)
        assert len(done["rows"]) == min(affected, 1000)
    done = await table.call("execute", sql="DELETE FROM t RETURNING a", limit=1)
    assert done["rows_affected"] == affected


async def test_rows_affected_by_definitions_and_triggers(table) -> None:
    async def affected(sql: str) -> int:
        return (await table.call("execute", sql=sql))["rows_affected"]

    assert await affected("INSERT INTO t VALUES (1, 1), (2, 2)") == 2
    assert await affected("SELECT * FROM t") == 0
    assert await affected("CREATE VIRTUAL TABLE f USING fts5(x)") == 0
    assert await affected("INSERT INTO f VALUES ('a'), ('b'), ('c')") == 3
    assert await affected("DROP TABLE f") == 0
    assert await affected("CREATE TABLE log (x)") == 0
    trigger = "AFTER UPDATE ON t BEGIN INSERT INTO log VALUES (1), (2); END"
    assert await affected(f"CREATE TRIGGER g {trigger}") == 0
    assert await affected("UPDATE t SET b = 3 WHERE a = 1") == 1
    assert await affected("UPDATE t SET b = 3 WHERE a = 9") == 0


async def test_what_json_cannot_hold_comes_encoded(table) -> None:
    sql = "INSERT INTO t VALUES (1, ?), (2, ?), (9007199254740993, CAST(x'ff61' AS TEXT))"
    infinite = [{"value": name, "encoding": "float"} for name in ("Infinity", "-Infinity")]
    await table.call("execute", sql=sql, params=infinite)
    select = "SELECT a, b, 9e999 - 9e999 FROM t"
    assert (await table.call("query", sql=select))["rows"] == [
        [1, infinite[0], None],
        [2, infinite[1], None],
        [9007199254740993, {"value": "/2E=", "encoding": "base64"}, None],
    ]
    raw = await table.request("query", {"sql": select}, binary=True)
    assert [row[1] for row in raw["rows"]] == [float("inf"), float("-inf"), b"\xffa"]
    returned = await table.call("execute", sql="DELETE FROM t WHERE a = 2 RETURNING b")
    assert returned["rows"] == [[infinite[1]]]
    assert (await table.call("query", sql="SELECT 'a' || char(0) || 'b'"))["rows"] == [["a\0b"]]


async def test_a_wide_table_that_was_there_before_stays_usable(open_plugin, path) -> None:
    columns = ", ".join(f"c{number}" for number in range(150))
    with closing(sqlite3.connect(path)) as before:
        before.execute(f"CREATE TABLE wide ({columns})")
        before.execute("CREATE VIEW broken AS SELECT * FROM nowhere")
    async with open_plugin() as sqlite:
        await sqlite.call("execute", sql="INSERT INTO wide (c149) VALUES (5)")
        assert (await sqlite.call("query", sql="SELECT * FROM wide"))["rows"][0][149] == 5
        with pytest.raises(PluginError, match="too many columns"):
            await sqlite.call("execute", sql=f"CREATE TABLE wider ({columns}, c150)")


@pytest.mark.parametrize(
    ("sql", "params", "words"),
    [
        ("SELEC 1", [], "syntax error"),
        ("SELECT * FROM nowhere", [], "no such table"),
        ("SELECT ?", [], "binding"),
        ("SELECT 1; SELECT 2", [], "one statement"),
        ("SELECT ?", [2**70], "too large"),
        ("SELECT ?", [[1]], "a parameter must be"),
        ("SELECT ?", [{"value": "*", "encoding": "base64"}], "a parameter must be"),
        ("SELECT ?", [{"value": "YQ==", "encoding": "rot13"}], "a parameter must be"),
        ("SELECT ?", [{"value": "NaN", "encoding": "float"}], "a parameter must be"),
        ("SELECT ?", [{"value": ["Infinity"], "encoding": "float"}], "a parameter must be"),
        ("SELECT '\0'", [], "null character"),
        ("SELECT 1 /*", [], "syntax error"),
        ("SELECT zeroblob(1048577)", [], "too large"),
        ("SELECT 'a' LIKE printf('%.*c', 201, '%')", [], "too complex"),
        ("SELECT 'a' GLOB printf('%.*c', 201, '*')", [], "too complex"),
        ("SELECT printf('%.*c', 100000000, 'x')", [], "too large"),
        ("SELECT instr(zeroblob(262145), 'x')", [], "too large"),
        (f"SELECT {', '.join('1' * 101)}", [], "too many columns"),
    ],
)
async def test_wrong_statements(table, sql: str, params: list[object], words: str) -> None:
    with pytest.raises(PluginError, match=words) as raised:
        await table.call("query", sql=sql, params=params)
    assert raised.value.status is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("statements", "query", "rows"),
    [
        ([], "SELECT value FROM json_each('[1,2]')", [[1], [2]]),
        ([], "SELECT name FROM sqlite_schema WHERE name = 't'", [["t"]]),
        ([], "SELECT count(*) > 5 FROM sqlite_schema", [[1]]),
        (["ALTER TABLE t RENAME TO u"], "SELECT count(*) FROM u", [[0]]),
        (
            ["ALTER TABLE t ADD COLUMN c DEFAULT 7", "INSERT INTO t(a) VALUES (1)"],
            "SELECT c FROM t",
            [[7]],
        ),
        (["CREATE INDEX i ON t (b)", "DROP INDEX i"], "SELECT count(*) FROM t", [[0]]),
        (["CREATE VIEW v AS SELECT 5 AS x"], "SELECT x FROM v", [[5]]),
        (
            [
                "CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END",
                "INSERT INTO t VALUES (1, 1)",
            ],
            "SELECT count(*) FROM t",
            [[0]],
        ),
        (
            [
                "CREATE TABLE n (a INTEGER PRIMARY KEY AUTOINCREMENT)",
                "INSERT INTO n DEFAULT VALUES",
            ],
            "SELECT seq FROM sqlite_sequence",
            [[1]],
        ),
        (
            ["CREATE VIRTUAL TABLE f USING fts5(x)", "INSERT INTO f VALUES ('hello there')"],
            "SELECT x FROM f WHERE f MATCH 'there'",
            [["hello there"]],
        ),
        (["CREATE VIRTUAL TABLE f USING fts5(x)", "DROP TABLE f"], "SELECT 1", [[1]]),
    ],
)
async def test_what_is_allowed(table, statements: list[str], query: str, rows: object) -> None:
    for statement in statements:
        await table.call("execute", sql=statement)
    assert (await table.call("query", sql=query))["rows"] == rows


async def test_constraints(table) -> None:
    await table.call("execute", sql="CREATE TABLE c (a UNIQUE, b CHECK (b > 0))")
    await table.call("execute", sql="INSERT INTO c VALUES (1, 1)")
    with pytest.raises(PluginError, match=r"UNIQUE constraint failed: c\.a") as raised:
        await table.call("execute", sql="INSERT INTO c VALUES (1, 1)")
    assert raised.value.status is StatusCode.ALREADY_EXISTS
    with pytest.raises(PluginError) as raised:
        await table.call("execute", sql="INSERT INTO c VALUES (2, 0)")
    assert raised.value.status is StatusCode.FAILED_PRECONDITION


async def test_a_failed_statement_leaves_nothing(table) -> None:
    await table.call("execute", sql="INSERT INTO t VALUES (3, 3)")
    with pytest.raises(PluginError):
        await table.call("execute", sql="INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")
    assert (await table.call("query", sql="SELECT a FROM t"))["rows"] == [[3]]


async def test_the_event_loop_goes_on_while_a_query_runs(table) -> None:
    ticks = 0
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: table.call("query", sql=ENDLESS))
            for _ in range(100):
                await trio.lowlevel.checkpoint()
                ticks += 1
            if table.plugin.config.path != ":memory:":
                await table.call("set", key="a", value=1)
                assert (await table.call("get", key="a"))["value"] == 1
            scope.cancel()
    assert ticks == 100
    assert scope.cancelled_caught
    assert (await table.call("query", sql="SELECT 1"))["rows"] == [[1]]


async def test_queries_wait_for_a_reader_and_all_come_back(open_plugin) -> None:
    async with open_plugin(readers=2) as sqlite:
        for _ in range(3):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    for _ in range(5):
                        nursery.start_soon(lambda: sqlite.call("query", sql=ENDLESS))
                    await sqlite.call("get", key="a")
                    scope.cancel()
        assert len(sqlite.plugin.database._pool) == 2
        assert (await sqlite.call("query", sql="SELECT 1"))["rows"] == [[1]]


@pytest.mark.parametrize("operation", ["query", "execute"])
async def test_a_statement_has_a_time_limit(open_plugin, operation: str) -> None:
    async with open_plugin(sql_timeout_seconds=0.02) as sqlite:
        with pytest.raises(PluginError, match="sql_timeout_seconds") as raised:
            await sqlite.call(operation, sql=ENDLESS)
        assert raised.value.status is StatusCode.DEADLINE_EXCEEDED


async def test_a_cancelled_execute_undoes_itself_and_nobody_else(open_plugin) -> None:
    endless = f"INSERT INTO t VALUES (1), (2), (({ENDLESS}))"
    async with open_plugin() as sqlite:
        await sqlite.call("execute", sql="CREATE TABLE t (a)")
        async with trio.open_nursery() as others:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    # the first leads a batch; the second runs in the next, with the others
                    nursery.start_soon(lambda: sqlite.call("execute", sql=endless))
                    await trio.testing.wait_all_tasks_blocked()
                    others.start_soon(lambda: sqlite.call("set", key="before", value=1))
                    nursery.start_soon(lambda: sqlite.call("execute", sql=endless))
                    await trio.testing.wait_all_tasks_blocked()
                    others.start_soon(lambda: sqlite.call("set", key="after", value=1))
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
        assert await sqlite.call("count") == {"count": 2}
        assert (await sqlite.call("query", sql="SELECT count(*) FROM t"))["rows"] == [[0]]


SLOW = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1e9) SELECT sum({}) FROM n"
FUNCTIONS = {
    "instr": "instr(hex(zeroblob(131000)), hex(zeroblob(65000)) || '1')",
    "hex": "length(hex(randomblob(500000 + i % 7)))",
    "like": "hex(zeroblob(524000 + i % 7)) LIKE '%' || hex(zeroblob(90)) || '1'",
}


@pytest.mark.parametrize("operation", ["query", "execute"])
@pytest.mark.parametrize("function", FUNCTIONS)
async def test_functions_that_take_long_are_interrupted_between_rows(
    open_plugin, operation: str, function: str
) -> None:
    """SQLite asks whether to go on every 10,000 instructions: here, hours apart."""
    sql = SLOW.format(FUNCTIONS[function])
    async with open_plugin(sql_timeout_seconds=0.2) as sqlite:
        with trio.fail_after(60), pytest.raises(PluginError, match="sql_timeout_seconds"):
            await sqlite.call(operation, sql=sql)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: sqlite.call(operation, sql=sql))
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        assert (await sqlite.call("query", sql="SELECT 1"))["rows"] == [[1]]


@pytest.mark.parametrize(
    "sql",
    [
        "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500) "
        "SELECT i FROM n ORDER BY randomblob(100000)",
        "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500) "
        "SELECT count(DISTINCT randomblob(100000)) FROM n",
        "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500) "
        "INSERT INTO t(b) SELECT randomblob(100000) FROM n",
    ],
)
async def test_what_a_statement_writes_is_bounded(open_plugin, sql: str) -> None:
    operation = "execute" if "INSERT" in sql else "query"
    async with open_plugin(max_sql_write_bytes=4 * 1024 * 1024) as sqlite:
        await sqlite.call("execute", sql="CREATE TABLE t (a, b)")
        endless = sql.replace("500", "1e9")
        with trio.fail_after(60), pytest.raises(PluginError, match="max_sql_write_bytes") as raised:
            await sqlite.call(operation, sql=endless)
        assert raised.value.status is StatusCode.RESOURCE_EXHAUSTED
        assert (await sqlite.call("query", sql="SELECT count(*) FROM t"))["rows"] == [[0]]
        assert await sqlite.call("set", key="a", value=1) == {"stored": True}
    async with open_plugin() as sqlite:
        await sqlite.call(operation, sql=sql)


@pytest.mark.parametrize("operation", ["query", "execute"])
async def test_a_statement_that_is_compiled_for_long_is_ended(open_plugin, operation: str) -> None:
    levels = ", ".join(
        f"v{n} AS (SELECT a FROM v{n - 1} UNION ALL SELECT a FROM v{n - 1})" for n in range(1, 13)
    )
    async with open_plugin(sql_timeout_seconds=0.01) as sqlite:
        sql = f"WITH v0 AS (SELECT 1 AS a), {levels} SELECT count(*) FROM v12"
        with pytest.raises(PluginError, match="sql_timeout_seconds") as raised:
            await sqlite.call(operation, sql=sql)
        assert raised.value.status is StatusCode.DEADLINE_EXCEEDED
        assert (await sqlite.call("query", sql="SELECT 1"))["rows"] == [[1]]


@pytest.mark.parametrize("aggregate", ["json_group_array(x)", "json_group_object(i, x)"])
async def test_what_sqlite_lets_grow_is_ended(open_plugin, monkeypatch, aggregate: str) -> None:
    monkeypatch.setattr(job_module, "GROWTH_BYTES", 16 * 1024 * 1024)
    rows = "SELECT i, hex(randomblob(1000)) AS x FROM n"
    sql = ENDLESS.replace("SELECT max(i) FROM n", f"SELECT {aggregate} FROM ({rows})")
    async with open_plugin() as sqlite:
        with trio.fail_after(60), pytest.raises(PluginError, match="group fewer rows") as raised:
            await sqlite.call("query", sql=sql)
        assert raised.value.status is StatusCode.RESOURCE_EXHAUSTED
        few = "SELECT json_group_array(value) FROM json_each('[1,2]')"
        assert (await sqlite.call("query", sql=few))["rows"] == [["[1,2]"]]


@pytest.mark.parametrize("operation", ["query", "execute"])
async def test_closing_interrupts_what_takes_long(open_plugin, operation: str) -> None:
    async with open_plugin(readers=1) as sqlite:
        statuses = []

        async def call() -> None:
            try:
                await sqlite.call(operation, sql=ENDLESS)
            except PluginError as error:
                statuses.append(error.status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            nursery.start_soon(call)
            await sqlite.call("get", key="a")
            await sqlite.plugin.database.close()
        assert len(statuses) == 2
        assert set(statuses) <= {StatusCode.CANCELLED, StatusCode.UNAVAILABLE}
        await sqlite.plugin.start()

"""Two namespaces in one file, and a client who would like to read the other one's keys."""

import pytest

from prism.sdk import PluginError, StatusCode

ATTACKS = [
    "SELECT * FROM _prism_keyvalue",
    "SELECT count(*) FROM _prism_keyvalue",
    'SELECT 1 FROM "_PRISM_KeyValue"',
    "SELECT * FROM main._prism_keyvalue",
    "SELECT (SELECT group_concat(value) FROM _prism_keyvalue)",
    "WITH x AS (SELECT * FROM _prism_keyvalue) SELECT * FROM x",
    "SELECT 1 UNION ALL SELECT value FROM _prism_keyvalue",
    "SELECT value, binary, expires_at FROM _prism_keyvalue WHERE namespace = ? AND key = ?",
    "EXPLAIN SELECT * FROM _prism_keyvalue",
    "SELECT * FROM pragma_table_info('_prism_keyvalue')",
    "SELECT * FROM dbstat",
    "SELECT * FROM sqlite_stmt",
    "SELECT load_extension('x')",
    "SELECT fts3_tokenizer('simple')",
    "PRAGMA writable_schema=1",
    "PRAGMA query_only=0",
    "PRAGMA page_size=512",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "VACUUM",
    "VACUUM INTO '/tmp/stolen.db'",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT one",
    "RELEASE one",
    "ANALYZE",
]
WRITING_ATTACKS = [
    "INSERT INTO _prism_keyvalue VALUES ('bob', x'61', x'31', 0, NULL)",
    "UPDATE _prism_keyvalue SET value = x'31'",
    "DELETE FROM _prism_keyvalue",
    "DROP TABLE _prism_keyvalue",
    "DROP INDEX _prism_keyvalue_expiry",
    "ALTER TABLE _prism_keyvalue RENAME TO mine",
    "ALTER TABLE _prism_keyvalue ADD COLUMN x",
    "CREATE INDEX mine ON _prism_keyvalue (value)",
    "CREATE TABLE mine AS SELECT * FROM _prism_keyvalue",
    "CREATE TABLE _prism_other (a)",
    "ALTER TABLE own RENAME TO _Prism_other",
    "CREATE VIRTUAL TABLE _prism USING fts5(a)",
    "CREATE VIRTUAL TABLE mine USING fts4(a)",
    "CREATE VIRTUAL TABLE mine USING rtree(id, a, b)",
    "CREATE TRIGGER spy AFTER INSERT ON _prism_keyvalue BEGIN SELECT 1; END",
    "CREATE TEMP TRIGGER spy AFTER INSERT ON _prism_keyvalue BEGIN SELECT 1; END",
    "CREATE TEMP TABLE _prism_keyvalue (a)",
    "CREATE TEMP TABLE mine (a)",
    "CREATE TABLE temp.mine (a)",
    "CREATE TABLE temp.own AS SELECT 1",
    "CREATE VIEW temp.mine AS SELECT 1",
    "CREATE TRIGGER temp.mine AFTER INSERT ON own BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE temp.mine USING fts5(a)",
    "SELECT sqlite_log(1, 'x')",
    "CREATE VIRTUAL TABLE mine USING dbstat",
    "UPDATE sqlite_master SET sql = ''",
    "DELETE FROM sqlite_master",
    "REINDEX _prism_keyvalue",
    "INSERT INTO own SELECT value FROM _prism_keyvalue",
    "UPDATE sqlite_sequence SET seq = 9223372036854775807 WHERE name = '_prism_queue'",
    "UPDATE main.'SQLITE_Sequence' SET seq = 5",
    "UPDATE sqlite_sequence SET name = 'x' RETURNING seq",
    "UPDATE sqlite_sequence SET seq = 5 FROM json_each('[1]')",
    "DELETE FROM sqlite_sequence",
    "DELETE FROM sqlite_sequence WHERE name IN (SELECT value FROM json_each('[\"counted\"]'))",
    "INSERT INTO sqlite_sequence VALUES ('_prism_queue', 9223372036854775807)",
    "REPLACE INTO sqlite_sequence VALUES ('_prism_queue', 1)",
    "INSERT INTO sqlite_sequence SELECT 'a', 1 WHERE 1 ON CONFLICT DO UPDATE SET seq = 1",
    "WITH x AS (SELECT 1) DELETE FROM sqlite_sequence WHERE seq IN x",
    "CREATE TRIGGER spy AFTER UPDATE ON sqlite_sequence BEGIN SELECT 1; END",
    "CREATE INDEX spy ON sqlite_sequence (seq)",
    "ALTER TABLE sqlite_sequence RENAME TO mine",
    "DROP TABLE sqlite_sequence",
    "UPDATE _prism_state SET value = 0",
    "SELECT * FROM _prism_state",
    "INSERT INTO own VALUES (1) RETURNING (SELECT count(*) FROM _prism_queue)",
    "INSERT INTO counted VALUES (7) ON CONFLICT DO UPDATE SET a = (SELECT 1 FROM _prism_queue)",
    "UPDATE own SET a = q.value FROM _prism_queue AS q",
    "WITH RECURSIVE x AS (SELECT id FROM _prism_queue UNION SELECT id FROM x) SELECT * FROM x",
    "DELETE FROM own WHERE a IN (SELECT key FROM _prism_change)",
    "CREATE INDEX mine ON own (a) WHERE (SELECT 1 FROM _prism_queue)",
    "CREATE TABLE mine (a REFERENCES _prism_queue (id), b AS (a) STORED) AS SELECT 1",
]
BY_DETOUR = [
    (
        "CREATE TRIGGER t AFTER INSERT ON own BEGIN DELETE FROM sqlite_sequence; END",
        "INSERT INTO own VALUES (1)",
    ),
    (
        "CREATE TRIGGER t AFTER INSERT ON own BEGIN "
        "UPDATE sqlite_sequence SET seq = 5 WHERE name = 'counted'; END",
        "INSERT INTO own VALUES (1)",
    ),
    (
        "CREATE VIEW spy AS SELECT name FROM sqlite_sequence",
        "DELETE FROM spy",
    ),
    (
        "CREATE TRIGGER _Prism_t AFTER INSERT ON own BEGIN SELECT 1; END",
        "INSERT INTO own VALUES (1)",
    ),
    ("CREATE VIEW spy AS SELECT * FROM _prism_keyvalue", "SELECT * FROM spy"),
    (
        "CREATE TRIGGER t AFTER INSERT ON own BEGIN DELETE FROM _prism_keyvalue; END",
        "INSERT INTO own VALUES (1)",
    ),
    (
        "CREATE VIRTUAL TABLE f USING fts5(value, content=_prism_keyvalue, content_rowid=binary)",
        "SELECT * FROM f",
    ),
    ("CREATE VIRTUAL TABLE f USING fts5(x)", "ALTER TABLE f RENAME TO _Prism"),
    (
        "CREATE VIRTUAL TABLE f USING fts5(value, content=_prism_keyvalue)",
        "INSERT INTO f(f) VALUES ('rebuild')",
    ),
]


@pytest.fixture
async def alice(open_plugin):
    async with open_plugin("bob") as bob:
        await bob.call("set", key="a", value="bob's secret", ttl_seconds=100)
        async with open_plugin("alice") as alice:
            await alice.call("execute", sql="CREATE TABLE own (a)")
            await alice.call(
                "execute", sql="CREATE TABLE counted (a INTEGER PRIMARY KEY AUTOINCREMENT)"
            )
            await alice.call("execute", sql="INSERT INTO counted VALUES (7)")
            yield alice
            counted = await alice.call("query", sql="SELECT * FROM sqlite_sequence")
            assert counted["rows"] == [["counted", 7]]
            assert (await bob.call("get", key="a"))["value"] == "bob's secret"


async def test_keys_are_apart(open_plugin) -> None:
    async with open_plugin("alice") as alice, open_plugin("bob") as bob:
        await alice.call("set", key="a", value="alice's")
        await bob.call("set", key="a", value="bob's")
        assert (await alice.call("get", key="a"))["value"] == "alice's"
        assert await bob.call("count") == {"count": 1}
        assert await bob.call("delete", key="a") == {"deleted": True}
        assert (await alice.call("get", key="a"))["value"] == "alice's"


async def test_tables_are_shared(open_plugin) -> None:
    async with open_plugin("alice") as alice, open_plugin("bob") as bob:
        await alice.call("execute", sql="CREATE TABLE t (a)")
        await bob.call("execute", sql="INSERT INTO t VALUES (1)")
        assert (await alice.call("query", sql="SELECT a FROM t"))["rows"] == [[1]]


@pytest.mark.parametrize("operation", ["query", "execute"])
@pytest.mark.parametrize("sql", ATTACKS)
async def test_attacks(alice, operation: str, sql: str) -> None:
    params = ["bob", "a"] if "?" in sql else []
    # warm the cache of compiled statements with Prism's own
    await alice.call("get", key="a")
    with pytest.raises(PluginError) as raised:
        await alice.call(operation, sql=sql, params=params)
    assert raised.value.status in (StatusCode.PERMISSION_DENIED, StatusCode.INVALID_ARGUMENT)
    assert "secret" not in raised.value.detail


@pytest.mark.parametrize("operation", ["query", "execute"])
@pytest.mark.parametrize("sql", WRITING_ATTACKS)
async def test_writing_attacks(alice, operation: str, sql: str) -> None:
    with pytest.raises(PluginError) as raised:
        await alice.call(operation, sql=sql)
    assert raised.value.status in (StatusCode.PERMISSION_DENIED, StatusCode.INVALID_ARGUMENT)


SHADOWS = [
    "UPDATE f_data SET block = randomblob(100)",
    'DELETE FROM main."F_Data"',
    "INSERT INTO [f_idx] VALUES (1, 2, 3)",
    "REPLACE INTO `f_config` VALUES ('version', 99)",
    "WITH x AS (SELECT 1) UPDATE f_docsize SET sz = x'ff' WHERE 1 IN x",
    "DROP TABLE f_content",
    "ALTER TABLE f_data RENAME TO mine",
    "ALTER TABLE f_data ADD COLUMN x",
    "CREATE INDEX mine ON f_content (c0)",
    "CREATE TRIGGER mine AFTER INSERT ON f_content BEGIN SELECT 1; END",
    "ALTER TABLE f RENAME TO 'f''g'",
    "INSERT INTO own VALUES (1)",
    "DELETE FROM v",
]


@pytest.mark.parametrize("sql", SHADOWS)
async def test_the_tables_of_an_index_are_its_own(alice, sql: str) -> None:
    for statement in (
        "CREATE TRIGGER t AFTER INSERT ON own BEGIN UPDATE f_data SET block = x'00'; END",
        "CREATE VIRTUAL TABLE f USING fts5(x)",
        "INSERT INTO f VALUES ('some words')",
        "CREATE VIEW v AS SELECT * FROM f_data",
        "CREATE TRIGGER w INSTEAD OF DELETE ON v BEGIN DELETE FROM f_data; END",
    ):
        await alice.call("execute", sql=statement)
    with pytest.raises(PluginError) as raised:
        await alice.call("execute", sql=sql)
    assert raised.value.status is StatusCode.PERMISSION_DENIED
    for statement in (
        "INSERT INTO f(f) VALUES ('integrity-check')",
        "INSERT INTO f VALUES ('other words')",
        "UPDATE f SET x = 'new words' WHERE f MATCH 'other'",
        "DELETE FROM f WHERE f MATCH 'some'",
        "INSERT INTO f(f) VALUES ('optimize')",
    ):
        await alice.call("execute", sql=statement)
    found = await alice.call("query", sql="SELECT x FROM f WHERE f MATCH 'words'")
    assert found["rows"] == [["new words"]]
    await alice.call("execute", sql="DROP TABLE f")
    with pytest.raises(PluginError) as raised:
        await alice.call("execute", sql='CREATE VIRTUAL TABLE "f""g" USING fts5(x)')
    assert raised.value.status is StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(("first", "then"), BY_DETOUR)
async def test_detours(alice, first: str, then: str) -> None:
    async def attack() -> None:
        await alice.call("execute", sql=first)
        await alice.call("execute", sql=then)

    with pytest.raises(PluginError) as raised:
        await attack()
    assert raised.value.status in (StatusCode.PERMISSION_DENIED, StatusCode.INVALID_ARGUMENT)


async def test_what_autoincrement_needs_is_allowed(alice) -> None:
    for sql in (
        "CREATE TABLE n (a INTEGER PRIMARY KEY AUTOINCREMENT)",
        "INSERT INTO n DEFAULT VALUES",
        "ALTER TABLE n RENAME TO m",
    ):
        await alice.call("execute", sql=sql)
    last = "SELECT seq FROM sqlite_sequence WHERE name = 'm'"
    assert (await alice.call("query", sql=last))["rows"] == [[1]]
    await alice.call("execute", sql="DROP TABLE m")
    assert (await alice.call("query", sql=last))["rows"] == []


async def test_a_cached_statement_of_prism_is_not_found_by_a_client(open_plugin) -> None:
    from prism_plugins.sqlite.keyvalue import _GET

    async with open_plugin(path=":memory:") as sqlite:
        await sqlite.call("set", key="a", value=1)
        await sqlite.call("get", key="a")
        params = {"namespace": "test", "key": "a", "now": 0}
        for operation in ("query", "execute"):
            with pytest.raises(PluginError) as raised:
                await sqlite.call(operation, sql=_GET, params=params)
            assert raised.value.status is StatusCode.PERMISSION_DENIED


async def test_a_statement_compiled_for_execute_is_not_found_by_query(open_plugin) -> None:
    async with open_plugin(path=":memory:") as sqlite:
        await sqlite.call("execute", sql="CREATE TABLE t (a)")
        await sqlite.call("execute", sql="INSERT INTO t VALUES (1)")
        with pytest.raises(PluginError, match="only reads"):
            await sqlite.call("query", sql="INSERT INTO t VALUES (1)")
        assert (await sqlite.call("query", sql="SELECT count(*) FROM t"))["rows"] == [[1]]


async def test_prisms_own_statements_work_between_a_clients(open_plugin) -> None:
    async with open_plugin(path=":memory:") as sqlite:
        for n in range(3):
            with pytest.raises(PluginError):
                await sqlite.call("query", sql="SELECT * FROM _prism_keyvalue")
            assert await sqlite.call("increment", key="n") == {"value": n + 1}

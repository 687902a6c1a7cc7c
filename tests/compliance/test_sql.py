"""SQL, as every plugin has it that declares the group: parameters are bound, by name here."""

import secrets

import pytest

from prism.sdk import PluginError, StatusCode
from tests.compliance.caller import Caller, refused

GROUP = "sql"


@pytest.fixture
async def table(plugin: Caller) -> str:
    """A table of this test's own: tables are common to the namespaces of a database."""
    name = f"t{secrets.token_hex(6)}"
    await plugin.call("execute", sql=f"CREATE TABLE {name} (a INTEGER, b TEXT)")
    return name


async def test_what_is_written_is_read(plugin: Caller, table: str) -> None:
    insert = f"INSERT INTO {table} VALUES (:a, :b)"
    for number in (1, 2):
        params = {"a": number, "b": f"row {number}"}
        done = await plugin.call("execute", sql=insert, params=params)
        assert done["rows_affected"] == 1
    found = await plugin.call("query", sql=f"SELECT a, b FROM {table} ORDER BY a")
    assert found == {
        "columns": ["a", "b"],
        "rows": [[1, "row 1"], [2, "row 2"]],
        "truncated": False,
    }
    done = await plugin.call("execute", sql=f"DELETE FROM {table}")
    assert done["rows_affected"] == 2


async def test_parameters_are_values_and_never_sql(plugin: Caller, table: str) -> None:
    evil = f"'); DROP TABLE {table}; --"
    insert = f"INSERT INTO {table} VALUES (1, :b)"
    await plugin.call("execute", sql=insert, params={"b": evil})
    found = await plugin.call(
        "query",
        sql=f"SELECT a FROM {table} WHERE b = :b",
        params={"b": evil},
    )
    assert found["rows"] == [[1]]


async def test_query_changes_nothing(plugin: Caller, table: str) -> None:
    with pytest.raises(PluginError) as raised:
        await plugin.call("query", sql=f"INSERT INTO {table} VALUES (1, 'x')")
    assert raised.value.status in (StatusCode.PERMISSION_DENIED, StatusCode.FAILED_PRECONDITION)
    found = await plugin.call("query", sql=f"SELECT count(*) AS n FROM {table}")
    assert found["rows"] == [[0]]


async def test_large_integers_are_exact(plugin: Caller) -> None:
    text, _ = await plugin.execute("query", '{"sql":"SELECT 6988349663661260800 AS n"}')
    assert "6988349663661260800" in text


async def test_nothing_is_null(plugin: Caller, table: str) -> None:
    await plugin.call("execute", sql=f"INSERT INTO {table} (a) VALUES (1)")
    found = await plugin.call("query", sql=f"SELECT b FROM {table}")
    assert found["rows"] == [[None]]


async def test_a_statement_that_is_none_is_refused(plugin: Caller) -> None:
    with refused(StatusCode.INVALID_ARGUMENT):
        await plugin.call("query", sql="SELEKT 1")
    with refused(StatusCode.INVALID_ARGUMENT):
        await plugin.call("query", sql="")

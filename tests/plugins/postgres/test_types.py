"""Every type of PostgreSQL, as JSON and as MessagePack, and back as a parameter."""

import json
from typing import Any

import msgspec
import pytest

from prism.contract.messages import ExecuteRequest
from tests.services.postgres import PostgreSQL, new_name

from .conftest import Database, Running, refused


async def raw(pg: Running, sql: str, params: list[Any] | None = None) -> str:
    """The one cell of a query, as the JSON text that it came as."""
    request = json.dumps({"sql": sql, "params": params or []})
    response = await pg.plugin.execute(ExecuteRequest(operation="query", params_json=request))
    assert response.success, response.error
    text = response.result_json
    return text[text.index('"rows":[[') + 9 : text.rindex("]],")]


EXACT = [
    ("bool", "true", "true"),
    ("bool", "'f'", "false"),
    ("int2", "-32768", "-32768"),
    ("int4", "2147483647", "2147483647"),
    ("int8", "6988349663661260800", "6988349663661260800"),
    ("int8", "-9223372036854775808", "-9223372036854775808"),
    ("numeric", "0.10", "0.10"),
    ("numeric", "12345678901234567890.123456789012345678901234567890",
     "12345678901234567890.123456789012345678901234567890"),
    ("numeric", "'NaN'", '"NaN"'),
    ("numeric", "'-Infinity'", '"-Infinity"'),
    ("float4", "0.1", "0.1"),
    ("float8", "0.1", "0.1"),
    ("float8", "1e300", "1e+300"),
    ("float8", "5", "5"),
    ("float8", "'-0'", "-0"),
    ("float8", "'NaN'", '"NaN"'),
    ("float8", "'Infinity'", '"Infinity"'),
    ("oid", "4294967295", "4294967295"),
    ("money", "12.5", '"$12.50"'),
    ("text", "E'a\"\\\\\\n\\u00e9\\U0001F600'", '"a\\"\\\\\\né😀"'),
    ("text", "''", '""'),
    ("varchar(5)", "'abc'", '"abc"'),
    ("char(5)", "'ab'", '"ab   "'),
    ('"char"', "'x'", '"x"'),
    ("name", "'abc'", '"abc"'),
    ("bytea", "'\\x00ff'", '{"value":"AP8=","encoding":"base64"}'),
    ("bytea", "''", '{"value":"","encoding":"base64"}'),
    ("uuid", "'A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11'", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
    ("date", "'2026-02-03'", '"2026-02-03"'),
    ("date", "'infinity'", '"infinity"'),
    ("date", "'0044-03-15 BC'", '"0044-03-15 BC"'),
    ("time", "'10:11:12.000001'", '"10:11:12.000001"'),
    ("timetz", "'10:11:12+02'", '"10:11:12+02"'),
    ("timestamp", "'2026-02-03 10:11:12.5'", '"2026-02-03T10:11:12.5"'),
    ("timestamp", "'-infinity'", '"-infinity"'),
    ("timestamptz", "'2026-02-03 10:11:12.123456+02'", '"2026-02-03T08:11:12.123456Z"'),
    ("timestamptz", "'0044-03-15 00:00:00 BC'", '"0044-03-15T00:00:00Z BC"'),
    ("timestamptz", "'infinity'", '"infinity"'),
    ("interval", "'1 year 2 days 03:04:05.6'", '"P1Y2DT3H4M5.6S"'),
    ("json", "'{\"b\": 1.0,  \"a\":1234567890123456789}'", '{"b": 1.0,  "a":1234567890123456789}'),
    ("jsonb", "'{\"b\":1.0,\"a\":null}'", '{"a": null, "b": 1.0}'),
    ("jsonb", "'\"text\"'", '"text"'),
    ("jsonpath", "'$.a'", '"$.\\"a\\""'),
    ("xml", "'<a>1</a>'", '"<a>1</a>"'),
    ("inet", "'10.0.0.1/8'", '"10.0.0.1/8"'),
    ("cidr", "'10.0.0.0/8'", '"10.0.0.0/8"'),
    ("macaddr", "'08:00:2b:01:02:03'", '"08:00:2b:01:02:03"'),
    ("macaddr8", "'08:00:2b:01:02:03:04:05'", '"08:00:2b:01:02:03:04:05"'),
    ("bit(3)", "B'101'", '"101"'),
    ("varbit", "B'10'", '"10"'),
    ("point", "'(1,2.5)'", '"(1,2.5)"'),
    ("line", "'{1,2,3}'", '"{1,2,3}"'),
    ("lseg", "'[(0,0),(1,1)]'", '"[(0,0),(1,1)]"'),
    ("box", "'(1,1),(0,0)'", '"(1,1),(0,0)"'),
    ("path", "'((0,0),(1,1))'", '"((0,0),(1,1))"'),
    ("polygon", "'((0,0),(1,1))'", '"((0,0),(1,1))"'),
    ("circle", "'<(0,0),1>'", '"<(0,0),1>"'),
    ("tsvector", "'a:1 b'", "\"'a':1 'b'\""),
    ("tsquery", "'a & b'", "\"'a' & 'b'\""),
    ("int4range", "'[1,5)'", '"[1,5)"'),
    ("tstzrange", "'[2026-01-01 00:00+00,)'", '"[\\"2026-01-01 00:00:00+00\\",)"'),
    ("int4multirange", "'{[1,2],[5,6]}'", '"{[1,3),[5,7)}"'),
    ("pg_lsn", "'16/B374D848'", '"16/B374D848"'),
    ("regclass", "'pg_class'", '"pg_class"'),
    ("xid8", "'18446744073709551615'", '"18446744073709551615"'),
    ("int8[]", "'{1,NULL,9007199254740993}'", "[1,null,9007199254740993]"),
    ("int4[]", "'{{1,2},{3,4}}'", "[[1,2],[3,4]]"),
    ("int4[]", "'[0:1]={7,8}'", "[7,8]"),
    ("int4[]", "'{}'", "[]"),
    ("text[]", """'{"a,b","q\\"q","b\\\\s",NULL,"NULL","","{}"}'""",
     '["a,b","q\\"q","b\\\\s",null,"NULL","","{}"]'),
    ("bool[]", "'{t,f}'", "[true,false]"),
    ("bytea[]", "'{\"\\\\x00\"}'", '[{"value":"AA==","encoding":"base64"}]'),
    ("jsonb[]", "ARRAY['{\"a\": [1, 2]}'::jsonb]", '[{"a": [1, 2]}]'),
    ("box[]", "'{(1,1),(0,0);(2,2),(1,1)}'", '["(1,1),(0,0)","(2,2),(1,1)"]'),
    ("timestamptz[]", "'{2026-01-01 00:00:00+00}'", '["2026-01-01T00:00:00Z"]'),
    ("uuid", "NULL", "null"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "literal", "shown"), EXACT)
async def test_a_cell_is_exact(pg: Running, kind: str, literal: str, shown: str) -> None:
    assert await raw(pg, f"SELECT ({literal})::{kind}") == shown


@pytest.mark.parametrize(("kind", "literal", "shown"), EXACT)
async def test_a_cell_comes_back_as_a_parameter(
    pg: Running, kind: str, literal: str, shown: str
) -> None:
    """What a query gives can be handed in again, and is the same."""
    request = (
        f'{{"sql":"SELECT $1::{kind.replace(chr(34), chr(92) + chr(34))}","params":[{shown}]}}'
    )
    response = await pg.plugin.execute(ExecuteRequest(operation="query", params_json=request))
    assert response.success, response.error
    assert f'"rows":[[{shown}]]' in response.result_json


@pytest.mark.parametrize(
    ("kind", "literal", "object_"),
    [
        ("bool", "true", True),
        ("int8", "9007199254740993", 9007199254740993),
        ("float8", "'Infinity'", float("inf")),
        ("numeric", "0.10", "0.10"),
        ("bytea", "'\\x00ff'", b"\x00\xff"),
        ("text", "'a'", "a"),
        ("jsonb", "'{\"a\":[1]}'", {"a": [1]}),
        ("int4[]", "'{1,NULL}'", [1, None]),
        ("bytea[]", "'{\"\\\\x00\"}'", [b"\x00"]),
        ("timestamptz", "'2026-02-03 10:11:12+00'", "2026-02-03T10:11:12Z"),
        ("text", "NULL", None),
    ],
)
async def test_a_cell_in_messagepack(pg: Running, kind: str, literal: str, object_: object) -> None:
    sql = {"sql": f"SELECT ({literal})::{kind}, $1::{kind}", "params": [object_]}
    result = await pg.request("query", sql, binary=True)
    assert result["rows"] == [[object_, object_]]


async def test_types_that_are_made(pg: Running) -> None:
    for sql in (
        "CREATE TYPE mood AS ENUM ('sad', 'very happy')",
        "CREATE DOMAIN year AS int CHECK (VALUE > 0)",
        "CREATE DOMAIN years AS int[]",
        "CREATE TYPE pair AS (a int, b text)",
        "CREATE TYPE floats AS RANGE (subtype = float8)",
    ):
        await pg.call("execute", sql=sql)
    for kind, literal, shown in [
        ("mood", "'sad'", '"sad"'),
        ("mood[]", "ARRAY['sad','very happy']", '["sad","very happy"]'),
        ("year", "2026", "2026"),
        ("year[]", "ARRAY[1,2]", "[1,2]"),
        ("years", "ARRAY[1,2]", "[1,2]"),
        ("pair", "(1,'x')", '"(1,x)"'),
        ("pair[]", "ARRAY[(1,'x')::pair]", '["(1,x)"]'),
        ("floats", "'[1,2]'", '"[1,2]"'),
    ]:
        assert await raw(pg, f"SELECT ({literal})::{kind}") == shown
        assert await raw(pg, f"SELECT $1::{kind}", [json.loads(shown)]) == shown


async def test_numbers_as_strings(database: Database) -> None:
    async with database.plugin(json_numbers="strings") as pg:
        assert await raw(pg, "SELECT 9007199254740993") == '"9007199254740993"'
        assert await raw(pg, "SELECT 0.10") == '"0.10"'
        assert await raw(pg, "SELECT ARRAY[1::int8]") == '["1"]'
        assert await raw(pg, "SELECT 1, 0.5::float8") == "1,0.5"
        assert await raw(pg, "SELECT $1::int8", ["9007199254740993"]) == '"9007199254740993"'


async def test_a_parameter_keeps_its_digits(pg: Running) -> None:
    request = '{"sql":"SELECT $1::text","params":[1.10000000000000000000000001]}'
    response = await pg.plugin.execute(ExecuteRequest(operation="query", params_json=request))
    assert msgspec.json.decode(response.result_json)["rows"] == [["1.10000000000000000000000001"]]


async def test_text_that_is_no_utf8_is_refused(debian_postgres: PostgreSQL) -> None:
    """A database of encoding SQL_ASCII keeps any bytes."""
    name = new_name()
    everything = Database(debian_postgres, "postgres")
    everything.ask(f"CREATE DATABASE {name} ENCODING SQL_ASCII LOCALE 'C' TEMPLATE template0")
    try:
        async with Database(debian_postgres, name).plugin(key_value=False) as pg:
            sql = "CREATE TABLE t AS SELECT convert_from('\\xff', 'SQL_ASCII') AS a"
            await pg.call("execute", sql=sql)
            error = await refused(pg.call("query", sql="SELECT a FROM t"))
            assert "invalid byte sequence" in error.detail
            assert await raw(pg, "SELECT a::bytea FROM t") == '{"value":"/w==","encoding":"base64"}'
    finally:
        everything.ask(f"DROP DATABASE {name} WITH (FORCE)")

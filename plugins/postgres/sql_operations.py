"""SQL with bound parameters."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import anyio
import msgspec

from prism.sdk import Call, PluginError, StatusCode, operation

from . import params as p
from .connection import Connection
from .statements import Rows, read_statement
from .store import Store

T = TypeVar("T")

_TABLES = """SELECT coalesce(json_agg(json_build_object(
        'schema', n.nspname, 'name', c.relname, 'kind', CASE c.relkind
            WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
            WHEN 'm' THEN 'materialized view' ELSE 'foreign table' END)
        ORDER BY n.nspname, c.relname), '[]')
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema'
        AND n.nspname !~ '^pg_' AND n.nspname <> $1
        AND pg_catalog.has_table_privilege(c.oid, 'SELECT')"""
_TABLE = """SELECT json_build_object(
    'schema', n.nspname, 'name', c.relname,
    'columns', (SELECT coalesce(json_agg(json_build_object(
            'name', a.attname, 'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
            'nullable', NOT a.attnotnull,
            'default', pg_catalog.pg_get_expr(d.adbin, d.adrelid)) ORDER BY a.attnum), '[]')
        FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d
            ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    'keys', (SELECT coalesce(json_agg(json_build_object(
            'name', k.conname, 'kind', CASE k.contype WHEN 'p' THEN 'primary key'
                WHEN 'u' THEN 'unique' WHEN 'f' THEN 'foreign key' ELSE 'check' END,
            'definition', pg_catalog.pg_get_constraintdef(k.oid)) ORDER BY k.contype, k.conname),
            '[]')
        FROM pg_catalog.pg_constraint k
        WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'f', 'c')),
    'indexes', (SELECT coalesce(json_agg(pg_catalog.pg_get_indexdef(i.indexrelid)
            ORDER BY i.indexrelid), '[]') FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = pg_catalog.to_regclass($1)"""


class SQLOperations(Store, group="sql"):
    """Clients' own statements."""

    @operation(idempotent=True, access="read")
    async def query(self, params: p.Query, call: Call) -> p.Rows:
        """Run a statement that only reads."""
        self._allow("read")
        statement = read_statement(params.sql, params.params, binary=call.binary)
        limit = self._limit(params.max_rows)
        rows = await self._run(
            lambda connection: self.runner.query(connection, statement, limit, binary=call.binary),
            repeatable=True,
        )
        return p.Rows(rows.columns, rows.rows, rows.truncated)

    @operation(name="query", idempotent=True, access="read")
    async def query_stream(self, params: p.QueryAll, call: Call) -> AsyncIterator[p.Part]:
        """All rows of a statement that only reads, by a cursor: first the columns."""
        self._allow("read")
        self.metrics.queries_executed += 1
        statement = read_statement(params.sql, params.params, binary=call.binary)
        async with self.pool.lease() as connection:
            parts = self.runner.stream(connection, statement, binary=call.binary)
            async with aclosing(parts):
                first = await anext(parts)
                yield p.Part(first.columns)
                async for rows in parts:
                    yield p.Part(rows=rows.rows)

    @operation(name="execute", access="write")
    async def run_sql(self, params: p.Query, call: Call) -> p.Executed:
        """Run a statement that changes data or tables; alone, all or nothing."""
        self._allow("read_write")
        statement = read_statement(params.sql, params.params, binary=call.binary)
        limit = self._limit(params.max_rows)
        rows = await self._run(
            lambda connection: self.runner.execute(connection, statement, limit, binary=call.binary)
        )
        return _executed(rows)

    @operation(access="write")
    async def execute_many(self, params: p.ExecuteMany, call: Call) -> p.ExecutedMany:
        """Run a statement with each set of parameters, all or none."""
        self._allow("read_write")
        sets = [read_statement(params.sql, each, binary=call.binary) for each in params.params_list]
        if not sets:
            return p.ExecutedMany(0)
        affected = await self._run(
            lambda connection: self.runner.execute_many(connection, sets[0], sets)
        )
        return p.ExecutedMany(affected)

    @operation(access="write")
    async def transaction(self, params: p.Transaction, call: Call) -> p.Results:
        """Run several statements, all or none; ``expect_rows`` makes it depend on their rows."""
        self._allow("read_write")
        steps = [
            (read_statement(step.sql, step.params, binary=call.binary), step.expect_rows)
            for step in params.statements
        ]
        results = await self._run(
            lambda connection: self.runner.transaction(
                connection, steps, params.isolation, self.config.max_rows, binary=call.binary
            )
        )
        return p.Results([_executed(rows) for rows in results])

    @operation(idempotent=True, access="read")
    async def describe(self, params: p.Describe, call: Call) -> p.Described:
        """The tables there are, or the columns, keys and indexes of one."""
        self._allow("read")
        table = params.table
        asked = [msgspec.Raw(msgspec.json.encode(table or self.config.schema))]
        statement = read_statement(_TABLES if table is None else _TABLE, asked, binary=False)
        rows = await self._run(
            lambda connection: self.runner.query(connection, statement, 1, binary=True),
            repeatable=True,
        )
        if not rows.rows:
            raise PluginError(StatusCode.NOT_FOUND, f"there is no table {table!r}")
        found = rows.rows[0][0]
        return p.Described(tables=found) if table is None else msgspec.convert(found, p.Described)

    async def _run(
        self, work: Callable[[Connection], Awaitable[T]], *, repeatable: bool = False
    ) -> T:
        self.metrics.queries_executed += 1
        seconds = self.config.sql_timeout_seconds
        try:
            with anyio.fail_after(seconds):
                return await self.pool.run(work, repeatable=repeatable)
        except TimeoutError:
            raise PluginError(
                StatusCode.DEADLINE_EXCEEDED,
                f"the statement took longer than {seconds:g} seconds (sql_timeout_seconds), and "
                "was cancelled",
            ) from None

    def _allow(self, needed: str) -> None:
        allowed = self.config.sql
        if allowed == "off" or (needed == "read_write" and allowed == "read"):
            raise PluginError(
                StatusCode.PERMISSION_DENIED,
                f"this namespace does not take it (config.sql: {allowed})",
            )

    def _limit(self, asked: int | None) -> int:
        return min(asked or self.config.max_rows, self.config.max_rows)


def _executed(rows: Rows) -> p.Executed:
    if not rows.columns:
        return p.Executed(rows.affected)
    return p.Executed(rows.affected, rows.columns, rows.rows, rows.truncated)

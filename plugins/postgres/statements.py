"""What clients' statements do to a connection: one alone, several in a transaction, a cursor.

Nothing of one call is left for the next: a query's transaction is rolled back, and after what may
change a session, the session is reset. Statements that are only about the session are refused.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw
from psycopg import Error

from prism.sdk import PluginError, StatusCode

from . import placeholders
from .cells import Codecs, from_object
from .config import SETTINGS
from .connection import Connection, Prepared
from .errors import ConnectionLost, DatabaseError, StaleStatement, invalid

RESULT_BYTES = 512 * 1024
"""A result is cut after the row that reaches this, so that it fits a frame."""
MESSAGE_BYTES = 128 * 1024
"""Of a stream: about the size of one message."""
PIPELINED = 256
"""Sets of parameters that are sent before their answers are read."""

_ABOUT_SESSIONS = {
    "abort", "begin", "close", "commit", "deallocate", "declare", "discard", "end", "execute",
    "fetch", "listen", "load", "move", "prepare", "release", "reset", "rollback", "savepoint",
    "set", "start", "unlisten",
}  # fmt: skip
_CURSORS = {"select", "with", "values", "table"}
_CHANGING = ("INSERT", "UPDATE", "DELETE", "MERGE")
_MAKING = ("create", "refresh")
_LOCAL_SETTINGS = (
    "SELECT "
    + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in SETTINGS.items())
).encode()
_TYPES = b"""SELECT oid, typbasetype, CASE WHEN typcategory = 'A' AND typlen = -1 THEN typelem
    ELSE 0 END, typdelim FROM pg_catalog.pg_type WHERE oid = ANY ($1::oid[])"""
_ISOLATION = {
    "read_committed": b"BEGIN ISOLATION LEVEL READ COMMITTED",
    "repeatable_read": b"BEGIN ISOLATION LEVEL REPEATABLE READ",
    "serializable": b"BEGIN ISOLATION LEVEL SERIALIZABLE",
}

Params = list[Raw] | dict[str, Raw]


class Statement(NamedTuple):
    """A client's statement, with ``$1`` only, and its parameters in that order."""

    sql: str
    first: str
    params: tuple[Raw, ...]
    labels: tuple[str, ...]


class Rows(msgspec.Struct):
    """Rows in the form of the call: JSON text, or objects for MessagePack."""

    columns: list[str]
    rows: Any
    truncated: bool
    affected: int = 0
    tag: str = ""


def read_statement(sql: str, params: Params, *, binary: bool) -> Statement:
    """Check and number a client's parameters; ``binary``: they are MessagePack.

    Raises:
        PluginError: INVALID_ARGUMENT or PERMISSION_DENIED, in the client's words.
    """
    if "\0" in sql:
        raise invalid("the statement has the character U+0000")
    parsed = placeholders.parse(sql)
    if parsed.first in _ABOUT_SESSIONS:
        raise PluginError(
            StatusCode.PERMISSION_DENIED,
            f"{parsed.first.upper()} is about a session, which calls do not have: use "
            "'transaction' for several statements, a streamed 'query' for a cursor, 'listen'",
        )
    if parsed.first == "copy":
        raise PluginError(
            StatusCode.UNIMPLEMENTED, "COPY is not offered: use execute_many, or a streamed 'query'"
        )
    if isinstance(params, dict):
        if parsed.numbered:
            raise invalid("the statement has $1, so params must be a list")
        missing = [name for name in parsed.names if name not in params]
        unused = [name for name in params if name not in parsed.names]
        if missing or unused:
            raise invalid(
                f"params lacks {missing[0]!r}"
                if missing
                else f"params has {unused[0]!r}, which is not in the statement as :{unused[0]}"
            )
        values = [params[name] for name in parsed.names]
        labels = tuple(f":{name}" for name in parsed.names)
    else:
        if parsed.names:
            raise invalid(f"the statement has :{parsed.names[0]}, so params must be an object")
        values = params
        labels = tuple(f"${number}" for number in range(1, len(values) + 1))
    if binary:
        values = [from_object(msgspec.msgpack.decode(value)) for value in values]
    return Statement(parsed.sql, parsed.first, tuple(values), labels)


class Runner:
    """Runs statements on connections; ``behind_pooler``: their sessions are not to be relied on."""

    def __init__(self, codecs: Codecs, *, behind_pooler: bool) -> None:
        self.codecs = codecs
        self._behind_pooler = behind_pooler

    async def query(
        self, connection: Connection, statement: Statement, limit: int, *, binary: bool
    ) -> Rows:
        """Run one in a transaction that only reads, and is rolled back.

        Raises:
            PluginError
        """
        prepared = await self._begin_reading(connection, statement)
        await self._bind(connection, prepared, statement)
        connection.send(b"ROLLBACK")
        connection.send_sync()
        try:
            await connection.results(connection.owed - 2)
            rows = await self._read(connection, prepared, limit, binary=binary, stop=True)
            await connection.finish_group()
        except DatabaseError as error:
            raise _of_query(error) from error
        if "advisory" in statement.sql.lower():  # locks that outlive a transaction
            self._reset(connection)
        return rows

    async def execute(
        self, connection: Connection, statement: Statement, limit: int, *, binary: bool
    ) -> Rows:
        """Run one in a transaction of its own.

        Raises:
            PluginError
        """
        if self._behind_pooler:
            self._begin(connection, b"BEGIN")
        prepared = await self._prepare(connection, statement)
        await self._bind(connection, prepared, statement)
        after = 0
        if self._behind_pooler:
            connection.send(b"COMMIT")
            after = 1
        connection.send_sync()
        await connection.results(connection.owed - 1 - after)
        rows = await self._read(connection, prepared, limit, binary=binary)
        rows.affected = _affected(rows, statement)
        await connection.finish_group()
        self._reset(connection)
        return rows

    async def execute_many(
        self, connection: Connection, statement: Statement, sets: Sequence[Statement]
    ) -> int:
        """Run one with each set of parameters, all or none; returns how many rows it affected.

        Raises:
            PluginError
        """
        self._begin(connection, b"BEGIN")
        prepared = await self._prepare(connection, statement)
        affected = 0
        for start in range(0, len(sets), PIPELINED):
            some = sets[start : start + PIPELINED]
            await connection.results(connection.owed)
            for number, each in enumerate(some, start):
                with _Numbered("params_list", number):
                    await self._bind(connection, prepared, each)
            for number in range(start, start + len(some)):
                with _Numbered("params_list", number):
                    rows = await self._read(connection, prepared, 0, binary=False)
                    affected += _affected(rows, statement)
        await self._commit(connection)
        return affected

    async def transaction(
        self,
        connection: Connection,
        statements: Sequence[tuple[Statement, int | None]],
        isolation: str,
        limit: int,
        *,
        binary: bool,
    ) -> list[Rows]:
        """Run them in order, all or none; each with how many rows it must affect, or give.

        Raises:
            PluginError: ABORTED, another number of rows; or a statement failed.
        """
        self._begin(connection, _ISOLATION[isolation])
        results: list[Rows] = []
        for number, (statement, expected) in enumerate(statements):
            with _Numbered("statements", number):
                prepared = await self._prepare(connection, statement)
                await connection.results(connection.owed)
                await self._bind(connection, prepared, statement)
                rows = await self._read(connection, prepared, limit, binary=binary)
                given = rows.affected
                rows.affected = _affected(rows, statement)
                results.append(rows)
                if expected is not None and given != expected:
                    await connection.roll_back()
                    raise PluginError(
                        StatusCode.ABORTED,
                        f"{given} rows where expect_rows is {expected}; nothing was changed",
                    )
        await self._commit(connection)
        return results

    async def stream(
        self, connection: Connection, statement: Statement, *, binary: bool
    ) -> AsyncGenerator[Rows, None]:
        """The rows of a query by a cursor, some at a time; the first has the columns, no rows.

        Raises:
            PluginError
        """
        prepared = await self._begin_reading(connection, statement)
        try:
            if statement.first in _CURSORS:
                values, formats = await self._encode(connection, prepared, statement)
                declare = b"DECLARE prism NO SCROLL CURSOR FOR " + prepared.sql
                connection.send_prepared(prepared._replace(name=b"", sql=declare), values, formats)
                await connection.results(connection.owed)
                yield Rows(list(prepared.columns), Raw(b"[]"), truncated=False)
                count = 16
                while True:
                    connection.send(b"FETCH FORWARD %d FROM prism" % count)
                    rows = await self._read(connection, prepared, count, binary=binary, size=None)
                    if rows.affected:
                        yield rows
                    if rows.affected < count:
                        break
                    size = max(1, _size(rows) // rows.affected)
                    count = max(1, min(4 * count, MESSAGE_BYTES // size, 4096))
            else:
                await self._bind(connection, prepared, statement)
                await connection.results(connection.owed - 1)
                rows = await self._read(connection, prepared, 100_000, binary=binary)
                yield Rows(rows.columns, Raw(b"[]"), truncated=False)
                yield rows
            await connection.roll_back()
        except DatabaseError as error:
            raise _of_query(error) from error

    # -- steps ----------------------------------------------------------------------

    def _begin(self, connection: Connection, begin: bytes) -> None:
        connection.send(begin)
        if self._behind_pooler:
            connection.send(_LOCAL_SETTINGS)

    async def _begin_reading(self, connection: Connection, statement: Statement) -> Prepared:
        self._begin(connection, b"BEGIN READ ONLY")
        try:
            return await self._prepare(connection, statement)
        except DatabaseError as error:
            raise _of_query(error) from error

    async def _commit(self, connection: Connection) -> None:
        connection.send(b"COMMIT")
        connection.send_sync()
        await connection.finish_group()
        self._reset(connection)

    def _reset(self, connection: Connection) -> None:
        if not self._behind_pooler:
            with suppress(ConnectionLost):  # what was asked is done
                connection.begin_reset()

    async def _prepare(self, connection: Connection, statement: Statement) -> Prepared:
        prepared = await connection.prepare(statement.sql.encode())
        oids = prepared.types + prepared.parameters
        if not self.codecs.knows(oids):
            await self.codecs.learn(oids, lambda unknown: _ask_types(connection, unknown))
        if len(prepared.parameters) != len(statement.params):
            await connection.roll_back()
            raise invalid(
                f"the statement has {len(prepared.parameters)} parameters, and params "
                f"{len(statement.params)}"
            )
        return prepared

    async def _encode(
        self, connection: Connection, prepared: Prepared, statement: Statement
    ) -> tuple[list[bytes | None], list[int]]:
        values: list[bytes | None] = []
        formats: list[int] = []
        for value, oid, label in zip(
            statement.params, prepared.parameters, statement.labels, strict=True
        ):
            try:
                data, form = self.codecs.encode(value, oid, label)
            except PluginError:
                await connection.roll_back()
                raise
            values.append(data)
            formats.append(form)
        return values, formats

    async def _bind(self, connection: Connection, prepared: Prepared, statement: Statement) -> None:
        values, formats = await self._encode(connection, prepared, statement)
        connection.send_prepared(prepared, values, formats)

    async def _read(
        self,
        connection: Connection,
        prepared: Prepared,
        limit: int,
        *,
        binary: bool,
        stop: bool = False,
        size: int | None = RESULT_BYTES,
    ) -> Rows:
        """The next command's rows, up to ``limit`` of them, and about ``size`` bytes.

        Of what goes beyond, nothing is kept. ``stop``: the server is told to end the statement.
        ``affected`` is what the server says, or the number of rows.
        """
        collected: list[Any] = []
        total = 0
        truncated = False
        codecs = [self.codecs[oid] for oid in prepared.types]
        columns = range(len(codecs))
        convert = [codec.to_object if binary else codec.to_json for codec in codecs]
        affected, tag = 0, ""
        try:
            async for result in connection.chunks():
                if result.command_status:
                    affected = result.command_tuples or 0
                    tag = result.command_status.decode()
                for row in range(result.ntuples):
                    if len(collected) >= limit or (size is not None and total > size):
                        truncated = True
                        break
                    cells = [result.get_value(row, column) for column in columns]
                    size_of_row = sum(len(cell) for cell in cells if cell is not None)
                    connection.largest = max(connection.largest, size_of_row)
                    total += size_of_row
                    if binary:
                        collected.append(
                            [
                                None if cell is None else function(cell)
                                for function, cell in zip(convert, cells, strict=True)
                            ]
                        )
                    else:
                        collected.append(
                            b",".join(
                                b"null" if cell is None else function(cell)
                                for function, cell in zip(convert, cells, strict=True)
                            )
                        )
                if truncated and stop:
                    stop = False
                    try:
                        await connection.cancel()
                    except Error:
                        connection.close()
                        break
        except DatabaseError as error:
            if not truncated or error.sqlstate != "57014":
                raise
        rows = collected if binary else Raw(b"[" + b",".join(map(_bracketed, collected)) + b"]")
        return Rows(list(prepared.columns), rows, truncated, affected, tag)


class _Numbered:
    """Says which of several statements, or sets of parameters, an error is about."""

    def __init__(self, name: str, number: int) -> None:
        self._where = f"{name}[{number}]"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, StaleStatement | ConnectionLost) or not isinstance(error, PluginError):
            return
        detail = f"{self._where}: {error.detail}"
        if isinstance(error, DatabaseError):
            raise DatabaseError(error.status, detail, error.sqlstate) from error
        raise PluginError(error.status, detail) from error


async def _ask_types(connection: Connection, oids: list[int]) -> list[tuple[int, int, int, str]]:
    connection.send(_TYPES, [b"{%b}" % b",".join(b"%d" % oid for oid in oids)])
    result = (await connection.results(connection.owed))[-1]
    found = []
    for row in range(result.ntuples):
        oid, base, element, mark = (result.get_value(row, column) or b"" for column in range(4))
        found.append((int(oid), int(base), int(element), mark.decode()))
    return found


def _affected(rows: Rows, statement: Statement) -> int:
    """Rows that were changed, or made; what a SELECT gives is neither."""
    word = rows.tag.partition(" ")[0]
    if word in _CHANGING or (word == "SELECT" and statement.first in _MAKING):
        return rows.affected
    return 0


def _of_query(error: DatabaseError) -> DatabaseError:
    if error.sqlstate == "25006":
        return DatabaseError(
            StatusCode.PERMISSION_DENIED,
            f"'query' only reads; use 'execute': {error.detail}",
            error.sqlstate,
        )
    return error


def _bracketed(row: bytes) -> bytes:
    return b"[" + row + b"]"


def _size(rows: Rows) -> int:
    return len(rows.rows) if isinstance(rows.rows, bytes | Raw) else len(str(rows.rows))

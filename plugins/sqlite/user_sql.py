"""Running a statement that a client wrote."""

import binascii
import math
import sqlite3
from typing import Any

import msgspec

from prism.sdk import PluginError, StatusCode

from .authorizer import Access, Ended
from .connection import ITEM_BYTES, Connection
from .errors import translate_user_sql
from .params import Rows
from .statement_limits import set_limits

RESULT_BYTES = 512 * 1024
"""A result is cut after the row that reaches this, so that it fits a frame."""
ROW_BYTES = 4 * RESULT_BYTES
"""A row over this is refused: it would take the event loop too long to encode."""
CELL_BYTES = 64
"""What a cell takes in memory beside its own bytes; characters have up to four."""

_REFUSED = (
    "this statement is not allowed: no PRAGMA, ATTACH, transaction control, temporary tables "
    "or access to Prism's own tables; and 'query' only reads"
)

_INFINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}
_FLOATS = {name: value for value, name in _INFINITE.items()}

Parameters = list[Any] | dict[str, Any]


def run_statement(
    connection: Connection, sql: str, params: Parameters, access: Access, limit: int
) -> tuple[Rows, int]:
    """Run one statement; returns up to ``limit`` rows, and how many rows it changed.

    Statements carry their access as a comment: Python keeps compiled statements
    by their text, and one compiled for Prism itself, or for ``execute``, must not
    be found again when a client's ``query`` has the same text.

    Raises:
        PluginError: the statement is wrong, not allowed, failed, or gives too large a row.
        Ended: it was compiled for too long.
    """
    authorizer = connection.authorizer
    limits = None
    cache = connection.schema_cache
    cache.refresh(connection)
    authorizer.begin(access, sql, cache.shadows)
    try:
        limits = cache.limits(connection, access.value, sql, params, authorizer.must_end)
        set_limits(connection, limits)
        connection.grows = limits.grows
        changes = connection.total_changes
        cursor = connection.execute(f"/*{access.value}*/ {sql}", params)
        try:
            rows = _fetch(connection, cursor, limit)
        finally:
            cursor.close()
        changed = connection.total_changes != changes and not authorizer.defines
    except (OverflowError, UnicodeError) as error:
        raise PluginError(StatusCode.INVALID_ARGUMENT, f"a parameter: {error}") from error
    except (sqlite3.Error, sqlite3.Warning) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            raise  # the job knows why
        if authorizer.ended:
            raise Ended from error
        if authorizer.refused:
            raise PluginError(StatusCode.PERMISSION_DENIED, _REFUSED) from error
        raise translate_user_sql(error, limits) from error
    finally:
        authorizer.end()
        connection.grows = False
        set_limits(connection, connection.own_limits)
    # Python's rowcount knows neither WITH ... INSERT nor a RETURNING that is not read to its end
    return rows, connection.execute("SELECT changes()").fetchone()[0] if changed else 0


def read_parameters(params: Parameters) -> Parameters:
    """Parameters as SQLite takes them; ``{"value", "encoding"}`` are bytes or an infinity.

    Raises:
        PluginError: INVALID_ARGUMENT, a parameter is no number, text, bytes, boolean or null.
    """
    if isinstance(params, dict):
        return {name: _parameter(value) for name, value in params.items()}
    return [_parameter(value) for value in params]


def show_as_json(rows: list[list[Any]]) -> None:
    """Replace, in place, what JSON cannot hold by text and the encoding beside it.

    That is bytes, and text that is no UTF-8, by their base64; and infinities by their name.
    (SQLite keeps no NaN: it is NULL there.)
    """
    for row in rows:
        for column, cell in enumerate(row):
            if isinstance(cell, bytes):
                text = binascii.b2a_base64(cell, newline=False).decode()
                row[column] = {"value": text, "encoding": "base64"}
            elif isinstance(cell, float) and math.isinf(cell):
                row[column] = {"value": _INFINITE[cell], "encoding": "float"}


def _fetch(connection: Connection, cursor: sqlite3.Cursor, limit: int) -> Rows:
    columns = [column[0] for column in cursor.description or ()]
    rows: list[list[Any]] = []
    size = 0
    for row in cursor:
        if len(rows) == limit or size > RESULT_BYTES:
            return Rows(columns, rows, truncated=True)
        row_size = sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in row)
        if row_size > ROW_BYTES:
            raise PluginError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"row {len(rows) + 1} has {row_size} bytes; the limit is {ROW_BYTES}: "
                "select fewer columns, or parts of them with substr()",
            )
        size += row_size
        connection.fetched_bytes += 4 * row_size + len(row) * CELL_BYTES + ITEM_BYTES
        rows.append(list(row))
    return Rows(columns, rows, truncated=False)


def _parameter(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    if isinstance(value, dict) and value.keys() == {"value", "encoding"}:
        try:
            if value["encoding"] == "base64":
                return msgspec.convert(value["value"], bytes)
            if value["encoding"] == "float":
                return _FLOATS[value["value"]]
        except (msgspec.ValidationError, KeyError, TypeError):
            pass
    raise PluginError(
        StatusCode.INVALID_ARGUMENT,
        'a parameter must be a number, text, boolean, null, {"value": ..., "encoding": "base64"} '
        'or {"value": "Infinity", "encoding": "float"}; pass a list or object as JSON text',
    )

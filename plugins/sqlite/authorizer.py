"""What a client's SQL may do: SQLite asks here while it compiles a statement.

A list of what is allowed; everything else is refused, also what later versions
of SQLite invent. Prism's own tables hold the keys of every namespace that
shares the file, so no statement of a client may touch them, by whatever way:
SQLite asks again for every table that a view, trigger or virtual table uses.
"""

import re
import sqlite3
from collections.abc import Callable, Iterable, Set
from enum import Enum

OWN_PREFIX = "_prism_"
_OWN_STEM = "_prism"
"""FTS5 adds "_data" and its like to the names it is given."""

_SCHEMA_TABLES = {"sqlite_master", "sqlite_temp_master"}
"""SQLite itself refuses direct changes to these; it asks about its own indirect ones."""
_SEQUENCE = "sqlite_sequence"
"""The last ids of AUTOINCREMENT tables: clients read it, SQLite alone writes it."""
_READABLE_SQLITE_TABLES = _SCHEMA_TABLES | {"sqlite_schema", "sqlite_temp_schema", _SEQUENCE}
_INSPECTING_TABLES = {"dbstat", "sqlite_dbpage", "bytecode", "tables_used"}
"""Show pages or statements of every table; where SQLite is built with them, they are just there."""
_ALLOWED_MODULES = {"fts5"}  # rtree compiles writes where a query only reads
_SHADOW_SUFFIXES = ("_data", "_idx", "_content", "_docsize", "_config")
"""Of the tables in which FTS5 keeps an index. It trusts them, so only it may write them: SQLite
has a setting for that (SQLITE_DBCONFIG_DEFENSIVE), which Python cannot reach before 3.12."""
_PLAIN_NAME = re.compile(r"[a-z0-9_]+")
_REFUSED_FUNCTIONS = {"load_extension", "fts3_tokenizer", "sqlite_log"}

_READING = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_WRITING = _READING | {
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_UPDATE,
    sqlite3.SQLITE_DELETE,
    sqlite3.SQLITE_CREATE_TABLE,
    sqlite3.SQLITE_CREATE_INDEX,
    sqlite3.SQLITE_CREATE_VIEW,
    sqlite3.SQLITE_CREATE_TRIGGER,
    sqlite3.SQLITE_CREATE_VTABLE,
    sqlite3.SQLITE_DROP_TABLE,
    sqlite3.SQLITE_DROP_INDEX,
    sqlite3.SQLITE_DROP_VIEW,
    sqlite3.SQLITE_DROP_TRIGGER,
    sqlite3.SQLITE_DROP_VTABLE,
    sqlite3.SQLITE_ALTER_TABLE,
    sqlite3.SQLITE_REINDEX,
}
_ROW_CHANGES = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}
_DEFINITIONS = _WRITING - _READING - _ROW_CHANGES
_RENAMED_IN = (sqlite3.SQLITE_UPDATE, "sqlite_temp_master")
"""ALTER TABLE looks for views and triggers among temporary ones, of which there are none."""
_RENAMING = {sqlite3.SQLITE_DROP_TABLE, sqlite3.SQLITE_ALTER_TABLE}
"""What these do to the last ids of their table, SQLite asks about as well."""


def shadow_tables(virtual_tables: Iterable[str]) -> frozenset[str]:
    """The names of the tables that belong to virtual ones, in lower case."""
    return frozenset(
        name.lower() + suffix for name in virtual_tables for suffix in _SHADOW_SUFFIXES
    )


class Access(Enum):
    """Whose statement is compiled now."""

    OWN = "own"
    QUERY = "query"
    EXECUTE = "execute"


class Ended(Exception):
    """A statement was not compiled to its end, because its time was over."""


class Authorizer:
    """The authorizer of one connection: ``begin`` and ``end`` stand around a client's statement.

    ``refused`` tells whether anything was refused since ``begin``. SQLite's own
    error code does not always: after a change of the schema it may be another.
    ``defines`` tells whether the statement changes the schema instead of rows.

    Compiling cannot be interrupted, but refused: ``must_end`` is asked at each step, and
    ``ended`` tells that it was so. (What puts views and WITH into each other asks nobody.)
    """

    def __init__(self) -> None:
        self.refused = False
        self.defines = False
        self.ended = False
        self.must_end: Callable[[], bool] = lambda: False
        self._access = Access.OWN
        self._names_own_tables = False
        self._text = ""
        self._shadows: Set[str] = frozenset()
        self._renames = False

    def begin(self, access: Access, sql: str, shadows: Set[str]) -> None:
        """A client's statement follows. ``shadows`` are the ``shadow_tables`` there are."""
        self._access = access
        self._text = sql.lower()
        self._shadows = shadows
        self._names_own_tables = _OWN_STEM in self._text
        self.refused = self.defines = self.ended = self._renames = False

    def end(self) -> None:
        """Prism's own statements follow."""
        self._access = Access.OWN

    def __call__(
        self, action: int, first: str | None, second: str | None, database: object, by: object
    ) -> int:
        """SQLite's authorizer callback; the names are as the client wrote them."""
        if self._access is Access.OWN:
            return sqlite3.SQLITE_OK
        if self.must_end():
            self.ended = True
            return sqlite3.SQLITE_DENY
        names = (first or "").lower(), (second or "").lower()
        if self._allows(action, *names, by) and (
            database != "temp" or (action, names[0]) == _RENAMED_IN or action in _READING
        ):
            return sqlite3.SQLITE_OK
        self.refused = True
        return sqlite3.SQLITE_DENY

    def _allows(self, action: int, first: str, second: str, by: object) -> bool:
        if action == sqlite3.SQLITE_ALTER_TABLE and self._names_own_tables:
            return False  # it may rename a table, and SQLite does not tell to what
        if action == sqlite3.SQLITE_PRAGMA:
            return first == "data_version" and not second  # read by fts5
        if first in _SCHEMA_TABLES and action == sqlite3.SQLITE_UPDATE:
            return True  # json_each and its like are declared at their first use; ALTER TABLE
        if self._access is Access.QUERY:
            return action in _READING and _names_allowed(action, first, second)
        self.defines |= action in _DEFINITIONS
        if action in _DEFINITIONS or action in _ROW_CHANGES:
            names = {first, second} if action in _DEFINITIONS else {first}
            if any(by is not None or name in self._text for name in names & self._shadows):
                return False  # named by the client, or in a trigger: not FTS5 by itself
        if action == sqlite3.SQLITE_CREATE_VTABLE and not _PLAIN_NAME.fullmatch(first):
            return False  # one that can be written in several ways would not be found above
        if action == sqlite3.SQLITE_ALTER_TABLE and self._has_shadows(second):
            return False  # nor would the new name
        self._renames |= action in _RENAMING
        if action in _ROW_CHANGES and first == _SEQUENCE:
            return self._renames and by is None
        return action in _WRITING and _names_allowed(action, first, second)

    def _has_shadows(self, table: str) -> bool:
        return table + _SHADOW_SUFFIXES[0] in self._shadows


def _names_allowed(action: int, first: str, second: str) -> bool:
    if first.startswith(OWN_PREFIX) or second.startswith(OWN_PREFIX):
        return False
    if action == sqlite3.SQLITE_FUNCTION:
        return second not in _REFUSED_FUNCTIONS
    if action == sqlite3.SQLITE_CREATE_VTABLE:
        return second in _ALLOWED_MODULES
    if action == sqlite3.SQLITE_READ or action in _ROW_CHANGES:
        return first not in _INSPECTING_TABLES and (
            not first.startswith("sqlite_") or first in _READABLE_SQLITE_TABLES
        )
    return True

"""What a client's SQL may do: SQLite asks here while it compiles a statement.

A list of what is allowed; everything else is refused, also what later versions
of SQLite invent. Prism's own tables hold the keys of every namespace that
shares the file, so no statement of a client may touch them, by whatever way:
SQLite asks again for every table that a view, trigger or virtual table uses.
"""

import sqlite3
from enum import Enum

OWN_PREFIX = "_prism_"

_ALLOWED_SQLITE_TABLES = {"sqlite_master", "sqlite_schema", "sqlite_sequence"}
_ALLOWED_MODULES = {"fts5", "rtree"}
_REFUSED_FUNCTIONS = {"load_extension", "fts3_tokenizer"}

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
_TABLE_ACTIONS = {
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_UPDATE,
    sqlite3.SQLITE_DELETE,
}


class Access(Enum):
    """Whose statement is compiled now."""

    OWN = "own"
    QUERY = "query"
    EXECUTE = "execute"


class Authorizer:
    """The authorizer of one connection: ``begin`` and ``end`` stand around a client's statement.

    ``refused`` tells whether anything was refused since ``begin``. SQLite's own
    error code does not always: after a change of the schema it may be another.
    """

    def __init__(self) -> None:
        self.refused = False
        self._access = Access.OWN

    def begin(self, access: Access) -> None:
        """A client's statement follows."""
        self._access = access
        self.refused = False

    def end(self) -> None:
        """Prism's own statements follow."""
        self._access = Access.OWN

    def __call__(
        self, action: int, first: str | None, second: str | None, _database: object, _by: object
    ) -> int:
        """SQLite's authorizer callback; the names are as the client wrote them."""
        if self._access is Access.OWN:
            return sqlite3.SQLITE_OK
        allowed = _READING if self._access is Access.QUERY else _WRITING
        if action in allowed and _names_allowed(action, (first or "", second or "")):
            return sqlite3.SQLITE_OK
        self.refused = True
        return sqlite3.SQLITE_DENY


def _names_allowed(action: int, names: tuple[str, str]) -> bool:
    first, second = (name.lower() for name in names)
    if first.startswith(OWN_PREFIX) or second.startswith(OWN_PREFIX):
        return False
    if action == sqlite3.SQLITE_FUNCTION:
        return second not in _REFUSED_FUNCTIONS
    if action == sqlite3.SQLITE_CREATE_VTABLE:
        return second in _ALLOWED_MODULES
    if action in _TABLE_ACTIONS:
        # dbstat and its like show pages, statements or samples of every table
        return first != "dbstat" and (
            not first.startswith("sqlite_") or first in _ALLOWED_SQLITE_TABLES
        )
    return True

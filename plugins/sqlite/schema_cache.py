"""What a connection has found out about its schema and clients' statements, until that changes."""

import sqlite3
from collections.abc import Callable
from typing import Any

from prism.sdk import PluginError, StatusCode

from .authorizer import shadow_tables
from .expansion import COPIED_BYTES, Expansion
from .statement_limits import UNKNOWN, StatementLimits, limits_of

MOST_STATEMENTS = 256
"""Whose limits are kept: as many as Python keeps compiled."""

_VERSION = "PRAGMA schema_version"
_DEFINED = """SELECT name, CASE type WHEN 'trigger' THEN tbl_name ELSE '' END, sql
    FROM sqlite_schema WHERE type IN ('view', 'trigger') AND name NOT GLOB '_prism_*'"""
_VIRTUAL_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage = 0"


_TOO_LARGE = (
    "with its views and WITH put in their places the statement has more than "
    f"{COPIED_BYTES} bytes: name each fewer times"
)


class SchemaCache:
    """``shadows``: the tables that belong to virtual ones, in lower case."""

    def __init__(self) -> None:
        self.shadows: frozenset[str] = frozenset()
        self._version = -1
        self._limits: dict[str, StatementLimits] = {}
        self._expansion = Expansion(())

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Forget what is no longer true; call before each statement of a client."""
        [version] = connection.execute(_VERSION).fetchone()
        if version != self._version:
            self.shadows = shadow_tables(name for (name,) in connection.execute(_VIRTUAL_TABLES))
            self._expansion = Expansion(connection.execute(_DEFINED))
            self._limits.clear()
            self._version = version

    def forget(self) -> None:
        """Call after a rollback: the next change of the schema has the number of the undone one."""
        self._version = -1

    def limits(
        self,
        connection: sqlite3.Connection,
        access: str,
        sql: str,
        params: Any,
        must_end: Callable[[], bool] = lambda: False,
    ) -> StatementLimits:
        """The limits of a client's statement; ``access`` is what its client may do.

        Raises:
            sqlite3.OperationalError: it was interrupted.
            PluginError: it becomes too large to be compiled.
            Ended: ``must_end`` has said so.
        """
        # One explained before is not compiled again, as it does not run: it has to look new.
        explaining = f"/*{access} {self._version}*/ EXPLAIN {sql}"
        limits = self._limits.get(explaining)
        if limits is None:
            drops = sql.lstrip()[:4].lower() == "drop"  # which compiles nothing
            if not drops and self._expansion.copied(sql, must_end) > COPIED_BYTES:
                raise PluginError(StatusCode.RESOURCE_EXHAUSTED, _TOO_LARGE)
            try:
                limits = limits_of(connection.execute(explaining, params))
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                    raise
                return UNKNOWN  # the statement itself says better what is wrong with it
            if len(self._limits) >= MOST_STATEMENTS:
                self._limits.clear()
            self._limits[explaining] = limits
        return limits

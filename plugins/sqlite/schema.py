"""Prism's own tables. Keys are kept as UTF-8 bytes, so they sort bytewise."""

import sqlite3

from prism.sdk import PluginError, StatusCode

SCHEMA_VERSION = 1

_STATEMENTS = (
    "CREATE TABLE IF NOT EXISTS _prism_schema (version INTEGER NOT NULL)",
    # expires_at: milliseconds since 1970; NULL never. binary: 0 JSON text, 1 bytes.
    """CREATE TABLE IF NOT EXISTS _prism_keyvalue (
        namespace TEXT NOT NULL,
        key BLOB NOT NULL,
        value BLOB NOT NULL,
        binary INTEGER NOT NULL,
        expires_at INTEGER,
        PRIMARY KEY (namespace, key)
    ) WITHOUT ROWID""",
    """CREATE INDEX IF NOT EXISTS _prism_keyvalue_expiry
        ON _prism_keyvalue (namespace, expires_at) WHERE expires_at IS NOT NULL""",
)


def prepare_schema(connection: sqlite3.Connection) -> None:
    """Create what is missing; safe when several processes start at once.

    Raises:
        PluginError: FAILED_PRECONDITION, a newer Prism wrote this file.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _STATEMENTS:
            connection.execute(statement)
        row = connection.execute("SELECT max(version) FROM _prism_schema").fetchone()
        version: int | None = row[0]
        if version is None:
            connection.execute("INSERT INTO _prism_schema VALUES (?)", (SCHEMA_VERSION,))
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    if version is not None and version > SCHEMA_VERSION:
        raise PluginError(
            StatusCode.FAILED_PRECONDITION,
            f"the database has schema version {version}, this plugin knows up to "
            f"{SCHEMA_VERSION}: use the newer plugin that wrote it",
        )

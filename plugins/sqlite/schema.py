"""Prism's own tables. Keys are kept as UTF-8 bytes, so they sort bytewise."""

import sqlite3

from prism.sdk import PluginError, StatusCode

SCHEMA_VERSION = 2
"""1: keys and values. 2: the log of changes, queues. Each is made from the one before by
adding what is missing."""

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
    # The newest row is never deleted, so that no sequence is given twice.
    """CREATE TABLE IF NOT EXISTS _prism_change (
        sequence INTEGER PRIMARY KEY,
        namespace TEXT NOT NULL,
        key BLOB NOT NULL
    )""",
    *(
        f"""CREATE TRIGGER IF NOT EXISTS _prism_change_{name} AFTER {event} ON _prism_keyvalue
            BEGIN INSERT INTO _prism_change (namespace, key)
                VALUES ({row}.namespace, {row}.key); END"""  # noqa: S608
        for name, event, row in (
            ("insert", "INSERT", "NEW"),
            ("update", "UPDATE OF value", "NEW"),
            ("delete", "DELETE", "OLD"),
        )
    ),
    # Times are milliseconds since 1970. receipt: of the last delivery, while it is out.
    """CREATE TABLE IF NOT EXISTS _prism_queue (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        namespace TEXT NOT NULL,
        queue TEXT NOT NULL,
        value BLOB NOT NULL,
        binary INTEGER NOT NULL,
        enqueued_at INTEGER NOT NULL,
        visible_at INTEGER NOT NULL,
        deliveries INTEGER NOT NULL,
        receipt TEXT
    )""",
    """CREATE INDEX IF NOT EXISTS _prism_queue_next
        ON _prism_queue (namespace, queue, visible_at, id)""",
    """CREATE UNIQUE INDEX IF NOT EXISTS _prism_queue_receipt
        ON _prism_queue (receipt) WHERE receipt IS NOT NULL""",
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
        if version is None or version < SCHEMA_VERSION:
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

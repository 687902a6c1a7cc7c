"""Prism's own tables. Keys are kept as UTF-8 bytes, so they sort bytewise."""

import sqlite3

from prism.sdk import PluginError, StatusCode

SCHEMA_VERSION = 4
"""1: keys and values. 2: the log of changes, queues. 3: the state; queues number their messages
by it. 4: versions of values. Each is made from the one before, while plugins that know only that
one still use it."""

LARGEST_ID = 2**62
"""Of a message: SQLite's limit is twice that, and what is beyond this was not counted up to."""

_SET_VERSION = """UPDATE _prism_keyvalue SET version = last_insert_rowid()
    WHERE namespace = NEW.namespace AND key = NEW.key;"""

_STATEMENTS = (
    "CREATE TABLE IF NOT EXISTS _prism_schema (version INTEGER NOT NULL)",
    # expires_at: milliseconds since 1970; NULL never. binary: 0 JSON text, 1 bytes. version: the
    # sequence of the value's change; 0 for those there were before schema 4.
    """CREATE TABLE IF NOT EXISTS _prism_keyvalue (
        namespace TEXT NOT NULL,
        key BLOB NOT NULL,
        value BLOB NOT NULL,
        binary INTEGER NOT NULL,
        expires_at INTEGER,
        version INTEGER NOT NULL DEFAULT 0,
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
            BEGIN INSERT INTO _prism_change (namespace, key) VALUES ({row}.namespace, {row}.key);
                {then} END"""
        for name, event, row, then in (
            ("insert", "INSERT", "NEW", _SET_VERSION),
            ("update", "UPDATE OF value", "NEW", _SET_VERSION),
            ("delete", "DELETE", "OLD", ""),
        )
    ),
    # clock: milliseconds since 1970 (see `steady_clock`). queue: the last message's id.
    """CREATE TABLE IF NOT EXISTS _prism_state (
        name TEXT PRIMARY KEY, value INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "INSERT OR IGNORE INTO _prism_state VALUES ('clock', 0), ('queue', 0)",
    # Times are milliseconds since 1970; visible_at: 0 for what can be had. receipt: of the last
    # delivery, while it is out.
    """CREATE TABLE IF NOT EXISTS _prism_queue (
        id INTEGER PRIMARY KEY,
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

_HAS_VERSIONS = """SELECT count(*) FROM pragma_table_info('_prism_keyvalue')
    WHERE name = 'version'"""
_ADD_VERSIONS = (
    "ALTER TABLE _prism_keyvalue ADD COLUMN version INTEGER NOT NULL DEFAULT 0",
    "DROP TRIGGER _prism_change_insert",
    "DROP TRIGGER _prism_change_update",
    *(statement for statement in _STATEMENTS if " _prism_change_" in statement),
)
_VERSION = "SELECT max(version) FROM _prism_schema"
_NUMBERED_BY_SQLITE = """SELECT count(*) FROM sqlite_schema
    WHERE name = '_prism_queue' AND sql LIKE '%AUTOINCREMENT%'"""
_NUMBER_BY_STATE = (
    # Clients' SQL could once set SQLite's number; one beyond all reason is not taken over.
    f"""UPDATE _prism_state SET value = (SELECT max(value,
        coalesce((SELECT max(id) FROM _prism_queue WHERE id < {LARGEST_ID}), 0),
        coalesce((SELECT max(seq) FROM sqlite_sequence
            WHERE name = '_prism_queue' AND seq < {LARGEST_ID}), 0))) WHERE name = 'queue'""",
    # Not renamed: that fails where any view of a client's does not resolve.
    "CREATE TABLE _prism_queue_before AS SELECT * FROM _prism_queue",
    "DROP TABLE _prism_queue",
    *(statement for statement in _STATEMENTS if " _prism_queue" in statement),
    "INSERT INTO _prism_queue SELECT * FROM _prism_queue_before",
    "DROP TABLE _prism_queue_before",
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
        [has_versions] = connection.execute(_HAS_VERSIONS).fetchone()
        if not has_versions:
            for statement in _ADD_VERSIONS:
                connection.execute(statement)
        [numbered_by_sqlite] = connection.execute(_NUMBERED_BY_SQLITE).fetchone()
        if numbered_by_sqlite:
            for statement in _NUMBER_BY_STATE:
                connection.execute(statement)
        version: int | None = connection.execute(_VERSION).fetchone()[0]
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

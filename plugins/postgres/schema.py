"""Prism's own tables: keys and values, and queues, of all namespaces of a database.

Made, and brought up to date, when a plugin starts: one after the other, however many start at
once, each version in a transaction. Where they are as they should be, nothing is written, so a
role that may not create, or a server that is read-only, will do.
"""

from prism.sdk import PluginError, StatusCode

from .connection import Connection
from .errors import DatabaseError

SCHEMA_VERSION = 1

_LOCK = b"SELECT pg_advisory_xact_lock(hashtext('prism schema'), hashtext($1))"
_VERSION = "SELECT coalesce(max(version), 0) FROM {schema}.schema_version"

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE SCHEMA IF NOT EXISTS {schema}",
        "CREATE TABLE {schema}.schema_version (version int PRIMARY KEY,"
        " made_at timestamptz NOT NULL DEFAULT clock_timestamp())",
        # Of values; each session takes some at a time, so they are unique, and in no order.
        "CREATE SEQUENCE {schema}.version CACHE 100",
        # Keys are UTF-8 as bytes, so they sort bytewise. binary: else the value is JSON text.
        """CREATE TABLE {schema}.keyvalue (
            namespace text COLLATE "C" NOT NULL,
            key bytea NOT NULL,
            value bytea NOT NULL,
            "binary" boolean NOT NULL,
            version bigint NOT NULL DEFAULT nextval('{schema}.version'),
            expires_at timestamptz,
            PRIMARY KEY (namespace, key)
        ) WITH (fillfactor = 90)""",
        """CREATE INDEX keyvalue_expiry ON {schema}.keyvalue (namespace, expires_at)
            WHERE expires_at IS NOT NULL""",
        # visible_at: when it can be had (again). receipt: of the last delivery, while it is out.
        """CREATE TABLE {schema}.queue (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            namespace text COLLATE "C" NOT NULL,
            queue text COLLATE "C" NOT NULL,
            value bytea NOT NULL,
            "binary" boolean NOT NULL,
            enqueued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            visible_at timestamptz NOT NULL,
            deliveries int NOT NULL DEFAULT 0,
            receipt text COLLATE "C"
        )""",
        "CREATE INDEX queue_next ON {schema}.queue (namespace, queue, id)",
        """CREATE UNIQUE INDEX queue_receipt ON {schema}.queue (namespace, receipt)
            WHERE receipt IS NOT NULL""",
    ),
)


async def prepare_schema(connection: Connection, schema: str) -> None:
    """Make what is missing.

    Raises:
        PluginError: FAILED_PRECONDITION, a newer Prism made the tables, or they cannot be made.
    """
    version = await _version(connection, schema)
    if version > SCHEMA_VERSION:
        raise PluginError(
            StatusCode.FAILED_PRECONDITION,
            f"the tables in schema {schema!r} have version {version}, and this plugin knows up to "
            f"{SCHEMA_VERSION}: use the newer plugin that made them",
        )
    if version == SCHEMA_VERSION:
        return
    try:
        await _migrate(connection, schema)
    except DatabaseError as error:
        raise PluginError(
            StatusCode.FAILED_PRECONDITION,
            f"Prism's own tables cannot be made in schema {schema!r}: {error.detail}. Let the role "
            "create a schema (GRANT CREATE ON DATABASE ...), start once with one that may, or set "
            "config.key_value: false where only SQL is wanted",
        ) from error


async def _version(connection: Connection, schema: str) -> int:
    """0 where there are no tables."""
    connection.send(_VERSION.format(schema=schema).encode())
    connection.send_sync()
    try:
        [result] = await connection.results(1)
        version = int(result.get_value(0, 0) or b"0")
    except DatabaseError as error:
        if error.sqlstate in ("42P01", "3F000"):
            return 0
        raise PluginError(
            StatusCode.FAILED_PRECONDITION,
            f"Prism's own tables in schema {schema!r} cannot be read: {error.detail}",
        ) from error
    await connection.finish_group()
    return version


async def _migrate(connection: Connection, schema: str) -> None:
    connection.send(b"BEGIN")
    connection.send(_LOCK, [schema.encode()])
    await connection.results(connection.owed)
    # Somebody else may have been here, in between.
    connection.send(b"SELECT to_regclass($1) IS NOT NULL", [f"{schema}.schema_version".encode()])
    [exists] = await connection.results(1)
    version = 0
    if exists.get_value(0, 0) == b"t":
        connection.send(_VERSION.format(schema=schema).encode())
        [found] = await connection.results(1)
        version = int(found.get_value(0, 0) or b"0")
    for number in range(version, SCHEMA_VERSION):
        for statement in _MIGRATIONS[number]:
            connection.send(statement.format(schema=schema).encode())
        connection.send(f"INSERT INTO {schema}.schema_version VALUES ({number + 1})".encode())
    connection.send(b"COMMIT")
    connection.send_sync()
    await connection.finish_group()

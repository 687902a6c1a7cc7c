"""Opening a database: one writing connection, any number of reading ones."""

import sqlite3
from pathlib import Path

from prism.sdk import PluginError, StatusCode

from .authorizer import Authorizer
from .config import SQLiteConfig
from .heap import give_back, make_room
from .printf import bound_printf
from .schema import prepare_schema
from .schema_cache import SchemaCache
from .statement_limits import LIKE_PATTERN_BYTES, VALUE_BYTES, StatementLimits, set_limits
from .trim import replace_trim

CACHED_STATEMENTS = 256
WAL_SIZE_LIMIT_BYTES = 64 * 1024 * 1024
"""The write-ahead log shrinks back to this after a burst."""

SQL_COLUMNS_LIMIT = 100
"""A statement makes no wider rows, unless the file has a wider table: a row is in memory whole."""

ITEM_BYTES = 256
"""What a value or a row takes in memory beside its own bytes, at a guess."""

SQL_TEXT_LIMIT_BYTES = 1024 * 1024
"""Of a statement."""


class Connection(sqlite3.Connection):
    """A connection and its authorizer; used by one thread at a time."""

    authorizer: Authorizer
    schema_cache: SchemaCache
    own_limits: StatementLimits
    """For Prism's own statements; a client's have others while they run."""
    grows = False
    """Whether the statement that runs can take more and more memory."""
    fetched_bytes = 0
    """What a batch's jobs have fetched for their results, about; reading methods add to it."""

    def close(self) -> None:
        """Close it; once is enough."""
        super().close()
        give_back(self)


def open_writer(config: SQLiteConfig) -> Connection:
    """The one connection that writes; creates the file and Prism's tables where missing.

    Raises:
        PluginError: FAILED_PRECONDITION; directory, file system or schema do not fit.
        sqlite3.Error: the file cannot be opened or used.
    """
    if config.in_memory:
        connection = _connect(":memory:", config)
    else:
        path = Path(config.path).absolute()
        if not path.parent.is_dir():
            raise PluginError(
                StatusCode.FAILED_PRECONDITION,
                f"config.path: there is no directory {str(path.parent)!r}; create it first",
            )
        connection = _connect(f"{path.as_uri()}?mode=rwc", config)
    try:
        if not config.in_memory:
            _use_write_ahead_log(connection)
        connection.execute(f"PRAGMA synchronous={config.synchronous}")
        connection.execute(f"PRAGMA journal_size_limit={WAL_SIZE_LIMIT_BYTES}")
        prepare_schema(connection)
    except BaseException:
        connection.close()
        raise
    _limit_columns(connection)
    return connection


def open_reader(config: SQLiteConfig) -> Connection:
    """A connection that cannot write. The file must exist."""
    connection = _connect(f"{Path(config.path).absolute().as_uri()}?mode=ro", config)
    connection.execute("PRAGMA query_only=1")
    _limit_columns(connection)
    return connection


def _connect(database: str, config: SQLiteConfig) -> Connection:
    connection = sqlite3.connect(
        database,
        uri=True,
        timeout=config.busy_timeout_ms / 1000,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=CACHED_STATEMENTS,
        factory=Connection,
    )
    largest = max(VALUE_BYTES, config.max_value_bytes + 4096)
    connection.own_limits = StatementLimits(largest, LIKE_PATTERN_BYTES)
    set_limits(connection, connection.own_limits)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, SQL_TEXT_LIMIT_BYTES)
    make_room(connection)
    connection.execute("PRAGMA trusted_schema=0")
    connection.text_factory = _text
    replace_trim(connection)
    bound_printf(connection)
    connection.schema_cache = SchemaCache()
    connection.authorizer = Authorizer()
    connection.set_authorizer(connection.authorizer)
    return connection


def _text(data: bytes) -> str | bytes:
    """TEXT is what its writer says, not always UTF-8: a cell then comes as its bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _limit_columns(connection: Connection) -> None:
    """What is wider already stays usable: SQLite holds the schema itself to this limit."""
    [widest] = connection.execute(
        "SELECT max((SELECT count(*) FROM pragma_table_xinfo(t.name))) FROM sqlite_schema AS t "
        "WHERE t.type = 'table' AND t.rootpage > 0"  # views and virtual tables may not resolve
    ).fetchone()
    connection.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, max(SQL_COLUMNS_LIMIT, widest))


def _use_write_ahead_log(connection: Connection) -> None:
    [mode] = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise PluginError(
            StatusCode.FAILED_PRECONDITION,
            "config.path: this file system does not support SQLite's write-ahead log; "
            "use a local disk",
        )

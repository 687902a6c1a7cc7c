"""What the operations for SQL, queues and notifications take and give."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from prism.sdk import Encoding
from prism.sdk.keyvalue_messages import AnyValue

MAX_STATEMENT = 1024 * 1024
MAX_STATEMENTS = 1_000
MAX_SETS = 10_000
MAX_CHANNELS = 100

SQLText = Annotated[str, Meta(min_length=1, max_length=MAX_STATEMENT)]
Params = list[Raw] | dict[str, Raw]
Channel = Annotated[str, Meta(min_length=1, max_length=63)]


class Query(msgspec.Struct, forbid_unknown_fields=True):
    """Params of query and execute: one statement, with ``$1`` or ``:name``."""

    sql: SQLText
    params: Params = []
    max_rows: Annotated[int, Meta(ge=1)] | None = None


class QueryAll(msgspec.Struct, forbid_unknown_fields=True):
    """Params of query as a stream."""

    sql: SQLText
    params: Params = []


class ExecuteMany(msgspec.Struct, forbid_unknown_fields=True):
    """Params of execute_many: one statement, several sets of parameters."""

    sql: SQLText
    params_list: Annotated[list[Params], Meta(max_length=MAX_SETS)]


class Step(msgspec.Struct, forbid_unknown_fields=True):
    """One statement of a transaction. ``expect_rows``: how many it must change, or give."""

    sql: SQLText
    params: Params = []
    expect_rows: Annotated[int, Meta(ge=0)] | None = None


class Transaction(msgspec.Struct, forbid_unknown_fields=True):
    """Params of transaction: all of the statements happen, or none."""

    statements: Annotated[list[Step], Meta(min_length=1, max_length=MAX_STATEMENTS)]
    isolation: Literal["read_committed", "repeatable_read", "serializable"] = "read_committed"


class Describe(msgspec.Struct, forbid_unknown_fields=True):
    """Params of describe: a table, with its schema where the search path lacks that."""

    table: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class Described(msgspec.Struct):
    """Result of describe: the tables there are, or one with its columns, keys and indexes."""

    tables: list[dict[str, str]] | UnsetType = UNSET
    schema: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    columns: list[dict[str, str | bool | None]] | UnsetType = UNSET
    keys: list[dict[str, str]] | UnsetType = UNSET
    indexes: list[str] | UnsetType = UNSET


class Notify(msgspec.Struct, forbid_unknown_fields=True):
    """Params of notify."""

    channel: Channel
    value: AnyValue
    encoding: Encoding | UnsetType = UNSET


class Listen(msgspec.Struct, forbid_unknown_fields=True):
    """Params of listen."""

    channels: Annotated[list[Channel], Meta(min_length=1, max_length=MAX_CHANNELS)]


class Rows(msgspec.Struct):
    """Result of query, and part of execute's."""

    columns: list[str]
    rows: Any
    truncated: bool


class Part(msgspec.Struct):
    """A message of a streamed query: first one with the columns, then the rows."""

    columns: list[str] | UnsetType = UNSET
    rows: Any = UNSET


class Executed(msgspec.Struct):
    """Result of execute; columns and rows where the statement gives some."""

    rows_affected: int
    columns: list[str] | UnsetType = UNSET
    rows: Any = UNSET
    truncated: bool | UnsetType = UNSET


class ExecutedMany(msgspec.Struct):
    """Result of execute_many."""

    rows_affected: int


class Results(msgspec.Struct):
    """Result of transaction, in the order of its statements."""

    results: list[Executed]


class Heard(msgspec.Struct):
    """A message of listen: a value on a channel, or an ``event``. ``ready``: what is said from now
    on is heard. ``gap``: the connection was lost, or the client too slow, and something may have
    been missed; what follows is heard again."""

    event: Literal["ready", "gap"] | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    value: AnyValue | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET

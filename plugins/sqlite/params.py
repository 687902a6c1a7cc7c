"""What the queue and SQL operations take and give.

An unknown field is an error: it may be a typing mistake.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from prism.sdk import Encoding

MAX_DEQUEUE = 100
MAX_DELAY = 366 * 86_400.0

MAX_QUEUE_NAME = 200

QueueName = Annotated[str, Meta(min_length=1, max_length=MAX_QUEUE_NAME)]
Delay = Annotated[float, Meta(ge=0, le=MAX_DELAY)]


class Queue(msgspec.Struct, forbid_unknown_fields=True):
    """Params of queue_size."""

    queue: QueueName


class Enqueue(Queue, forbid_unknown_fields=True):
    """Params of enqueue. The name leaves room for that of the queue's dead letters."""

    queue: Annotated[str, Meta(min_length=1, max_length=MAX_QUEUE_NAME - 5)]
    value: Raw
    encoding: Encoding | UnsetType = UNSET
    delay_seconds: Delay = 0


class Dequeue(Queue, forbid_unknown_fields=True):
    """Params of dequeue. ``wait_seconds``: how long to wait for a message if there is none.
    A message delivered ``max_deliveries`` times goes to the queue's dead letters."""

    limit: Annotated[int, Meta(ge=1, le=MAX_DEQUEUE)] = 1
    visibility_timeout_seconds: Annotated[float, Meta(gt=0, le=MAX_DELAY)] = 30.0
    max_deliveries: Annotated[int, Meta(ge=1, le=1_000_000)] = 5
    wait_seconds: Annotated[float, Meta(ge=0, le=3600)] = 0


class Receipt(msgspec.Struct, forbid_unknown_fields=True):
    """Params of acknowledge."""

    receipt: Annotated[str, Meta(min_length=1, max_length=100)]


class Reject(Receipt, forbid_unknown_fields=True):
    """Params of reject."""

    delay_seconds: Delay = 0


class Statement(msgspec.Struct, forbid_unknown_fields=True):
    """Params of query and execute: one statement, with ``?`` or ``:name`` placeholders."""

    sql: Annotated[str, Meta(min_length=1)]
    params: list[Any] | dict[str, Any] = []
    limit: Annotated[int, Meta(ge=1)] | None = None


class Message(msgspec.Struct):
    """One of dequeue's messages. ``enqueued_at`` is Unix seconds."""

    id: int
    receipt: str
    deliveries: int
    enqueued_at: float
    value: Raw | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET


class Messages(msgspec.Struct):
    """Result of dequeue."""

    messages: list[Message]


class Rows(msgspec.Struct):
    """Result of query, and part of execute's."""

    columns: list[str]
    rows: list[list[Any]]
    truncated: bool


class Executed(msgspec.Struct):
    """Result of execute; columns and rows where the statement has RETURNING."""

    rows_affected: int
    columns: list[str] | UnsetType = UNSET
    rows: list[list[Any]] | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET

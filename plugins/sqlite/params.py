"""What the operations take and give. An unknown field is an error: it may be a typing mistake."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from prism.sdk import Encoding

MAX_KEYS = 1_000
MAX_SCAN = 10_000
MAX_DEQUEUE = 100
MAX_DELAY = 366 * 86_400.0

MAX_QUEUE_NAME = 200

KeyText = Annotated[str, Meta(min_length=1, max_length=1024)]
Seconds = Annotated[float, Meta(ge=0)]
QueueName = Annotated[str, Meta(min_length=1, max_length=MAX_QUEUE_NAME)]
Delay = Annotated[float, Meta(ge=0, le=MAX_DELAY)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Key(msgspec.Struct, forbid_unknown_fields=True):
    """Params of get, delete, exists, ttl and persist."""

    key: KeyText


class Keys(msgspec.Struct, forbid_unknown_fields=True):
    """Params of mget and mdelete."""

    keys: Annotated[list[KeyText], Meta(max_length=MAX_KEYS)]


class Item(msgspec.Struct, forbid_unknown_fields=True):
    """One key to set. ``ttl_seconds``: absent the namespace's default, 0 never expires."""

    key: KeyText
    value: Raw
    encoding: Encoding | UnsetType = UNSET
    ttl_seconds: Seconds | None = None


class Set(Item, forbid_unknown_fields=True):
    """Params of set."""

    only_if_not_exists: bool = False
    only_if_exists: bool = False


class SetMany(msgspec.Struct, forbid_unknown_fields=True):
    """Params of mset: all are set, or none."""

    items: Annotated[list[Item], Meta(max_length=MAX_KEYS)]


class Scan(msgspec.Struct, forbid_unknown_fields=True):
    """Params of scan. ``cursor`` comes from the page before."""

    prefix: str = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_SCAN)] = 100
    cursor: str = ""
    keys_only: bool = False


class ScanAll(msgspec.Struct, forbid_unknown_fields=True):
    """Params of scan as a stream. ``cursor`` is a key: what comes after it."""

    prefix: str = ""
    cursor: str = ""
    keys_only: bool = False


class Watch(msgspec.Struct, forbid_unknown_fields=True):
    """Params of watch. ``existing``: first the keys there are, then an event ``ready``.
    ``after`` is the position of an earlier watch's message."""

    prefix: str = ""
    existing: bool = False
    after: str = ""
    keys_only: bool = False


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


class Prefix(msgspec.Struct, forbid_unknown_fields=True):
    """Params of count."""

    prefix: str = ""


class Expire(msgspec.Struct, forbid_unknown_fields=True):
    """Params of expire; 0 means now."""

    key: KeyText
    ttl_seconds: Seconds


class Increment(msgspec.Struct, forbid_unknown_fields=True):
    """Params of increment. A missing key counts as ``initial``."""

    key: KeyText
    delta: Int64 = 1
    initial: Int64 = 0


class CompareAndSwap(msgspec.Struct, forbid_unknown_fields=True):
    """Params of compare_and_swap. Without ``old_value`` the key must not exist."""

    key: KeyText
    new_value: Raw
    old_value: Raw | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET
    ttl_seconds: Seconds | None = None


class CompareAndDelete(msgspec.Struct, forbid_unknown_fields=True):
    """Params of compare_and_delete."""

    key: KeyText
    old_value: Raw
    encoding: Encoding | UnsetType = UNSET


class Statement(msgspec.Struct, forbid_unknown_fields=True):
    """Params of query and execute: one statement, with ``?`` or ``:name`` placeholders."""

    sql: Annotated[str, Meta(min_length=1)]
    params: list[Any] | dict[str, Any] = []
    limit: Annotated[int, Meta(ge=1)] | None = None


class Found(msgspec.Struct):
    """Result of get."""

    found: bool
    value: Raw | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET


class FoundKey(msgspec.Struct):
    """One of mget's results."""

    key: str
    found: bool
    value: Raw | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET


class FoundKeys(msgspec.Struct):
    """Result of mget, in the order of the keys asked for."""

    results: list[FoundKey]
    found_count: int


class ScanItem(msgspec.Struct):
    """One of scan's results."""

    key: str
    value: Raw | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET


class Page(msgspec.Struct):
    """Result of scan, in the order of the keys' bytes. ``cursor`` is absent on the last page."""

    items: list[ScanItem]
    cursor: str | UnsetType = UNSET


class Changed(msgspec.Struct):
    """One of watch's messages: a key was set or deleted; ``ready`` ends those there were."""

    event: Literal["set", "delete", "ready"]
    key: str | UnsetType = UNSET
    value: Raw | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET


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

"""What the operations beyond key-value take and give. An unknown field is an error."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from prism.sdk import Encoding

MAX_ITEMS = 1_000
"""Fields, members, values or commands of one call."""
MAX_RANGE = 10_000

KeyText = Annotated[str, Meta(min_length=1, max_length=1024)]
FieldText = Annotated[str, Meta(max_length=1024)]
AnyValue = Annotated[Raw, Meta(description="any JSON; or base64 text, with encoding base64")]
Values = Annotated[list[AnyValue], Meta(min_length=1, max_length=MAX_ITEMS)]
Limit = Annotated[int, Meta(ge=1, le=MAX_RANGE)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Seconds = Annotated[float, Meta(ge=0, le=3600)]
Side = Literal["left", "right"]


class Key(msgspec.Struct, forbid_unknown_fields=True):
    """One key."""

    key: KeyText


class Field(Key, forbid_unknown_fields=True):
    """Params of hash_get."""

    field: FieldText


class Fields(Key, forbid_unknown_fields=True):
    """Params of hash_delete."""

    fields: Annotated[list[FieldText], Meta(min_length=1, max_length=MAX_ITEMS)]


class SetFields(Key, forbid_unknown_fields=True):
    """Params of hash_set. ``encodings``: of the fields whose values are binary."""

    fields: Annotated[dict[FieldText, AnyValue], Meta(min_length=1, max_length=MAX_ITEMS)]
    encodings: dict[str, Encoding] = {}


class IncrementField(Field, forbid_unknown_fields=True):
    """Params of hash_increment; a missing field counts as 0."""

    delta: Int64 = 1


class Push(Key, forbid_unknown_fields=True):
    """Params of list_push: one after the other at ``side``."""

    values: Values
    encoding: Encoding | UnsetType = UNSET
    side: Side = "right"


class Pop(Key, forbid_unknown_fields=True):
    """Params of list_pop. ``wait_seconds``: how long to wait for one if there is none."""

    side: Side = "left"
    count: Annotated[int, Meta(ge=1, le=MAX_ITEMS)] = 1
    wait_seconds: Seconds = 0


class Range(Key, forbid_unknown_fields=True):
    """Params of list_range: places from ``start`` to ``stop``, both included; -1 is the last."""

    start: Int64 = 0
    stop: Int64 = MAX_RANGE - 1


class Members(Key, forbid_unknown_fields=True):
    """Params of set_add, set_remove and sorted_set_remove."""

    members: Values
    encoding: Encoding | UnsetType = UNSET


class Member(Key, forbid_unknown_fields=True):
    """Params of set_contains and sorted_set_rank."""

    member: AnyValue
    encoding: Encoding | UnsetType = UNSET
    reverse: bool = False


class Scored(msgspec.Struct, forbid_unknown_fields=True):
    """A member of a sorted set, as params and as result."""

    member: AnyValue
    score: float
    encoding: Encoding | UnsetType = UNSET


class AddScored(Key, forbid_unknown_fields=True):
    """Params of sorted_set_add."""

    members: Annotated[list[Scored], Meta(min_length=1, max_length=MAX_ITEMS)]


class ScoredRange(Key, forbid_unknown_fields=True):
    """Params of sorted_set_range: by score where a bound of it is given, else by place."""

    start: Int64 = 0
    stop: Int64 | None = None
    min_score: float | None = None
    max_score: float | None = None
    reverse: bool = False
    limit: Limit = 100


class Channel(msgspec.Struct, forbid_unknown_fields=True):
    """Params of notify."""

    channel: KeyText
    value: AnyValue
    encoding: Encoding | UnsetType = UNSET


class Listen(msgspec.Struct, forbid_unknown_fields=True):
    """Params of listen. ``patterns`` are globs: ``*``, ``?``, ``[ab]``."""

    channels: Annotated[list[KeyText], Meta(max_length=MAX_ITEMS)] = []
    patterns: Annotated[list[KeyText], Meta(max_length=MAX_ITEMS)] = []


class Publish(msgspec.Struct, forbid_unknown_fields=True):
    """Params of publish. ``max_length``: entries that the topic keeps, about; 0 keeps all."""

    topic: KeyText
    value: AnyValue
    encoding: Encoding | UnsetType = UNSET
    headers: Annotated[dict[FieldText, str], Meta(max_length=100)] = {}
    max_length: Annotated[int, Meta(ge=0)] | None = None


class Subscribe(msgspec.Struct, forbid_unknown_fields=True):
    """Params of subscribe.

    With ``group``, its subscribers share the messages, and each is delivered until it is
    acknowledged; ``start`` says where a new group begins. Without one, every subscriber gets
    all from ``start`` on: ``new``, ``earliest``, or what follows a message's id.
    """

    topic: KeyText
    group: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    start: str = "new"
    max_in_flight: Annotated[int, Meta(ge=1, le=1_000)] = 100
    visibility_timeout_seconds: Annotated[float, Meta(ge=0.1, le=86_400)] = 30.0
    max_deliveries: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class MessageIds(msgspec.Struct, forbid_unknown_fields=True):
    """Params of acknowledge."""

    topic: KeyText
    group: Annotated[str, Meta(min_length=1, max_length=200)]
    message_ids: Annotated[list[str], Meta(min_length=1, max_length=MAX_ITEMS)]


class Reject(MessageIds, forbid_unknown_fields=True):
    """Params of reject."""

    delay_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 0


class Command(msgspec.Struct, forbid_unknown_fields=True):
    """Params of command, and one of transaction's."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    args: Annotated[list[Any], Meta(max_length=2 * MAX_ITEMS)] = []


class Transaction(msgspec.Struct, forbid_unknown_fields=True):
    """Params of transaction: all run, without others between them."""

    commands: Annotated[list[Command], Meta(min_length=1, max_length=MAX_ITEMS)]


class Found(msgspec.Struct):
    """Result of hash_get."""

    found: bool
    value: AnyValue | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET


class FoundFields(msgspec.Struct):
    """Result of hash_get_all. ``encodings``: of the fields whose values are binary."""

    found: bool
    fields: dict[str, AnyValue]
    encodings: dict[str, Encoding] | UnsetType = UNSET


class FoundValues(msgspec.Struct):
    """Values in their order. ``encodings``, where some are binary: one for each, or null."""

    found: bool
    values: list[AnyValue]
    encodings: list[Encoding | None] | UnsetType = UNSET


class OneMember(msgspec.Struct):
    """A message of set_members as a stream."""

    member: AnyValue
    encoding: Encoding | UnsetType = UNSET


class FoundScored(msgspec.Struct):
    """Result of sorted_set_range."""

    members: list[Scored]


class Rank(msgspec.Struct):
    """Result of sorted_set_rank: the place, from 0, and the score."""

    found: bool
    rank: int | UnsetType = UNSET
    score: float | UnsetType = UNSET


class Added(msgspec.Struct):
    """How many are new."""

    added: int


class Removed(msgspec.Struct):
    """How many there were."""

    removed: int


class Length(msgspec.Struct):
    """How many there are now."""

    length: int


class Number(msgspec.Struct):
    """Result of hash_increment."""

    value: int


class Contains(msgspec.Struct):
    """Result of set_contains."""

    contains: bool


class Receivers(msgspec.Struct):
    """Result of notify: how many listened just then, to this server."""

    receivers: int


class Notified(msgspec.Struct):
    """A message of listen: a value on a channel; or ``ready``, from which on all is heard."""

    event: Literal["ready"] | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    value: AnyValue | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET


class Published(msgspec.Struct):
    """Result of publish."""

    message_id: str


class Delivered(msgspec.Struct):
    """A message of subscribe. ``timestamp`` is Unix seconds, by the server's clock."""

    message_id: str
    value: AnyValue
    timestamp: float
    encoding: Encoding | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    deliveries: int | UnsetType = UNSET


class Acknowledged(msgspec.Struct):
    """How many were still to be acknowledged."""

    acknowledged: int


class Rejected(msgspec.Struct):
    """How many were still to be acknowledged."""

    rejected: int


class Result(msgspec.Struct):
    """Result of command: the reply, with bytes as text where they are."""

    result: Any


class Results(msgspec.Struct):
    """Result of transaction, in the order of the commands."""

    results: list[Any]

"""What the operations take and give. An unknown field is an error: it may be a typing mistake.

Keys and the values of headers are text, or base64 where an ``encoding`` says so; timestamps are
milliseconds since 1970, as Kafka counts.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

MAX_BATCH = 10_000
MAX_READ = 1_000
MAX_IN_FLIGHT = 100_000
MAX_DELAY = 86_400.0

Topic = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]
Group = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]{1,100}$")]
Partition = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Timestamp = Annotated[int, Meta(ge=1, le=2**62)]
Encoding = Literal["base64", "text", "json"]
Base64 = Literal["base64"]
Values = Literal["auto", "base64"]


class Header(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One header; names may occur again. ``value`` null is Kafka's null."""

    name: Annotated[str, Meta(min_length=1, max_length=1000)]
    value: str | None
    encoding: Base64 | UnsetType = UNSET


class Publishing(msgspec.Struct, forbid_unknown_fields=True):
    """A message to publish. ``value`` without an ``encoding`` is JSON, and kept as its text;
    ``text`` is kept as it is; ``base64`` are bytes. ``tombstone`` in place of a value is Kafka's
    null, which deletes the key from a compacted topic. Without a ``partition`` the key chooses."""

    value: Raw | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET
    tombstone: bool = False
    key: str | None = None
    key_encoding: Base64 | UnsetType = UNSET
    headers: Annotated[list[Header], Meta(max_length=1000)] = []
    partition: Partition | None = None
    timestamp: Timestamp | None = None


class Publish(Publishing, forbid_unknown_fields=True, kw_only=True):
    """Params of publish."""

    topic: Topic


class PublishBatch(msgspec.Struct, forbid_unknown_fields=True):
    """Params of publish_batch."""

    topic: Topic
    messages: Annotated[list[Publishing], Meta(max_length=MAX_BATCH)]


class PublishStream(msgspec.Struct, forbid_unknown_fields=True):
    """Params of publish as a stream; the client's further messages are what is published."""

    topic: Topic


class Receipt(msgspec.Struct):
    """Where a message is: result of publish."""

    partition: int
    offset: int
    timestamp: int | UnsetType = UNSET


class Failure(msgspec.Struct):
    """Why a message is not there, or may not be; ``error_code`` is a gRPC status."""

    error_code: int
    error: str


class Published(msgspec.Struct):
    """Result of publish_batch, in the order of the messages."""

    published: int
    failed: int
    results: list[Receipt | Failure]


class At(msgspec.Struct, forbid_unknown_fields=True):
    """A place in a topic's partitions: the first message of this time or later."""

    timestamp: Timestamp


class Place(msgspec.Struct, forbid_unknown_fields=True):
    """A place in a topic's partitions, by ``timestamp``, or in one of them, by ``offset``."""

    timestamp: Timestamp | None = None
    offset: Offset | None = None


class Subscribe(msgspec.Struct, forbid_unknown_fields=True):
    """Params of subscribe: ``topics``, or all whose names begin with ``topic_prefix``.

    ``start``: where the group begins in a partition of which it has committed no offset.
    ``max_in_flight``: messages that were handed out and are not settled.
    ``max_deliveries``: a message rejected so often goes to ``dead_letter_topic``.
    ``auto_acknowledge``: a message is acknowledged when it leaves the plugin.
    ``limit``: the stream ends when so many messages are settled.
    ``batch_size``: how many messages may come together; with more than one they come as
    ``messages``, also a single one.
    """

    topics: Annotated[list[Topic], Meta(max_length=100)] = []
    topic_prefix: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]*$", max_length=249)] | None = None
    group: Group | None = None
    start: Literal["earliest", "latest"] | At = "earliest"
    max_in_flight: Annotated[int, Meta(ge=1, le=MAX_IN_FLIGHT)] = 1_000
    max_deliveries: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    dead_letter_topic: Topic | None = None
    auto_acknowledge: bool = False
    limit: Annotated[int, Meta(ge=1)] | None = None
    batch_size: Annotated[int, Meta(ge=1, le=1_000)] = 1
    values: Values = "auto"


class Answer(msgspec.Struct, forbid_unknown_fields=True):
    """What a subscriber sends: ids of messages that are done with, or one to have again."""

    acknowledge: list[str] = []
    reject: str | None = None
    delay_seconds: Annotated[float, Meta(ge=0, le=MAX_DELAY)] = 0


class Message(msgspec.Struct, omit_defaults=True):
    """A message that is read, or handed out. It has a ``value`` or is a ``tombstone``."""

    topic: str
    partition: int
    offset: int
    event: Literal["message"] | UnsetType = UNSET
    id: str | UnsetType = UNSET
    deliveries: int | UnsetType = UNSET
    timestamp: int | UnsetType = UNSET
    key: str | UnsetType = UNSET
    key_encoding: Base64 | UnsetType = UNSET
    value: Raw | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET
    tombstone: bool = False
    headers: list[Header] | UnsetType = UNSET


class Messages(msgspec.Struct):
    """An event of subscribe with a ``batch_size``: what has come meanwhile, in order."""

    messages: list[Message]
    event: Literal["messages"] = "messages"


class TopicPart(msgspec.Struct):
    """One partition."""

    topic: str
    partition: int


class Assignment(msgspec.Struct):
    """An event of subscribe: these partitions are this stream's from now on, or no longer."""

    event: Literal["assigned", "revoked"]
    partitions: list[TopicPart]


class DeadLettered(msgspec.Struct):
    """An event of subscribe: a message was rejected too often, and is in the dead-letter topic."""

    id: str
    topic: str
    event: Literal["dead_lettered"] = "dead_lettered"


class Read(msgspec.Struct, forbid_unknown_fields=True):
    """Params of read."""

    topic: Topic
    partition: Partition = 0
    offset: Offset | Literal["earliest", "latest"] = "earliest"
    limit: Annotated[int, Meta(ge=1, le=MAX_READ)] = 100
    values: Values = "auto"


class Page(msgspec.Struct):
    """Result of read: ``next_offset`` is where to go on, ``end_offset`` the partition's end."""

    messages: list[Message]
    next_offset: int
    end_offset: int


class Topics(msgspec.Struct, forbid_unknown_fields=True):
    """Params of topics."""

    prefix: str = ""


class TopicName(msgspec.Struct):
    """One of topics' results."""

    topic: str
    partitions: int


class TopicNames(msgspec.Struct):
    """Result of topics, by name."""

    topics: list[TopicName]


class CreateTopic(msgspec.Struct, forbid_unknown_fields=True):
    """Params of create_topic; without a ``replication_factor`` the broker's default."""

    topic: Topic
    partitions: Annotated[int, Meta(ge=1, le=100_000)] = 1
    replication_factor: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    config: dict[str, str] = {}


class OneTopic(msgspec.Struct, forbid_unknown_fields=True):
    """Params of delete_topic and describe_topic."""

    topic: Topic


class PartitionState(msgspec.Struct):
    """One partition of describe_topic; brokers by their ids, ``leader`` -1 without one."""

    partition: int
    leader: int
    replicas: list[int]
    in_sync: list[int]


class TopicState(msgspec.Struct):
    """Result of describe_topic. ``config`` has what differs from the broker's defaults."""

    topic: str
    partitions: list[PartitionState]
    config: dict[str, str | None]


class Offsets(msgspec.Struct, forbid_unknown_fields=True):
    """Params of offsets."""

    topic: Topic
    timestamp: Timestamp | None = None


class OffsetRange(msgspec.Struct, omit_defaults=True):
    """One partition of offsets: its first message's, and that after its last one. ``at``: the
    first message of the time asked for, or later; null if there is none."""

    partition: int
    earliest: int
    latest: int
    at: int | UnsetType | None = UNSET


class OffsetRanges(msgspec.Struct):
    """Result of offsets."""

    partitions: list[OffsetRange]


class Lag(msgspec.Struct, forbid_unknown_fields=True):
    """Params of lag."""

    group: Group | None = None


class PartitionLag(msgspec.Struct):
    """One partition of which a group has committed an offset."""

    topic: str
    partition: int
    committed: int
    end: int
    lag: int


class GroupLag(msgspec.Struct):
    """Result of lag."""

    state: str
    members: int
    lag: int
    partitions: list[PartitionLag]


class Seek(msgspec.Struct, forbid_unknown_fields=True):
    """Params of seek: where a group goes on in a topic, or in one ``partition`` of it."""

    topic: Topic
    to: Literal["earliest", "latest"] | Place
    group: Group | None = None
    partition: Partition | None = None


class SoughtPartition(msgspec.Struct):
    """One partition of seek."""

    partition: int
    offset: int


class Sought(msgspec.Struct):
    """Result of seek."""

    partitions: list[SoughtPartition]

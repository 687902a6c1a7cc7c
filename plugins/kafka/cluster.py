"""What is asked of the brokers beside messages: topics, offsets, groups, and whether they answer.

librdkafka answers administration with futures of threads, and metadata by blocking; either is
waited for in a worker thread, never longer than the call has time.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol, TypeVar

import anyio
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from prism.sdk import PluginError, StatusCode

from . import params as p
from .errors import NO_BROKER, status_of, translate

T = TypeVar("T")

TOPIC_KNOWN_SECONDS = 60.0
"""How long a topic that was there counts as there. It may be deleted meanwhile; what is
published then fails, later."""
MOST_KNOWN_TOPICS = 10_000
CHANGE_SECONDS = 0.02
"""Between looks whether a change is known."""
ATTEMPT_SECONDS = 1.0
"""Of one try to reach a broker at the start, after which its errors are looked at."""
INTERNAL = "__"
"""How the names of Kafka's own topics begin."""
AT_ONCE = 1000
"""Partitions in one question for offsets."""


class RunBlocking(Protocol):
    """``Plugin.run_blocking``."""

    def __call__(self, function: Callable[[], T]) -> Awaitable[T]: ...


class Topics:
    """Between names of topics as clients know them and as Kafka does."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def full(self, topic: str) -> str:
        """The name in Kafka.

        Raises:
            PluginError: INVALID_ARGUMENT, a name that Kafka has for itself, or none of a topic.
        """
        full = self.prefix + topic
        if full.startswith(INTERNAL) or full in (".", "..") or len(full) > 249:
            reason = "belongs to Kafka" if full.startswith(INTERNAL) else "is none for a topic"
            raise PluginError(StatusCode.INVALID_ARGUMENT, f"the name {topic!r} {reason}")
        return full

    def is_own(self, full: str) -> bool:
        """Whether clients of this namespace may see the topic."""
        return full.startswith(self.prefix) and not full.startswith(INTERNAL)

    def short(self, full: str) -> str:
        """The name for clients."""
        return full[len(self.prefix) :]


class Cluster:
    """The brokers, as one namespace sees them."""

    def __init__(
        self, settings: Mapping[str, Any], topics: Topics, run_blocking: RunBlocking, timeout: float
    ) -> None:
        self.topics = topics
        self.last_error: KafkaError | None = None
        """What librdkafka said last of connections that fail; None after an answer."""
        self._run_blocking = run_blocking
        self._timeout = timeout
        self._known: dict[str, float] = {}
        try:
            self._admin = AdminClient({**settings, "error_cb": self._heard})
        except KafkaException as error:  # such as a certificate that cannot be read
            raise PluginError(
                StatusCode.INVALID_ARGUMENT, f"config: {error.args[0].str()}"
            ) from error

    async def connect(self) -> None:
        """Prove that a broker answers, and takes the credentials.

        Raises:
            PluginError: UNAUTHENTICATED, or UNAVAILABLE with what librdkafka says.
        """
        deadline = time.monotonic() + self._timeout

        def attempt() -> bool:
            try:
                self._admin.list_topics(topic=self.topics.prefix + "_", timeout=ATTEMPT_SECONDS)
            except KafkaException as error:
                self._admin.poll(0)
                self.last_error = self.last_error or error.args[0]
                return False
            return True

        while not await self._run_blocking(attempt):
            heard = self.last_error
            if heard is not None and heard.code() in _REFUSED:
                raise PluginError(
                    StatusCode.UNAUTHENTICATED,
                    f"the brokers refuse the credentials: {heard.str()}",
                )
            if time.monotonic() > deadline:
                said = "" if heard is None else f": {heard.str()}"
                raise PluginError(StatusCode.UNAVAILABLE, f"{NO_BROKER}{said}")
        self.last_error = None

    def _heard(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # says less than what came before
            self.last_error = error

    # -- topics ---------------------------------------------------------------

    async def require(self, topic: str, time_left: float) -> str:
        """The full name of a topic that is there.

        Raises:
            PluginError: NOT_FOUND, or what kept the brokers from saying so.
        """
        full = self.topics.full(topic)
        if self._known.get(full, 0) > time.monotonic():
            return full
        await self.partitions_of(topic, time_left)
        return full

    async def partitions_of(self, topic: str, time_left: float) -> int:
        """How many partitions a topic has.

        Raises:
            PluginError: NOT_FOUND, or what kept the brokers from saying so.
        """
        full = self.topics.full(topic)
        timeout = min(self._timeout, time_left)
        what = f"topic {topic!r}"
        metadata = await self._ask(lambda: self._admin.list_topics(full, timeout=timeout), what)
        found = metadata.topics[full]
        if found.error is not None:
            self.forget(full)
            if status_of(found.error) is StatusCode.NOT_FOUND:
                raise PluginError(
                    StatusCode.NOT_FOUND, f"there is no topic {topic!r}; create_topic makes one"
                )
            raise translate(found.error, what)
        if len(self._known) >= MOST_KNOWN_TOPICS:
            self._known.clear()
        self._known[full] = time.monotonic() + TOPIC_KNOWN_SECONDS
        return len(found.partitions)

    def forget(self, full: str) -> None:
        """The topic may be gone."""
        self._known.pop(full, None)

    async def names(self, prefix: str, time_left: float) -> list[p.TopicName]:
        """The namespace's topics whose names begin so."""
        timeout = min(self._timeout, time_left)
        metadata = await self._ask(lambda: self._admin.list_topics(timeout=timeout), "topics")
        start = self.topics.prefix + prefix
        return [
            p.TopicName(self.topics.short(full), len(found.partitions))
            for full, found in sorted(metadata.topics.items())
            if full.startswith(start) and self.topics.is_own(full)
        ]

    async def create(self, params: p.CreateTopic, time_left: float) -> None:
        """Make a topic."""
        full = self.topics.full(params.topic)
        new = NewTopic(
            full, params.partitions, params.replication_factor or -1, config=dict(params.config)
        )
        what = f"topic {params.topic!r}"
        await self._wait_for(lambda: self._admin.create_topics([new])[full], what, time_left)
        await self._until(params.topic, time_left, there=True)

    async def delete(self, topic: str, time_left: float) -> bool:
        """Remove a topic; False if there was none."""
        full = self.topics.full(topic)
        self.forget(full)
        try:
            await self._wait_for(
                lambda: self._admin.delete_topics([full])[full], f"topic {topic!r}", time_left
            )
        except PluginError as error:
            if error.status is StatusCode.NOT_FOUND:
                return False
            raise
        await self._until(topic, time_left, there=False)
        return True

    async def _until(self, topic: str, time_left: float, *, there: bool) -> None:
        """Wait until the brokers know of a change, which they do a little after it was made."""
        with anyio.move_on_after(min(self._timeout, time_left)):
            while True:
                if await self._is_there(topic) is there:
                    break
                await anyio.sleep(CHANGE_SECONDS)
        if not there:
            self.forget(self.topics.full(topic))

    async def _is_there(self, topic: str) -> bool:
        try:
            await self.partitions_of(topic, self._timeout)
        except PluginError as error:
            if error.status is StatusCode.NOT_FOUND:
                return False
            raise
        return True

    async def describe(self, topic: str, time_left: float) -> p.TopicState:
        """A topic's partitions, and its own settings."""
        full = self.topics.full(topic)
        what = f"topic {topic!r}"
        described = await self._wait_for(
            lambda: self._admin.describe_topics(TopicCollection([full]))[full], what, time_left
        )
        resource = ConfigResource(ResourceType.TOPIC, full)
        config = await self._wait_for(
            lambda: self._admin.describe_configs([resource])[resource], what, time_left
        )
        return p.TopicState(
            topic,
            [
                p.PartitionState(
                    part.id,
                    -1 if part.leader is None else part.leader.id,
                    [node.id for node in part.replicas],
                    [node.id for node in part.isr],
                )
                for part in described.partitions
            ],
            {
                name: None if entry.is_sensitive else entry.value
                for name, entry in sorted(config.items())
                if not entry.is_default
            },
        )

    # -- offsets and groups ---------------------------------------------------

    async def list_offsets(
        self,
        partitions: Sequence[tuple[str, int]],
        spec: OffsetSpec,
        time_left: float,
        what: str = "offsets",
    ) -> dict[tuple[str, int], int]:
        """The offset that each of the partitions, by full names, has at ``spec``; those that are
        not there any more are left out. What open transactions hold back is not counted."""
        found: dict[tuple[str, int], int] = {}
        timeout = min(self._timeout, time_left)
        for start in range(0, len(partitions), AT_ONCE):
            asked = {TopicPartition(*each): spec for each in partitions[start : start + AT_ONCE]}
            ask = partial(
                self._admin.list_offsets, asked, isolation_level=IsolationLevel.READ_COMMITTED
            )
            futures = await self._ask(ask, what)
            for partition, future in futures.items():
                try:
                    result = await self._ask(partial(future.result, timeout), what)
                except PluginError as error:
                    if error.status is not StatusCode.NOT_FOUND:
                        raise
                else:
                    found[partition.topic, partition.partition] = result.offset
        return found

    async def offsets_of(
        self, topic: str, spec: OffsetSpec, time_left: float, count: int | None = None
    ) -> list[int]:
        """The offset at ``spec`` of each partition of a topic, by the names of clients."""
        if count is None:
            count = await self.partitions_of(topic, time_left)
        full = self.topics.full(topic)
        partitions = [(full, number) for number in range(count)]
        what = f"topic {topic!r}"
        found = await self.list_offsets(partitions, spec, time_left, what)
        if len(found) < count:
            raise PluginError(StatusCode.NOT_FOUND, f"{what} has just been deleted")
        return [found[partition] for partition in partitions]

    async def group_state(self, group: str, time_left: float) -> tuple[str, int]:
        """A group's state in lower case, and how many members it has; ``dead`` is no group."""
        try:
            found = await self._wait_for(
                lambda: self._admin.describe_consumer_groups([group])[group], "group", time_left
            )
        except PluginError as error:
            if error.status is StatusCode.NOT_FOUND:
                return "dead", 0
            raise
        return found.state.name.lower(), len(found.members)

    async def committed(self, group: str, time_left: float) -> dict[tuple[str, int], int]:
        """What a group has committed in this namespace's topics, by full name and partition."""
        asked = [ConsumerGroupTopicPartitions(group)]
        try:
            found = await self._wait_for(
                lambda: self._admin.list_consumer_group_offsets(asked)[group], "group", time_left
            )
        except PluginError as error:
            if error.status is StatusCode.NOT_FOUND:
                return {}
            raise
        return {
            (each.topic, each.partition): each.offset
            for each in found.topic_partitions
            if each.offset >= 0 and self.topics.is_own(each.topic)
        }

    async def commit(
        self, group: str, topic: str, offsets: Mapping[int, int], time_left: float
    ) -> None:
        """Set where a group goes on."""
        full = self.topics.full(topic)
        asked = ConsumerGroupTopicPartitions(
            group, [TopicPartition(full, *each) for each in offsets.items()]
        )
        found = await self._wait_for(
            lambda: self._admin.alter_consumer_group_offsets([asked])[group], "group", time_left
        )
        for each in found.topic_partitions:
            if each.error is not None:
                raise translate(each.error, f"group, partition {each.partition}")

    async def ping(self, time_left: float) -> int:
        """The number of brokers, as one of them has it."""
        found = await self._wait_for(lambda: self._admin.describe_cluster(), "cluster", time_left)
        self.last_error = None
        return len(found.nodes)

    # -- waiting --------------------------------------------------------------

    async def _wait_for(
        self, begin: Callable[[], "Future[Any]"], what: str, time_left: float
    ) -> Any:
        """The result of something that librdkafka does in the background."""
        timeout = min(self._timeout, time_left)
        return await self._ask(lambda: begin().result(timeout), what)

    async def _ask(self, function: Callable[[], T], what: str) -> T:
        def ask() -> T:
            try:
                return function()
            finally:
                self._admin.poll(0)  # errors of connections are told to who polls

        try:
            return await self._run_blocking(ask)
        except KafkaException as error:
            raise translate(error, what) from error
        except TimeoutError as error:
            raise PluginError(
                StatusCode.UNAVAILABLE, f"{what}: no broker has answered in time"
            ) from error
        except ValueError as error:  # librdkafka's own checks of arguments
            raise PluginError(StatusCode.INVALID_ARGUMENT, f"{what}: {error}") from error


_REFUSED = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}

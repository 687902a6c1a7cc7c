"""One subscriber: a consumer of librdkafka's, the thread that drives it, and what was handed out.

Theory of operation. The thread polls, and does nothing else: so the member stays in its group
and rebalances go on, however slow the client is. What a poll brought goes to the event loop
together, which keeps what was handed out until it is settled: acknowledged, or in the dead-letter
topic. A rejected message waits there, too. Of each partition, the offset before which all is
settled goes back to the thread, which stores it; librdkafka commits what is stored twice a
second, before partitions are given up, and when the consumer closes.

What is handed out and not settled is bounded in number and bytes. At the bound the thread waits
a moment for the client, since to pause a partition throws away what was fetched ahead, and then
pauses them all: nothing is buffered, and polling goes on.

A partition that is taken away is forgotten with what was handed out of it: the group has it
again from the committed offset on. Each assignment is a ``Part`` of its own, so that what is
acknowledged too late can move no offset of a later one.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from heapq import heappop, heappush
from itertools import count
from time import monotonic
from typing import Any, Literal

import anyio
from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka import Message as KafkaMessage

from prism.sdk import PluginError, StatusCode
from prism.sdk.background import CallSoon

from . import params as p
from .cluster import Topics
from .errors import status_of, translate
from .progress import Progress

log = logging.getLogger("prism.plugin.kafka")

POLL_SECONDS = 0.1
"""How long the thread waits for messages before it looks for what else there is to do."""
BATCH_SECONDS = 0.01
"""How long it waits for room for a batch, rather than take messages one by one."""
PAUSE_AFTER_SECONDS = 0.2
"""How long the thread waits for a client to settle something before it pauses."""
MOST_AT_ONCE = 500
"""Messages taken from librdkafka at a time."""
MAX_OUT_OF_ORDER = 100_000
"""Offsets that are settled after one that is not. Where a client forgets a message, this is
when it gets no more."""
COMMIT_INTERVAL_MS = 500
PATTERN_INTERVAL_MS = 10_000
"""How soon a new topic is noticed by who subscribes to a prefix."""
BROKER_SECONDS = 10.0
"""For what the start by a time asks of the brokers."""


class Part:
    """One partition for as long as it is assigned once."""

    __slots__ = ("full", "handed", "name", "number", "position", "progress", "topic")

    def __init__(self, topic: str, full: str, number: int) -> None:
        self.topic = topic
        self.full = full
        self.number = number
        self.name = f"{topic}/{number}/"  # which the ids of its messages begin with
        self.progress = Progress()
        self.handed: dict[int, Delivery] = {}
        self.position: int | None = None
        """What the consumer will be given next; None before anything is known of it."""


class Delivery:
    """A message that was handed out, or is about to be: ``with_client`` tells which."""

    __slots__ = ("deliveries", "id", "message", "offset", "part", "with_client")

    def __init__(self, part: Part, message: KafkaMessage, offset: int) -> None:
        self.part = part
        self.message = message
        self.offset = offset
        self.id = f"{part.name}{offset}"
        self.deliveries = 0
        self.with_client = False

    @property
    def is_open(self) -> bool:
        """Whether it is still to be settled here."""
        return self.part.handed.get(self.offset) is self


class Subscription:
    """A member of a group. ``inbox`` is what there is for the client, in order.

    ``moved_at``: when a message last came or was settled, by ``monotonic``: the event loop's own
    clock costs more than all the rest of settling a message.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        group: str,
        topics: Topics,
        params: p.Subscribe,
        max_bytes: int,
        call_soon: CallSoon,
    ) -> None:
        self.group = group
        self.inbox: deque[Delivery | p.Assignment | p.DeadLettered] = deque()
        self.parts: dict[tuple[str, int], Part] = {}
        self.failure: PluginError | None = None
        self.client_ended = False
        self.received = self.acknowledged = self.rejected = self.settled = 0
        self.moved_at = monotonic()
        self.ended = anyio.Event()
        self.commit_error: KafkaError | None = None
        self._params = params
        self._topics = topics
        self._max_bytes = max_bytes
        self._call_soon = call_soon
        self._by_id: dict[str, Delivery] = {}
        self._delayed: list[tuple[float, int, Delivery]] = []
        self._numbers = count()
        self._wake = anyio.Event()
        # Written in the event loop, read by the thread.
        self._released = self._released_bytes = self._dropped = self._out_of_order = 0
        self._to_store: deque[tuple[Part, int]] = deque()
        self._has_room = threading.Event()
        self._wanted = 0  # the room that the thread waits for
        self._look_at = 0  # how much must have been released before there can be so much
        self._stopping = False
        # The thread's own.
        self._handed = self._handed_bytes = 0
        self._largest = 1
        self._assigned: dict[tuple[str, int], Part] = {}
        self._paused = self._changed = False
        self._settings = {
            **settings,
            "group.id": group,
            "enable.auto.commit": True,
            "auto.commit.interval.ms": COMMIT_INTERVAL_MS,
            "auto.offset.reset": params.start if isinstance(params.start, str) else "earliest",
            "on_commit": self._committed,
        }
        if params.topic_prefix is None:
            self._names = [topics.full(topic) for topic in params.topics]
        else:
            pattern = (topics.prefix + params.topic_prefix).replace(".", "\\.")
            self._names = [f"^{pattern}.*"]
            self._settings["topic.metadata.refresh.interval.ms"] = PATTERN_INTERVAL_MS

    # -- for the operation, in the event loop ---------------------------------

    def start(self) -> None:
        """Join the group."""
        threading.Thread(target=self._run, name=f"kafka-{self.group}", daemon=True).start()

    def stop(self) -> None:
        """Leave the group, as soon as the thread looks; ``ended`` is set then."""
        self._stopping = True
        self._has_room.set()

    def fail(self, error: PluginError) -> None:
        """End the stream with this error."""
        self.failure = self.failure or error
        self._wake.set()

    @property
    def unsettled(self) -> int:
        """Messages that were handed out, or are about to be, and not settled."""
        return len(self._by_id)

    @property
    def waits_for_client(self) -> bool:
        """Whether it takes no more messages until the client settles some."""
        return self._paused or self._room() <= 0

    @property
    def is_done(self) -> bool:
        """Whether the stream has come to its good end."""
        limit = self._params.limit
        if limit is not None and self.settled >= limit:
            return True
        return self.client_ended and not self._params.auto_acknowledge

    def take_deliveries(self, most: int, size: int) -> list[Delivery]:
        """Of the messages at the head of ``inbox`` so many, or so many bytes, for the client;
        without those that are settled, or of a partition that is gone."""
        taken: list[Delivery] = []
        inbox = self.inbox
        while inbox and len(taken) < most and size > 0 and isinstance(inbox[0], Delivery):
            delivery = inbox[0]
            inbox.popleft()
            if delivery.is_open:
                delivery.deliveries += 1
                delivery.with_client = True
                size -= len(delivery.message)
                taken.append(delivery)
        return taken

    async def wait(self) -> None:
        """Wait until there may be something in ``inbox``, or something else has changed."""
        left = self._delayed[0][0] - anyio.current_time() if self._delayed else math.inf
        if left > 0:
            with anyio.move_on_after(left):
                await self._wake.wait()
        if self._wake.is_set():
            self._wake = anyio.Event()
        now = anyio.current_time()
        while self._delayed and self._delayed[0][0] <= now:
            self.inbox.append(heappop(self._delayed)[2])

    async def listen(
        self, answers: AsyncIterator[p.Answer], too_often: Callable[[Delivery], None]
    ) -> None:
        """Do what the client's messages say. ``too_often``: what is rejected once too often."""
        some = False
        try:
            async for answer in answers:
                some = True
                for identity in answer.acknowledge:
                    self._acknowledge(identity)
                if answer.reject is not None:
                    self._reject(answer.reject, answer.delay_seconds, too_often)
        except PluginError as error:
            self.fail(error)
        if not some and not self._params.auto_acknowledge:
            self.fail(
                PluginError(
                    StatusCode.FAILED_PRECONDITION,
                    "nobody can acknowledge: the client's messages have ended before the first "
                    "one; keep them open, or set auto_acknowledge",
                )
            )
        self.client_ended = True
        self._wake.set()

    def _acknowledge(self, identity: str) -> None:
        delivery = self._find(identity)
        if delivery is not None:
            self.acknowledged += 1
            self.settle(delivery)

    def _reject(self, identity: str, delay: float, too_often: Callable[[Delivery], None]) -> None:
        delivery = self._find(identity)
        if delivery is None or not delivery.with_client:
            return
        self.rejected += 1
        delivery.with_client = False
        now = anyio.current_time()
        self.moved_at = monotonic()
        most = self._params.max_deliveries
        if most is not None and delivery.deliveries >= most:
            too_often(delivery)
            return
        heappush(self._delayed, (now + delay, next(self._numbers), delivery))
        self._wake.set()

    def _find(self, identity: str) -> Delivery | None:
        """The message of this id; None for one that is settled, or of a partition that is gone.

        Raises:
            PluginError: INVALID_ARGUMENT, this is no id of a message.
        """
        delivery = self._by_id.get(identity)
        if delivery is None and identity.count("/") != 2:
            raise PluginError(
                StatusCode.INVALID_ARGUMENT, f"{identity[:80]!r} is no id of a message"
            )
        return delivery

    def settle(self, delivery: Delivery) -> None:
        """A message is done with; nothing happens if it is no longer this subscription's."""
        self.settle_all((delivery,))

    def settle_all(self, deliveries: Iterable[Delivery]) -> None:
        """The same of several."""
        by_id = self._by_id
        moved: Part | None = None
        number = size = 0
        for delivery in deliveries:
            part, offset = delivery.part, delivery.offset
            if part.handed.get(offset) is not delivery:
                continue
            del part.handed[offset]
            del by_id[delivery.id]
            passed = part.progress.settle(offset)
            if passed:
                self._out_of_order -= passed - 1
                if moved is not None and moved is not part:
                    self._store_soon(moved)
                moved = part
            else:
                self._out_of_order += 1
            number += 1
            size += len(delivery.message)
        if not number:
            return
        if moved is not None:
            self._store_soon(moved)
        self.settled += number
        self._release(number, size)
        limit = self._params.limit
        if limit is not None and self.settled >= limit:
            self._wake.set()

    def _store_soon(self, part: Part) -> None:
        """Have the thread store how far a partition has come."""
        assert part.progress.next is not None  # noqa: S101 - something has passed
        self._to_store.append((part, part.progress.next))

    def bury(self, delivery: Delivery, topic: str) -> None:
        """A message is in the dead-letter topic: settle it, and tell the client."""
        if delivery.is_open:
            self.settle(delivery)
            self.inbox.append(p.DeadLettered(delivery.id, topic))
            self._wake.set()

    def _release(self, number: int, size: int) -> None:
        self._released += number
        self._released_bytes += size
        self.moved_at = monotonic()
        if self._wanted and self._released >= self._look_at and self._room() >= self._wanted:
            self._wanted = 0
            self._has_room.set()

    # -- in the event loop, called by the thread ------------------------------

    def _arrived(self, messages: list[KafkaMessage]) -> None:
        inbox, parts, by_id = self.inbox, self.parts, self._by_id
        for message in messages:
            part = parts[message.topic(), message.partition()]
            offset = message.offset()
            delivery = Delivery(part, message, offset)
            part.progress.hand_out(offset)
            part.handed[offset] = delivery
            part.position = offset + 1
            by_id[delivery.id] = delivery
            inbox.append(delivery)
        self.received += len(messages)
        self.moved_at = monotonic()
        self._wake.set()

    def _reached_end(self, where: tuple[str, int], offset: int) -> None:
        part = self.parts.get(where)
        if part is not None:
            part.position = max(offset, part.position or 0)
            self.moved_at = monotonic()

    def _take(self, taken: list[Part]) -> None:
        for part in taken:
            self.parts[part.full, part.number] = part
        self.moved_at = monotonic()
        self._tell("assigned", taken)

    def _drop(self, dropped: list[Part]) -> None:
        for part in dropped:
            self.parts.pop((part.full, part.number), None)
            self._out_of_order -= part.progress.out_of_order
            self._dropped += len(part.handed)
            for delivery in part.handed.values():
                self._by_id.pop(delivery.id, None)
            self._release(len(part.handed), sum(len(each.message) for each in part.handed.values()))
            part.handed.clear()
        self._tell("revoked", dropped)

    def _tell(self, event: Literal["assigned", "revoked"], parts: list[Part]) -> None:
        if parts:
            told = [p.TopicPart(part.topic, part.number) for part in parts]
            self.inbox.append(p.Assignment(event, told))
            self._wake.set()

    # -- in the thread --------------------------------------------------------

    def _run(self) -> None:
        try:
            consumer = Consumer(self._settings)
            try:
                consumer.subscribe(
                    self._names,
                    on_assign=self._on_assign,
                    on_revoke=self._on_revoke,
                    on_lost=self._on_lost,
                )
                while not self._stopping:
                    self._turn(consumer)
                self._store(consumer)
            finally:
                consumer.close()
        except KafkaException as error:
            self._call_soon(self.fail, translate(error, f"group {self.group!r}"))
        except Exception:
            log.exception("a subscription of group %r failed", self.group)
            self._call_soon(
                self.fail, PluginError(StatusCode.INTERNAL, "the subscription failed; see the log")
            )
        finally:
            self._call_soon(self.ended.set)

    def _turn(self, consumer: Consumer) -> None:
        self._store(consumer)
        if self._paused:
            self._wait_for_room(self._resume_at, POLL_SECONDS)
            if self._room() > 0:
                self._paused, self._changed = False, True
        elif not (
            self._wait_for_room(self._resume_at, BATCH_SECONDS)
            or self._room() > 0
            or self._wait_for_room(1, PAUSE_AFTER_SECONDS)
        ):
            self._paused = self._changed = True
        if self._changed:
            (consumer.pause if self._paused else consumer.resume)(consumer.assignment())
            self._changed = False
        first = consumer.poll(0 if self._paused else POLL_SECONDS)
        if first is None:
            return
        messages = [first]
        more = self._room() - 1
        if more > 0 and not self._paused:
            messages += consumer.consume(more, 0)
        self._hand_over(messages)

    def _room(self) -> int:
        """How many more messages may be handed out now."""
        params = self._params
        room = params.max_in_flight - (self._handed - self._released)
        if params.limit is not None:
            room = min(room, params.limit - (self._handed - self._dropped))
        bytes_left = self._max_bytes - (self._handed_bytes - self._released_bytes)
        if bytes_left <= 0 or self._out_of_order >= MAX_OUT_OF_ORDER:
            return 0
        return min(room, MOST_AT_ONCE, bytes_left // self._largest + 1)

    @property
    def _resume_at(self) -> int:
        """With how much room to go on at once: to go on for each single message costs a fetch
        each. A client that settles less than that does not have to wait for long."""
        return max(1, min(self._params.max_in_flight, MOST_AT_ONCE) // 4)

    def _wait_for_room(self, wanted: int, seconds: float) -> bool:
        self._has_room.clear()
        released = self._released  # before the room, which grows meanwhile
        self._look_at = released + wanted - self._room()
        self._wanted = wanted
        if self._room() < wanted and not self._stopping:
            self._has_room.wait(seconds)
        self._wanted = 0
        return self._room() >= wanted

    def _hand_over(self, messages: list[KafkaMessage]) -> None:
        good = []
        for message in messages:
            error = message.error()
            if error is None:
                # What came in one call with its partition's revocation is another member's.
                if (message.topic(), message.partition()) in self._assigned:
                    good.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                where = (message.topic(), message.partition())
                self._call_soon(self._reached_end, where, message.offset())
            else:
                self._heard(error)
        if good:
            sizes = [len(message) for message in good]
            self._largest = max(self._largest, max(sizes))
            self._handed += len(good)
            self._handed_bytes += sum(sizes)
            self._call_soon(self._arrived, good)

    def _heard(self, error: KafkaError) -> None:
        """Of most errors librdkafka recovers by itself."""
        status = status_of(error)
        expected = status is StatusCode.NOT_FOUND and self._params.topic_prefix is not None
        if error.fatal() or (status in _ENDS_IT and not expected):
            self._call_soon(self.fail, translate(error, f"group {self.group!r}"))
        else:
            log.warning("group %r: %s", self.group, error.str())

    def _store(self, consumer: Consumer) -> None:
        """Have librdkafka commit what is settled. It refuses only what is no longer assigned."""
        latest: dict[Part, int] = {}
        while self._to_store:
            part, offset = self._to_store.popleft()
            latest[part] = offset
        for part, offset in latest.items():
            if self._assigned.get((part.full, part.number)) is part:
                try:
                    consumer.store_offsets(offsets=[TopicPartition(part.full, part.number, offset)])
                except KafkaException as error:
                    log.debug("group %r: offset %d not stored: %s", self.group, offset, error)

    def _committed(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        errors = [each.error for each in partitions if each.error is not None]
        self.commit_error = error or (errors[0] if errors else None)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if isinstance(self._params.start, p.At):
            self._start_at(consumer, partitions, self._params.start.timestamp)
        short = self._topics.short
        taken = [Part(short(each.topic), each.topic, each.partition) for each in partitions]
        self._assigned |= {(part.full, part.number): part for part in taken}
        # A partition that was paused when it was taken away comes back paused.
        self._changed = True
        self._call_soon(self._take, taken)

    def _start_at(
        self, consumer: Consumer, partitions: list[TopicPartition], timestamp: int
    ) -> None:
        """Where nothing is committed, begin at a time."""
        places = consumer.committed(partitions, timeout=BROKER_SECONDS)
        new = [each for each in places if each.offset < 0]
        if new:
            asked = [TopicPartition(each.topic, each.partition, timestamp) for each in new]
            found = consumer.offsets_for_times(asked, timeout=BROKER_SECONDS)
            known = [each for each in places if each.offset >= 0]
            places = known + [
                TopicPartition(
                    each.topic, each.partition, OFFSET_END if each.offset < 0 else each.offset
                )
                for each in found
            ]
        consumer.incremental_assign(places)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._store(consumer)  # librdkafka commits it before it lets go
        self._on_lost(consumer, partitions)

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        keys = [(each.topic, each.partition) for each in partitions]
        dropped = [self._assigned.pop(key) for key in keys if key in self._assigned]
        self._call_soon(self._drop, dropped)


_ENDS_IT = {StatusCode.NOT_FOUND, StatusCode.PERMISSION_DENIED}

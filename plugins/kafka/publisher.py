"""Publishing: one producer of librdkafka's for the namespace, and the thread that polls it.

Theory of operation. To produce is to put a message into librdkafka's queue, which costs
microseconds and is done in the event loop. Reports of deliveries come while the producer is
polled, one by one, in the thread; what one poll brought is handed to the event loop together.
Nothing else is done in that thread, so a slow caller holds nobody up.

A queue that is full is no failure but backpressure: what has no room waits for reports. What is
not known of a message is said: once it is in the queue and its time is over, it may still arrive.

An idempotent producer that has lost count can promise nothing more: it fails for good, and a new
one takes its place; of what was queued, the reports say that it failed. So does one whose user may
write to no topic, as it is given no number to count with. To replace that one helps only once an
ACL has changed, so it stays until somebody publishes.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import anyio
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaMessage

from prism.sdk import PluginError, StatusCode
from prism.sdk.background import CallSoon

from . import params as p
from .errors import status_of, translate
from .records import Record

log = logging.getLogger("prism.plugin.kafka")

POLL_SECONDS = 0.1
"""How long the thread waits for reports before it looks whether it is to end."""
FLUSH_SECONDS = 5.0
"""For what is still in the queue when the plugin stops."""
DENIED_SECONDS = 1.0
"""Before a producer that may write nothing is replaced, where that is wanted."""
LOOK_AGAIN_SECONDS = 0.5
"""For room in the queue; usually a report tells of it."""

Outcome = p.Receipt | PluginError


class Batch:
    """Messages published by one call, and what became of them."""

    __slots__ = ("done", "full", "left", "outcomes", "topic")

    def __init__(self, topic: str, full: str, size: int) -> None:
        self.topic = topic
        self.full = full
        self.outcomes: list[Outcome | None] = [None] * size
        self.left = size
        self.done = anyio.Event()

    def settle(self, index: int, outcome: Outcome) -> None:
        """What became of the message at ``index``."""
        self.outcomes[index] = outcome
        self.left -= 1
        if not self.left:
            self.done.set()


Report = tuple[Batch, int, KafkaError | None, int, int, int]


class Publisher:
    """Publishes to topics that are there.

    ``forget(full_name)`` is called for a topic that turned out not to be there.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        max_message_bytes: int,
        call_soon: CallSoon,
        forget: Callable[[str], None],
    ) -> None:
        self.delivered = 0
        self._settings = {**settings, "error_cb": _heard}
        self._max_message_bytes = max_message_bytes
        self._call_soon = call_soon
        self._forget = forget
        self._producer = Producer(self._settings)
        self._reports: list[Report] = []
        self._room = anyio.Event()
        self._fatal: KafkaError | None = None
        self._denied: KafkaError | None = None
        self._denied_at = -math.inf
        self._wanted = False
        self._stopping = False
        self._ended = threading.Event()
        threading.Thread(target=self._poll, name="kafka-producer", daemon=True).start()

    @property
    def queued(self) -> int:
        """Messages that are not reported yet."""
        return len(self._producer)

    async def publish(
        self, topic: str, full: str, records: Sequence[Record], time_left: float
    ) -> list[Outcome]:
        """Publish in this order, and wait for what becomes of each, as long as there is time.

        ``full`` is the topic's name in Kafka. Cancelling leaves messages that are queued to be
        delivered.
        """
        batch = Batch(topic, full, len(records))
        deadline = anyio.current_time() + time_left
        await self.put(batch, records, deadline)
        return await self.outcomes(batch, deadline)

    async def put(
        self, batch: Batch, records: Sequence[Record], deadline: float = math.inf
    ) -> None:
        """Queue the messages of a batch; waits while there is no room."""
        queued = 0
        while (queued := self._enqueue(batch, records, queued)) < len(records):
            left = deadline - anyio.current_time()
            if left <= 0:
                for index in range(queued, len(records)):
                    batch.settle(index, _no_room(batch.topic))
                return
            with anyio.move_on_after(min(LOOK_AGAIN_SECONDS, left)):
                await self._room.wait()

    async def outcomes(self, batch: Batch, deadline: float = math.inf) -> list[Outcome]:
        """What became of each message of a batch, once all are queued."""
        if batch.left:
            with anyio.CancelScope(deadline=deadline):
                await batch.done.wait()
        return [_unknown(batch.topic) if outcome is None else outcome for outcome in batch.outcomes]

    def _enqueue(self, batch: Batch, records: Sequence[Record], start: int) -> int:
        """Put messages into the queue, from ``start`` on, or settle them; returns where there was
        no more room."""
        produce, report, full = self._producer.produce, self._report, batch.full
        for index in range(start, len(records)):
            value, key, headers, partition, timestamp = record = records[index]
            told = partial(report, batch, index)
            try:
                if headers or timestamp:
                    produce(full, value, key, partition, told, timestamp=timestamp, headers=headers)
                else:
                    produce(full, value, key, partition, told)
            except BufferError:
                if self._room.is_set():
                    self._room = anyio.Event()
                return index
            except KafkaException as error:
                batch.settle(index, self._explain(error.args[0], batch.topic, record))
        return len(records)

    def _explain(self, error: KafkaError, topic: str, record: Record) -> PluginError:
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return PluginError(
                StatusCode.INVALID_ARGUMENT,
                f"the message has {record.size} bytes with key and headers; the limit is "
                f"{self._max_message_bytes} (max_message_bytes), or less at the topic",
            )
        if self._denied is not None and error.code() == KafkaError._FATAL:
            self._wanted = True
            return _may_not_write(topic, self._denied)
        return translate(error, f"topic {topic!r}")

    # -- in the event loop, called by the thread ------------------------------

    def _settle(self, reports: list[Report]) -> None:
        receipt = p.Receipt
        for batch, index, error, partition, offset, timestamp in reports:
            if error is None:
                self.delivered += 1
                batch.outcomes[index] = receipt(partition, offset, timestamp)
                batch.left -= 1
                if not batch.left:
                    batch.done.set()
                continue
            if status_of(error) is StatusCode.NOT_FOUND:
                self._forget(batch.full)
            if self._denied is not None and error.code() in _NEVER_SENT:
                batch.settle(index, _may_not_write(batch.topic, self._denied))
            else:
                batch.settle(index, _failure(error, batch.topic))
        self._room.set()

    # -- in the thread --------------------------------------------------------

    def _report(
        self, batch: Batch, index: int, error: KafkaError | None, message: KafkaMessage
    ) -> None:
        if error is None:
            where = (message.partition(), message.offset(), message.timestamp()[1])
        else:
            where = (-1, -1, 0)
        self._reports.append((batch, index, error, *where))

    def _poll(self) -> None:
        flush_until = None
        while True:
            producer = self._producer
            self._poll_once(producer)
            if self._fatal is not None:
                self._discard(producer, self._fatal)
            if self._reports:
                reports, self._reports = self._reports, []
                self._call_soon(self._settle, reports)
            if self._wanted and time.monotonic() > self._denied_at + DENIED_SECONDS:
                self._denied, self._wanted = None, False
                self._producer = Producer(self._settings)
            if self._stopping:
                flush_until = flush_until or time.monotonic() + FLUSH_SECONDS
                if not len(producer) or time.monotonic() > flush_until:
                    break
        self._ended.set()

    def _poll_once(self, producer: Producer) -> None:
        try:
            producer.poll(POLL_SECONDS)
        except KafkaException as error:  # what is fatal is raised, and not told to error_cb
            self._fatal = error.args[0]

    def _discard(self, producer: Producer, fatal: KafkaError) -> None:
        """See the theory of operation."""
        if status_of(fatal) is StatusCode.PERMISSION_DENIED:
            log.warning("the producer may not write: %s", fatal.str())
            self._denied, self._denied_at = fatal, time.monotonic()
        else:
            log.error("the producer failed, and is replaced: %s", fatal.str())
        producer.purge(in_queue=True, in_flight=True)
        while len(producer):
            self._poll_once(producer)
        self._fatal = None
        if self._denied is None:
            self._producer = Producer(self._settings)

    def stop(self) -> bool:
        """End the thread, when the queue is empty or ``FLUSH_SECONDS`` are over; blocks.

        False if the thread has not ended: it is left behind, and ends with the process.
        """
        self._stopping = True
        return self._ended.wait(2 * FLUSH_SECONDS)


def _heard(error: KafkaError) -> None:
    """What librdkafka says beside; it goes on by itself."""
    log.debug("librdkafka: %s", error.name())


def _may_not_write(topic: str, error: KafkaError) -> PluginError:
    return PluginError(
        status_of(error),
        f"topic {topic!r}: the brokers let the plugin's user write to no topic ({error.name()})",
    )


def _failure(error: KafkaError, topic: str) -> PluginError:
    if error.code() in _UNKNOWN_OUTCOME:
        return _unknown(topic, error)
    return translate(error, f"topic {topic!r}")


def _unknown(topic: str, error: KafkaError | None = None) -> PluginError:
    said = "" if error is None else f" ({error.name()})"
    return PluginError(
        StatusCode.DEADLINE_EXCEEDED,
        f"topic {topic!r}: the brokers did not confirm the message in time{said}; "
        "it may be there, or still arrive",
    )


def _no_room(topic: str) -> PluginError:
    return PluginError(
        StatusCode.RESOURCE_EXHAUSTED,
        f"topic {topic!r}: max_buffered_bytes of messages wait for the brokers; "
        "this one was not sent",
    )


_UNKNOWN_OUTCOME = {
    KafkaError._MSG_TIMED_OUT,
    KafkaError._TIMED_OUT,
    KafkaError._PURGE_INFLIGHT,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NETWORK_EXCEPTION,
}
_NEVER_SENT = {KafkaError._PURGE_QUEUE, KafkaError._FATAL}

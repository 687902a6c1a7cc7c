"""Reading a partition from an offset on, without a group: each read stands for itself."""

import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from prism.sdk import PluginError, StatusCode

from . import params as p

MAX_IDLE = 4
"""Consumers kept for the next read; one takes some tens of milliseconds to make."""
MAX_BYTES = 512 * 1024
"""A page ends with the message that reaches this."""
WAIT_MS = 50
"""How long a broker may wait for more at the end of a partition."""


class Place(NamedTuple):
    """What a read has found, and where the next one goes on."""

    messages: list[KafkaMessage]
    next_offset: int
    end_offset: int


class Readers:
    """Consumers that are in no group."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = {**settings, "group.id": "none", "fetch.wait.max.ms": WAIT_MS}
        self._idle: list[Consumer] = []
        self._lock = threading.Lock()

    def read(
        self, full: str, partition: int, offset: p.Offset | str, limit: int, timeout: float
    ) -> Place:
        """Messages from ``offset`` on; blocks for ``timeout`` at most.

        Raises:
            PluginError: OUT_OF_RANGE, the partition has no such offset (any more).
            KafkaException: what else went wrong.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            consumer = self._idle.pop() if self._idle else Consumer(self._settings)
        good = False
        try:
            place = _read(consumer, TopicPartition(full, partition), offset, limit, deadline)
            good = True
        except PluginError:
            good = True
            raise
        finally:
            with self._lock:
                good = good and len(self._idle) < MAX_IDLE
                if good:
                    self._idle.append(consumer)
            if not good:
                consumer.close()
        return place

    def close(self) -> None:
        """Close the idle ones."""
        while self._idle:
            self._idle.pop().close()


def _read(
    consumer: Consumer, where: TopicPartition, offset: int | str, limit: int, deadline: float
) -> Place:
    low, high = consumer.get_watermark_offsets(where, timeout=_left(deadline))
    start = {"earliest": low, "latest": high}[offset] if isinstance(offset, str) else offset
    if not low <= start <= high:
        raise PluginError(
            StatusCode.OUT_OF_RANGE,
            f"the partition has offsets from {low} to {high}, which is its end; not {start}",
        )
    if start == high:
        return Place([], start, high)
    consumer.assign([TopicPartition(where.topic, where.partition, start)])
    messages: list[KafkaMessage] = []
    size, next_offset = 0, start
    try:
        while len(messages) < limit and size < MAX_BYTES and next_offset < high:
            message = consumer.poll(_left(deadline))
            if message is None:
                if messages:
                    break
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            error = message.error()
            if error is None:
                messages.append(message)
                size += len(message)
                next_offset = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                next_offset = max(next_offset, message.offset())
                break
            else:
                raise KafkaException(error)
    finally:
        consumer.unassign()
    return Place(messages, next_offset, high)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())

"""The queue vocabulary: the group ``queue``, on a store that a plugin brings.

A message is handed out to one consumer, and comes back unless it is acknowledged in time, so
each is delivered at least once. One that was handed out ``max_deliveries`` times goes to the
queue's dead letters, which are a queue as well, by the name with ``DEAD_LETTERS`` behind it.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Annotated, NamedTuple

import anyio
import msgspec
from msgspec import UNSET, Meta, UnsetType

from prism.sdk.call import Call
from prism.sdk.keyvalue_messages import AnyValue
from prism.sdk.operation import operation
from prism.sdk.plugin import Plugin
from prism.sdk.value import Encoding, Value, read_value

__all__ = ["DEAD_LETTERS", "Delivery", "QueueOperations", "QueueStore"]

DEAD_LETTERS = ".dead"
MAX_DEQUEUE = 100
MAX_DELAY = 366 * 86_400.0
MAX_QUEUE_NAME = 200

LOOK_AGAIN_SECONDS = 1.0
"""Nobody tells when a message's delay or visibility timeout is over."""

TIME_TO_ANSWER = 0.1
"""Of the time that a call has left, kept for its answer: one that does not arrive before the
deadline leaves the consumer in doubt whether it was handed a message."""
MOST_TIME_TO_ANSWER_SECONDS = 1.0

QueueName = Annotated[str, Meta(min_length=1, max_length=MAX_QUEUE_NAME)]
Delay = Annotated[float, Meta(ge=0, le=MAX_DELAY)]


class Queue(msgspec.Struct, forbid_unknown_fields=True):
    """Params of queue_size."""

    queue: QueueName


class Enqueue(msgspec.Struct, forbid_unknown_fields=True):
    """Params of enqueue. The name leaves room for that of the queue's dead letters."""

    queue: Annotated[str, Meta(min_length=1, max_length=MAX_QUEUE_NAME - len(DEAD_LETTERS))]
    value: AnyValue
    encoding: Encoding | UnsetType = UNSET
    delay_seconds: Delay = 0


class Dequeue(msgspec.Struct, forbid_unknown_fields=True):
    """Params of dequeue. ``wait_seconds``: how long to wait for a message if there is none.
    A message delivered ``max_deliveries`` times goes to the queue's dead letters."""

    queue: QueueName
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


class Enqueued(msgspec.Struct):
    """Result of enqueue."""

    id: int


class Message(msgspec.Struct):
    """One of dequeue's messages. ``enqueued_at`` is Unix seconds."""

    id: int
    receipt: str
    deliveries: int
    enqueued_at: float
    value: AnyValue | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET


class Messages(msgspec.Struct):
    """Result of dequeue."""

    messages: list[Message]


class Acknowledged(msgspec.Struct):
    """Result of acknowledge: false where the receipt is no longer good."""

    acknowledged: bool


class Rejected(msgspec.Struct):
    """Result of reject: false where the receipt is no longer good."""

    rejected: bool


class QueueSize(msgspec.Struct):
    """Result of queue_size: messages to be had now, and those delayed or handed out."""

    ready: int
    not_ready: int


class Delivery(NamedTuple):
    """A message handed out; ``receipt`` acknowledges or rejects this delivery of it."""

    id: int
    receipt: str
    value: Value
    deliveries: int
    enqueued_at: float


class QueueStore(ABC):
    """The queues of one namespace, somewhere. Errors are ``PluginError``."""

    max_value_bytes: int

    @abstractmethod
    async def enqueue(self, queue: str, value: Value, delay: float) -> int:
        """Add a message that can be had after ``delay`` seconds; returns its id, which is
        greater than those before."""

    @abstractmethod
    async def dequeue(
        self, queue: str, limit: int, visibility_timeout: float, max_deliveries: int
    ) -> list[Delivery]:
        """Hand out up to ``limit`` of the messages that can be had, the oldest first; fewer
        where they are large: an answer that fits no frame would be lost, and count as a delivery
        of every message in it. Does not wait for any."""

    @abstractmethod
    async def acknowledge(self, receipt: str) -> bool:
        """The message is dealt with and gone; False when it was no longer this receipt's."""

    @abstractmethod
    async def reject(self, receipt: str, delay: float) -> bool:
        """Give the message back, to be had after ``delay`` seconds; False as above."""

    @abstractmethod
    async def size(self, queue: str) -> tuple[int, int]:
        """(messages that can be had now, messages that are delayed or handed out)."""

    def next_arrival(self, queue: str) -> Callable[[], Awaitable[object]]:
        """What waits for a message that comes to ``queue`` after now. It may return early, and
        need not return at all: who waits looks again from time to time."""
        return anyio.sleep_forever


class QueueOperations(Plugin, group="queue"):
    """Messages that are handed out until one consumer has dealt with them."""

    queues: QueueStore

    @operation(access="write")
    async def enqueue(self, params: Enqueue, call: Call) -> Enqueued:
        """Add a message to a queue."""
        limit = self.queues.max_value_bytes
        value = read_value(params.value, params.encoding, call, limit)
        return Enqueued(await self.queues.enqueue(params.queue, value, params.delay_seconds))

    @operation(access="write")
    async def dequeue(self, params: Dequeue, call: Call) -> Messages:
        """Take messages; each comes back unless it is acknowledged in time.

        Waits for one ``wait_seconds``, or until shortly before the call's deadline.
        """
        time_left = call.time_left()
        to_answer = min(time_left * TIME_TO_ANSWER, MOST_TIME_TO_ANSWER_SECONDS)
        deadline = anyio.current_time() + min(params.wait_seconds, time_left - to_answer)
        while True:
            wait_for_one = self.queues.next_arrival(params.queue)
            found = await self.queues.dequeue(
                params.queue,
                params.limit,
                params.visibility_timeout_seconds,
                params.max_deliveries,
            )
            left = deadline - anyio.current_time()
            if found or left <= 0:
                return Messages([_shown(delivery, call) for delivery in found])
            with anyio.move_on_after(min(left, LOOK_AGAIN_SECONDS)):
                await wait_for_one()

    @operation(access="write")
    async def acknowledge(self, params: Receipt) -> Acknowledged:
        """A message is dealt with."""
        return Acknowledged(await self.queues.acknowledge(params.receipt))

    @operation(access="write")
    async def reject(self, params: Reject) -> Rejected:
        """Give a message back before its time."""
        return Rejected(await self.queues.reject(params.receipt, params.delay_seconds))

    @operation(idempotent=True, access="read")
    async def queue_size(self, params: Queue) -> QueueSize:
        """How many messages a queue has: to be had now, and delayed or handed out."""
        return QueueSize(*await self.queues.size(params.queue))


def _shown(delivery: Delivery, call: Call) -> Message:
    return Message(
        delivery.id,
        delivery.receipt,
        delivery.deliveries,
        delivery.enqueued_at,
        *delivery.value.write(call),
    )

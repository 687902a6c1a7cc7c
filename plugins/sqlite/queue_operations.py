"""Durable queues."""

import anyio

from prism.sdk import Call, operation
from prism.sdk.keyvalue import read_value

from . import params as p
from .connection import Connection
from .store import Store
from .work_queue import Delivery

LOOK_AGAIN_SECONDS = 1.0
"""Nobody tells when a message's delay or visibility timeout is over."""

TIME_TO_ANSWER = 0.1
"""Of the time that a call has left, kept for its answer: one that does not arrive before the
deadline leaves the consumer in doubt whether it was handed a message."""
MOST_TIME_TO_ANSWER_SECONDS = 1.0


class QueueOperations(Store, group="queue"):
    """Messages that are handed out until one consumer has dealt with them."""

    @operation(access="write")
    async def enqueue(self, params: p.Enqueue, call: Call) -> dict[str, int]:
        """Add a message to a queue."""
        value = read_value(params.value, params.encoding, call, self.config.max_value_bytes)
        number = await self.database.write(
            lambda connection: self.queues.enqueue(
                connection, params.queue, value, params.delay_seconds
            )
        )
        return {"id": number}

    @operation(access="write")
    async def dequeue(self, params: p.Dequeue, call: Call) -> p.Messages:
        """Take messages; each comes back unless it is acknowledged in time.

        Waits for one ``wait_seconds``, or until shortly before the call's deadline.
        """

        def work(connection: Connection) -> list[Delivery]:
            return self.queues.dequeue(
                connection,
                params.queue,
                params.limit,
                params.visibility_timeout_seconds,
                params.max_deliveries,
            )

        time_left = call.time_left()
        to_answer = min(time_left * TIME_TO_ANSWER, MOST_TIME_TO_ANSWER_SECONDS)
        deadline = anyio.current_time() + min(params.wait_seconds, time_left - to_answer)
        while True:
            committed = self.database.next_commit()
            found = await self.database.write(work)
            left = deadline - anyio.current_time()
            if found or left <= 0:
                return p.Messages([_shown(delivery, call) for delivery in found])
            with anyio.move_on_after(min(left, LOOK_AGAIN_SECONDS)):
                await committed.wait()

    @operation(access="write")
    async def acknowledge(self, params: p.Receipt) -> dict[str, bool]:
        """A message is dealt with."""
        gone = await self.database.write(
            lambda connection: self.queues.acknowledge(connection, params.receipt)
        )
        return {"acknowledged": gone}

    @operation(access="write")
    async def reject(self, params: p.Reject) -> dict[str, bool]:
        """Give a message back before its time."""
        returned = await self.database.write(
            lambda connection: self.queues.reject(connection, params.receipt, params.delay_seconds)
        )
        return {"rejected": returned}

    @operation(idempotent=True, access="read")
    async def queue_size(self, params: p.Queue) -> dict[str, int]:
        """How many messages a queue has: to be had now, and delayed or handed out."""
        ready, waiting = await self.database.read(
            lambda connection: self.queues.size(connection, params.queue)
        )
        return {"ready": ready, "not_ready": waiting}


def _shown(delivery: Delivery, call: Call) -> p.Message:
    message = p.Message(delivery.id, delivery.receipt, delivery.deliveries, delivery.enqueued_at)
    message.value, message.encoding = delivery.value.write(call)
    return message

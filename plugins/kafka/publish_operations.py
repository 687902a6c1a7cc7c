"""Publishing."""

from collections import deque
from collections.abc import AsyncIterator

import anyio

from prism.sdk import Call, PluginError, operation
from prism.sdk.background import run_beside

from . import params as p
from .connection import Connection
from .publisher import Batch, Outcome
from .records import Record, read_record, read_records

MAX_OUTSTANDING = 1_000
"""Messages of one stream that wait for their receipts."""


class PublishOperations(Connection):
    """Messages into topics; each answer comes when all replicas in sync have the message."""

    @operation(access="write")
    async def publish(self, params: p.Publish, call: Call) -> p.Receipt:
        """Publish one message."""
        record = read_record(params, call)
        time_left = self.time_to_answer_in(call)
        full = await self.cluster.require(params.topic, time_left)
        time_left = self.time_to_answer_in(call)
        (outcome,) = await self.publisher.publish(params.topic, full, [record], time_left)
        if isinstance(outcome, PluginError):
            raise outcome
        return outcome

    @operation(access="write")
    async def publish_batch(self, params: p.PublishBatch, call: Call) -> p.Published:
        """Publish messages in their order; each has a result of its own."""
        records = read_records(params.messages, call)
        full = await self.cluster.require(params.topic, self.time_to_answer_in(call))
        if not records:
            return p.Published(0, 0, [])
        time_left = self.time_to_answer_in(call)
        outcomes = await self.publisher.publish(params.topic, full, records, time_left)
        results = [
            outcome if type(outcome) is p.Receipt else _result(outcome) for outcome in outcomes
        ]
        failed = [type(result) for result in results].count(p.Failure)
        return p.Published(len(results) - failed, failed, results)

    @operation(name="publish", access="write")
    async def publish_stream(
        self, params: p.PublishStream, call: Call
    ) -> AsyncIterator[p.Receipt | p.Failure]:
        """Publish the client's messages; gives a receipt for each, in their order.

        A message that cannot be read ends the stream, after the receipts of those before it.
        """
        topic = params.topic
        full = await self.cluster.require(topic, self.time_to_answer_in(call))
        outstanding: deque[Batch] = deque()
        changed = anyio.Event()
        room = anyio.Semaphore(MAX_OUTSTANDING)
        ended = False
        failure: PluginError | None = None

        async def take() -> None:
            nonlocal ended, failure
            try:
                async for message in call.messages(p.Publishing):
                    record: Record = read_record(message, call)
                    await room.acquire()
                    batch = Batch(topic, full, 1)
                    outstanding.append(batch)
                    changed.set()
                    await self.publisher.put(batch, [record])
            except PluginError as error:
                failure = error
            ended = True
            changed.set()

        taking = run_beside(take)
        try:
            while outstanding or not ended:
                if not outstanding:
                    changed = anyio.Event()
                    await changed.wait()
                    continue
                (outcome,) = await self.publisher.outcomes(outstanding[0])
                outstanding.popleft()
                room.release()
                yield _result(outcome)
        finally:
            taking.cancel()
        if failure is not None:
            raise failure


def _result(outcome: Outcome) -> p.Receipt | p.Failure:
    if isinstance(outcome, PluginError):
        return p.Failure(int(outcome.status), outcome.detail)
    return outcome

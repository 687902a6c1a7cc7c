"""Subscribing, and reading without a group."""

import logging
import math
from collections.abc import AsyncIterator

import anyio
from confluent_kafka import KafkaException

from prism.sdk import Call, PluginError, StatusCode, operation
from prism.sdk.background import run_beside

from . import params as p
from .connection import COUNTED, Connection
from .errors import translate
from .records import Record, show
from .subscription import Delivery, Subscription

log = logging.getLogger("prism.plugin.kafka")

CLOSE_SECONDS = 10.0
"""At a good end: for the last commit, and to leave the group."""
DEAD_LETTER_RETRY_SECONDS = 1.0
BATCH_BYTES = 256 * 1024
"""A batch ends with the message that reaches this."""

FROM_HEADER = "prism-dead-letter-from"
DELIVERIES_HEADER = "prism-dead-letter-deliveries"
"""What a dead letter has beside its own headers: the id that it had, and how often it was
delivered."""


class SubscribeOperations(Connection):
    """Messages out of topics."""

    @operation(access="write")
    async def subscribe(
        self, params: p.Subscribe, call: Call
    ) -> AsyncIterator[p.Message | p.Messages | p.Assignment | p.DeadLettered]:
        """Be a member of a group, and get the messages of the partitions that fall to it.

        Each message is delivered at least once: until the client has acknowledged it, by its id,
        in a message of its own.
        """
        subscription = await self._open(params, call)
        inbox, auto, values = subscription.inbox, params.auto_acknowledge, params.values
        scopes = []

        def too_often(delivery: Delivery) -> None:
            topic = params.dead_letter_topic
            scopes.append(run_beside(self._bury, subscription, delivery, topic))

        try:
            answers = call.messages(p.Answer)
            scopes.append(run_beside(subscription.listen, answers, too_often))
            subscription.start()
            while subscription.failure is None:
                if not inbox:
                    if subscription.is_done:
                        break
                    await subscription.wait()
                    continue
                item = inbox[0]
                if not isinstance(item, Delivery):
                    inbox.popleft()
                    yield item
                    continue
                taken = subscription.take_deliveries(params.batch_size, BATCH_BYTES)
                if not taken:
                    continue
                shown = [_show(delivery, values, call) for delivery in taken]
                yield shown[0] if params.batch_size == 1 else p.Messages(shown)
                if auto:
                    subscription.settle_all(taken)
        finally:
            self._close(subscription)
            for scope in scopes:
                scope.cancel()
        if subscription.failure is not None:
            raise subscription.failure
        with anyio.move_on_after(CLOSE_SECONDS):
            await subscription.ended.wait()

    async def _open(self, params: p.Subscribe, call: Call) -> Subscription:
        """Raises PluginError: what does not fit together, or a topic that is not there."""
        if bool(params.topics) is (params.topic_prefix is not None):
            raise _invalid("either topics or topic_prefix says what to subscribe to")
        if (params.max_deliveries is None) is not (params.dead_letter_topic is None):
            raise _invalid(
                "max_deliveries needs a dead_letter_topic for what is rejected so often, and "
                "dead_letter_topic the number"
            )
        if len(self.subscriptions) >= self.config.max_subscriptions:
            raise PluginError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"{len(self.subscriptions)} subscriptions are open, as many as there may be "
                "(max_subscriptions)",
            )
        wanted = [*params.topics, *([params.dead_letter_topic] if params.dead_letter_topic else [])]
        for topic in wanted:
            await self.cluster.require(topic, call.time_left())
        config = self.config
        settings = {**self.consumer_settings, "group.protocol": config.group_protocol}
        if config.group_protocol == "classic":
            settings |= {
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": int(config.session_timeout_seconds * 1000),
                "heartbeat.interval.ms": int(config.session_timeout_seconds * 1000 / 4),
            }
        subscription = Subscription(
            settings,
            self.group(params.group),
            self.topics_of,
            params,
            config.max_in_flight_bytes,
            self.call_soon,
        )
        self.subscriptions.add(subscription)
        return subscription

    def _close(self, subscription: Subscription) -> None:
        """Have it commit and leave its group; in the background."""
        self.subscriptions.remove(subscription)
        for name in COUNTED:
            self.totals[name] += getattr(subscription, name)
        self.leaving = {each for each in self.leaving if not each.ended.is_set()}
        self.leaving.add(subscription)
        subscription.stop()

    async def _bury(
        self, subscription: Subscription, delivery: Delivery, topic: str | None
    ) -> None:
        """Move a message to the dead-letter topic; tries until it is there. Raises nothing."""
        assert topic is not None  # noqa: S101 - max_deliveries does not come without it
        message = delivery.message
        headers = [
            *(message.headers() or []),
            (FROM_HEADER, delivery.id.encode()),
            (DELIVERIES_HEADER, str(delivery.deliveries).encode()),
        ]
        record = Record(message.value(), message.key(), headers)
        full = self.topics_of.full(topic)
        while delivery.is_open:
            (outcome,) = await self.publisher.publish(topic, full, [record], math.inf)
            if not isinstance(outcome, PluginError):
                self.totals["dead_lettered"] += 1
                subscription.bury(delivery, topic)
                return
            log.warning("a dead letter is not there yet: %s", outcome.detail)
            await anyio.sleep(DEAD_LETTER_RETRY_SECONDS)

    @operation(idempotent=True, access="read")
    async def read(self, params: p.Read, call: Call) -> p.Page:
        """Read a partition from an offset on, without a group; nothing is remembered of it."""
        count = await self.cluster.partitions_of(params.topic, self.time_to_answer_in(call))
        if params.partition >= count:
            raise PluginError(
                StatusCode.NOT_FOUND,
                f"topic {params.topic!r} has {count} partitions, from 0; not {params.partition}",
            )
        full = self.topics_of.full(params.topic)
        timeout = min(self.config.connect_timeout_seconds, self.time_to_answer_in(call))
        try:
            place = await self.run_blocking(
                self.readers.read, full, params.partition, params.offset, params.limit, timeout
            )
        except KafkaException as error:
            raise translate(error, f"topic {params.topic!r}") from error
        messages = [show(each, params.topic, params.values, call) for each in place.messages]
        return p.Page(messages, place.next_offset, place.end_offset)


def _show(delivery: Delivery, values: p.Values, call: Call) -> p.Message:
    shown = show(delivery.message, delivery.part.topic, values, call)
    shown.event, shown.id, shown.deliveries = "message", delivery.id, delivery.deliveries
    return shown


def _invalid(detail: str) -> PluginError:
    return PluginError(StatusCode.INVALID_ARGUMENT, detail)

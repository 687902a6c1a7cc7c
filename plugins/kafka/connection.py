"""What all operations of the plugin share: the connections to the brokers, and their life."""

from collections.abc import Iterable
from time import monotonic

import anyio
from confluent_kafka.admin import OffsetSpec

from prism.sdk import Call, Health, Plugin, PluginError, StatusCode
from prism.sdk.background import loop_caller

from .cluster import Cluster, Topics
from .config import KafkaConfig, client_settings, consumer_settings, producer_settings
from .publisher import Publisher
from .reader import Readers
from .subscription import Subscription

COUNTED = ("received", "acknowledged", "rejected")
"""What each subscription counts."""
STOP_SECONDS = 5.0
"""For consumers to commit and leave their groups when the plugin stops."""
PING_SECONDS = 4.0
"""For a broker's answer to a health check."""
TIME_TO_ANSWER = 0.1
"""Of the time that a call has left, kept for its answer: one that does not arrive before the
deadline cannot say that the outcome is unknown, and why."""
MOST_TIME_TO_ANSWER_SECONDS = 1.0


class Connection(Plugin):
    """One Kafka cluster, as one namespace sees it."""

    name = "kafka"
    version = "0.1.0"
    Config = KafkaConfig
    config: KafkaConfig

    async def start(self) -> None:
        """Reach a broker, with the credentials; refuses with what keeps it from that."""
        common = client_settings(self.config, self.credentials)
        self.call_soon = loop_caller()
        self.topics_of = Topics(self.config.topic_prefix)
        self.cluster = Cluster(
            common, self.topics_of, self.run_blocking, self.config.connect_timeout_seconds
        )
        await self.cluster.connect()
        self.publisher = Publisher(
            producer_settings(self.config, common),
            self.config.max_message_bytes,
            self.call_soon,
            self.cluster.forget,
        )
        self.consumer_settings = consumer_settings(self.config, common)
        self.readers = Readers(self.consumer_settings)
        self.subscriptions: set[Subscription] = set()
        self.leaving: set[Subscription] = set()
        self.totals = dict.fromkeys([*COUNTED, "dead_lettered"], 0)

    async def stop(self) -> None:
        """Flush, and leave all groups; bounded."""
        for subscription in self.subscriptions | self.leaving:
            subscription.stop()
        with anyio.move_on_after(STOP_SECONDS):
            for subscription in self.subscriptions | self.leaving:
                await subscription.ended.wait()
        await self.run_blocking(self.publisher.stop)
        await self.run_blocking(self.readers.close)

    def group(self, name: str | None) -> str:
        """The group in Kafka that clients of this namespace know as ``name``."""
        own = self.config.consumer_group or f"prism-{self.namespace}"
        return own if name is None else f"{own}.{name}"

    def time_to_answer_in(self, call: Call) -> float:
        """Seconds that a call may take, so that its answer arrives before its deadline."""
        left = call.time_left()
        return left - min(left * TIME_TO_ANSWER, MOST_TIME_TO_ANSWER_SECONDS)

    async def health(self) -> Health:
        """Whether a broker answers, and every subscription gets what there is.

        One that does not, though its client would take it, is ended with UNAVAILABLE: its client
        subscribes again, with a new consumer.
        """
        subscriptions = list(self.subscriptions)
        self._count(subscriptions)
        try:
            brokers = await self.cluster.ping(PING_SECONDS)
            problems = await self._stalled(subscriptions)
        except PluginError as error:
            heard = self.cluster.last_error
            said = "" if heard is None else f"; {heard.str()}"
            return Health.degraded(f"{error.detail}{said}")
        details = {"brokers": str(brokers), "subscriptions": str(len(subscriptions))}
        problems += [
            f"group {each.group!r} cannot commit: {each.commit_error.str()}"
            for each in subscriptions
            if each.commit_error is not None
        ]
        if problems:
            return Health.degraded("; ".join(problems), **details)
        return Health.healthy(**details)

    async def _stalled(self, subscriptions: Iterable[Subscription]) -> list[str]:
        limit = self.config.stall_seconds
        now = monotonic()
        suspects = [each for each in subscriptions if now - each.moved_at > limit and each.parts]
        asked = sorted({where for each in suspects for where in each.parts})
        ends = await self.cluster.list_offsets(asked, OffsetSpec.latest(), PING_SECONDS)
        problems = []
        for each in suspects:
            behind = sum(
                1
                for where, part in each.parts.items()
                if part.position is None or ends.get(where, 0) > part.position
            )
            seconds = now - each.moved_at
            if each.unsettled and (each.waits_for_client or not behind):
                problems.append(
                    f"a client of group {each.group!r} has settled nothing for {seconds:.0f} s, of "
                    f"{each.unsettled} messages that it has"
                )
            elif behind:
                problem = (
                    f"a subscription of group {each.group!r} has got nothing for {seconds:.0f} s, "
                    f"though messages wait in {behind} of its partitions"
                )
                problems.append(problem)
                each.fail(PluginError(StatusCode.UNAVAILABLE, f"{problem}; subscribe again"))
        return problems

    def _count(self, subscriptions: list[Subscription]) -> None:
        metrics = self.metrics
        metrics.connections_active = len(subscriptions)
        metrics.queries_executed = self.publisher.delivered
        metrics.custom |= {
            "published": self.publisher.delivered,
            "publish_queue": self.publisher.queued,
            "unsettled": sum(each.unsettled for each in subscriptions),
            **self.totals,
        }
        for name in COUNTED:
            metrics.custom[name] += sum(getattr(each, name) for each in subscriptions)

"""The same plugin, unchanged, under the other event loop; and what goes wrong between threads."""

import anyio
from confluent_kafka import TopicPartition

from prism_plugins.kafka.params import Subscribe
from prism_plugins.kafka.subscription import Subscription

from .conftest import OpenPlugin, open_stream


def test_under_asyncio(open_plugin: OpenPlugin) -> None:
    async def scenario() -> None:
        async with open_plugin() as plugin:
            await plugin.call("create_topic", topic="single")
            batch = [{"value": number} for number in range(100)]
            await plugin.call("publish_batch", topic="single", messages=batch)
            async with open_stream(plugin, "publish", topic="single") as stream:
                stream.send({"value": 100})
                assert (await stream.next())["offset"] == 100
            async with open_stream(plugin, "subscribe", topics=["single"]) as stream:
                messages = await stream.messages(101)
                assert [message["value"] for message in messages] == list(range(101))
                stream.send({"reject": messages[0]["id"]})
                assert (await stream.next_of("message"))["deliveries"] == 2
                stream.send({"acknowledge": [message["id"] for message in messages]})
                stream.end()
                assert await stream.next() is None
            assert (await plugin.call("lag"))["lag"] == 0

    anyio.run(scenario, backend="asyncio")


class FakeMessage:
    """As a consumer gives them."""

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        self._facts = topic, partition, offset

    def topic(self) -> str:
        return self._facts[0]

    def partition(self) -> int:
        return self._facts[1]

    def offset(self) -> int:
        return self._facts[2]

    def error(self) -> None:
        return None

    def __len__(self) -> int:
        return 1


async def test_what_came_with_its_partitions_revocation_is_not_handed_out() -> None:
    """librdkafka calls back in the middle of the call that then returns the messages."""

    class Topics:
        def full(self, topic: str) -> str:
            return topic

        def short(self, full: str) -> str:
            return full

    def call_now(function, *args) -> None:
        function(*args)

    subscription = Subscription({}, "group", Topics(), Subscribe(topics=["t"]), 1_000_000, call_now)
    subscription._on_assign(None, [TopicPartition("t", 0), TopicPartition("t", 1)])
    subscription._on_lost(None, [TopicPartition("t", 1)])
    messages = [FakeMessage("t", 0, 5), FakeMessage("t", 1, 7)]
    subscription._hand_over(messages)
    assert [each.id for each in subscription.parts["t", 0].handed.values()] == ["t/0/5"]
    assert subscription.unsettled == 1
    assert subscription._handed == 1

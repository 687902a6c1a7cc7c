import base64

import anyio
import msgspec
import pytest
from confluent_kafka import KafkaError

from prism.contract.messages import HealthStatus
from prism.contract.status import StatusCode
from prism.sdk import PluginError
from prism_plugins.kafka.subscription import Subscription

from .conftest import OpenPlugin, Stream, eventually, open_stream

ALL_BYTES = base64.b64encode(bytes(range(256))).decode()


async def publish(plugin, topic: str, number: int, first: int = 0, **fields: object) -> None:
    batch = [{"value": value, **fields} for value in range(first, first + number)]
    result = await plugin.call("publish_batch", topic=topic, messages=batch)
    assert result["failed"] == 0


async def committed(plugin, **params: object) -> int:
    """How many messages are committed, of all partitions; all begin at 0."""
    lag = await plugin.call("lag", **params)
    return sum(part["committed"] for part in lag["partitions"])


async def members(plugin) -> int:
    return (await plugin.call("lag"))["members"]


def acknowledge(stream: Stream, *messages: dict) -> None:
    stream.send({"acknowledge": [message["id"] for message in messages]})


async def test_what_is_acknowledged_is_committed_at_the_end(plugin) -> None:
    await publish(plugin, "orders", 30)
    async with open_stream(plugin, "subscribe", topics=["orders"]) as stream:
        first = await stream.next()
        assert first["event"] == "assigned"
        assert sorted(part["partition"] for part in first["partitions"]) == [0, 1, 2]
        messages = await stream.messages(30)
        assert sorted(message["value"] for message in messages) == list(range(30))
        assert {message["deliveries"] for message in messages} == {1}
        acknowledge(stream, *messages)
        stream.end()
        assert await stream.next() is None
        assert await committed(plugin) == 30
        assert await members(plugin) == 0


async def test_only_what_comes_before_all_that_is_open_is_committed(plugin) -> None:
    await publish(plugin, "single", 10)
    async with open_stream(plugin, "subscribe", topics=["single"]) as stream:
        messages = await stream.messages(10)
        acknowledge(stream, *messages[:3], *messages[5:])  # not 3 and 4
        stream.end()
        assert await stream.next() is None
    assert await committed(plugin) == 3
    async with open_stream(plugin, "subscribe", topics=["single"]) as stream:
        assert [message["value"] for message in await stream.messages(7)] == list(range(3, 10))


async def test_acknowledged_backwards(plugin) -> None:
    await publish(plugin, "single", 100)
    async with open_stream(plugin, "subscribe", topics=["single"]) as stream:
        for message in reversed(await stream.messages(100)):
            acknowledge(stream, message)

        async def all_committed() -> bool:
            return await committed(plugin) == 100

        await eventually(all_committed)


async def test_a_client_that_goes_away_leaves_its_group_at_once(open_plugin: OpenPlugin) -> None:
    """The session's timeout is longer than anybody waits."""
    async with open_plugin(session_timeout_seconds=300) as plugin:
        await plugin.call("create_topic", topic="single")
        await publish(plugin, "single", 3)
        async with open_stream(plugin, "subscribe", topics=["single"]) as stream:
            await stream.messages(3)
        async with open_stream(plugin, "subscribe", topics=["single"]) as stream:
            assert [message["value"] for message in await stream.messages(3)] == [0, 1, 2]


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_a_group_shares_its_partitions(open_plugin: OpenPlugin, protocol: str) -> None:
    """Members come and go while messages flow: each is acknowledged by somebody, none is lost."""
    async with open_plugin(group_protocol=protocol) as plugin:
        await plugin.call("create_topic", topic="orders", partitions=4)
        seen: list[int] = []
        everything = anyio.CancelScope()

        async def consume(most: int) -> None:
            """Be a member until all is seen, or this one has seen so many."""
            params = {"topics": ["orders"], "max_in_flight": 20}
            async with open_stream(plugin, "subscribe", **params) as stream:
                for _ in range(most):
                    message = await stream.next_of("message")
                    seen.append(message["value"])
                    acknowledge(stream, message)
                    if len(set(seen)) == 400:
                        everything.cancel()

        with everything:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume, 400)
                tasks.start_soon(consume, 30)
                for start in range(0, 400, 100):
                    await publish(plugin, "orders", 100, start)
                tasks.start_soon(consume, 400)
        assert set(seen) == set(range(400))


async def test_a_member_is_told_what_it_gets_and_loses(plugin) -> None:
    async with open_stream(plugin, "subscribe", topics=["orders"]) as first:
        assert len((await first.next_of("assigned"))["partitions"]) == 3
        async with open_stream(plugin, "subscribe", topics=["orders"]) as second:
            got = await second.next_of("assigned")
            lost = await first.next_of("revoked")
            assert got["partitions"] == lost["partitions"]
        assert (await first.next_of("assigned"))["partitions"] == lost["partitions"]


async def test_a_rejected_message_comes_again(plugin) -> None:
    await publish(plugin, "single", 3)
    async with open_stream(plugin, "subscribe", topics=["single"]) as stream:
        messages = await stream.messages(3)
        stream.send({"reject": messages[0]["id"]})
        again = await stream.next()
        assert again == messages[0] | {"deliveries": 2}
        stream.send({"reject": messages[1]["id"], "delay_seconds": 3600})
        stream.send({"reject": messages[2]["id"], "delay_seconds": 0.1})
        assert (await stream.next())["id"] == messages[2]["id"]  # before the one of an hour
        acknowledge(stream, *messages)
        stream.end()
        assert await stream.next() is None
    assert await committed(plugin) == 3


async def test_a_message_that_waits_holds_up_nobody(plugin) -> None:
    """Neither its partition nor a rebalance; its offset is kept back."""
    await publish(plugin, "single", 2)
    async with open_stream(plugin, "subscribe", topics=["single", "orders"]) as first:
        messages = await first.messages(2)
        first.send({"reject": messages[0]["id"], "delay_seconds": 3600})
        acknowledge(first, messages[1])
        await publish(plugin, "single", 1, 2)
        assert (await first.next_of("message"))["value"] == 2
        async with open_stream(plugin, "subscribe", topics=["single", "orders"]) as second:
            assert (await second.next_of("assigned"))["partitions"]
    assert await committed(plugin) == 0
    async with open_stream(plugin, "subscribe", topics=["single"]) as third:
        again = await third.messages(3)  # the one of an hour as well, which nobody has any more
    assert [(each["value"], each["deliveries"]) for each in again] == [(0, 1), (1, 1), (2, 1)]


async def test_dead_letters_keep_key_and_headers(plugin) -> None:
    await plugin.call("create_topic", topic="dead")
    headers = [
        {"name": "h", "value": "1"},
        {"name": "h", "value": ALL_BYTES, "encoding": "base64"},
        {"name": "none", "value": None},
    ]
    await plugin.call(
        *("publish",),
        topic="single",
        value=ALL_BYTES,
        encoding="base64",
        key=ALL_BYTES,
        key_encoding="base64",
        headers=headers,
    )
    await plugin.call("publish", topic="single", key="k", tombstone=True)
    params = {"topics": ["single"], "max_deliveries": 2, "dead_letter_topic": "dead"}
    async with open_stream(plugin, "subscribe", **params) as stream:
        first, second = await stream.messages(2)
        stream.send({"reject": first["id"]})
        again = await stream.next_of("message")
        assert again["deliveries"] == 2
        stream.send({"reject": first["id"]})
        assert await stream.next() == {
            "event": "dead_lettered",
            "id": first["id"],
            "topic": "dead",
        }
        acknowledge(stream, second)
        stream.end()
        assert await stream.next() is None
    assert await committed(plugin) == 2
    (dead,) = (await plugin.call("read", topic="dead"))["messages"]
    for name in ("value", "encoding", "key", "key_encoding"):
        assert dead[name] == first[name]
    assert dead["headers"] == [
        *headers,
        {"name": "prism-dead-letter-from", "value": "single/0/0"},
        {"name": "prism-dead-letter-deliveries", "value": "2"},
    ]


async def test_no_more_is_handed_out_than_may_be_open(plugin) -> None:
    """Paused beyond it, and still a member: what comes after an acknowledgement is the next."""
    await publish(plugin, "single", 50)
    async with open_stream(plugin, "subscribe", topics=["single"], max_in_flight=5) as stream:
        messages = await stream.messages(5)
        (subscription,) = plugin.plugin.subscriptions

        async def is_paused() -> bool:
            return subscription._paused

        await eventually(is_paused)
        assert not subscription.inbox
        assert subscription.unsettled == 5
        for expected in range(5, 50):
            acknowledge(stream, messages.pop(0))
            messages.append(await stream.next_of("message"))
            assert messages[-1]["value"] == expected
            assert subscription.unsettled <= 5


async def test_bytes_are_bounded_too(open_plugin: OpenPlugin) -> None:
    async with open_plugin(max_in_flight_bytes=1024 * 1024) as plugin:
        await plugin.call("create_topic", topic="single")
        batch = [{"value": "x" * 200_000} for _ in range(30)]
        await plugin.call("publish_batch", topic="single", messages=batch)
        async with open_stream(plugin, "subscribe", topics=["single"]) as stream:
            held = await stream.messages(5)
            (subscription,) = plugin.plugin.subscriptions
            for _ in range(25):
                assert subscription.unsettled <= 12  # one batch beyond 1 MiB
                acknowledge(stream, held.pop(0))
                held.append(await stream.next_of("message"))


async def test_a_rebalance_while_paused(plugin) -> None:
    """What is assigned meanwhile is paused as well, and goes on with the rest."""
    await publish(plugin, "orders", 60)
    async with open_stream(plugin, "subscribe", topics=["orders"], max_in_flight=1) as first:
        held = await first.next_of("message")
        (subscription,) = plugin.plugin.subscriptions

        async def is_paused() -> bool:
            return subscription._paused

        await eventually(is_paused)
        async with open_stream(plugin, "subscribe", topics=["orders"], max_in_flight=1) as second:
            await second.next_of("message")
        seen = {held["value"]}
        while len(seen) < 60:
            acknowledge(first, held)
            held = await first.next_of("message")
            seen.add(held["value"])


async def test_without_acknowledging(plugin) -> None:
    await publish(plugin, "single", 5)
    params = {"topics": ["single"], "auto_acknowledge": True, "limit": 3}
    async with open_stream(plugin, "subscribe", **params) as stream:
        stream.end()
        assert [message["value"] for message in await stream.messages(3)] == [0, 1, 2]
        assert await stream.next() is None
    assert await committed(plugin) == 3
    async with open_stream(plugin, "subscribe", topics=["single"]) as stream:
        stream.end()
        with pytest.raises(PluginError, match="auto_acknowledge") as caught:
            await stream.messages(100)
        assert caught.value.status is StatusCode.FAILED_PRECONDITION


async def test_messages_by_the_batch(plugin) -> None:
    await publish(plugin, "single", 100)
    params = {"topics": ["single"], "batch_size": 30}
    async with open_stream(plugin, "subscribe", **params) as stream:
        seen: list[int] = []
        while len(seen) < 100:
            batch = (await stream.next_of("messages"))["messages"]
            assert 1 <= len(batch) <= 30
            seen += [message["value"] for message in batch]
            acknowledge(stream, *batch)
        assert seen == list(range(100))
        (message,) = [each for each in batch if each["value"] == 99]
        assert (message["event"], message["deliveries"]) == ("message", 1)
        stream.end()
        assert await stream.next() is None
    assert await committed(plugin) == 100
    await plugin.call("seek", topic="single", to="earliest")
    large = [{"value": "x" * 100_000} for _ in range(10)]
    await plugin.call("publish_batch", topic="single", messages=large)
    params |= {"auto_acknowledge": True, "limit": 110, "batch_size": 1000}
    async with open_stream(plugin, "subscribe", **params) as stream:
        number = 0
        while (event := await stream.next()) is not None:
            values = [message["value"] for message in event.get("messages", ())]
            assert sum(isinstance(value, str) for value in values) <= 3  # 256 KiB are full
            number += len(values)
        assert number == 110
    assert await committed(plugin) == 110


async def test_where_a_new_group_begins(plugin) -> None:
    for number in range(3):
        await plugin.call("publish", topic="single", value=number, timestamp=1000 + number)
    for group, start, expected in [("a", "earliest", 0), ("b", {"timestamp": 1002}, 2)]:
        params = {"topics": ["single"], "group": group, "start": start}
        async with open_stream(plugin, "subscribe", **params) as stream:
            assert (await stream.next_of("message"))["value"] == expected
    for group, start in [("c", "latest"), ("d", {"timestamp": 10**13})]:
        params = {"topics": ["single"], "group": group, "start": start}
        async with open_stream(plugin, "subscribe", **params) as stream:
            await stream.next_of("assigned")
            (subscription,) = plugin.plugin.subscriptions

            async def at_the_end(subscription: Subscription = subscription) -> bool:
                return all(part.position for part in subscription.parts.values())

            await eventually(at_the_end)
            await plugin.call("publish", topic="single", value=group)
            assert (await stream.next_of("message"))["value"] == group


async def test_groups_are_apart(plugin) -> None:
    """Also when one of them rebalances: each subscription has a consumer of its own."""
    await publish(plugin, "orders", 30)
    one = {"topics": ["orders"], "group": "one"}
    async with (
        open_stream(plugin, "subscribe", **one) as first,
        open_stream(plugin, "subscribe", topics=["orders"], group="two") as other,
    ):
        assert len(await first.messages(30)) == len(await other.messages(30)) == 30
        async with open_stream(plugin, "subscribe", **one) as second:
            await publish(plugin, "orders", 30, 30)
            assert len(await other.messages(30)) == 30
            await second.next_of("assigned")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "either topics or topic_prefix"),
        ({"topics": ["orders"], "topic_prefix": ""}, "either topics or topic_prefix"),
        ({"topics": ["orders"], "max_deliveries": 3}, "dead_letter_topic"),
        ({"topics": ["orders"], "dead_letter_topic": "single"}, "max_deliveries"),
        ({"topics": ["orders"], "max_in_flight": 0}, "max_in_flight"),
        ({"topics": ["orders"], "group": "a b"}, "group"),
    ],
)
async def test_what_does_not_fit_together(plugin, params: dict, words: str) -> None:
    async with open_stream(plugin, "subscribe", **params) as stream:
        with pytest.raises(PluginError, match=words) as caught:
            await stream.next()
    assert caught.value.status is StatusCode.INVALID_ARGUMENT
    assert not plugin.plugin.subscriptions


async def test_what_is_no_id_ends_the_stream(plugin) -> None:
    await publish(plugin, "single", 1)
    async with open_stream(plugin, "subscribe", topics=["single"]) as stream:
        message = await stream.next_of("message")
        stream.send({"acknowledge": ["single/0/999", "other/7/1"], "reject": "single/0/5"})
        acknowledge(stream, message, message)
        stream.send({"acknowledge": ["?"]})
        with pytest.raises(PluginError, match="no id of a message") as caught:
            await stream.next()
        assert caught.value.status is StatusCode.INVALID_ARGUMENT
    assert not plugin.plugin.subscriptions


async def test_a_topic_that_is_deleted_ends_its_streams(plugin) -> None:
    async with open_stream(plugin, "subscribe", topics=["single"]) as stream:
        await stream.next_of("assigned")
        await plugin.call("delete_topic", topic="single")
        with pytest.raises(PluginError) as caught:
            await stream.next_of("message")
    assert caught.value.status is StatusCode.NOT_FOUND


async def test_of_a_prefix_topics_come_and_go(plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prism_plugins.kafka.subscription.PATTERN_INTERVAL_MS", 200)
    async with open_stream(plugin, "subscribe", topic_prefix="", max_in_flight=5) as stream:
        await stream.next_of("assigned")
        await plugin.call("delete_topic", topic="orders")
        await plugin.call("create_topic", topic="new")
        for topic in ("single", "new"):
            await plugin.call("publish", topic=topic, value=topic)
        seen = {message["value"] for message in await stream.messages(2)}
        assert seen == {"single", "new"}


async def test_as_many_as_there_may_be(open_plugin: OpenPlugin) -> None:
    async with open_plugin(max_subscriptions=1) as plugin:
        await plugin.call("create_topic", topic="single")
        async with open_stream(plugin, "subscribe", topics=["single"]) as first:
            await first.next_of("assigned")
            async with open_stream(plugin, "subscribe", topics=["single"]) as second:
                with pytest.raises(PluginError, match="max_subscriptions") as caught:
                    await second.next()
                assert caught.value.status is StatusCode.RESOURCE_EXHAUSTED
        async with open_stream(plugin, "subscribe", topics=["single"]) as third:
            await third.next_of("assigned")


async def test_a_client_that_forgets_a_message_does_not_fill_the_memory(
    plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prism_plugins.kafka.subscription.MAX_OUT_OF_ORDER", 20)
    await publish(plugin, "single", 100)
    async with open_stream(plugin, "subscribe", topics=["single"], max_in_flight=10) as stream:
        forgotten = await stream.next_of("message")
        (subscription,) = plugin.plugin.subscriptions
        seen = 0

        async def is_settled() -> bool:
            return subscription.settled == seen

        while subscription._out_of_order < 20:
            acknowledge(stream, await stream.next_of("message"))
            seen += 1
            await eventually(is_settled)

        async def is_paused() -> bool:
            return subscription._paused

        await eventually(is_paused)
        assert seen < 60
        while subscription.inbox:
            await stream.next_of("message")
        acknowledge(stream, forgotten)
        assert (await stream.next_of("message"))["offset"] > 20


async def test_a_consumer_that_gets_nothing_is_noticed_and_replaced(
    open_plugin: OpenPlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_plugin(stall_seconds=0.5) as plugin:
        await plugin.call("create_topic", topic="single")
        async with open_stream(plugin, "subscribe", topics=["single"]) as stream:
            await stream.next_of("assigned")
            (subscription,) = plugin.plugin.subscriptions

            async def at_the_end() -> bool:
                return all(part.position is not None for part in subscription.parts.values())

            await eventually(at_the_end)
            monkeypatch.setattr(Subscription, "_hand_over", lambda self, messages: None)
            assert (await plugin.health()).status is HealthStatus.HEALTHY
            await publish(plugin, "single", 1)

            async def is_degraded() -> bool:
                health = await plugin.health()
                return health.status is HealthStatus.DEGRADED and "got nothing" in health.message

            await eventually(is_degraded)
            with pytest.raises(PluginError, match="subscribe again") as caught:
                await stream.next()
            assert caught.value.status is StatusCode.UNAVAILABLE
        monkeypatch.undo()
        async with open_stream(plugin, "subscribe", topics=["single"]) as stream:
            assert (await stream.next_of("message"))["value"] == 0


async def test_a_client_that_settles_nothing_is_reported_and_kept(open_plugin: OpenPlugin) -> None:
    async with open_plugin(stall_seconds=0.2) as plugin:
        await plugin.call("create_topic", topic="single")
        await publish(plugin, "single", 3)
        async with open_stream(plugin, "subscribe", topics=["single"], max_in_flight=2) as stream:
            messages = await stream.messages(2)

            async def is_degraded() -> bool:
                health = await plugin.health()
                return (
                    health.status is HealthStatus.DEGRADED and "settled nothing" in health.message
                )

            await eventually(is_degraded)
            acknowledge(stream, *messages)
            assert (await stream.next_of("message"))["value"] == 2
            stream.send({"reject": messages[0]["id"]})  # acknowledged already
            health = await plugin.health()
            assert health.metrics is not None
            assert health.metrics.connections_active == 1
            assert health.metrics.queries_executed == 3
            assert msgspec.json.decode(health.metrics.custom_metrics_json) == {
                "published": 3,
                "publish_queue": 0,
                "received": 3,
                "acknowledged": 2,
                "rejected": 0,
                "dead_lettered": 0,
                "unsettled": 1,
            }


async def test_what_is_acknowledged_too_late_moves_nothing(plugin) -> None:
    """The partition is another member's, who gets the message again."""
    await publish(plugin, "orders", 60)
    async with open_stream(plugin, "subscribe", topics=["orders"]) as first:
        messages = await first.messages(60)
        async with open_stream(plugin, "subscribe", topics=["orders"]) as second:
            (lost,) = (await second.next_of("assigned"))["partitions"]
            await first.next_of("revoked")
            late = [each for each in messages if each["partition"] == lost["partition"]]
            acknowledge(first, *late)
            kept = [each for each in messages if each["partition"] != lost["partition"]]
            acknowledge(first, *kept)
            again = await second.messages(len(late))
            assert [each["id"] for each in again] == [each["id"] for each in late]

            async def kept_are_committed() -> bool:
                return await committed(plugin) == len(kept)

            await eventually(kept_are_committed)
            second.send({"acknowledge": [again[0]["id"]]})

            async def one_more() -> bool:
                return await committed(plugin) == len(kept) + 1

            await eventually(one_more)


async def test_commits_that_fail_are_reported_and_stop_nothing(plugin) -> None:
    await publish(plugin, "single", 2)
    async with open_stream(plugin, "subscribe", topics=["single"]) as stream:
        messages = await stream.messages(2)
        (subscription,) = plugin.plugin.subscriptions
        subscription._committed(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED), [])
        health = await plugin.health()
        assert health.status is HealthStatus.DEGRADED
        assert "cannot commit" in health.message
        acknowledge(stream, *messages)

        async def is_healthy() -> bool:
            return (await plugin.health()).status is HealthStatus.HEALTHY

        await eventually(is_healthy)
        await publish(plugin, "single", 1, 2)
        assert (await stream.next_of("message"))["value"] == 2

"""publish, subscribe, acknowledge, reject."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import pytest
import trio

from prism.contract.errors import PluginError
from prism.contract.messages import StreamRequest
from prism.contract.service import LAST_EVENT_ID_KEY
from prism.contract.status import StatusCode
from prism_plugins.redis import stream_operations
from tests.plugins.redis.conftest import OpenPlugin, Running
from tests.services.redis import Redis

Messages = AsyncGenerator[dict[str, Any], None]


@asynccontextmanager
async def subscribed(plugin: Running, **params: Any) -> AsyncIterator[Messages]:
    with trio.fail_after(60):
        async with aclosing(plugin.stream("subscribe", **params)) as messages:
            yield messages


async def publish(plugin: Running, *values: Any, topic: str = "t") -> list[str]:
    return [
        (await plugin.call("publish", topic=topic, value=value))["message_id"] for value in values
    ]


async def pending(plugin: Running, topic: str = "t", group: str = "g") -> int:
    key = plugin.plugin.key(topic)
    return (await plugin.plugin.connection.command("XPENDING", key, group))[0]


async def test_a_message_has_all_it_was_published_with(redis: Running) -> None:
    published = await redis.call(
        "publish", topic="t", value="AP8=", encoding="base64", headers={"a": "1", "ü": ""}
    )
    (second,) = await publish(redis, {"n": 2**53 + 1})
    async with subscribed(redis, topic="t", start="earliest") as messages:
        first = await anext(messages)
        assert first.pop("timestamp") == pytest.approx(
            int(published["message_id"].split("-")[0]) / 1000
        )
        assert first == {
            "message_id": published["message_id"],
            "value": "AP8=",
            "encoding": "base64",
            "headers": {"a": "1", "ü": ""},
        }
        message = await anext(messages)
        assert (message["message_id"], message["value"]) == (second, {"n": 2**53 + 1})


async def test_without_a_group_everybody_gets_all_from_where_they_begin(redis: Running) -> None:
    first, second = await publish(redis, 1, 2)
    async with subscribed(redis, topic="t", start=first) as messages:
        assert (await anext(messages))["value"] == 2
    async with subscribed(redis, topic="t", start="earliest") as messages:
        assert [(await anext(messages))["value"] for _ in range(2)] == [1, 2]
    async with (
        subscribed(redis, topic="t") as one,
        subscribed(redis, topic="t", start=second) as other,
        trio.open_nursery() as nursery,
    ):
        got: list[Any] = []

        async def read(messages: Messages) -> None:
            got.append((await anext(messages))["value"])

        nursery.start_soon(read, one)
        nursery.start_soon(read, other)
        while redis.plugin.connection.dedicated < 2:  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.001)
        number = 3
        while len(got) < 2:  # the new one may begin after the first of these
            await publish(redis, number)
            number += 1
            await trio.sleep(0.01)
    assert 3 in got


async def test_a_stream_goes_on_after_its_last_position(redis: Running) -> None:
    first, _ = await publish(redis, 1, 2)

    class Requests(AsyncIterator[StreamRequest]):
        sent = False

        async def __anext__(self) -> StreamRequest:
            if self.sent:
                raise StopAsyncIteration
            self.sent = True
            resume = {LAST_EVENT_ID_KEY: first}
            return StreamRequest("subscribe", '{"topic":"t"}', metadata=resume)

    async with aclosing(redis.plugin.execute_stream(Requests())) as responses:
        response = await anext(responses)
    assert '"value":2' in response.result_json


async def test_a_group_shares_and_delivers_until_acknowledged(redis: Running) -> None:
    ids = await publish(redis, *range(6))
    params = {"topic": "t", "group": "g", "start": "earliest", "max_in_flight": 3}
    got: dict[str, int] = {}
    async with subscribed(redis, **params) as one, subscribed(redis, **params) as other:
        for _ in range(3):
            message = await anext(one)
            got[message["message_id"]] = message["deliveries"]
        for _ in range(3):
            message = await anext(other)
            got[message["message_id"]] = message["deliveries"]
        assert got == dict.fromkeys(ids, 1)
        acknowledge = {"topic": "t", "group": "g", "message_ids": ids[:4]}
        assert await redis.call("acknowledge", **acknowledge) == {"acknowledged": 4}
        assert await redis.call("acknowledge", **acknowledge) == {"acknowledged": 0}
        assert await pending(redis) == 2
        (late,) = await publish(redis, "late")
        message = await anext(one)
        assert message["message_id"] == late


async def test_what_is_not_acknowledged_is_delivered_again(redis: Running) -> None:
    ids = await publish(redis, "a", "b")
    params = {"topic": "t", "group": "g", "start": "earliest", "visibility_timeout_seconds": 0.2}
    async with subscribed(redis, **params) as messages:
        assert [(await anext(messages))["message_id"] for _ in range(2)] == ids
    # The subscriber is gone, as after a crash; another takes over when the time is up.
    async with subscribed(redis, **params) as messages:
        again = [await anext(messages) for _ in range(2)]
        assert [(m["message_id"], m["deliveries"]) for m in again] == [(ids[0], 2), (ids[1], 2)]
        await redis.call("acknowledge", topic="t", group="g", message_ids=ids)
        assert await pending(redis) == 0


async def test_a_rejected_message_comes_again_at_once_or_later(redis: Running) -> None:
    first, second = await publish(redis, "a", "b")
    params = {"topic": "t", "group": "g", "start": "earliest", "visibility_timeout_seconds": 600}
    async with subscribed(redis, **params) as messages:
        for _ in range(2):
            await anext(messages)
        reject = {"topic": "t", "group": "g"}
        assert await redis.call("reject", **reject, message_ids=[first], delay_seconds=0.3) == {
            "rejected": 1
        }
        before = trio.current_time()
        assert await redis.call("reject", **reject, message_ids=[second]) == {"rejected": 1}
        again = {}
        for _ in range(2):
            message = await anext(messages)
            again[message["message_id"]] = (message["deliveries"], trio.current_time() - before)
        assert again[second][0] == again[first][0] == 2
        assert again[first][1] >= 0.3
        assert await redis.call("reject", **reject, message_ids=["1-1"]) == {"rejected": 0}


async def test_rejected_ones_that_wait_do_not_hold_up_others(
    redis: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_operations, "READ_AT_ONCE", 3)
    ids = await publish(redis, *range(8))
    params = {"topic": "t", "group": "g", "start": "earliest", "visibility_timeout_seconds": 600}
    async with subscribed(redis, **params) as messages:
        for _ in ids:
            await anext(messages)
        reject = {"topic": "t", "group": "g"}
        await redis.call("reject", **reject, message_ids=ids[:7], delay_seconds=3600)
        await redis.call("reject", **reject, message_ids=ids[7:])
        assert (await anext(messages))["message_id"] == ids[7]


async def test_in_flight_messages_are_bounded_for_any_acknowledgement(
    redis: Running, redis_server: Redis, open_plugin: OpenPlugin
) -> None:
    ids = await publish(redis, *range(3))
    params = {"topic": "t", "group": "g", "start": "earliest", "max_in_flight": 1}
    namespace = redis.plugin.namespace
    async with (
        open_plugin(redis_server, namespace) as elsewhere,
        subscribed(redis, **params) as messages,
    ):
        assert (await anext(messages))["message_id"] == ids[0]
        with trio.move_on_after(0.3) as waiting:
            # Not through anext, which would end the stream when it is cancelled.
            await trio.sleep_forever()
        assert waiting.cancelled_caught
        assert await pending(redis) == 1
        await elsewhere.call("acknowledge", topic="t", group="g", message_ids=[ids[0]])
        assert (await anext(messages))["message_id"] == ids[1]


async def test_what_was_read_and_not_handed_out_is_given_back(redis: Running) -> None:
    ids = await publish(redis, *range(5))
    params = {"topic": "t", "group": "g", "start": "earliest", "visibility_timeout_seconds": 600}
    async with subscribed(redis, **params) as messages:
        assert (await anext(messages))["message_id"] == ids[0]
        assert await pending(redis) == 5
    async with subscribed(redis, **params) as messages:
        got = [(await anext(messages))["message_id"] for _ in range(4)]
    assert got == ids[1:]


async def test_a_slow_reader_does_not_get_what_another_has_taken_over(redis: Running) -> None:
    ids = await publish(redis, *range(3))
    params = {"topic": "t", "group": "g", "start": "earliest", "visibility_timeout_seconds": 0.2}
    async with subscribed(redis, **params) as slow:
        assert (await anext(slow))["message_id"] == ids[0]
        async with subscribed(redis, **params) as quick:
            got = [(await anext(quick))["message_id"] for _ in range(3)]
            assert sorted(got) == ids
            await redis.call("acknowledge", topic="t", group="g", message_ids=ids)
            (late,) = await publish(redis, "late")
            assert (await anext(slow))["message_id"] == late


async def test_the_time_of_a_message_begins_when_it_is_handed_out(
    redis: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it waited for a client that reads slowly: nobody else has it at once."""
    clock = ShiftedClock()
    monkeypatch.setattr(stream_operations, "anyio", clock)
    _, second = await publish(redis, *range(2))
    params = {"topic": "t", "group": "g", "start": "earliest", "visibility_timeout_seconds": 600}
    key, ask = redis.plugin.key("t"), redis.plugin.connection.command
    async with subscribed(redis, **params) as messages:
        await anext(messages)
        [[_, consumer, _, _]] = await ask("XPENDING", key, "g", second, second, 1)
        await ask("XCLAIM", key, "g", consumer, 0, second, "IDLE", 599_000, "JUSTID")
        clock.shift = 599.0
        assert (await anext(messages))["message_id"] == second
        [[_, _, idle, deliveries]] = await ask("XPENDING", key, "g", second, second, 1)
        assert idle < 599_000
        assert deliveries == 1


class ShiftedClock:
    """anyio, but for a clock that a test sets."""

    shift = 0.0

    def current_time(self) -> float:
        return anyio.current_time() + self.shift

    def __getattr__(self, name: str) -> Any:
        return getattr(anyio, name)


async def test_too_many_deliveries_end_in_the_dead_letters(redis: Running) -> None:
    await redis.call("publish", topic="t", value="poison", headers={"h": "1"})
    params = {
        "topic": "t", "group": "g", "start": "earliest",
        "visibility_timeout_seconds": 0.1, "max_deliveries": 2,
    }  # fmt: skip
    async with subscribed(redis, **params) as messages:
        assert [(await anext(messages))["deliveries"] for _ in range(2)] == [1, 2]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(anext, messages)
            async with subscribed(redis, topic="t.dead", start="earliest") as dead:
                message = await anext(dead)
            assert (message["value"], message["headers"]) == ("poison", {"h": "1"})
            assert await pending(redis) == 0
            nursery.cancel_scope.cancel()


async def test_topics_are_trimmed(redis_server: Redis, open_plugin: OpenPlugin) -> None:
    async with open_plugin(redis_server, stream_max_length=100) as plugin:
        await publish(plugin, *range(1_000))
        length = (await plugin.call("command", name="XLEN", args=["t"]))["result"]
        assert 100 <= length <= 300
        for number in range(300):
            await plugin.call("publish", topic="all", value=number, max_length=0)
        assert (await plugin.call("command", name="XLEN", args=["all"]))["result"] == 300


async def test_entries_of_other_programs_come_with_their_fields(redis: Running) -> None:
    odd = {"value": "AP8=", "encoding": "base64"}
    await redis.call("command", name="XADD", args=["t", "*", "a", "1", "raw", odd])
    async with subscribed(redis, topic="t", start="earliest") as messages:
        assert (await anext(messages))["value"] == {"a": "1", "raw": odd}


async def test_consumers_that_are_gone_are_removed(
    redis: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_operations, "CONSUMER_AGE", -1)
    await publish(redis, 1)
    params = {"topic": "t", "group": "g", "start": "earliest"}
    key = redis.plugin.key("t")
    connection = redis.plugin.connection
    async with subscribed(redis, **params) as messages:
        message = await anext(messages)
    assert len(await connection.command("XINFO", "CONSUMERS", key, "g")) == 1  # it has one pending
    await redis.call("acknowledge", topic="t", group="g", message_ids=[message["message_id"]])
    await publish(redis, 2)
    async with subscribed(redis, **params) as messages:
        await anext(messages)
        assert len(await connection.command("XINFO", "CONSUMERS", key, "g")) == 1


@pytest.mark.parametrize("bad", ["1", "1-", "a-b", "1-2-3", "-", f"{2**64}-0", "\u0661-0"])
async def test_what_is_no_id_is_refused(redis: Running, bad: str) -> None:
    with pytest.raises(PluginError, match="no id of a message") as refused:
        await redis.call("acknowledge", topic="t", group="g", message_ids=[bad])
    assert refused.value.status is StatusCode.INVALID_ARGUMENT
    with pytest.raises(PluginError, match="no id of a message"):
        await anext(redis.stream("subscribe", topic="t", start=bad))


async def test_a_group_that_is_not_there_is_not_found(redis: Running) -> None:
    await publish(redis, 1)
    with pytest.raises(PluginError) as missing:
        await redis.call("reject", topic="t", group="nobody", message_ids=["1-1"])
    assert missing.value.status is StatusCode.NOT_FOUND

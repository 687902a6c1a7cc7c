"""Topics whose partitions are logs, as every plugin has them that declares the group."""

import base64
from typing import Any

import trio

from prism.sdk import StatusCode
from tests.compliance.caller import Caller, Messages, eventually, refused

GROUP = "topics"

ALL_BYTES = base64.b64encode(bytes(range(256))).decode()


async def publish(plugin: Caller, topic: str, *values: Any, **fields: Any) -> None:
    batch = [{"value": value, **fields} for value in values]
    done = await plugin.call("publish_batch", topic=topic, messages=batch)
    assert done["failed"] == 0


async def next_message(stream: Messages) -> Any:
    """The next one of the topic; what else the stream tells is passed over."""
    while True:
        message, _ = await anext(stream)
        if message["event"] == "message":
            return message


async def some(stream: Messages, number: int) -> list[Any]:
    return [await next_message(stream) for _ in range(number)]


async def ended(stream: Messages) -> None:
    """The good end, at which all that was acknowledged is committed."""
    await stream.end()
    async for _ in stream:
        pass


async def test_a_message_comes_back_as_it_was_published(plugin: Caller) -> None:
    await plugin.call("create_topic", topic="t")
    sent: list[dict[str, Any]] = [
        {"value": {"a": [1, 2.50, None]}, "key": "ada"},
        {"value": 12345678901234567890},
        {"value": ALL_BYTES, "encoding": "base64", "key": "AP8=", "key_encoding": "base64"},
        {"value": "hello", "encoding": "text"},
        {"tombstone": True, "key": "gone"},
        {"value": 1, "headers": [{"name": "h", "value": "1"}, {"name": "h", "value": "2"}]},
    ]
    for message in sent:
        receipt = await plugin.call("publish", topic="t", **message)
        assert receipt["partition"] == 0
    found = (await plugin.call("read", topic="t", partition=0))["messages"]
    for message, one in zip(sent, found, strict=True):
        assert {name: one[name] for name in message} == message


async def test_a_receipt_says_where_each_message_is(plugin: Caller) -> None:
    await plugin.call("create_topic", topic="t", partitions=2)
    batch = [
        {"value": 1, "partition": 0},
        {"value": 2, "partition": 9},
        {"value": 3, "partition": 0},
    ]
    done = await plugin.call("publish_batch", topic="t", messages=batch)
    assert (done["published"], done["failed"]) == (2, 1)
    assert [one.get("offset") for one in done["results"]] == [0, None, 1]
    assert done["results"][1]["error_code"] == int(StatusCode.NOT_FOUND)
    found = await plugin.call("read", topic="t", partition=0, offset=1)
    assert [one["value"] for one in found["messages"]] == [3]


async def test_a_stream_of_messages_gives_receipts_in_order(plugin: Caller) -> None:
    await plugin.call("create_topic", topic="t")
    async with plugin.dialogue("publish", topic="t") as stream:
        for number in range(50):
            await stream.send(value=number)
        await stream.end()
        receipts = [receipt async for receipt, _ in stream]
    assert [one["offset"] for one in receipts] == list(range(50))


async def test_messages_of_one_key_stay_in_order(plugin: Caller) -> None:
    await plugin.call("create_topic", topic="t", partitions=3)
    for number in range(30):
        await publish(plugin, "t", number, key=f"k{number % 5}")
    seen: dict[str, list[int]] = {}
    async with plugin.dialogue("subscribe", topics=["t"]) as stream:
        for message in await some(stream, 30):
            seen.setdefault(message["key"], []).append(message["value"])
    assert seen == {f"k{n}": list(range(n, 30, 5)) for n in range(5)}


async def test_a_topic_that_is_not_there_is_not_made(plugin: Caller) -> None:
    with refused(StatusCode.NOT_FOUND):
        await plugin.call("publish", topic="none", value=1)
    with refused(StatusCode.NOT_FOUND):
        await plugin.call("read", topic="none", partition=0)
    async with plugin.dialogue("subscribe", topics=["none"]) as stream:
        with refused(StatusCode.NOT_FOUND):
            await anext(stream)
    assert await plugin.call("topics") == {"topics": []}


async def test_topics_come_and_go(plugin: Caller) -> None:
    assert await plugin.call("create_topic", topic="t", partitions=2) == {"created": True}
    with refused(StatusCode.ALREADY_EXISTS):
        await plugin.call("create_topic", topic="t")
    assert await plugin.call("topics") == {"topics": [{"topic": "t", "partitions": 2}]}
    described = await plugin.call("describe_topic", topic="t")
    assert [part["partition"] for part in described["partitions"]] == [0, 1]
    assert await plugin.call("delete_topic", topic="t") == {"deleted": True}
    assert await plugin.call("delete_topic", topic="t") == {"deleted": False}


async def test_what_is_acknowledged_does_not_come_again(plugin: Caller) -> None:
    await plugin.call("create_topic", topic="t")
    await publish(plugin, "t", *range(10))
    async with plugin.dialogue("subscribe", topics=["t"]) as stream:
        ids = [message["id"] for message in await some(stream, 10)]
        await stream.send(acknowledge=ids[:4])
        await ended(stream)
    async with plugin.dialogue("subscribe", topics=["t"]) as stream:
        assert [message["value"] for message in await some(stream, 6)] == list(range(4, 10))


async def test_each_group_gets_all_and_its_members_share(plugin: Caller) -> None:
    await plugin.call("create_topic", topic="t", partitions=2)
    names = [(group, member) for group in ("one", "two") for member in ("a", "b")]
    has: dict[tuple[str, str], set[int]] = {name: set() for name in names}
    seen: dict[tuple[str, str], set[int]] = {name: set() for name in names}

    async def subscribe(name: tuple[str, str]) -> None:
        async with plugin.dialogue("subscribe", topics=["t"], group=name[0]) as stream:
            while True:
                message, _ = await anext(stream)
                parts = {part["partition"] for part in message.get("partitions", ())}
                if message["event"] == "assigned":
                    has[name] |= parts
                elif message["event"] == "revoked":
                    has[name] -= parts
                elif message["event"] == "message":
                    seen[name].add(message["value"])
                    await stream.send(acknowledge=[message["id"]])

    def halves(of: dict[tuple[str, str], set[int]]) -> list[list[set[int]]]:
        return [sorted((of[group, "a"], of[group, "b"]), key=min) for group in ("one", "two")]

    async def shared() -> bool:
        return all(has.values()) and halves(has) == [[{0}, {1}]] * 2

    async def all_came() -> bool:
        return sum(map(len, seen.values())) >= 40

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(subscribe, name)
        await eventually(shared)
        for number in range(20):
            await publish(plugin, "t", number, partition=number % 2)
        await eventually(all_came)
        nursery.cancel_scope.cancel()
    assert halves(seen) == [[set(range(0, 20, 2)), set(range(1, 20, 2))]] * 2


async def test_a_rejected_message_comes_again_and_at_last_to_the_dead_letters(
    plugin: Caller,
) -> None:
    for topic in ("t", "dead"):
        await plugin.call("create_topic", topic=topic)
    await publish(plugin, "t", "bad", key="k")
    params = {"topics": ["t"], "max_deliveries": 2, "dead_letter_topic": "dead"}
    async with plugin.dialogue("subscribe", **params) as stream:
        for deliveries in (1, 2):
            message = await next_message(stream)
            assert (message["value"], message["deliveries"]) == ("bad", deliveries)
            await stream.send(reject=message["id"])
        while (await anext(stream))[0]["event"] != "dead_lettered":
            pass
        await ended(stream)
    dead = (await plugin.call("read", topic="dead", partition=0))["messages"]
    assert [(one["key"], one["value"]) for one in dead] == [("k", "bad")]
    assert (await plugin.call("lag"))["lag"] == 0


async def test_a_page_begins_at_an_offset(plugin: Caller) -> None:
    await plugin.call("create_topic", topic="t")
    await publish(plugin, "t", *range(7))
    values, offset = [], 0
    while True:
        page = await plugin.call("read", topic="t", partition=0, offset=offset, limit=3)
        values += [one["value"] for one in page["messages"]]
        offset = page["next_offset"]
        if offset == page["end_offset"]:
            break
    assert values == list(range(7))
    with refused(StatusCode.OUT_OF_RANGE):
        await plugin.call("read", topic="t", partition=0, offset=8)
    offsets = (await plugin.call("offsets", topic="t"))["partitions"]
    assert [(one["earliest"], one["latest"]) for one in offsets] == [(0, 7)]


async def test_a_group_can_be_sent_back(plugin: Caller) -> None:
    await plugin.call("create_topic", topic="t")
    await publish(plugin, "t", *range(5))
    taken = {"topics": ["t"], "auto_acknowledge": True, "limit": 5}
    for _ in range(2):
        async with plugin.dialogue("subscribe", **taken) as stream:
            values = [message["value"] for message in await some(stream, 5)]
            await ended(stream)
        assert values == list(range(5))
        assert (await plugin.call("lag"))["lag"] == 0
        await plugin.call("seek", topic="t", to="earliest")
        assert (await plugin.call("lag"))["lag"] == 5


async def test_messages_outlive_the_plugin(open_plugin) -> None:
    async with open_plugin() as plugin:
        await plugin.call("create_topic", topic="t")
        await publish(plugin, "t", 1)
    async with open_plugin() as plugin, plugin.dialogue("subscribe", topics=["t"]) as stream:
        assert (await next_message(stream))["value"] == 1

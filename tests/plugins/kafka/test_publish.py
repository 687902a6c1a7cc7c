import base64
import math

import anyio
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from prism.contract.status import StatusCode
from prism.sdk import PluginError
from prism_plugins.kafka.connection import Connection

from .conftest import LIMIT, OpenPlugin, eventually, open_stream

ALL_BYTES = base64.b64encode(bytes(range(256))).decode()


async def read_all(plugin, topic: str = "single", **params) -> list[dict]:
    return (await plugin.call("read", topic=topic, **params))["messages"]


async def test_a_receipt_says_where_the_message_is(plugin) -> None:
    first = await plugin.call("publish", topic="single", value={"n": 1}, timestamp=1234567890123)
    second = await plugin.call("publish", topic="single", value=2)
    assert (first["partition"], first["offset"], first["timestamp"]) == (0, 0, 1234567890123)
    assert second["offset"] == 1
    messages = await read_all(plugin)
    assert [message["value"] for message in messages] == [{"n": 1}, 2]
    assert messages[0]["timestamp"] == 1234567890123


@pytest.mark.parametrize(
    "message",
    [
        {"value": 12345678901234567890123},
        {"value": None},
        {"value": ""},
        {"value": "text, not JSON", "encoding": "text"},
        {"value": ALL_BYTES, "encoding": "base64"},
        {"value": "", "encoding": "text"},
        {"tombstone": True, "key": "k"},
        {"value": 1, "key": ""},
        {"value": 1, "key": "käse", "headers": [{"name": "n", "value": None}]},
        {"value": 1, "key": ALL_BYTES, "key_encoding": "base64"},
        {
            "value": 1,
            "headers": [
                {"name": "same", "value": "1"},
                {"name": "same", "value": ALL_BYTES, "encoding": "base64"},
                {"name": "same", "value": ""},
            ],
        },
    ],
)
async def test_a_message_comes_back_as_it_was(plugin, message: dict) -> None:
    await plugin.call("publish", topic="single", **message)
    (found,) = await read_all(plugin)
    for name in ("topic", "partition", "offset", "timestamp"):
        del found[name]
    assert found == message


async def test_json_of_others_cannot_end_a_line_of_a_stream(plugin) -> None:
    value = '{\r\n "a": "\\n"\n}'
    await plugin.call("publish", topic="single", value=value, encoding="text")
    response = await plugin.request("read", {"topic": "single"})
    assert response["messages"][0]["value"] == {"a": "\n"}
    from prism.contract.messages import ExecuteRequest

    raw = await plugin.plugin.execute(
        ExecuteRequest(operation="read", params_json='{"topic":"single"}')
    )
    assert "\n" not in raw.result_json
    assert "\r" not in raw.result_json


async def test_values_as_bytes_whatever_they_are(plugin) -> None:
    await plugin.call("publish", topic="single", value=[1, 2])
    (found,) = await read_all(plugin, values="base64")
    assert (found["value"], found["encoding"]) == (base64.b64encode(b"[1,2]").decode(), "base64")


async def test_bytes_in_message_pack(plugin) -> None:
    params = {"topic": "single", "value": bytes(range(256))}
    await plugin.request("publish", params, binary=True)
    found = await plugin.request("read", {"topic": "single"}, binary=True)
    assert found["messages"][0]["value"] == bytes(range(256))
    await plugin.request(
        "publish", {"topic": "single", "value": "ä", "encoding": "text"}, binary=True
    )
    assert (await read_all(plugin))[1]["encoding"] == "text"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({}, "value is missing"),
        ({"value": 1, "tombstone": True}, "no value"),
        ({"value": "a?", "encoding": "base64"}, "base64"),
        ({"value": 1, "encoding": "text"}, "must be text"),
        ({"value": 1, "key": "?", "key_encoding": "base64"}, "key is no base64"),
        (
            {"value": 1, "headers": [{"name": "h", "value": "?", "encoding": "base64"}]},
            "header 'h'",
        ),
        ({"value": 1, "partition": -1}, "partition"),
    ],
)
async def test_what_cannot_be_read_is_refused(plugin, message: dict, words: str) -> None:
    with pytest.raises(PluginError, match=words) as caught:
        await plugin.call("publish", topic="single", **message)
    assert caught.value.status is StatusCode.INVALID_ARGUMENT
    assert await read_all(plugin) == []


async def test_messages_of_a_batch_keep_their_order_and_fail_alone(plugin) -> None:
    messages = [{"value": number} for number in range(500)]
    messages[3] = {"value": "lost", "partition": 7}
    messages[5] = {"value": "x" * 1_000_001}
    result = await plugin.call("publish_batch", topic="single", messages=messages)
    assert (result["published"], result["failed"]) == (498, 2)
    assert result["results"][3]["error_code"] == StatusCode.NOT_FOUND
    assert "no partition of this number" in result["results"][3]["error"]
    assert result["results"][5]["error_code"] == StatusCode.INVALID_ARGUMENT
    assert [each["offset"] for each in result["results"] if "offset" in each] == list(range(498))
    found = await read_all(plugin, limit=1000)
    assert [each["value"] for each in found] == [n for n in range(500) if n not in (3, 5)]


async def test_an_empty_batch(plugin) -> None:
    result = await plugin.call("publish_batch", topic="single", messages=[])
    assert result == {"published": 0, "failed": 0, "results": []}


async def test_a_key_has_the_partition_that_java_clients_give_it(plugin) -> None:
    """Murmur2, as Kafka's own producer: of three partitions, these keys have these."""
    keys = ["a", "b", "c", "d", "e", "f", "21", "foobar"]
    batch = [{"value": 1, "key": key} for key in keys]
    result = await plugin.call("publish_batch", topic="orders", messages=batch)
    assert [each["partition"] for each in result["results"]] == [murmur2(key) % 3 for key in keys]


def murmur2(key: str) -> int:
    data, length = key.encode(), len(key.encode())
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ length
    for start in range(0, length - length % 4, 4):
        k = int.from_bytes(data[start : start + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    rest = data[length - length % 4 :]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return (h ^ h >> 15) & 0x7FFFFFFF


async def test_a_stream_of_messages_gives_a_stream_of_receipts(plugin) -> None:
    async with open_stream(plugin, "publish", topic="single") as stream:
        for number in range(10):
            stream.send({"value": number})
        receipts = [await stream.next() for _ in range(10)]
        assert [receipt["offset"] for receipt in receipts] == list(range(10))
        stream.send({"value": 1, "partition": 9})
        assert (await stream.next())["error_code"] == StatusCode.NOT_FOUND
        stream.send({"value": "last"})
        stream.end()
        assert (await stream.next())["offset"] == 10
        assert await stream.next() is None


async def test_a_message_that_cannot_be_read_ends_the_stream_after_the_receipts(plugin) -> None:
    async with open_stream(plugin, "publish", topic="single") as stream:
        stream.send({"value": 1})
        stream.send({"valeu": 2})
        assert (await stream.next())["offset"] == 0
        with pytest.raises(PluginError, match="valeu") as caught:
            await stream.next()
        assert caught.value.status is StatusCode.INVALID_ARGUMENT


async def test_a_full_queue_holds_back_instead_of_failing(open_plugin: OpenPlugin) -> None:
    async with open_plugin(max_buffered_bytes=1024 * 1024) as plugin:
        await plugin.call("create_topic", topic="single")
        batch = [{"value": "x" * 100_000} for _ in range(50)]
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(publish_all, plugin, batch)
        offsets = await plugin.call("offsets", topic="single")
        assert offsets["partitions"][0]["latest"] == 200


async def publish_all(plugin, batch: list[dict]) -> None:
    result = await plugin.call("publish_batch", topic="single", messages=batch)
    assert result["failed"] == 0


async def test_a_message_that_the_topic_does_not_take(plugin) -> None:
    await plugin.call("create_topic", topic="small", config={"max.message.bytes": "2000"})
    with pytest.raises(PluginError, match="too large") as caught:
        await plugin.call("publish", topic="small", value="x" * 3000)
    assert caught.value.status is StatusCode.INVALID_ARGUMENT
    await plugin.call("publish", topic="small", value="x")


async def test_a_topic_that_is_not_there_is_not_made(plugin) -> None:
    for operation, params in [
        ("publish", {"value": 1}),
        ("publish_batch", {"messages": [{"value": 1}]}),
        ("read", {}),
        ("describe_topic", {}),
        ("offsets", {}),
        ("seek", {"to": "earliest"}),
    ]:
        with pytest.raises(PluginError) as caught:
            await plugin.call(operation, topic="ordesr", **params)
        assert caught.value.status is StatusCode.NOT_FOUND, operation
    for params in ({"topics": ["ordesr"]}, {"topics": ["orders", "ordesr"]}):
        async with open_stream(plugin, "subscribe", **params) as stream:
            with pytest.raises(PluginError, match="ordesr") as caught:
                await stream.next()
            assert caught.value.status is StatusCode.NOT_FOUND
    names = [each["topic"] for each in (await plugin.call("topics"))["topics"]]
    assert names == ["orders", "single"]


async def test_a_topic_that_was_there(plugin) -> None:
    """What is known of a topic is a minute old at most; its deletion shows at once."""
    await plugin.call("publish", topic="single", value=1)
    await plugin.call("delete_topic", topic="single")

    async def is_gone() -> bool:
        try:
            await plugin.call("publish", topic="single", value=1)
        except PluginError as error:
            return error.status is StatusCode.NOT_FOUND
        return False

    await eventually(is_gone)


async def test_a_producer_that_has_failed_for_good_is_replaced(plugin) -> None:
    """It says so by raising from ``poll``, as test_access.py has it of a real one."""
    publisher = plugin.plugin.publisher

    class Failed:
        def __init__(self, producer: Producer) -> None:
            self.purge = producer.purge

        def __len__(self) -> int:
            return 0

        def poll(self, _: float) -> None:
            raise KafkaException(
                KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "lost count", fatal=True)
            )

    failed = Failed(publisher._producer)
    publisher._producer = failed

    async def is_replaced() -> bool:
        return publisher._producer is not failed

    await eventually(is_replaced)
    assert (await plugin.call("publish", topic="single", value=1))["offset"] == 0


async def test_the_answer_comes_before_the_deadline(plugin) -> None:
    class FakeCall:
        def __init__(self, left: float) -> None:
            self.left = left

        def time_left(self) -> float:
            return self.left

    for left, less in [(1.0, 0.9), (100.0, 99.0), (math.inf, math.inf)]:
        assert Connection.time_to_answer_in(plugin.plugin, FakeCall(left)) == pytest.approx(less)
    assert LIMIT > 10

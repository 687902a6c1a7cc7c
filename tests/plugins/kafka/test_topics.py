import pytest

from prism.contract.status import StatusCode
from prism.sdk import PluginError

from .conftest import OpenPlugin, eventually, open_stream


async def test_topics_come_and_go(plugin) -> None:
    assert (await plugin.call("topics"))["topics"] == [
        {"topic": "orders", "partitions": 3},
        {"topic": "single", "partitions": 1},
    ]
    assert (await plugin.call("topics", prefix="or"))["topics"] == [
        {"topic": "orders", "partitions": 3}
    ]
    config = {"retention.ms": "3600000"}
    await plugin.call("create_topic", topic="a.b-c_D", partitions=2, config=config)
    described = await plugin.call("describe_topic", topic="a.b-c_D")
    assert [part["partition"] for part in described["partitions"]] == [0, 1]
    assert described["partitions"][0]["leader"] == 1
    assert described["partitions"][0]["in_sync"] == [1]
    assert described["config"]["retention.ms"] == "3600000"
    with pytest.raises(PluginError) as caught:
        await plugin.call("create_topic", topic="a.b-c_D")
    assert caught.value.status is StatusCode.ALREADY_EXISTS
    assert await plugin.call("delete_topic", topic="a.b-c_D") == {"deleted": True}

    async def is_gone() -> bool:
        return await plugin.call("delete_topic", topic="a.b-c_D") == {"deleted": False}

    await eventually(is_gone)


@pytest.mark.parametrize(
    "params",
    [
        {"topic": "a/b"},
        {"topic": ""},
        {"topic": "x" * 250},
        {"topic": "t", "partitions": 0},
        {"topic": "t", "replication_factor": 7},
        {"topic": "t", "config": {"no.such.setting": "1"}},
        {"topic": "t", "config": {"retention.ms": "soon"}},
    ],
)
async def test_what_no_topic_can_be(plugin, params: dict) -> None:
    with pytest.raises(PluginError) as caught:
        await plugin.call("create_topic", **params)
    assert caught.value.status is StatusCode.INVALID_ARGUMENT


async def test_namespaces_do_not_see_each_other(open_plugin: OpenPlugin, prefix: str) -> None:
    async with (
        open_plugin(topic_prefix=prefix + "a.") as one,
        open_plugin(topic_prefix=prefix + "b.") as two,
        open_plugin(topic_prefix="") as everything,
    ):
        for plugin, value in ((one, 1), (two, 2)):
            await plugin.call("create_topic", topic="same")
            await plugin.call("publish", topic="same", value=value)
        for plugin, value in ((one, 1), (two, 2)):
            names = (await plugin.call("topics"))["topics"]
            assert [each["topic"] for each in names] == ["same"]
            (found,) = (await plugin.call("read", topic="same"))["messages"]
            assert (found["topic"], found["value"]) == ("same", value)
        names = {each["topic"] for each in (await everything.call("topics"))["topics"]}
        assert {prefix + "a.same", prefix + "b.same"} <= names
        assert not any(name.startswith("__") for name in names)
        with pytest.raises(PluginError, match="belongs to Kafka"):
            await everything.call("read", topic="__consumer_offsets")


async def test_the_dot_of_a_prefix_is_a_dot(open_plugin: OpenPlugin, prefix: str) -> None:
    async with open_plugin() as plugin:
        for topic in ("a.one", "aXtwo", "a.three"):
            await plugin.call("create_topic", topic=topic)
            await plugin.call("publish", topic=topic, value=topic)
        params = {"topic_prefix": "a.", "auto_acknowledge": True, "limit": 2}
        async with open_stream(plugin, "subscribe", **params) as stream:
            found = {message["topic"] for message in await stream.messages(2)}
        assert found == {"a.one", "a.three"}


async def test_offsets_by_time(plugin) -> None:
    for number in range(5):
        await plugin.call("publish", topic="single", value=number, timestamp=1000 + number * 10)

    async def at(timestamp: int) -> object:
        found = await plugin.call("offsets", topic="single", timestamp=timestamp)
        return found["partitions"]

    assert await at(1) == [{"partition": 0, "earliest": 0, "latest": 5, "at": 0}]
    assert await at(1015) == [{"partition": 0, "earliest": 0, "latest": 5, "at": 2}]
    assert await at(2000) == [{"partition": 0, "earliest": 0, "latest": 5, "at": None}]


async def test_reading_page_by_page(plugin) -> None:
    batch = [{"value": number} for number in range(250)]
    await plugin.call("publish_batch", topic="single", messages=batch)
    seen, offset = [], 0
    while True:
        page = await plugin.call("read", topic="single", offset=offset, limit=100)
        seen += [message["value"] for message in page["messages"]]
        offset = page["next_offset"]
        if offset == page["end_offset"]:
            break
    assert seen == list(range(250))
    empty = await plugin.call("read", topic="single", offset="latest")
    assert empty == {"messages": [], "next_offset": 250, "end_offset": 250}
    for wrong in (251, 10**15):
        with pytest.raises(PluginError, match="from 0 to 250") as caught:
            await plugin.call("read", topic="single", offset=wrong)
        assert caught.value.status is StatusCode.OUT_OF_RANGE
    with pytest.raises(PluginError, match="has 1 partitions") as caught:
        await plugin.call("read", topic="single", partition=1)
    assert caught.value.status is StatusCode.NOT_FOUND


async def test_a_page_ends_with_half_a_megabyte(plugin) -> None:
    batch = [{"value": "x" * 200_000} for _ in range(6)]
    await plugin.call("publish_batch", topic="single", messages=batch)
    page = await plugin.call("read", topic="single")
    assert len(page["messages"]) == page["next_offset"] == 3


async def test_where_a_group_goes_on(plugin) -> None:
    for number in range(10):
        await plugin.call(
            "publish", topic="orders", value=number, partition=number % 2, timestamp=1000 + number
        )
    assert (await plugin.call("lag", group="g"))["partitions"] == []

    async def seek(**params: object) -> dict:
        found = await plugin.call("seek", group="g", topic="orders", **params)
        return {part["partition"]: part["offset"] for part in found["partitions"]}

    assert await seek(to="latest") == {0: 5, 1: 5, 2: 0}
    assert await seek(to="earliest", partition=1) == {1: 0}
    lag = await plugin.call("lag", group="g")
    assert (lag["lag"], lag["state"], lag["members"]) == (5, "empty", 0)
    assert {(part["partition"], part["lag"]) for part in lag["partitions"]} == {
        (0, 0),
        (1, 5),
        (2, 0),
    }
    assert await seek(to={"timestamp": 1005}) == {0: 3, 1: 2, 2: 0}
    assert await seek(to={"offset": 4}, partition=0) == {0: 4}
    params = {"topics": ["orders"], "group": "g", "auto_acknowledge": True, "limit": 4}
    async with open_stream(plugin, "subscribe", **params) as stream:
        values = sorted(message["value"] for message in await stream.messages(4))
        assert values == [5, 7, 8, 9]
        with pytest.raises(PluginError, match="1 members") as caught:
            await seek(to="earliest")
        assert caught.value.status is StatusCode.FAILED_PRECONDITION
        assert await stream.next() is None
    for wrong in ({"to": {"offset": 1}}, {"to": {}}, {"to": "end"}):
        with pytest.raises(PluginError) as caught:
            await seek(**wrong)
        assert caught.value.status is StatusCode.INVALID_ARGUMENT
    with pytest.raises(PluginError) as caught:
        await seek(to="latest", partition=3)
    assert caught.value.status is StatusCode.NOT_FOUND

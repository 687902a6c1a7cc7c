"""Queues, as every plugin has them that declares the group."""

import trio

from prism.sdk import StatusCode
from tests.compliance.caller import Caller, eventually, refused

GROUP = "queue"


async def take(plugin: Caller, queue: str = "jobs", **params: object) -> list[dict]:
    found: list[dict] = (await plugin.call("dequeue", queue=queue, **params))["messages"]
    return found


async def test_messages_are_handed_out_in_order_and_acknowledged(plugin: Caller) -> None:
    ids = [(await plugin.call("enqueue", queue="jobs", value=value))["id"] for value in "abc"]
    assert ids == sorted(set(ids))
    taken = await take(plugin, limit=2)
    assert [(one["value"], one["deliveries"]) for one in taken] == [("a", 1), ("b", 1)]
    assert await plugin.call("queue_size", queue="jobs") == {"ready": 1, "not_ready": 2}
    for one in taken:
        receipt = {"receipt": one["receipt"]}
        assert await plugin.call("acknowledge", **receipt) == {"acknowledged": True}
        assert await plugin.call("acknowledge", **receipt) == {"acknowledged": False}
    assert await plugin.call("queue_size", queue="jobs") == {"ready": 1, "not_ready": 0}


async def test_values_are_json_or_binary(plugin: Caller) -> None:
    await plugin.call("enqueue", queue="jobs", value={"n": 1})
    await plugin.call("enqueue", queue="jobs", value="AAE=", encoding="base64")
    first, second = await take(plugin, limit=2)
    assert first["value"] == {"n": 1}
    assert (second["value"], second["encoding"]) == ("AAE=", "base64")


async def test_a_message_comes_back_when_it_is_not_acknowledged_in_time(plugin: Caller) -> None:
    await plugin.call("enqueue", queue="jobs", value=1)
    (first,) = await take(plugin, visibility_timeout_seconds=0.05)

    async def again() -> list[dict]:
        return await take(plugin)

    (second,) = await eventually(again)
    assert (second["id"], second["deliveries"]) == (first["id"], 2)
    assert await plugin.call("acknowledge", receipt=first["receipt"]) == {"acknowledged": False}
    assert await plugin.call("acknowledge", receipt=second["receipt"]) == {"acknowledged": True}


async def test_a_rejected_message_comes_back_at_once_or_after_its_delay(plugin: Caller) -> None:
    await plugin.call("enqueue", queue="jobs", value=1)
    (first,) = await take(plugin)
    assert await plugin.call("reject", receipt=first["receipt"]) == {"rejected": True}
    assert await plugin.call("reject", receipt=first["receipt"]) == {"rejected": False}
    (second,) = await take(plugin)
    reject = {"receipt": second["receipt"], "delay_seconds": 1000}
    assert await plugin.call("reject", **reject) == {"rejected": True}
    assert await take(plugin) == []
    assert await plugin.call("queue_size", queue="jobs") == {"ready": 0, "not_ready": 1}


async def test_a_delayed_message_waits(plugin: Caller) -> None:
    await plugin.call("enqueue", queue="jobs", value="late", delay_seconds=1000)
    assert await take(plugin) == []
    await plugin.call("enqueue", queue="jobs", value="soon", delay_seconds=0.05)
    (message,) = await take(plugin, wait_seconds=30)
    assert message["value"] == "soon"


async def test_too_many_deliveries_lead_to_the_dead_letters(plugin: Caller) -> None:
    await plugin.call("enqueue", queue="jobs", value="poison")
    for _ in range(2):
        (message,) = await take(plugin, max_deliveries=2)
        await plugin.call("reject", receipt=message["receipt"])
    assert await take(plugin, max_deliveries=2) == []
    (dead,) = await take(plugin, "jobs.dead")
    assert dead["value"] == "poison"


async def test_a_consumer_that_waits_is_given_what_comes(plugin: Caller) -> None:
    taken: list[dict] = []

    async def consume() -> None:
        taken.extend(await take(plugin, wait_seconds=30))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume)
            await plugin.call("enqueue", queue="jobs", value="came")
    assert [one["value"] for one in taken] == ["came"]


async def test_of_many_consumers_each_message_has_one(plugin: Caller) -> None:
    for number in range(40):
        await plugin.call("enqueue", queue="jobs", value=number)
    taken: list[int] = []

    async def consume() -> None:
        while messages := await take(plugin, limit=3):
            taken.extend(one["value"] for one in messages)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(consume)
    assert sorted(taken) == list(range(40))


async def test_queues_are_apart(plugin: Caller) -> None:
    for queue in ("a", "q" * 195, "%_*", "a.b", "é"):
        await plugin.call("enqueue", queue=queue, value=1)
        assert await take(plugin, "other") == []
        assert len(await take(plugin, queue)) == 1


async def test_other_names_are_refused(plugin: Caller) -> None:
    for queue in ("", "q" * 196):
        with refused(StatusCode.INVALID_ARGUMENT):
            await plugin.call("enqueue", queue=queue, value=1)


async def test_namespaces_are_apart(open_plugin) -> None:
    async with open_plugin("one") as one, open_plugin("two") as two:
        await one.call("enqueue", queue="jobs", value=1)
        assert await take(two) == []
        (message,) = await take(one)
        assert await two.call("acknowledge", receipt=message["receipt"]) == {"acknowledged": False}


async def test_messages_outlive_the_plugin(open_plugin) -> None:
    async with open_plugin() as plugin:
        await plugin.call("enqueue", queue="jobs", value="kept")
    async with open_plugin() as plugin:
        assert [one["value"] for one in await take(plugin)] == ["kept"]

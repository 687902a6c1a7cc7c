"""Durable queues, with a clock that is moved by hand."""

import base64
import sqlite3
from time import monotonic

import pytest
import trio

from prism.sdk import PluginError, StatusCode


async def take(sqlite, **params):
    return (await sqlite.call("dequeue", queue="jobs", **params))["messages"]


async def test_a_message_is_handed_out_once_and_gone_when_acknowledged(sqlite):
    assert await take(sqlite) == []
    enqueued = await sqlite.call("enqueue", queue="jobs", value={"do": "this"})
    (message,) = await take(sqlite)
    assert (message["id"], message["value"], message["deliveries"]) == (
        enqueued["id"],
        {"do": "this"},
        1,
    )
    assert await take(sqlite) == []
    receipt = message["receipt"]
    assert await sqlite.call("acknowledge", receipt=receipt) == {"acknowledged": True}
    assert await sqlite.call("acknowledge", receipt=receipt) == {"acknowledged": False}
    assert await sqlite.call("queue_size", queue="jobs") == {"ready": 0, "not_ready": 0}


async def test_order_and_limit(sqlite):
    for number in range(5):
        await sqlite.call("enqueue", queue="jobs", value=number)
    await sqlite.call("enqueue", queue="others", value="x")
    assert [message["value"] for message in await take(sqlite, limit=3)] == [0, 1, 2]
    assert [message["value"] for message in await take(sqlite, limit=100)] == [3, 4]
    assert await sqlite.call("queue_size", queue="jobs") == {"ready": 0, "not_ready": 5}


async def test_what_is_not_acknowledged_in_time_comes_back(sqlite, clock):
    await sqlite.call("enqueue", queue="jobs", value=1)
    (first,) = await take(sqlite, visibility_timeout_seconds=10)
    clock.now += 9
    assert await take(sqlite) == []
    clock.now += 1
    (second,) = await take(sqlite)
    assert (second["id"], second["deliveries"]) == (first["id"], 2)
    assert await sqlite.call("acknowledge", receipt=first["receipt"]) == {"acknowledged": False}
    assert await sqlite.call("acknowledge", receipt=second["receipt"]) == {"acknowledged": True}


async def test_a_late_acknowledgement_does_not_count(sqlite, clock):
    await sqlite.call("enqueue", queue="jobs", value=1)
    (message,) = await take(sqlite, visibility_timeout_seconds=10)
    clock.now += 11
    assert not (await sqlite.call("acknowledge", receipt=message["receipt"]))["acknowledged"]
    assert len(await take(sqlite)) == 1


async def test_a_rejected_message_comes_back_when_told(sqlite, clock):
    await sqlite.call("enqueue", queue="jobs", value=1)
    (message,) = await take(sqlite)
    assert await sqlite.call("reject", receipt=message["receipt"], delay_seconds=5) == {
        "rejected": True
    }
    assert await take(sqlite) == []
    clock.now += 5
    (again,) = await take(sqlite)
    await sqlite.call("reject", receipt=again["receipt"])
    assert len(await take(sqlite)) == 1


async def test_a_delayed_message_waits(sqlite, clock):
    await sqlite.call("enqueue", queue="jobs", value=1, delay_seconds=60)
    assert await take(sqlite) == []
    clock.now += 60
    assert len(await take(sqlite)) == 1


async def test_a_message_nobody_can_deal_with_becomes_a_dead_letter(sqlite):
    await sqlite.call("enqueue", queue="jobs", value="poison")
    await sqlite.call("enqueue", queue="jobs", value="good")
    for _ in range(2):
        message = next(m for m in await take(sqlite, limit=9, max_deliveries=2) if m)
        assert message["value"] == "poison"
        await sqlite.call("reject", receipt=message["receipt"])
    rest = await take(sqlite, limit=9, max_deliveries=2)
    assert "poison" not in [message["value"] for message in rest]
    (dead,) = (await sqlite.call("dequeue", queue="jobs.dead", max_deliveries=1))["messages"]
    assert (dead["value"], dead["deliveries"]) == ("poison", 1)
    assert (await sqlite.call("acknowledge", receipt=dead["receipt"]))["acknowledged"]


async def test_a_consumer_can_wait(sqlite, nursery):
    taken = []

    async def consume():
        taken.extend(await take(sqlite, wait_seconds=60))

    async with trio.open_nursery() as consumers:
        consumers.start_soon(consume)
        await trio.sleep(0.05)
        assert taken == []
        await sqlite.call("enqueue", queue="jobs", value="at last")
    assert [message["value"] for message in taken] == ["at last"]
    assert await take(sqlite, wait_seconds=0.01) == []


async def test_each_message_goes_to_one_consumer(sqlite):
    for number in range(50):
        await sqlite.call("enqueue", queue="jobs", value=number)
    taken = []

    async def consume():
        while messages := await take(sqlite, limit=3):
            taken.extend(message["value"] for message in messages)

    async with trio.open_nursery() as consumers:
        for _ in range(5):
            consumers.start_soon(consume)
    assert sorted(taken) == list(range(50))


async def test_bytes(sqlite):
    text = base64.b64encode(b"\x00\xff").decode()
    await sqlite.call("enqueue", queue="jobs", value=text, encoding="base64")
    (message,) = await take(sqlite)
    assert (message["value"], message["encoding"]) == (text, "base64")


async def test_queues_are_their_namespaces_own_and_survive(open_plugin):
    async with open_plugin("one") as one, open_plugin("two") as two:
        await one.call("enqueue", queue="jobs", value=1)
        (message,) = await take(one)
        assert await take(two) == []
        theirs = await two.call("acknowledge", receipt=message["receipt"])
        assert theirs == {"acknowledged": False}
        await one.call("reject", receipt=message["receipt"])
    async with open_plugin("one") as one:
        assert len(await take(one)) == 1


@pytest.mark.parametrize(
    ("operation", "params"),
    [
        ("enqueue", {"queue": ""}),
        ("enqueue", {"queue": "q", "value": "x" * 600_000}),
        ("dequeue", {"queue": "q", "limit": 0}),
        ("dequeue", {"queue": "q", "visibility_timeout_seconds": 0}),
        ("reject", {"receipt": "r", "delay_seconds": -1}),
        ("acknowledge", {"receipt": ""}),
        ("dequeue", {"queue": "q", "wait": 1}),
    ],
)
async def test_what_cannot_be(sqlite, operation, params):
    with pytest.raises(PluginError) as caught:
        await sqlite.request(operation, params)
    assert caught.value.status is StatusCode.INVALID_ARGUMENT


async def test_consumers_that_wait_do_not_wake_each_other(sqlite):
    """Each looks by writing; ten of them took a core, at six thousand transactions a second."""
    before = sqlite.plugin.database.commits
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(lambda: take(sqlite, wait_seconds=0.3))
    assert sqlite.plugin.database.commits - before <= 2 * 10 + 1


async def test_a_consumer_that_waits_is_woken_by_a_message(sqlite):
    async with trio.open_nursery() as nursery:
        taken = []

        async def consume():
            taken.append(await take(sqlite, wait_seconds=60))

        nursery.start_soon(consume)
        await sqlite.call("exists", key="a")
        await sqlite.call("enqueue", queue="jobs", value="now")
    assert [message["value"] for message in taken[0]] == ["now"]


async def test_large_messages_come_a_few_at_a_time(sqlite):
    for number in range(4):
        await sqlite.call("enqueue", queue="jobs", value=str(number) * 300_000)
    taken = [await take(sqlite, limit=100) for _ in range(4)]
    assert [[message["value"][0] for message in messages] for messages in taken] == [
        ["0"],
        ["1"],
        ["2"],
        ["3"],
    ]
    assert await take(sqlite) == []


async def test_the_longest_name_leaves_room_for_dead_letters(sqlite):
    name = "q" * 195
    await sqlite.call("enqueue", queue=name, value=1)
    (message,) = (await sqlite.call("dequeue", queue=name, max_deliveries=1))["messages"]
    await sqlite.call("reject", receipt=message["receipt"])
    assert await sqlite.call("dequeue", queue=name, max_deliveries=1) == {"messages": []}
    dead = await sqlite.call("dequeue", queue=name + ".dead")
    assert [found["value"] for found in dead["messages"]] == [1]
    with pytest.raises(PluginError):
        await sqlite.call("enqueue", queue=name + "q", value=1)


async def test_order_and_readiness_do_not_depend_on_the_wall_clock(open_plugin, clock):
    """A clock that is set back holds no message up, and lets no newer one overtake."""
    async with open_plugin() as sqlite:
        await sqlite.call("enqueue", queue="jobs", value="first")
        await sqlite.call("enqueue", queue="jobs", value="later", delay_seconds=60)
        clock.step = -3600
        await sqlite.call("enqueue", queue="jobs", value="second")
        assert await sqlite.call("queue_size", queue="jobs") == {"ready": 2, "not_ready": 1}
        (message,) = await take(sqlite)
        assert message["value"] == "first"
        clock.now += 60
        taken = await take(sqlite, limit=9)
        assert [message["value"] for message in taken] == ["first", "later", "second"]
        assert taken[2]["enqueued_at"] == clock() - 60
        assert await sqlite.call("acknowledge", receipt=taken[0]["receipt"])


async def test_a_file_goes_on_from_its_time_when_the_clock_was_set_back_meanwhile(
    open_plugin, clock
):
    async with open_plugin() as sqlite:
        clock.now += 100
        sqlite.plugin.database._sweep_at = 0
        await sqlite.call("enqueue", queue="jobs", value="delayed", delay_seconds=60)
        await sqlite.call("set", key="a", value=1, ttl_seconds=60)
    clock.step = -1_000_000_000
    async with open_plugin() as sqlite:
        assert await take(sqlite) == []
        clock.now += 60
        assert [message["value"] for message in await take(sqlite)] == ["delayed"]
        assert await sqlite.call("get", key="a") == {"found": False}


async def test_an_expired_key_does_not_come_back(sqlite, clock):
    await sqlite.call("set", key="a", value=1, ttl_seconds=60)
    clock.step = 3600
    assert await sqlite.call("get", key="a") == {"found": False}
    clock.step = 0
    assert await sqlite.call("get", key="a") == {"found": False}
    await sqlite.call("set", key="b", value=1, ttl_seconds=60)
    assert await sqlite.call("ttl", key="b") == {"found": True, "ttl_seconds": 60}


async def test_an_id_is_never_given_twice(open_plugin):
    seen = []
    for _ in range(3):
        async with open_plugin() as sqlite:
            seen.append((await sqlite.call("enqueue", queue="jobs", value=1))["id"])
            (message,) = await take(sqlite)
            await sqlite.call("acknowledge", receipt=message["receipt"])
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("sequence", [None, 40, 2**63 - 1])
async def test_queues_of_the_second_schema_are_taken_over(open_plugin, path, clock, sequence):
    """SQLite numbered their messages, as clients could tell it to."""
    async with open_plugin() as sqlite:
        await sqlite.call("enqueue", queue="jobs", value="kept")
    now = int(clock() * 1000)
    with sqlite3.connect(path) as connection:
        [[sql]] = connection.execute("SELECT sql FROM sqlite_schema WHERE name = '_prism_queue'")
        indexes = connection.execute(
            "SELECT sql FROM sqlite_schema WHERE tbl_name = '_prism_queue' AND type = 'index'"
        ).fetchall()
        connection.execute("ALTER TABLE _prism_queue RENAME TO q")
        connection.execute("DROP INDEX _prism_queue_next")
        connection.execute("DROP INDEX _prism_queue_receipt")
        connection.execute(sql.replace("PRIMARY KEY", "PRIMARY KEY AUTOINCREMENT"))
        for (index,) in indexes:
            connection.execute(index)
        connection.execute("INSERT INTO _prism_queue SELECT * FROM q")
        connection.execute("UPDATE _prism_queue SET visible_at = ?", (now,))
        connection.execute("DROP TABLE q")
        connection.execute("DROP TABLE _prism_state")
        connection.execute("UPDATE _prism_schema SET version = 2")
        connection.execute("CREATE VIEW broken AS SELECT * FROM nowhere")
        connection.execute("CREATE VIEW spying AS SELECT id FROM _prism_queue")
        connection.execute("DELETE FROM sqlite_sequence WHERE ?", (sequence is None,))
        connection.execute("UPDATE sqlite_sequence SET seq = ?", (sequence,))
    connection.close()
    async with open_plugin() as sqlite:
        added = await sqlite.call("enqueue", queue="jobs", value="added")
        assert added == {"id": 41 if sequence == 40 else 2}
        assert [message["value"] for message in await take(sqlite, limit=9)] == ["kept", "added"]
        rows = await sqlite.call("query", sql="SELECT * FROM sqlite_sequence")
        assert rows["rows"] == []


async def test_a_plugin_of_the_second_schema_goes_on_beside_this_one(open_plugin, path, clock):
    """In a rolling restart, for as long as it takes."""
    async with open_plugin() as sqlite:
        await sqlite.call("enqueue", queue="jobs", value="new")
        now = int(clock() * 1000)
        with sqlite3.connect(path) as connection:
            connection.execute(
                "INSERT INTO _prism_queue "
                "(namespace, queue, value, binary, enqueued_at, visible_at, deliveries) "
                "VALUES ('test', 'jobs', x'31', 0, ?, ?, 0)",
                (now, now),
            )
            found = connection.execute(
                "SELECT id FROM _prism_queue WHERE queue = 'jobs' AND visible_at <= ? "
                "ORDER BY visible_at, id",
                (now,),
            ).fetchall()
            assert found == [(1,), (2,)]
        connection.close()
        assert await sqlite.call("enqueue", queue="jobs", value="newer") == {"id": 3}
        taken = await take(sqlite, limit=9)
        assert [message["value"] for message in taken] == ["new", 1, "newer"]


async def test_a_consumer_that_waits_is_answered_before_its_deadline(sqlite, mock_clock):
    """On a clock that stands still but for one jump, to half a second before the deadline."""
    answers = []

    async def consume(wait: float) -> None:
        with trio.fail_after(10):
            answers.append(await take(sqlite, wait_seconds=wait))

    async with trio.open_nursery() as nursery:
        for wait in (10, 3600):
            nursery.start_soon(consume, wait)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(9.5)
        deadline = monotonic() + 60
        while len(answers) < 2 and monotonic() < deadline:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert answers == [[], []]

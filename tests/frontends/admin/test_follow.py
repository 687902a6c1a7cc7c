import json

import pytest
import trio

from prism.frontends.admin.access import Right
from prism.supervision.events import EVENTS_KEPT


def data(body: bytes) -> list[dict]:
    """What the events of a server-sent stream say."""
    lines = [line for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


async def test_events_come_as_they_happen(admin):
    begun = trio.Event()

    def reading(body: bytes) -> bool:
        begun.set()
        return b"has taken over" in body

    answers = []

    async def read() -> None:
        answers.append(await admin.ask("GET", "/admin/events?namespace=kv", until=reading))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await begun.wait()
        for name in ("other", "kv"):
            await admin.ask("POST", "/admin/plugin/reload", {"namespace": name})
    (answer,) = answers
    assert answer.headers["content-type"] == "text/event-stream"
    events = data(answer.body)
    assert {event["namespace"] for event in events} == {"kv"}
    assert f"id: {events[-1]['number']}\nevent: {events[-1]['kind']}\n".encode() in answer.body


async def test_a_reader_goes_on_after_the_last_event_that_it_has_seen(admin):
    kept = admin.proxy.supervisor.events.recent()
    seen, last = kept[1].number, kept[-1].number
    answer = await admin.ask(
        "GET",
        "/admin/events",
        headers={"last-event-id": str(seen)},
        until=lambda body: f"id: {last}\n".encode() in body,
    )
    assert [event["number"] for event in data(answer.body)] == list(range(seen + 1, last + 1))


async def test_numbers_of_another_process_bring_all_that_is_kept(admin):
    kept = admin.proxy.supervisor.events.recent()
    answer = await admin.ask(
        "GET",
        "/admin/events",
        headers={"last-event-id": "999999"},
        until=lambda body: f"id: {kept[-1].number}\n".encode() in body,
    )
    assert len(data(answer.body)) == len(kept)


@pytest.mark.parametrize("number", ["x", "-1", "1" * 30])
async def test_a_last_event_id_that_is_no_number(admin, number):
    answer = await admin.ask("GET", "/admin/events", headers={"last-event-id": number})
    assert answer.status == 400


async def test_who_is_too_slow_is_told_what_it_lost(admin):
    events = admin.proxy.supervisor.events

    def flood(_body: bytes) -> bool:
        if flood.times == 0:
            for _ in range(EVENTS_KEPT + 5):
                events.record("reload", "kv", reason="x")
        flood.times += 1
        return flood.times > 2

    flood.times = 0
    answer = await admin.ask("GET", "/admin/events", until=flood)
    assert b'event: lost\ndata: {"number":5}\n\n' in answer.body


async def test_lines_are_followed_as_json_lines(admin):
    journal = admin.proxy.supervisor.journals["kv"]
    journal.line("kv/1", 7, "stdout", "INFO", "before")
    journal.line("kv/1", 7, "stdout", "INFO", "just before")

    def more(body: bytes) -> bool:
        if b"just before" in body and b"after" not in body:
            journal.line("kv/1", 7, "stdout", "INFO", "after")
        return b"after" in body

    answer = await admin.ask("GET", "/admin/plugins/kv/logs?tail=1&follow=true", until=more)
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert [line["text"] for line in lines] == ["just before", "after"]
    events = await admin.ask(
        "GET",
        "/admin/plugins/kv/logs?follow=true",
        headers={"accept": "text/event-stream"},
        until=lambda body: b"after" in body,
    )
    assert [line["text"] for line in data(events.body)][-1] == "after"


async def test_a_stream_ends_with_the_port(admin):
    def stop(_body: bytes) -> bool:
        admin.front.stopping.set()
        return False

    answer = await admin.ask("GET", "/admin/events", until=stop)
    assert answer.body.endswith(b"id: #end\nevent: end\ndata: {}\n\n")


async def test_silence_is_broken(admin, autojump_clock):
    answer = await admin.ask(
        "GET", "/admin/events", until=lambda body: body.count(b": still here") > 2
    )
    assert answer.body.count(b": still here") == 3


async def test_a_stream_ends_with_the_right_to_read(admin):
    def close(_body: bytes) -> bool:
        admin.front.access.without_token = Right.PROBE
        admin.proxy.supervisor.events.record("reload", "kv", reason="not to be seen")
        return False

    answer = await admin.ask("GET", "/admin/events", until=close)
    assert answer.status == 200
    assert b"not to be seen" not in answer.body

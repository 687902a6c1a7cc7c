"""Feeds and their followers, the limit of a plugin's records, and what is logged of them."""

import logging

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from prism.channels.in_process import speaker
from prism.contract.redaction import Redaction
from prism.supervision import events
from prism.supervision.events import (
    MAX_LOGGED,
    NEWEST_KEPT,
    PER_SECOND,
    EventFeed,
    Journal,
    PluginLog,
    attribute,
)
from prism.supervision.feeds import Feed, Lost
from prism.supervision.lifecycle import State
from prism.wire.events import LogRecord


def test_the_last_items_are_kept():
    feed = Feed(kept=3)
    for number in range(5):
        feed.publish(number)
    assert feed.recent() == [2, 3, 4]
    assert feed.recent(2) == [3, 4]
    assert feed.recent(0) == []


async def test_a_follower_gets_what_was_and_what_comes(autojump_clock):
    feed = Feed(kept=3)
    feed.publish("old")
    feed.publish("last")
    got = []
    async with trio.open_nursery() as nursery:

        async def follow():
            with feed.follow(recent=1) as follower:
                while True:
                    got.append(await anext(follower))

        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        feed.publish("new")
        await trio.testing.wait_all_tasks_blocked()
        assert got == ["last", "new"]
        nursery.cancel_scope.cancel()
    feed.publish("nobody follows")


@given(st.integers(1, 8), st.integers(0, 40))
def test_who_does_not_read_loses_the_oldest_and_is_told_how_many(unread, published):
    async def main():
        feed = Feed(kept=1)
        with feed.follow(unread=unread) as slow, feed.follow(unread=100) as quick:
            for number in range(published):
                feed.publish(number)
            lost = max(0, published - unread)
            expected = [Lost(lost)] if lost else []
            expected += list(range(lost, published))
            assert [await anext(slow) for _ in expected] == expected
            assert [await anext(quick) for _ in range(published)] == list(range(published))

    trio.run(main)


# -- the journal ------------------------------------------------------------------------


def test_a_transition_is_logged_counted_and_published(caplog):
    events = EventFeed(clock=lambda: 12.5)
    journal = Journal("ns", events)
    with caplog.at_level(logging.INFO):
        journal.transition("ns/1", "1.0", None, State.STARTING, "")
        journal.transition("ns/1", "1.0", State.STARTING, State.FAILED, "no such file")
        journal.step("reload", "ns/2", "starting")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", "instance ns/1 is starting"),
        ("WARNING", "instance ns/1 is failed: no such file"),
        ("INFO", "reload of namespace ns: starting"),
    ]
    assert journal.transitions == {State.STARTING: 1, State.FAILED: 1}
    published = [(e.number, e.time, e.kind, e.previous, e.state) for e in events.recent()]
    assert published == [
        (1, 12.5, "state", None, State.STARTING),
        (2, 12.5, "state", State.STARTING, State.FAILED),
        (3, 12.5, "reload", None, None),
    ]


# -- what plugins write -----------------------------------------------------------------


@pytest.fixture
def plugin_log():
    log = PluginLog(Journal("ns", EventFeed(clock=lambda: 1.0)), "small", "ns/1")
    log.pid = 7
    return log


WHOSE = {"namespace": "ns", "instance": "ns/1", "pid": 7}


async def test_every_line_says_whose_it_is(plugin_log, caplog):
    records = [LogRecord("a message", "WARNING", "mine"), LogRecord("odd %s", "NO SUCH LEVEL")]
    with caplog.at_level("INFO"):
        plugin_log.records(records)
        plugin_log.line("stderr", "panic: index out of range")
        plugin_log.line("stdout", "listening")
    found = [(r.name, r.levelno, r.getMessage(), r.fields) for r in caplog.records]
    name = "prism.plugin.small"
    assert found == [
        (name, 30, "a message", {**WHOSE, "stream": "note", "source": "mine"}),
        (name, 20, "odd %s", {**WHOSE, "stream": "note"}),
        (name, 30, "panic: index out of range", {**WHOSE, "stream": "stderr"}),
        (name, 20, "listening", {**WHOSE, "stream": "stdout"}),
    ]


async def test_lines_and_records_are_kept_with_their_source(plugin_log):
    plugin_log.line("stdout", "x" * 2000)
    plugin_log.records([LogRecord("a record", "ERROR")])
    kept = [
        (line.source, line.level, len(line.text), line.instance, line.pid)
        for line in plugin_log._journal.lines.recent()
    ]
    assert kept == [("stdout", "INFO", 1024, "ns/1", 7), ("note", "ERROR", 8, "ns/1", 7)]


async def test_no_credential_passes(plugin_log, caplog):
    plugin_log.redaction = Redaction({"password": "hunter2-hunter2"})
    with caplog.at_level("DEBUG"):
        plugin_log.line("stdout", "password=hunter2-hunter2")
        plugin_log.line("stderr", "x" * (MAX_LOGGED - 4) + "hunter2-hunter2" * 3)
        plugin_log.records([LogRecord("hunter2-hunter2", "hunter2-hunter2", "hunter2-hunter2")])
        plugin_log.flush()
    told = [repr(vars(record)) for record in caplog.records]
    told += [repr(line) for line in plugin_log._journal.lines.recent()]
    told += plugin_log.last_lines
    assert len(told) == 3 + 3 + 2
    assert [text for text in told if "hunter2" in text or "xhun" in text] == []


async def test_the_last_lines_are_kept_after_a_flood(plugin_log, caplog):
    with caplog.at_level("INFO"):
        for number in range(1000):
            plugin_log.line("stdout", f"line {number}")
        plugin_log.line("stderr", "FATAL: out of memory")
        plugin_log.flush()
        plugin_log.flush()
    dropped = 1000 - PER_SECOND["stdout"] - NEWEST_KEPT
    assert caplog.messages[PER_SECOND["stdout"] :] == [
        "FATAL: out of memory",
        f"{dropped} lines of stdout were dropped: too many at once",
        *(f"line {number}" for number in range(1000 - NEWEST_KEPT, 1000)),
    ]
    assert plugin_log._journal.events.lines_dropped == dropped
    assert plugin_log.last_lines[-2:] == ["line 999", "FATAL: out of memory"]


async def test_what_is_held_at_the_end_comes_from_stderr_first(plugin_log, caplog):
    with caplog.at_level("INFO"):
        for _ in range(PER_SECOND["stdout"] + 1):
            plugin_log.line("stdout", "out")
            plugin_log.line("stderr", "err")
        caplog.clear()
        plugin_log.flush()
    assert caplog.messages == ["err", "out"]


async def test_what_is_held_is_told_when_its_second_has_passed(plugin_log, caplog, autojump_clock):
    flood = [LogRecord("x", "INFO")] * (PER_SECOND["note"] + NEWEST_KEPT + 7)
    with caplog.at_level("INFO"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plugin_log.run)
            for _ in range(2):
                caplog.clear()
                plugin_log.records(flood)
                assert len(caplog.records) == PER_SECOND["note"]
                await trio.sleep(1.5)
                told = [text for text in caplog.messages if text != "x"]
                assert told == ["7 log records were dropped: too many at once"]
                assert len(caplog.records) == PER_SECOND["note"] + 1 + NEWEST_KEPT
            nursery.cancel_scope.cancel()


@given(st.lists(st.sampled_from([0.0, 0.4, 1.0, 3.0]), max_size=40))
def test_every_line_is_told_or_counted(pauses):
    async def main():
        journal = Journal("ns")
        plugin_log = PluginLog(journal, "small", "ns/1")
        for pause in pauses:
            clock.jump(pause)
            for _ in range(150):
                plugin_log.line("stdout", "x")
        plugin_log.flush()
        told = [line for line in journal.lines._recent if line.text == "x"]
        assert len(told) + journal.events.lines_dropped == 150 * len(pauses)

    clock = trio.testing.MockClock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "LINES_KEPT", 10_000)
        trio.run(main, clock=clock)


# -- plugins in this process --------------------------------------------------------------


@pytest.fixture
def heard(caplog):
    caplog.handler.addFilter(attribute)
    yield caplog
    caplog.handler.removeFilter(attribute)


async def test_what_code_of_a_plugin_logs_is_said_to_be_its(plugin_log, heard):
    plugin_log.redaction = Redaction({"password": "hunter2-hunter2"})

    def speak():
        logging.getLogger("a.driver").warning("log in as %s", "hunter2-hunter2")
        try:
            raise ValueError("hunter2-hunter2")
        except ValueError:
            logging.getLogger("prism.plugin.small").exception("failed", extra={"fields": {"a": 1}})
        logging.getLogger("prism.access").warning("a call")

    token = speaker.set(plugin_log)
    speak()
    await trio.to_thread.run_sync(speak)
    await trio.testing.wait_all_tasks_blocked()
    speaker.reset(token)
    speak()
    mine, thread, others = heard.records[:3], heard.records[3:6], heard.records[6:]
    for records in (mine, thread):
        assert records[0].getMessage() == "log in as [redacted]"
        assert records[0].fields == WHOSE
        assert records[1].getMessage().startswith("failed\nTraceback (most recent call last):\n")
        assert records[1].fields == {**WHOSE, "a": 1}
        assert "hunter2" not in repr([vars(record) for record in records])
        assert not hasattr(records[2], "fields")
    assert "hunter2" in others[0].getMessage()
    kept = [(line.source, line.level, line.text[:6]) for line in plugin_log._journal.lines.recent()]
    assert kept == [("note", "WARNING", "log in"), ("note", "ERROR", "failed")] * 2


async def test_a_wrong_line_of_a_plugins_costs_it_no_call(plugin_log, heard):
    token = speaker.set(plugin_log)
    logging.getLogger("a.driver").warning("%d rows", "many")
    speaker.reset(token)
    assert heard.messages == ["%d rows (its arguments do not fit: TypeError)"]

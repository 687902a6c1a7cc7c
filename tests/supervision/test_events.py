"""Feeds and their followers, the limit of a plugin's records, and what is logged of them."""

import logging

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from prism.supervision.events import (
    RECORDS_PER_SECOND,
    EventFeed,
    Feed,
    Journal,
    Lost,
    PluginLog,
    RateLimit,
)
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


async def test_log_records_arrive_under_the_plugins_name(caplog):
    plugin_log = PluginLog(Journal("ns"), "small", "ns/1")
    records = [LogRecord("a message", "WARNING", "mine"), LogRecord("odd %s", "NO SUCH LEVEL")]
    with caplog.at_level("INFO"):
        plugin_log.records(records)
    found = [(r.name, r.levelno, r.getMessage(), r.fields) for r in caplog.records]
    assert found == [
        ("prism.plugin.small", 30, "a message", {"namespace": "ns", "source": "mine"}),
        ("prism.plugin.small", 20, "odd %s", {"namespace": "ns", "source": "prism.plugin.small"}),
    ]


async def test_lines_and_records_are_kept_with_their_source(caplog):
    journal = Journal("ns", EventFeed(clock=lambda: 1.0))
    plugin_log = PluginLog(journal, "small", "ns/1")
    plugin_log.line("x" * 2000)
    plugin_log.records([LogRecord("a record", "ERROR")])
    kept = [(line.source, line.level, len(line.text)) for line in journal.lines.recent()]
    assert kept == [("output", "INFO", 1024), ("note", "ERROR", 8)]


async def test_a_flood_of_records_is_cut_and_counted(caplog, mock_clock):
    plugin_log = PluginLog(Journal("ns"), "small", "ns/1")
    flood = [LogRecord("x", "INFO")] * (RECORDS_PER_SECOND + 7)
    with caplog.at_level(logging.INFO):
        plugin_log.records(flood)
        assert len(caplog.records) == RECORDS_PER_SECOND
        mock_clock.jump(1)
        plugin_log.records([LogRecord("y")])
        plugin_log.records(flood)
        plugin_log.close()
        plugin_log.close()
    told = [r.getMessage() for r in caplog.records if r.getMessage() != "x"]
    assert told == [
        "7 log records were dropped: too many at once",
        "y",
        "8 log records were dropped: too many at once",
    ]


@given(st.integers(1, 5), st.lists(st.sampled_from([0.0, 0.4, 1.0, 3.0]), max_size=40))
def test_no_second_has_more_than_the_limit_and_every_drop_is_told(limit, pauses):
    async def main():
        dropped, admitted = [], []
        rate = RateLimit(limit, dropped.append)
        for pause in pauses:
            clock.jump(pause)
            if rate.admits():
                admitted.append(trio.current_time())
        rate.report()
        assert len(admitted) + sum(dropped) == len(pauses)
        assert all(b - a >= 1 for a, b in zip(admitted, admitted[2 * limit :], strict=False))

    clock = trio.testing.MockClock()
    trio.run(main, clock=clock)

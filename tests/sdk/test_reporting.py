import logging

import pytest
import trio

from prism.sdk.health import Metrics
from prism.sdk.reporting import (
    MAX_MESSAGE,
    MAX_PENDING,
    MAX_RECORDS,
    NoteHandler,
    report,
    send_logs,
)


class FakeSession:
    """Keeps the notes it is given."""

    def __init__(self):
        self.takes_notes = True
        self.notes = []

    def note(self, note):
        self.notes.append(note)


@pytest.fixture
def handler():
    return NoteHandler()


@pytest.fixture
def logger(handler):
    logger = logging.getLogger("tests.reporting")
    logger.setLevel("DEBUG")
    logger.addHandler(handler)
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)


def test_records_keep_their_order_and_their_facts(logger, handler):
    logger.info("a %s", "b")
    logger.warning("lone \ud800 surrogate")
    first, second = handler.take()
    assert (first.message, first.level, first.logger) == ("a b", "INFO", "tests.reporting")
    assert first.time > 0
    assert (second.message, second.level) == ("lone ? surrogate", "WARNING")
    assert handler.take() == []


def test_a_traceback_is_part_of_the_record(logger, handler):
    try:
        raise ValueError("deep")
    except ValueError:
        logger.exception("it failed")
    assert "ValueError: deep" in handler.take()[0].message


def test_too_many_records_lose_the_oldest_and_are_counted(logger, handler):
    for n in range(MAX_PENDING + 5):
        logger.info("%d", n)
    taken = handler.take()
    assert [taken[0].message, taken[-1].message] == [
        "5",
        "5 log records were dropped: too many at once",
    ]
    assert len(taken) == MAX_RECORDS + 1


def test_a_note_stays_small(logger, handler):
    for _ in range(20):
        logger.info("x" * (2 * MAX_MESSAGE))
    sizes = [sum(len(r.message) for r in batch) for batch in iter(handler.take, [])]
    assert sum(sizes) == 20 * MAX_MESSAGE
    assert max(sizes) <= 3 * MAX_MESSAGE


def test_what_no_host_took_is_printed(logger, handler, capsys):
    logger.error("unheard")
    handler.print_rest()
    assert capsys.readouterr().err == "ERROR tests.reporting: unheard\n"


def test_logs_wait_for_a_session_that_is_ready(logger, handler):
    session = FakeSession()
    session.takes_notes = False
    logger.info("early")
    send_logs(session, handler)
    assert session.notes == []
    session.takes_notes = True
    send_logs(session, handler)
    assert [r.message for note in session.notes for r in note.logs] == ["early"]


async def test_metrics_wait_for_a_session_that_takes_them(handler, autojump_clock):
    class Measured:
        metrics = Metrics()

    session = FakeSession()
    session.takes_notes = False
    with trio.move_on_after(35):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(report, session, Measured(), handler)
            await trio.sleep(15)
            session.takes_notes = True
    assert len(session.notes) == 1


async def test_metrics_are_reported_when_they_changed(handler, autojump_clock):
    class Measured:
        metrics = Metrics()

    session, plugin = FakeSession(), Measured()
    with trio.move_on_after(35):
        await report(session, plugin, handler)
    assert len(session.notes) == 1
    plugin.metrics.requests_total += 1
    with trio.move_on_after(15):
        await report(session, plugin, handler)
    assert [note.metrics.requests_total for note in session.notes] == [0, 1]

import contextlib
import json
import logging
import os
from collections.abc import Iterator

import pytest

from prism.observability import log_writer
from prism.observability.log_writer import LogWriter, dropped_lines
from prism.observability.logs import JSONFormatter

PIPE_HOLDS = 64 * 1024
LONG = 30.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(descriptor)


@pytest.fixture
def open_writer(monkeypatch):
    monkeypatch.setattr(log_writer, "FLUSH_TIMEOUT", LONG)
    opened = []

    def make(descriptor: int, **settings) -> tuple[LogWriter, logging.Logger]:
        writer = LogWriter(descriptor, **settings)
        logger = logging.Logger("test")
        logger.addHandler(writer)
        opened.append(writer)
        return writer, logger

    yield make
    for writer in opened:
        writer.close()


def read_lines(descriptor: int, until: str) -> list[str]:
    """Lines up to the one that holds ``until``."""
    text = b""
    while until.encode() not in text:
        text += os.read(descriptor, 1024 * 1024)
    return text.decode().splitlines()


def test_lines_leave_whole_and_in_order(pipe, open_writer):
    writer, logger = open_writer(pipe[1])
    for number in range(100):
        logger.info("line %d \ud800", number)
    writer.flush()
    lines = os.read(pipe[0], PIPE_HOLDS).decode().splitlines()
    assert lines == [f"line {number} \\ud800" for number in range(100)]
    logger.info("later")
    assert read_lines(pipe[0], "later") == ["later"]


def test_nobody_waits_for_a_reader_that_does_not_read(pipe, open_writer):
    writer, logger = open_writer(pipe[1], capacity=100_000)
    writer.setFormatter(JSONFormatter())
    for number in range(3000):  # several times what the pipe and the queue hold
        logger.info("%d %s", number, "x" * 100)
    assert writer.dropped > 1000
    assert writer._waiting <= 50_000
    logger.error("what is wrong")  # has its own room
    lines = [json.loads(line) for line in read_lines(pipe[0], "what is wrong")]
    taken = [int(line["message"].split()[0]) for line in lines if line["level"] == "info"]
    notices = [line["message"].split(maxsplit=1) for line in lines if line["level"] == "warning"]
    assert taken == sorted(taken)
    assert {words for _, words in notices} == {"log lines were dropped: nobody read them in time"}
    assert sum(int(number) for number, _ in notices) == writer.dropped == 3000 - len(taken)
    logger.info("again")
    assert json.loads(read_lines(pipe[0], "again")[-1])["message"] == "again"


def test_the_count_of_lost_lines_comes_without_a_further_line(pipe, open_writer):
    writer, logger = open_writer(pipe[1], capacity=100_000)
    for _ in range(3000):
        logger.info("x" * 100)
    assert writer.dropped > 1000
    text, told = b"", 0
    while told < writer.dropped:  # some may be told between lines, if the thread is slow
        text += os.read(pipe[0], 1024 * 1024)
        notices = [line for line in text.splitlines() if b"were dropped" in line]
        told = sum(int(line.split()[0]) for line in notices)
    assert told == writer.dropped


def test_lines_that_are_made_elsewhere_are_written_and_counted_together(pipe, open_writer):
    writer, logger = open_writer(pipe[1], capacity=100_000)
    logger.info("before")
    writer.write(b"one\ntwo\n", count=2)
    logger.info("after")
    assert read_lines(pipe[0], "after") == ["before", "one", "two", "after"]
    writer.write(b"x\n" * 30_000, count=30_000)  # more than half of the room
    assert writer.dropped == 30_000
    writer.write(b"it matters\n" + b"x\n" * 30_000, warns=True)
    assert "30000 log lines were dropped" in read_lines(pipe[0], "it matters")[0]


def test_the_end_of_the_process_waits_for_lines_but_not_for_ever(pipe, open_writer, monkeypatch):
    monkeypatch.setattr(log_writer, "FLUSH_TIMEOUT", 0.01)
    writer, logger = open_writer(pipe[1])
    logger.info("x" * (PIPE_HOLDS + 1))
    writer.flush()
    writer.close()
    assert len(read_lines(pipe[0], "\n")[0]) == PIPE_HOLDS + 1


def test_a_reader_that_is_gone_costs_lines_and_nothing_else(pipe, open_writer):
    writer, logger = open_writer(pipe[1])
    os.close(pipe[0])
    logger.info("one")
    writer.flush()
    logger.info("two")
    writer.flush()
    assert writer.dropped == 2


def test_a_descriptor_that_does_not_block_is_waited_for(pipe, open_writer):
    os.set_blocking(pipe[1], False)
    _, logger = open_writer(pipe[1])
    logger.info("x" * 3 * PIPE_HOLDS)
    logger.info("end")
    first, last = read_lines(pipe[0], "end")
    assert (len(first), last) == (3 * PIPE_HOLDS, "end")


def test_one_write_takes_many_lines(open_writer, tmp_path, monkeypatch):
    writes = []
    real_write = os.write

    def write(descriptor, data):
        writes.append(bytes(data))
        return real_write(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with (tmp_path / "log").open("wb") as file:
        writer, logger = open_writer(file.fileno())
        for _ in range(50):
            logger.info("line")
        writer.flush()
    assert b"".join(writes) == b"line\n" * 50
    assert len(writes) < 10


def test_a_closed_writer_ends_its_thread(pipe, open_writer):
    writer, _ = open_writer(pipe[1])
    writer.close()
    writer._thread.join(LONG)
    assert not writer._thread.is_alive()


def test_dropped_lines_are_counted_for_the_metrics(pipe, open_writer, monkeypatch):
    writer, _ = open_writer(pipe[1])
    monkeypatch.setattr(logging.getLogger(), "handlers", [writer, logging.NullHandler()])
    writer.dropped = 7
    assert dropped_lines() == 7

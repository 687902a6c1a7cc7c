import sqlite3
import weakref
from pathlib import Path

import msgspec
import pytest

from prism_plugins.sqlite.config import SQLiteConfig
from prism_plugins.sqlite.connection import Connection, open_reader, open_writer
from prism_plugins.sqlite.job import Job
from prism_plugins.sqlite.transaction import (
    BATCH_RESULT_BYTES,
    commit_together,
    read_together,
)


@pytest.fixture
def config(tmp_path: Path) -> SQLiteConfig:
    return SQLiteConfig(path=str(tmp_path / "x.db"), busy_timeout_ms=0)


@pytest.fixture
def connection(config: SQLiteConfig):
    connection = open_writer(config)
    connection.execute("CREATE TABLE t (a UNIQUE)")
    yield connection
    connection.close()


def insert(*values: object) -> Job:
    def work(connection: sqlite3.Connection) -> int:
        for value in values:
            connection.execute("INSERT INTO t VALUES (?)", (value,))
        return len(values)

    return Job(work)


def contents(connection: sqlite3.Connection) -> list[object]:
    return [row[0] for row in connection.execute("SELECT a FROM t ORDER BY a")]


def test_one_that_fails_leaves_the_others_alone(connection) -> None:
    jobs = [insert(1), insert(2, 1), insert(3), Job(lambda _: 1 / 0), insert(4)]
    commit_together(connection, jobs)
    assert [type(job.error) for job in jobs] == [
        type(None),
        sqlite3.IntegrityError,
        type(None),
        ZeroDivisionError,
        type(None),
    ]
    assert contents(connection) == [1, 3, 4]
    assert jobs[2].outcome() == 1
    with pytest.raises(sqlite3.IntegrityError):
        jobs[1].outcome()


def test_alone(connection) -> None:
    commit_together(connection, [insert(1)])
    failing = insert(2, 1)
    commit_together(connection, [failing])
    assert isinstance(failing.error, sqlite3.IntegrityError)
    assert contents(connection) == [1]
    assert not connection.in_transaction


def test_when_sqlite_rolls_everything_back_the_others_run_again(connection) -> None:
    def lose_the_transaction(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")  # as SQLite does by itself when the disk is full
        raise sqlite3.OperationalError("database or disk is full")

    jobs = [insert(1), Job(lose_the_transaction), insert(2)]
    commit_together(connection, jobs)
    assert contents(connection) == [1, 2]
    assert [job.error is None for job in jobs] == [True, False, True]


def test_a_full_database(connection) -> None:
    [pages] = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages + 4}")
    jobs = [insert(1), insert(b"x" * 100_000), insert(2)]
    commit_together(connection, jobs)
    assert jobs[1].error.sqlite_errorcode == sqlite3.SQLITE_FULL
    assert contents(connection) == [1, 2]


def test_a_cancelled_job_does_not_run(connection) -> None:
    jobs = [insert(1), insert(2)]
    jobs[1].cancelled = True
    commit_together(connection, jobs)
    assert contents(connection) == [1]


def test_locked_by_another_process(connection, config) -> None:
    other = open_writer(config)
    other.execute("BEGIN IMMEDIATE")
    jobs = [insert(1), insert(2)]
    commit_together(connection, jobs)
    assert {job.error.sqlite_errorcode for job in jobs} == {sqlite3.SQLITE_BUSY}
    other.close()
    commit_together(connection, jobs)
    assert contents(connection) == [1, 2]


def test_reads_share_a_snapshot(connection, config) -> None:
    reader = open_reader(config)

    def write_meanwhile(_: sqlite3.Connection) -> None:
        commit_together(connection, [insert(1)])

    jobs = [Job(contents), Job(write_meanwhile), Job(contents)]
    read_together(reader, jobs)
    assert [jobs[0].outcome(), jobs[2].outcome()] == [[], []]
    read_together(reader, jobs[:1])
    assert jobs[0].outcome() == [1]
    reader.close()


def large(job: Job) -> Job:
    """The same job, with a result that fills a batch."""

    def work(connection: Connection) -> object:
        job.run(connection)
        connection.fetched_bytes += BATCH_RESULT_BYTES
        return job.outcome()

    return Job(work)


def test_no_more_is_read_once_the_results_are_large(connection, config) -> None:
    reader = open_reader(config)
    jobs = [Job(contents), large(Job(contents)), Job(contents), Job(contents)]
    assert read_together(reader, jobs) == 2
    assert [job.outcome() for job in jobs[:2]] == [[], []]
    commit_together(connection, [insert(1)])
    assert read_together(reader, jobs[2:]) == 2  # counted anew, and on a snapshot of its own
    assert jobs[2].outcome() == [1]
    reader.close()


def test_what_ran_is_committed_once_the_results_are_large(connection) -> None:
    jobs = [insert(1), large(insert(2)), insert(3)]
    assert commit_together(connection, jobs) == 2
    assert contents(connection) == [1, 2]
    assert not connection.in_transaction
    assert commit_together(connection, jobs[2:]) == 1
    assert contents(connection) == [1, 2, 3]


def test_large_results_of_those_that_run_again(connection) -> None:
    def lose_the_transaction(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    jobs = [insert(1), Job(lose_the_transaction), large(insert(2)), insert(3)]
    assert commit_together(connection, jobs) == 3
    assert contents(connection) == [1, 2]
    assert [job.error is None for job in jobs[:3]] == [True, False, True]


def test_an_error_does_not_keep_what_was_read(connection) -> None:
    class Read:
        pass

    def work(_: sqlite3.Connection) -> None:
        read = Read()
        kept.append(weakref.ref(read))
        raise ValueError

    kept: list[weakref.ref[Read]] = []
    job = Job(work)
    commit_together(connection, [job])
    assert isinstance(job.error, ValueError)
    assert kept[0]() is None


def test_a_reader_cannot_write(connection, config) -> None:
    reader = open_reader(config)
    job = insert(1)
    read_together(reader, [job])
    assert job.error.sqlite_errorcode == sqlite3.SQLITE_READONLY
    reader.close()


@pytest.mark.parametrize(("setting", "number"), [("full", 2), ("normal", 1)])
def test_synchronous(tmp_path, setting: str, number: int) -> None:
    config = msgspec.convert({"path": str(tmp_path / "y.db"), "synchronous": setting}, SQLiteConfig)
    connection = open_writer(config)
    assert connection.execute("PRAGMA synchronous").fetchone() == (number,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()

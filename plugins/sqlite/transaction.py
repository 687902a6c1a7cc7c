"""Group commit: a batch of writes shares one transaction and one fsync.

Each write stands in a savepoint of its own, so that one that fails leaves the
others alone. Some errors (disk full, an interrupted statement) make SQLite roll
the whole transaction back. Then nothing of the batch is in the database, and
the writes that did not fail by themselves are run again, one by one.

Results are in memory until the event loop has handed them to their calls. So no further job is
begun once they have ``BATCH_RESULT_BYTES``: what is done is committed, the rest is another batch.
"""

from typing import Any

from .connection import Connection
from .errors import DATABASE_ERRORS
from .job import Job

BATCH_RESULT_BYTES = 8 * 1024 * 1024
"""Of the results of one batch; its last job may exceed it by its own. As much as a single call
may have (``keyvalue.GET_MANY_BYTES``)."""


def commit_together(connection: Connection, jobs: list[Job[Any]]) -> int:
    """Run jobs and commit them; returns how many, from the first on and at least one.

    Each of these knows its outcome then; one without error means that the write is durable.
    Of the others, nothing is in the database.
    """
    if len(jobs) == 1:
        _commit_alone(connection, jobs[0])
        return 1
    try:
        connection.execute("BEGIN IMMEDIATE")
    except DATABASE_ERRORS as error:
        for job in jobs:
            job.error = error
        return len(jobs)
    return _commit_with_savepoints(connection, jobs) or _commit_one_by_one(connection, jobs)


def read_together(connection: Connection, jobs: list[Job[Any]]) -> int:
    """Run jobs on one snapshot of the database, taken now; returns how many, as above."""
    connection.fetched_bytes = 0
    try:
        connection.execute("BEGIN")
        for ran, job in enumerate(jobs, 1):
            job.run(connection)
            if connection.fetched_bytes >= BATCH_RESULT_BYTES:
                return ran
    except DATABASE_ERRORS as error:
        for job in jobs:
            job.error = error
    finally:
        _roll_back(connection)
    return len(jobs)


def _commit_with_savepoints(connection: Connection, jobs: list[Job[Any]]) -> int:
    """Returns how many; 0 where all was rolled back."""
    connection.fetched_bytes = 0
    ran = 0
    try:
        for job in jobs:
            connection.execute("SAVEPOINT one")
            job.run(connection)
            if not connection.in_transaction:
                return 0
            if job.error is not None:
                connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
            ran += 1
            if connection.fetched_bytes >= BATCH_RESULT_BYTES:
                break
        connection.execute("COMMIT")
    except DATABASE_ERRORS:
        _roll_back(connection)
        return 0
    return ran


def _commit_one_by_one(connection: Connection, jobs: list[Job[Any]]) -> int:
    """Run those again that did not fail by themselves."""
    connection.schema_cache.forget()
    connection.fetched_bytes = 0
    for ran, job in enumerate(jobs, 1):
        if job.error is None:
            _commit_alone(connection, job)
        if connection.fetched_bytes >= BATCH_RESULT_BYTES:
            return ran
    return len(jobs)


def _commit_alone(connection: Connection, job: Job[Any]) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        job.run(connection)
        if job.error is None:
            connection.execute("COMMIT")
    except DATABASE_ERRORS as error:
        job.error = error
    finally:
        _roll_back(connection)
        if job.error is not None:
            connection.schema_cache.forget()


def _roll_back(connection: Connection) -> None:
    """End the transaction if there is one; an error leaves none either."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except DATABASE_ERRORS:
        pass

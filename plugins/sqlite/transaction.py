"""Group commit: a batch of writes shares one transaction and one fsync.

Each write stands in a savepoint of its own, so that one that fails leaves the
others alone. Some errors (disk full, an interrupted statement) make SQLite roll
the whole transaction back. Then nothing of the batch is in the database, and
the writes that did not fail by themselves are run again, one by one.
"""

from typing import Any

from .connection import Connection
from .errors import DATABASE_ERRORS
from .job import Job


def commit_together(connection: Connection, jobs: list[Job[Any]]) -> None:
    """Run the jobs and commit them; on return every job knows its outcome.

    An outcome without error means that the write is durable.
    """
    if len(jobs) == 1:
        _commit_alone(connection, jobs[0])
        return
    try:
        connection.execute("BEGIN IMMEDIATE")
    except DATABASE_ERRORS as error:
        for job in jobs:
            job.error = error
        return
    if not _commit_with_savepoints(connection, jobs):
        connection.schema_cache.forget()
        for job in jobs:
            if job.error is None:
                _commit_alone(connection, job)


def read_together(connection: Connection, jobs: list[Job[Any]]) -> None:
    """Run the jobs on one snapshot of the database, taken now."""
    try:
        connection.execute("BEGIN")
        for job in jobs:
            job.run(connection)
    except DATABASE_ERRORS as error:
        for job in jobs:
            job.error = error
    finally:
        _roll_back(connection)


def _commit_with_savepoints(connection: Connection, jobs: list[Job[Any]]) -> bool:
    try:
        for job in jobs:
            connection.execute("SAVEPOINT one")
            job.run(connection)
            if not connection.in_transaction:
                return False
            if job.error is not None:
                connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
        connection.execute("COMMIT")
    except DATABASE_ERRORS:
        _roll_back(connection)
        return False
    return True


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

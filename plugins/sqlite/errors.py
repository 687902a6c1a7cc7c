"""What SQLite's errors mean to a caller: a status, and words that say what to do."""

import os
import resource
import sqlite3

from prism.sdk import PluginError, StatusCode

from .statement_limits import StatementLimits

FILES_OF_A_CONNECTION = 4
"""The database, its log, their shared memory, a temporary file."""

_PRIMARY_CODE = 0xFF  # the low byte of an extended result code

_MEANING: dict[int, tuple[StatusCode, str]] = {
    sqlite3.SQLITE_BUSY: (
        StatusCode.UNAVAILABLE,
        "another process held the database locked for longer than busy_timeout_ms",
    ),
    sqlite3.SQLITE_LOCKED: (StatusCode.UNAVAILABLE, "the database is locked"),
    sqlite3.SQLITE_FULL: (StatusCode.RESOURCE_EXHAUSTED, "the disk is full"),
    sqlite3.SQLITE_IOERR: (
        StatusCode.UNAVAILABLE,
        "the database file cannot be read or written (disk full, a quota, or a failing device)",
    ),
    sqlite3.SQLITE_READONLY: (
        StatusCode.FAILED_PRECONDITION,
        "the database is read-only: give the plugin's user write permission "
        "on the file and its directory",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        StatusCode.FAILED_PRECONDITION,
        "the database file cannot be opened: check that it is a file, its permissions, and that "
        "its file system can be written",
    ),
    sqlite3.SQLITE_PERM: (StatusCode.FAILED_PRECONDITION, "no permission for the database file"),
    sqlite3.SQLITE_NOTADB: (
        StatusCode.FAILED_PRECONDITION,
        "the file is not a SQLite database: move it away, or set another path",
    ),
    sqlite3.SQLITE_CORRUPT: (
        StatusCode.DATA_LOSS,
        "the database file is damaged: restore it from a backup",
    ),
    sqlite3.SQLITE_TOOBIG: (StatusCode.INVALID_ARGUMENT, "the statement or a value is too large"),
    sqlite3.SQLITE_SCHEMA: (StatusCode.ABORTED, "the schema changed meanwhile; try again"),
}


DATABASE_ERRORS = (sqlite3.Error, MemoryError)
"""What SQLite reports; Python has an error of its own for one of its codes."""


def translate(error: sqlite3.Error | sqlite3.Warning | MemoryError) -> PluginError:
    """The answer for an error that says something about the database, not about a bug.

    Clients read it: it does not tell them where the file is.
    """
    if isinstance(error, MemoryError):
        return PluginError(
            StatusCode.RESOURCE_EXHAUSTED,
            "SQLite has no memory left: the statement, or what views and WITH make of it, is too "
            "large, or there are too many at a time",
        )
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # raised by Python's module
        return PluginError(StatusCode.UNAVAILABLE, "the database is closed")
    if code & _PRIMARY_CODE == sqlite3.SQLITE_CANTOPEN and _lacks_descriptors():
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return PluginError(
            StatusCode.RESOURCE_EXHAUSTED,
            f"the process has no descriptors left, of the {limit} files that it may have open "
            f"(ulimit -n, or LimitNOFILE= of systemd) ({error})",
        )
    status, words = _MEANING.get(
        code & _PRIMARY_CODE, (StatusCode.INTERNAL, "SQLite reported an error")
    )
    return PluginError(status, f"{words} ({error})")


def _lacks_descriptors() -> bool:
    """Whether a connection could not open its files; SQLite does not say why it cannot."""
    taken: list[int] = []
    try:
        taken.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(FILES_OF_A_CONNECTION))
    except OSError:
        return True
    finally:
        for descriptor in taken:
            os.close(descriptor)
    return False


def translate_at_start(error: sqlite3.Error | MemoryError, path: str) -> PluginError:
    """The answer for the operator; a damaged file is something to put right first."""
    answer = translate(error)
    damaged = answer.status is StatusCode.DATA_LOSS
    status = StatusCode.FAILED_PRECONDITION if damaged else answer.status
    return PluginError(status, f"config.path {path!r}: {answer.detail}")


def translate_user_sql(
    error: sqlite3.Error | sqlite3.Warning, limits: StatementLimits | None
) -> PluginError:
    """Like ``translate``, for a statement the client wrote: most errors are the client's.

    ``limits`` are the statement's, if it came so far.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # wrong number of parameters, two statements, ...
        return PluginError(StatusCode.INVALID_ARGUMENT, str(error))
    primary = code & _PRIMARY_CODE
    if primary == sqlite3.SQLITE_TOOBIG and limits is not None:
        return PluginError(
            StatusCode.INVALID_ARGUMENT,
            f"a value is too large: in this statement it may have {limits.value} bytes "
            "(fewer columns, or functions, allow more)",
        )
    if primary == sqlite3.SQLITE_CONSTRAINT:
        taken = code in (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
        status = StatusCode.ALREADY_EXISTS if taken else StatusCode.FAILED_PRECONDITION
        return PluginError(status, str(error))
    if primary in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE):
        return PluginError(StatusCode.INVALID_ARGUMENT, str(error))
    return translate(error)

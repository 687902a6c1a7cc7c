"""What PostgreSQL's errors mean to a caller: a status by SQLSTATE, and the server's own words."""

from psycopg import pq

from prism.sdk import PluginError, StatusCode

_S = StatusCode

BY_CLASS = {
    "08": _S.UNAVAILABLE,  # connection
    "21": _S.FAILED_PRECONDITION,  # cardinality: a subquery with several rows
    "22": _S.INVALID_ARGUMENT,  # data
    "23": _S.FAILED_PRECONDITION,  # constraint
    "25": _S.FAILED_PRECONDITION,  # state of the transaction
    "26": _S.FAILED_PRECONDITION,  # no such prepared statement
    "28": _S.FAILED_PRECONDITION,  # the credentials are refused
    "2B": _S.FAILED_PRECONDITION,  # something depends on it
    "2D": _S.FAILED_PRECONDITION,  # a procedure that commits
    "40": _S.ABORTED,  # serialization, deadlock
    "42": _S.INVALID_ARGUMENT,  # the statement is wrong
    "44": _S.FAILED_PRECONDITION,  # WITH CHECK OPTION
    "53": _S.RESOURCE_EXHAUSTED,  # connections, disk, memory
    "54": _S.INVALID_ARGUMENT,  # a limit of the server's
    "55": _S.FAILED_PRECONDITION,  # state of an object
    "57": _S.UNAVAILABLE,  # an operator's intervention
    "58": _S.UNAVAILABLE,  # the server's system
    "F0": _S.FAILED_PRECONDITION,  # its configuration
    "P0": _S.FAILED_PRECONDITION,  # raised by PL/pgSQL
    "0A": _S.INVALID_ARGUMENT,  # not supported
    "0L": _S.PERMISSION_DENIED,  # grantor
    "0P": _S.INVALID_ARGUMENT,  # role
    "3D": _S.NOT_FOUND,  # no such database
    "3F": _S.NOT_FOUND,  # no such schema
}
BY_CODE = {
    "22003": _S.OUT_OF_RANGE,
    "22008": _S.OUT_OF_RANGE,
    "23505": _S.ALREADY_EXISTS,  # unique
    "23P01": _S.ALREADY_EXISTS,  # exclusion
    "42501": _S.PERMISSION_DENIED,
    "42P01": _S.NOT_FOUND,  # table
    "42P03": _S.ALREADY_EXISTS,
    "42P04": _S.ALREADY_EXISTS,  # database
    "42P06": _S.ALREADY_EXISTS,  # schema
    "42P07": _S.ALREADY_EXISTS,  # table
    "42701": _S.ALREADY_EXISTS,  # column
    "42710": _S.ALREADY_EXISTS,  # object
    "42723": _S.ALREADY_EXISTS,  # function
    "55P03": _S.ABORTED,  # lock not available
    "57014": _S.DEADLINE_EXCEEDED,  # cancelled, here only by a timeout of the server's
    "P0002": _S.NOT_FOUND,
    "XX001": _S.DATA_LOSS,
    "XX002": _S.DATA_LOSS,
}
_HINTS = {
    "26000": "behind a pooler in transaction mode set statement_cache_size: 0",
    "42P05": "behind a pooler in transaction mode set statement_cache_size: 0",
    "53100": "the server's disk is full",
}

_GONE = ("57P01", "57P02", "57P03", "57P05", "25P03")
"""The server ends the connection, or is starting or stopping."""


class DatabaseError(PluginError):
    """What the server has answered; ``sqlstate`` is its code."""

    def __init__(self, status: StatusCode, detail: str, sqlstate: str) -> None:
        super().__init__(status, detail)
        self.sqlstate = sqlstate


class StaleStatement(DatabaseError):
    """A statement that was prepared before is gone, or its tables have changed; nothing ran."""


class ConnectionLost(PluginError):
    """The connection broke. ``sent``: what was asked may have run."""

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(StatusCode.UNAVAILABLE, detail)
        self.sent = sent


def status_of(sqlstate: str) -> StatusCode:
    """The status that an SQLSTATE becomes; INTERNAL for what is the server's own fault."""
    return BY_CODE.get(sqlstate) or BY_CLASS.get(sqlstate[:2], StatusCode.INTERNAL)


def from_result(result: pq.abc.PGresult) -> DatabaseError | ConnectionLost:
    """The error that a result is."""
    sqlstate = _field(result, pq.DiagnosticField.SQLSTATE)
    message = _field(result, pq.DiagnosticField.MESSAGE_PRIMARY)
    if not sqlstate:  # made by libpq
        text = result.error_message.decode(errors="replace").strip()
        return ConnectionLost(f"the connection to PostgreSQL was lost: {text}", sent=True)
    if sqlstate in _GONE or sqlstate.startswith("08"):
        return ConnectionLost(f"PostgreSQL ended the connection: {message}", sent=True)
    words = [message]
    if detail := _field(result, pq.DiagnosticField.MESSAGE_DETAIL):
        words.append(detail)
    if hint := _HINTS.get(sqlstate) or _field(result, pq.DiagnosticField.MESSAGE_HINT):
        words.append(hint)
    if position := _field(result, pq.DiagnosticField.STATEMENT_POSITION):
        words.append(f"at character {position}")
    text = f"{'; '.join(words)} (SQLSTATE {sqlstate})"
    routine = _field(result, pq.DiagnosticField.SOURCE_FUNCTION)
    stale = sqlstate in ("26000", "42P05") or (
        sqlstate == "0A000" and routine == "RevalidateCachedQuery"
    )
    kind = StaleStatement if stale else DatabaseError
    return kind(status_of(sqlstate), text, sqlstate)


def _field(result: pq.abc.PGresult, field: pq.DiagnosticField) -> str:
    return (result.error_field(field) or b"").decode(errors="replace")


def invalid(detail: str) -> PluginError:
    """INVALID_ARGUMENT."""
    return PluginError(StatusCode.INVALID_ARGUMENT, detail)

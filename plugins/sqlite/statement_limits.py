"""How large values may be in one statement, so that memory and time stay bounded.

SQLite holds the values of a row, and what functions make of them, in registers; nothing
bounds them together but the largest value times the number of registers. And it can be
interrupted only where a statement loops: what stands between two such places, and what a
function does with its arguments, runs to its end. So the program that SQLite compiled (EXPLAIN
shows it, triggers and views included) says how many values it may hold, and the more there
are, the smaller each has to be. Ordinary statements have so few that a value may have
``VALUE_BYTES``.
"""

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

VALUE_BYTES = 1024 * 1024
"""The largest value in SQL."""

HELD_BYTES = 128 * 1024 * 1024
"""Values that the registers of a statement may hold together."""

RESULT_ROW_BYTES = 16 * 1024 * 1024
"""Values in one row of a result, together: it is in memory twice, before it can be refused."""

QUADRATIC_BYTES = 256 * 1024
"""The largest value beside one function that takes the square of it in time (up to 0.4 s)."""

LIKE_PATTERN_BYTES = 200
"""LIKE and GLOB take pattern times text in time: one pattern of this length up to 1 s."""

LEAST_BYTES = 1_000
"""Of a value, and 10 of a pattern, whatever the statement."""

_HOLDING = {
    "AggFinal", "AggInverse", "AggStep", "AggStep1", "AggValue", "Blob", "Cast", "Column",
    "Concat", "Copy", "Function", "MakeRecord", "PureFunc", "RowData", "SCopy", "SorterData",
    "VColumn", "Variable",
}  # fmt: skip
_GROWING = {"json_group_array", "json_group_object"}
"""Aggregates that SQLite lets grow beyond the largest value, and refuses only at their end."""
_CALLING = {"Function", "PureFunc"}
_QUADRATIC = {"instr": 1, "replace": 1, "json_patch": 8}
"""And how many of the first each is worth."""
_MATCHING = {"like", "glob"}


class StatementLimits(NamedTuple):
    """The most bytes of a value, and of a LIKE or GLOB pattern; and whether the statement can
    nevertheless take more and more memory."""

    value: int
    pattern: int
    grows: bool = False


UNKNOWN = StatementLimits(64 * 1024, 50)
"""For a statement that cannot be explained: one that explains, itself."""


def limits_of(program: Iterable[tuple[object, ...]]) -> StatementLimits:
    """The limits for a program, as EXPLAIN gives it: (address, opcode, p1, p2, p3, p4, ...)."""
    holding = columns = 1
    quadratic = matching = 0
    grows = False
    for _, opcode, _, p2, _, p4, *_ in program:
        if opcode in _HOLDING:
            holding += 1
            grows |= str(p4).partition("(")[0] in _GROWING
            if opcode in _CALLING:
                function = str(p4).partition("(")[0]
                quadratic += _QUADRATIC.get(function, 0)
                matching += function in _MATCHING
        elif opcode == "ResultRow":
            columns = max(columns, int(str(p2)))
    value = min(VALUE_BYTES, HELD_BYTES // holding, RESULT_ROW_BYTES // columns)
    if quadratic:
        value = min(value, int(QUADRATIC_BYTES / quadratic**0.5))
    pattern = LIKE_PATTERN_BYTES // max(1, matching)
    return StatementLimits(max(value, LEAST_BYTES), max(pattern, 10), grows)


def set_limits(connection: sqlite3.Connection, limits: StatementLimits) -> None:
    """Let the statements that follow on ``connection`` be bound by ``limits``."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits.value)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, limits.pattern)

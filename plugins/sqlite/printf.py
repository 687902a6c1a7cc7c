"""``printf`` and ``format`` with a bound on how often ``%c`` repeats its character.

SQLite repeats it precision times, one by one, long after the text has become too large:
``printf('%.*c', 2000000000, 'x')`` takes 20 s, in which nothing can interrupt it, and a format
can have thousands of these. All other conversions end early by themselves. What is within
bounds is SQLite's own work, on a connection without tables. As with ``trim``, the functions
cannot be used inside views, triggers and CHECK constraints.
"""

import re
import sqlite3
from collections.abc import Iterator

from .statement_limits import VALUE_BYTES

Cell = str | bytes | int | float | None

_CONVERSION = re.compile(r"%[-+ #0!,]*(\*|[0-9]*)(?:\.(\*|[0-9]*))?l{0,2}(.)", re.DOTALL)
_WITHOUT_ARGUMENT = "%n"


def bound_printf(connection: sqlite3.Connection) -> None:
    """Let ``connection`` use the functions of this file."""
    scratch: list[sqlite3.Connection] = []  # opened at the first use; most connections have none

    def printf(*arguments: Cell) -> Cell:
        if arguments and sum(_repetitions(arguments)) > VALUE_BYTES:
            raise OverflowError  # SQLite then says that a value is too big
        if not scratch:
            scratch.append(_scratch())
        placeholders = ", ".join("?" * len(arguments))
        try:
            found = scratch[0].execute(f"SELECT printf({placeholders})", arguments).fetchone()
        except sqlite3.DataError as error:
            raise OverflowError from error
        text: Cell = found[0]
        return text

    for name in ("printf", "format"):
        connection.create_function(name, -1, printf, deterministic=True)


def _scratch() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES)
    return connection


def _repetitions(arguments: tuple[Cell, ...]) -> Iterator[int]:
    """The precision of each ``%c``; arguments are taken as SQLite takes them."""
    format_text, *left = arguments
    text = format_text.decode(errors="replace") if isinstance(format_text, bytes) else format_text
    if not isinstance(text, str) or "c" not in text:
        return
    values = iter(left)
    for width, precision, kind in _CONVERSION.findall(text):
        if width == "*":
            next(values, None)
        repeated = _as_int32(next(values, None) if precision == "*" else precision)
        if kind not in _WITHOUT_ARGUMENT:
            next(values, None)
        if kind == "c":
            yield repeated


def _as_int32(value: Cell) -> int:
    """The size of the integer that C makes of a value; the largest of what is no plain one."""
    try:
        number = int(value or 0)
    except (ValueError, OverflowError):
        return 2**31
    return min(abs(number), 2**31)

"""``trim(X, Y)``, ``ltrim`` and ``rtrim`` in time that grows with the text, not with its square.

SQLite compares each character of X with each of Y. On two texts of a megabyte
that takes half an hour, in which nothing can interrupt it. The forms with one
argument are SQLite's own. Like every function that an application brings along,
these cannot be used inside views, triggers and CHECK constraints.
"""

import sqlite3
from collections.abc import Callable

Cell = str | bytes | int | float | None


def replace_trim(connection: sqlite3.Connection) -> None:
    """Let ``connection`` use the functions of this file."""
    for name, trim in (("trim", _trim), ("ltrim", _trim_left), ("rtrim", _trim_right)):
        connection.create_function(name, 2, _of_texts(trim), deterministic=True)


def _trim(text: str, characters: set[str]) -> str:
    return _trim_right(_trim_left(text, characters), characters)


def _trim_left(text: str, characters: set[str]) -> str:
    for position, character in enumerate(text):
        if character not in characters:
            return text[position:]
    return ""


def _trim_right(text: str, characters: set[str]) -> str:
    for position in range(len(text), 0, -1):
        if text[position - 1] not in characters:
            return text[:position]
    return ""


def _of_texts(trim: Callable[[str, set[str]], str]) -> Callable[[Cell, Cell], str | None]:
    def function(value: Cell, characters: Cell) -> str | None:
        if value is None or characters is None:
            return None
        return trim(_as_text(value), set(_as_text(characters)))

    return function


def _as_text(value: str | bytes | float) -> str:
    """A value as SQLite casts it to text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, int):
        return str(value)
    digits, e, exponent = f"{value:.15g}".partition("e")
    whole = "." not in digits and digits.strip("-").isdigit()
    return f"{digits}{'.0' if whole else ''}{e}{exponent}"

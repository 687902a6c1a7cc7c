"""Where a statement has its parameters: ``$1``, or ``:name``, which becomes ``$1``.

A placeholder is not one inside a string, a quoted name or a comment, nor is ``::`` one. So the
statement is cut into PostgreSQL's own tokens, as its scanner does (``scan.l``); what they mean is
left to the server. In what it refuses anyway, such as a string without an end, nothing is replaced.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from prism.sdk import PluginError, StatusCode

MAX_REMEMBERED = 16 * 1024
"""Characters of a statement up to which the outcome is kept for the next call."""

_SPACE = r"[ \t\n\r\f\v]"
_LETTER = r"[A-Za-z_\x80-\U0010ffff]"
_ESCAPED = r"'(?:[^'\\]|\\.|'')*+'"
# A string goes on in the next line, by the rules that it began with.
_CONTINUED = rf"(?:[ \t\f\v]|--[^\n\r]*)*+[\n\r](?:{_SPACE}|--[^\n\r]*[\n\r])*+"

_next_token = re.compile(
    rf"""
    (?P<space>{_SPACE}+|--[^\n\r]*)
    | (?P<comment>/\*)
    | (?P<string>[eE]{_ESCAPED}(?:{_CONTINUED}{_ESCAPED})*+
        | (?:[bBxXnN]|[uU]&)?'(?:[^']|'')*+' | (?:[uU]&)?"(?:[^"]|"")*+")
    | (?P<dollar>\$(?:{_LETTER}(?:{_LETTER}|[0-9])*+)?\$)
    | (?P<number>\$[0-9]+)
    | (?P<word>{_LETTER}(?:{_LETTER}|[0-9$])*+)
    | (?P<digits>[0-9](?:{_LETTER}|[0-9.])*+)
    | (?P<colons>::|:=)
    | (?P<name>:[A-Za-z_][A-Za-z0-9_]*)
    | (?P<open>['"])
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
).match
_comment_edge = re.compile(r"/\*|\*/").search

_OPERANDS = {"word", "digits", "number", "string"}
"""What is directly before a ``:`` where it is that of a slice, as in ``a[1:n]``."""


class Parsed(NamedTuple):
    """A statement: its text with ``$1`` only, the names by their numbers, and what it is.

    ``first`` is its first word in lower case. ``numbered``: it had ``$1`` of its own.
    """

    sql: str
    names: tuple[str, ...]
    numbered: bool
    first: str


def parse(sql: str) -> Parsed:
    """Replace ``:name`` by numbers, the same name by the same number.

    Raises:
        PluginError: INVALID_ARGUMENT, both kinds in one statement.
    """
    return _remembered(sql) if len(sql) <= MAX_REMEMBERED else _parse(sql)


def _parse(sql: str) -> Parsed:
    out: list[str] = []
    numbers: dict[str, int] = {}
    numbered = False
    first = ""
    before = ""
    for kind, text in _tokens(sql):
        if kind == "name" and before not in _OPERANDS and before not in ("]", ")"):
            number = numbers.setdefault(text[1:], len(numbers) + 1)
            out.append(f"${number}")
            kind = "number"
        else:
            numbered |= kind == "number"
            if not first and kind not in ("space", "comment") and text != "(":
                first = text.lower()
            out.append(text)
        before = text if kind == "other" else kind
    if numbers and numbered:
        raise PluginError(
            StatusCode.INVALID_ARGUMENT,
            "the statement has both $1 and :name; use one kind of parameters",
        )
    return Parsed("".join(out), tuple(numbers), numbered, first)


_remembered = lru_cache(maxsize=512)(_parse)


def _tokens(sql: str) -> Iterator[tuple[str, str]]:
    position = 0
    while (found := _next_token(sql, position)) is not None:
        kind = str(found.lastgroup)
        end = found.end()
        if kind == "comment":
            end = _comment_end(sql, end)
        elif kind == "dollar":
            closing = sql.find(found.group(), end)
            end = len(sql) if closing < 0 else closing + len(found.group())
            kind = "string"
        elif kind == "open":  # without an end
            end = len(sql)
        yield kind, sql[position:end]
        position = end


def _comment_end(sql: str, position: int) -> int:
    """Comments nest."""
    depth = 1
    while depth:
        edge = _comment_edge(sql, position)
        if edge is None:
            return len(sql)
        depth += 1 if edge.group() == "/*" else -1
        position = edge.end()
    return position

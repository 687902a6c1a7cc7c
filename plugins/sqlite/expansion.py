"""How large a statement becomes once views and common table expressions are put in their places.

SQLite copies a view's statement to wherever it is named, and that of a ``WITH`` too, so that ten
short texts, each of which names the one before twice, become a thousand. While it does so it
cannot be interrupted, and its authorizer is not asked; that a process has only so much memory
ends it after seconds. So the texts are counted before, by the names in them: what is copied is
at least named. A column that is called as a view counts as one, which does no harm, as long
as what is allowed is far beyond what people write.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from .authorizer import Ended

COPIED_BYTES = 1024 * 1024
"""Of text that is copied into one statement: up to a third of a second."""

TOKENS_BETWEEN_CHECKS = 4096
"""Some milliseconds: a text may have hundreds of thousands."""

_TOKEN = re.compile(
    r"""
    --[^\n]* | /\*.*?(?:\*/|\Z)                   # comments
    | "(?P<double>(?:[^"]|"")*)" | '(?P<single>(?:[^']|'')*)'   # SQLite takes either for a name
    | `(?P<back>[^`]*)` | \[(?P<square>[^\]]*)\]
    | (?P<word>[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
    | (?P<bracket>[()])
    """,
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    name: str
    """In lower case; or a bracket."""
    start: int
    end: int


class Expansion:
    """The views and triggers of one schema: (name, table, statement), the table for triggers."""

    def __init__(self, defined: Iterable[tuple[str, str, str]]) -> None:
        self._texts: dict[str, list[str]] = {}
        for name, table, sql in defined:
            self._texts.setdefault((table or name).lower(), []).append(sql)
        self._sizes: dict[str, int] = {}

    def copied(self, sql: str, must_end: Callable[[], bool] = lambda: False) -> int:
        """Bytes that are copied into ``sql``; 0 at once where there is nothing that could be.

        Raises:
            Ended: ``must_end``, which is asked now and then, has said so.
        """
        text = sql.lower()
        if "with" not in text and not any(name in text for name in self._texts):
            return 0
        try:
            return _Statement(sql, self, must_end).size - len(sql)
        except RecursionError:  # hundreds, each within the next
            return COPIED_BYTES + 1

    def size(self, name: str, must_end: Callable[[], bool]) -> int:
        """Bytes that stand for the name of a view, or beside that of a table."""
        if name not in self._texts:
            return 0
        if name not in self._sizes:
            self._sizes[name] = 0  # within itself
            texts = self._texts[name]
            try:
                self._sizes[name] = sum(_Statement(text, self, must_end).size for text in texts)
            except (Ended, RecursionError):
                del self._sizes[name]
                raise
        return self._sizes[name]


class _Statement:
    """One text, and what is copied into it."""

    def __init__(self, sql: str, schema: Expansion, must_end: Callable[[], bool]) -> None:
        self._schema = schema
        self._must_end = must_end
        self._tokens = list(_tokens(sql, must_end))
        self._ends = _ends(self._tokens)
        self._defining: set[int] = set()
        """Where an expression gets its name, which is no use of it."""
        self._bodies = self._find_bodies()
        by_name: dict[str, list[int]] = {}
        for opening, name in self._bodies.items():
            by_name.setdefault(name, []).append(opening)
        self._expressions: Mapping[str, list[int]] = by_name
        self._sizes: dict[str, int] = {}
        self.size = len(sql) + self._named(0, len(self._tokens))

    def _find_bodies(self) -> dict[int, str]:
        """The opening brackets of common table expressions, and their names: of
        ``name [(columns)] AS [[NOT] MATERIALIZED] (``."""
        bodies = {}
        for index, token in enumerate(self._tokens):
            if token.name != "as":
                continue
            opening = index + 1
            while opening < len(self._tokens) and self._tokens[opening].name in _HINTS:
                opening += 1
            before = index - 1
            if before >= 0 and self._tokens[before].name == ")":
                before = self._ends.get(before, 0) - 1
            if opening in self._ends and self._tokens[opening].name == "(" and before >= 0:
                bodies[opening] = self._tokens[before].name
                self._defining.add(before)
        return bodies

    def _named(self, first: int, last: int) -> int:
        """Bytes that the names between two tokens stand for, but for those in expressions'
        bodies, which count where those are named."""
        total, index = 0, first
        while index < last:
            if index in self._bodies:
                index = self._ends[index]
            elif index not in self._defining:
                name = self._tokens[index].name
                total += self._expression(name) or self._schema.size(name, self._must_end)
            index += 1
        return total

    def _expression(self, name: str) -> int:
        if name not in self._expressions:
            return 0
        if name not in self._sizes:
            self._sizes[name] = 0  # within itself
            size = 0
            for opening in self._expressions[name]:
                end = self._ends[opening]
                size += self._tokens[end].end - self._tokens[opening].start
                size += self._named(opening + 1, end)
            self._sizes[name] = size
        return self._sizes[name]


def _tokens(sql: str, must_end: Callable[[], bool]) -> Iterator[_Token]:
    for number, found in enumerate(_TOKEN.finditer(sql)):
        if number % TOKENS_BETWEEN_CHECKS == 0 and must_end():
            raise Ended
        if found.lastgroup is not None:
            yield _Token(found[found.lastgroup].lower(), found.start(), found.end())


_HINTS = {"not", "materialized"}


def _ends(tokens: list[_Token]) -> dict[int, int]:
    """For each bracket the index of the other one."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    for index, token in enumerate(tokens):
        if token.name == "(":
            opened.append(index)
        elif token.name == ")" and opened:
            ends[index] = opened.pop()
            ends[ends[index]] = index
    return ends

"""A YAML file as values that know where they are written.

It is read from the parser's events: PyYAML's own composer recurses without a bound (in C, until
the process crashes), lets the last of two equal keys win, and puts no bound to aliases. YAML
1.1's surprises (base-60 and octal numbers, dates) become ``Unreadable`` values, reported with
their path when the types are checked. No message here shows a value: it may be a secret.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import yaml
from yaml.constructor import SafeConstructor
from yaml.reader import Reader
from yaml.resolver import Resolver

from prism.config.errors import ConfigError, Mark, Path, Report

MAX_DEPTH = 64
"""Levels of nesting; far beyond any real file, well inside Python's stack."""
MAX_VALUES = 200_000
"""Keys and values in one file, those of an alias as often as it is used (billion laughs)."""

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that cannot be used, whatever was expected there; says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Node:
    """One value, and where it is written. ``depth`` counts levels, 1 for a scalar.

    ``written`` is the text of an unquoted scalar, empty for anything else.
    """

    value: "Scalar | list[Node] | dict[str, Entry] | Unreadable"
    mark: Mark = (0, 0)
    written: str = ""
    depth: int = 1

    def plain(self) -> Any:
        """The value as dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {name: entry.value.plain() for name, entry in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


class Entry(NamedTuple):
    """A key of a mapping, and its value."""

    key: Node
    value: Node


@dataclass(frozen=True, slots=True)
class Place:
    """A value of the file, written or not, for a rule to look at and to point at.

    Where it is not written, ``node`` is the nearest block above, so that a message has a line.
    """

    report: Report
    node: Node
    path: Path = ()
    is_written: bool = True

    def __getitem__(self, step: str | int) -> "Place":
        """The place below this one: of a key, or of an item of a list."""
        value, path = self.node.value, (*self.path, step)
        if self.is_written and isinstance(step, str) and isinstance(value, dict) and step in value:
            return Place(self.report, value[step].value, path)
        if self.is_written and isinstance(step, int) and isinstance(value, list):
            return Place(self.report, value[step], path)
        return Place(self.report, self.node, path, is_written=False)

    def below(self) -> "list[Place]":
        """The places of a mapping's values or of a list's items; none where neither is written."""
        value = self.node.value if self.is_written else None
        if isinstance(value, dict):
            return [self[name] for name in value]
        return [self[index] for index in range(len(value))] if isinstance(value, list) else []

    def items(self) -> "list[Place]":
        """The places of a list's items; none where no list is written."""
        return self.below() if isinstance(self.node.value, list) else []

    def written_keys(self) -> set[str]:
        """The keys of a mapping that have a value: not null."""
        places = self.below() if isinstance(self.node.value, dict) else []
        return {str(place.path[-1]) for place in places if place.node.value is not None}

    @property
    def line(self) -> int:
        """The line to point at, from 1."""
        return self.node.mark[0]

    @property
    def is_sound(self) -> bool:
        """Whether everything at and below this place is usable."""
        return self.report.is_sound(self.path)

    def error(self, message: str) -> None:
        """Say what is wrong here."""
        self.report.error(self.node.mark, self.path, message)

    def warning(self, message: str) -> None:
        """Say what is probably not meant here."""
        self.report.warning(self.node.mark, self.path, message)


# -- reading YAML -------------------------------------------------------------

_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null"))
_COLLECTION_TAGS = frozenset((None, "!", _TAG + "map", _TAG + "seq"))
_TOML_LINE = re.compile(r"""\[{1,2}[\w."-]+\]{1,2}|[\w.-]+ *= *["\d\[{tf'].*""")
_TOML_REFUSED = "this looks like TOML; the configuration is YAML: `key: value`, blocks indented"
_OCTAL = re.compile(r"[-+]?0[0-7_]+\Z")
_BEGINNING = (yaml.ScalarEvent, yaml.SequenceStartEvent, yaml.MappingStartEvent)
_TAG_REFUSED = "YAML tags are not supported; a value that begins with ! must be in quotes"
_KEY_REFUSED = 'a key must be text; if this is a "{{ secret:name }}" placeholder, put it in quotes'

# libyaml where PyYAML was built with it: 20 times faster, same events.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(text: str, report: Report) -> Node | None:
    """The one document in ``text``; ``None`` for a text without any value.

    Keys that are wrong in themselves go to ``report``, and the reading goes on.

    Raises:
        ConfigError: the text is not YAML, or beyond ``MAX_DEPTH`` or ``MAX_VALUES``; has the
            problems found before, too.
    """
    text = text.removeprefix("\ufeff")
    try:
        control = Reader.NON_PRINTABLE.search(text)
        if control is not None:
            before = text[: control.start()]
            mark = before.count("\n") + 1, len(before) - before.rfind("\n")
            code = f"U+{ord(control.group()):04X}"
            raise _Stop(mark, f"the character {code} is not allowed in YAML")
        root = _Reader(text, report).document()
        if root is None or isinstance(root.value, dict) or not _is_toml(text):
            return root
        raise _Stop((1, 1), _TOML_REFUSED)
    except yaml.MarkedYAMLError as error:
        mark = _mark(error.problem_mark or error.context_mark)
        message = _TOML_REFUSED if _is_toml(text) else _syntax_problem(text, mark, error)
    except _Stop as stop:
        mark, message = stop.args
    report.error(mark, (), message)
    raise ConfigError(report.errors)


class _Stop(Exception):
    """Reading on has no sense: where, and why."""


def _mark(mark: Any) -> Mark:
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _stop(event: yaml.Event, message: str) -> _Stop:
    return _Stop(_mark(event.start_mark), message)


def _is_toml(text: str) -> bool:
    """Whether the first line that says something is TOML's: a ``[table]``, or ``key = value``."""
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    return _TOML_LINE.fullmatch(first) is not None


def _syntax_problem(text: str, mark: Mark, error: yaml.MarkedYAMLError) -> str:
    line, column = mark
    written = "".join(text.splitlines()[line - 1 : line])
    if "\t" in written[: len(written) - len(written.lstrip())]:
        return "a tab in the indentation; YAML allows spaces only"
    here = written[column - 1 : column]
    if here in ("@", "`", "%"):
        return f"a value cannot begin with {here}; put it in quotes"
    if (error.problem or "").startswith("mapping values are not allowed"):
        if ": " in written[: column - 1]:
            return 'a second ": " on this line; put a text that has one in quotes'
        return "a key cannot stand deeper than a value before it; indent it like its neighbours"
    if "tag" in (error.problem or ""):
        return _TAG_REFUSED  # PyYAML's own sentence would show what may be a password
    context = f" ({error.context})" if error.context else ""
    return f"not valid YAML: {error.problem}{context}"


class _Scalars(SafeConstructor, Resolver):
    """PyYAML's rules for what an unquoted word means."""

    def __init__(self) -> None:
        SafeConstructor.__init__(self)
        Resolver.__init__(self)

    def read(self, event: yaml.ScalarEvent) -> Scalar | Unreadable:
        """The scalar's value."""
        tag, text, plain = event.tag, event.value, not event.style
        if tag is None or tag == "!":
            # The stubs of PyYAML leave its types out.
            tag = self.resolve(yaml.ScalarNode, text, event.implicit)  # type: ignore[no-untyped-call]
        kind = tag.removeprefix(_TAG)
        if plain and kind in ("value", "merge"):
            return text
        if plain and kind == "timestamp":
            return Unreadable("YAML reads this as a date; put it in quotes")
        if tag not in _SCALAR_TAGS:
            return Unreadable(_TAG_REFUSED)
        if "\0" in text:  # no path, program, variable or host can hold it
            return Unreadable("the character U+0000 is not supported")
        if kind in ("int", "float") and ":" in text:
            reads = "YAML reads this as a number in base 60"
            return Unreadable(f"{reads}; put it in quotes if it is text")
        if kind == "int" and _OCTAL.match(text):
            reads = "YAML reads a number with a leading 0 as octal"
            return Unreadable(f"{reads}; put it in quotes, or drop the 0")
        try:
            value: Scalar = self.construct_object(yaml.ScalarNode(tag, text))
        except (ValueError, KeyError):
            return Unreadable(f"this is no value of the YAML type {kind}")
        if isinstance(value, float) and not math.isfinite(value):
            return Unreadable("infinity and NaN are not supported")
        return value


class _Reader:
    """Reads one document, top down.

    ``_count`` is the number of keys and values so far, those of aliases included; what it grows by
    while a value is read is the size of that value.
    """

    def __init__(self, text: str, report: Report) -> None:
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_Loader)
        self._report = report
        self._scalars = _Scalars()
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._count = 0

    def document(self) -> Node | None:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.NodeEvent):
                root = self._read(event, ())
            elif isinstance(event, yaml.DocumentStartEvent) and root is not None:
                raise _stop(event, "only one YAML document per file (no second ---)")
        empty = root is None or (root.value is None and not root.written)
        return None if empty else root

    def _read(self, event: yaml.Event, path: Path) -> Node:
        """The value that begins with ``event``, to its end."""
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        assert isinstance(event, _BEGINNING)  # noqa: S101 - no other begins a value
        before = self._count
        self._grow(1, event)
        mark = _mark(event.start_mark)
        if isinstance(event, yaml.ScalarEvent):
            written = "" if event.style else event.value
            node = Node(self._scalars.read(event), mark, written)
        else:
            if len(path) >= MAX_DEPTH:
                raise _stop(event, f"nested deeper than {MAX_DEPTH} levels")
            is_list = isinstance(event, yaml.SequenceStartEvent)
            value, depth = self._list(path) if is_list else self._mapping(path)
            usable = event.tag in _COLLECTION_TAGS
            node = Node(value if usable else Unreadable(_TAG_REFUSED), mark, depth=depth + 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = node, self._count - before
        return node

    def _alias(self, event: yaml.AliasEvent, path: Path) -> Node:
        if event.anchor not in self._anchors:
            hint = "a value that begins with * must be in quotes"
            raise _stop(event, f"this alias has no anchor that ends before it; {hint}")
        node, size = self._anchors[event.anchor]
        if len(path) + node.depth > MAX_DEPTH:
            raise _stop(event, f"nested deeper than {MAX_DEPTH} levels, aliases included")
        self._grow(size, event)
        return node

    def _grow(self, size: int, event: yaml.Event) -> None:
        self._count += size
        if self._count > MAX_VALUES:
            raise _stop(event, f"more than {MAX_VALUES} keys and values, aliases included")

    def _list(self, path: Path) -> tuple[list[Node], int]:
        """The items, and the depth of the deepest."""
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._read(event, (*path, len(items))))
        return items, max((item.depth for item in items), default=0)

    def _mapping(self, path: Path) -> tuple[dict[str, Entry] | Unreadable, int]:
        """The entries, and the depth of the deepest."""
        entries: dict[str, Entry] = {}
        merged: list[Node] = []
        usable, depth = True, 0
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._read(event, (*path, "?"))
            name = key.value if isinstance(key.value, str) else key.written
            value = self._read(next(self._events), (*path, name))
            depth = max(depth, key.depth, value.depth)
            if isinstance(key.value, list | dict):
                usable = False
            elif key.written == "<<":
                merged.append(value)
            elif isinstance(key.value, Unreadable):
                self._fault(key, path, key.value.reason)
            elif name in entries:
                line, column = entries[name].key.mark
                message = f"the key is here twice; first at line {line}, column {column}"
                self._fault(key, (*path, name), message)
            else:
                if not isinstance(key.value, str):
                    self._fault(key, path, "this key is not text; put it in quotes")
                entries[name] = Entry(Node(name, key.mark), value)
        # What is written beside a merge key wins, then the earlier merge.
        for node in merged:
            for source in node.value if isinstance(node.value, list) else [node]:
                if not isinstance(source.value, dict):
                    self._fault(node, path, "<< takes a mapping or a list of mappings")
                    continue
                for name, entry in source.value.items():
                    entries.setdefault(name, entry)
        return (entries if usable else Unreadable(_KEY_REFUSED)), depth

    def _fault(self, node: Node, path: Path, message: str) -> None:
        """Something wrong with a key, after which the reading goes on."""
        self._report.error(node.mark, path, message, usable=True)

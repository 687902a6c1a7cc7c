"""From YAML text to a tree of nodes, with the language's traps closed.

Built from the parser's events instead of PyYAML's own composer, which recurses,
lets the last of two equal keys win, and expands aliases without a bound. YAML
1.1's surprises (base-60 and octal numbers, dates) become ``Unreadable`` values,
reported later with their path; no message here shows a value, which may be a secret.
"""

import math
import re
from dataclasses import dataclass, field

import yaml
from yaml.constructor import SafeConstructor
from yaml.reader import Reader
from yaml.resolver import Resolver

from prism.config.errors import ConfigError, ConfigProblem
from prism.config.nodes import Entry, Node, Scalar, Unreadable, clip

MAX_DEPTH = 64
"""Levels of nesting; far beyond any real file, well inside Python's stack."""

MAX_NODES = 100_000
"""Values in one file, each alias counted as often as it is used (billion laughs)."""

_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null"))
_COLLECTION_TAGS = frozenset((_TAG + "map", _TAG + "seq", "!"))
_OCTAL = re.compile(r"[-+]?0[0-7_]+\Z")
_PLACEHOLDER_HINT = 'if this is a "{{ secret:name }}" placeholder, put it in quotes'
_TAG_REFUSED = "YAML tags are not supported; a value that begins with ! must be in quotes"

# libyaml where PyYAML was built with it: 20 times faster, same events.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Scalars(SafeConstructor, Resolver):
    """PyYAML's rules for what an unquoted word means."""

    def __init__(self) -> None:
        SafeConstructor.__init__(self)
        Resolver.__init__(self)


@dataclass
class _Open:
    """A list or mapping whose end has not been read yet."""

    event: yaml.CollectionStartEvent
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    merged: list[Node] = field(default_factory=list)
    key: Node | None = None
    unreadable: Unreadable | None = None


def parse_tree(text: str, file: str) -> tuple[Node | None, list[ConfigProblem]]:
    """The tree of the one document in ``text``, and the problems that did not stop the reading.

    The tree is ``None`` for a text without any value.

    Raises:
        ConfigError: the text is not YAML, or beyond ``MAX_DEPTH`` or ``MAX_NODES``.
    """
    text = text.removeprefix("\ufeff")
    control = Reader.NON_PRINTABLE.search(text)
    if control:
        before = text[: control.start()]
        line, column = before.count("\n") + 1, control.start() - before.rfind("\n")
        problem = f"the character U+{ord(control.group()):04X} is not allowed in YAML"
        raise ConfigError([ConfigProblem(file, line, column, "", problem)])
    builder = _Builder(file)
    try:
        for event in yaml.parse(text, Loader=_Loader):
            builder.feed(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        sentence = _syntax_problem(text, line, column, error)
        raise ConfigError([ConfigProblem(file, line + 1, column + 1, "", sentence)]) from None
    return builder.root, builder.problems


def _syntax_problem(text: str, line: int, column: int, error: yaml.MarkedYAMLError) -> str:
    lines = text.splitlines()
    written = lines[line] if line < len(lines) else ""
    if "\t" in written[: len(written) - len(written.lstrip())]:
        return "a tab in the indentation; YAML allows spaces only"
    here = written[column : column + 1]
    if here in ("@", "`", "%"):
        return f"a value cannot begin with {here}; put it in quotes"
    if "tag" in (error.problem or ""):
        return _TAG_REFUSED  # PyYAML's own sentence would show what may be a password
    context = f" ({error.context})" if error.context else ""
    return f"not valid YAML: {error.problem}{context}"


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (0, 0)


class _Builder:
    """Takes the parser's events one by one; afterwards ``root`` is the tree."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.root: Node | None = None
        self.problems: list[ConfigProblem] = []
        self._documents = 0
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node] = {}
        self._scalars = _Scalars()

    def feed(self, event: yaml.Event) -> None:
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise self._stop(event, "only one YAML document per file (no second ---)")
            case yaml.ScalarEvent():
                self._add(self._scalar(event), event)
            case yaml.AliasEvent():
                self._add(self._alias(event), event)
            case yaml.CollectionStartEvent():
                if len(self._stack) >= MAX_DEPTH:
                    raise self._stop(event, f"nested deeper than {MAX_DEPTH} levels")
                self._stack.append(_Open(event))
            case yaml.CollectionEndEvent():
                opened = self._stack.pop()
                self._add(self._close(opened), opened.event)
            case _:
                pass  # stream and document ends say nothing about values

    def _scalar(self, event: yaml.ScalarEvent) -> Node:
        line, column = _place(event)
        plain = event.style is None or event.style == ""
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._scalars.resolve(yaml.ScalarNode, event.value, event.implicit)  # type: ignore[no-untyped-call]
        written = event.value if plain else ""
        if tag in (_TAG + "value", _TAG + "merge") and plain:
            return Node(event.value, line, column, written)
        return Node(self._value(tag, event.value, plain), line, column, written)

    def _value(self, tag: str, text: str, plain: bool) -> Scalar | Unreadable:
        if tag == _TAG + "timestamp" and plain:
            return Unreadable("YAML reads this as a date; put it in quotes")
        if tag not in _SCALAR_TAGS:
            return Unreadable(_TAG_REFUSED)
        if "\0" in text:  # no path, program, variable or host can hold it
            return Unreadable("the character U+0000 is not supported")
        if tag in (_TAG + "int", _TAG + "float") and ":" in text:
            return Unreadable(
                "YAML reads this as a number in base 60; put it in quotes if it is text"
            )
        if tag == _TAG + "int" and _OCTAL.match(text):
            return Unreadable(
                "YAML reads a number with a leading 0 as octal; put it in quotes, or drop the 0"
            )
        try:
            value = self._scalars.construct_object(yaml.ScalarNode(tag, text))
        except (ValueError, KeyError):
            return Unreadable(f"this is no value of the YAML type {tag.removeprefix(_TAG)}")
        if isinstance(value, float) and not math.isfinite(value):
            return Unreadable("infinity and NaN are not supported")
        assert value is None or isinstance(value, str | int | float)  # noqa: S101 - for mypy
        return value

    def _alias(self, event: yaml.AliasEvent) -> Node:
        node = self._anchors.get(event.anchor or "")
        if node is not None:
            return node
        if any(opened.event.anchor == event.anchor for opened in self._stack):
            raise self._stop(event, "an alias cannot stand inside the value it repeats")
        raise self._stop(
            event, "this alias has no anchor; a value that begins with * must be in quotes"
        )

    def _close(self, opened: _Open) -> Node:
        event = opened.event
        line, column = _place(event)
        if event.tag is not None and event.tag not in _COLLECTION_TAGS:
            opened.unreadable = Unreadable(_TAG_REFUSED)
        if opened.unreadable is not None:
            return Node(opened.unreadable, line, column)
        value: list[Node] | dict[str, Entry]
        if isinstance(event, yaml.SequenceStartEvent):
            value = children = opened.items
        else:
            self._merge(opened)
            value = opened.entries
            children = [entry.value for entry in value.values()]
        size = 1 + sum(child.size for child in children)
        depth = 1 + max((child.depth for child in children), default=0)
        if size > MAX_NODES:
            raise self._stop(event, f"more than {MAX_NODES} values, aliases included")
        if depth > MAX_DEPTH:
            raise self._stop(event, f"nested deeper than {MAX_DEPTH} levels, aliases included")
        return Node(value, line, column, size=size, depth=depth)

    def _merge(self, opened: _Open) -> None:
        """Merge keys (<<): what is written beside them wins, then the earlier merge."""
        for merged in opened.merged:
            sources = merged.value if isinstance(merged.value, list) else [merged]
            for source in sources:
                if not isinstance(source.value, dict):
                    self._problem(merged, "<< takes a mapping or a list of mappings")
                    continue
                for key, entry in source.value.items():
                    opened.entries.setdefault(key, entry)

    def _add(self, node: Node, event: yaml.NodeEvent) -> None:
        """Put a finished value where it belongs."""
        if event.anchor and not isinstance(event, yaml.AliasEvent):
            self._anchors[event.anchor] = node
        if not self._stack:
            empty = node.value is None and not node.written
            self.root = None if empty else node
            return
        opened = self._stack[-1]
        if isinstance(opened.event, yaml.SequenceStartEvent):
            opened.items.append(node)
        elif opened.key is None:
            opened.key = node
        else:
            self._add_entry(opened, opened.key, node)
            opened.key = None

    def _add_entry(self, opened: _Open, key: Node, value: Node) -> None:
        if isinstance(key.value, list | dict):
            opened.unreadable = Unreadable(f"a key must be text; {_PLACEHOLDER_HINT}")
            return
        if key.written == "<<":
            opened.merged.append(value)
            return
        name = key.value if isinstance(key.value, str) else key.written
        if isinstance(key.value, Unreadable):
            self._problem(key, key.value.reason)
            return
        if not isinstance(key.value, str):
            self._problem(key, "this key is not text; put it in quotes")
            key = Node(name, key.line, key.column)
        earlier = opened.entries.get(name)
        if earlier is not None:
            place = f"line {earlier.key.line}, column {earlier.key.column}"
            self._problem(key, f"the key {clip(name)} is here twice; first at {place}")
            return
        opened.entries[name] = Entry(key, value)

    def _problem(self, node: Node, message: str) -> None:
        self.problems.append(ConfigProblem(self.file, node.line, node.column, "", message))

    def _stop(self, event: yaml.Event, message: str) -> ConfigError:
        """An error after which reading on has no sense, with what was found before."""
        problem = ConfigProblem(self.file, *_place(event), "", message)
        return ConfigError([*self.problems, problem])

"""Check a tree of nodes against a Struct, and report everything that does not fit.

msgspec stops at the first error and knows no lines. This walks the same types
(``msgspec.inspect``) and accepts exactly what ``msgspec.convert`` accepts; a
property test holds the two together. Only the types that ``prism.config.types``
uses are known; another one is a TypeError, in every test.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from prism.config.nodes import Entry, Node, Path, Unreadable, clip
from prism.config.report import Report
from prism.config.wording import advice, expected, found

SHORT_LIST = 12
"""Up to so many accepted keys are listed even beside a suggestion."""


@cache
def type_of(struct: type[msgspec.Struct]) -> inspect.Type:
    """``msgspec.inspect.type_info``, kept."""
    return inspect.type_info(struct)


def check_types(root: Node, struct: type[msgspec.Struct], report: Report) -> None:
    """Report every place where ``root`` does not fit ``struct``."""
    check_types_at(root, struct, (), report)


def check_types_at(node: Node, struct: type[msgspec.Struct], path: Path, report: Report) -> None:
    """The same for a part of the file: ``node`` stands at ``path``."""
    _Check(report).check(node, type_of(struct), path, private=False)


class _Check:
    def __init__(self, report: Report) -> None:
        self.report = report

    def check(self, node: Node, kind: inspect.Type, path: Path, *, private: bool) -> None:
        """Report what is wrong with ``node``; with ``private``, without showing values."""
        if isinstance(kind, inspect.Metadata):
            private = private or bool((kind.extra or {}).get("private"))
            self._check_form(node, kind, path, private)
        elif isinstance(node.value, Unreadable):
            self.report.error(node, path, node.value.reason)
        elif isinstance(kind, inspect.UnionType):
            self._check_union(node, kind, path, private)
        elif isinstance(kind, inspect.AnyType):
            self._check_any(node, path)
        elif not _same_kind(node, kind):
            self._mismatch(node, kind, path, private)
        elif isinstance(kind, inspect.StructType):
            assert isinstance(node.value, dict)  # noqa: S101 - _same_kind says so
            self._check_struct(node, node.value, kind, path, private)
        elif isinstance(kind, inspect.DictType):
            assert isinstance(node.value, dict)  # noqa: S101
            for name, entry in node.value.items():
                self.check(entry.key, kind.key_type, (*path, name), private=False)
                self.check(entry.value, kind.value_type, (*path, name), private=private)
        elif isinstance(kind, inspect.ListType):
            assert isinstance(node.value, list)  # noqa: S101
            if kind.min_length and len(node.value) < kind.min_length:
                self.report.error(node, path, "the list is empty")
            for index, item in enumerate(node.value):
                self.check(item, kind.item_type, (*path, index), private=private)
        elif not _fits(node.value, kind):
            self._mismatch(node, kind, path, private)

    def _check_form(self, node: Node, kind: inspect.Metadata, path: Path, private: bool) -> None:
        """A type with words for its pattern, or one without."""
        form = (kind.extra or {}).get("form")
        if form is None or not isinstance(node.value, str) or _fits(node.value, kind.type):
            self.check(node, kind.type, path, private=private)
        else:
            self.report.error(node, path, f"expected {form}, found {found(node, private)}")

    def _check_union(self, node: Node, kind: inspect.UnionType, path: Path, private: bool) -> None:
        for member in kind.types:
            if _same_kind(node, member):
                self.check(node, member, path, private=private)
                return
        self._mismatch(node, kind, path, private)

    def _check_struct(
        self,
        node: Node,
        entries: dict[str, Entry],
        kind: inspect.StructType,
        path: Path,
        private: bool,
    ) -> None:
        fields = {field.encode_name: field for field in kind.fields}
        missing = [name for name, f in fields.items() if f.required and name not in entries]
        for name, entry in entries.items():
            if name in fields:
                self.check(entry.value, fields[name].type, (*path, name), private=private)
            else:
                self.report.error(entry.key, (*path, name), unknown_key(name, kind))
        for name in missing:
            self.report.error(node, path, f'the required key "{name}" is missing')

    def _check_any(self, node: Node, path: Path) -> None:
        """Anything that JSON can carry; the words that YAML turns into booleans draw a warning."""
        value = node.value
        if isinstance(value, Unreadable):
            self.report.error(node, path, value.reason)
        elif isinstance(value, dict):
            for name, entry in value.items():
                self._check_any(entry.value, (*path, name))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                self._check_any(item, (*path, index))
        elif isinstance(value, bool) and node.written.lower() in ("yes", "no", "on", "off"):
            meaning = "true" if value else "false"
            self.report.warning(
                node,
                path,
                f"YAML reads {node.written} as {meaning}; write {meaning}, "
                f'or put it in quotes if you mean the word: "{node.written}"',
            )

    def _mismatch(self, node: Node, kind: inspect.Type, path: Path, private: bool) -> None:
        # Text where a block belongs is often "key:value" without its space: show no values.
        private = private or expected(kind) in ("a mapping", "a list")
        message = f"expected {expected(kind)}, found {found(node, private)}"
        self.report.error(node, path, message + advice(node, kind, private))


def unknown_key(name: str, kind: inspect.StructType) -> str:
    """The message for a key that the block does not have."""
    names = [field.encode_name for field in kind.fields]
    close = suggest(name, names)
    if close:
        accepted = f" (accepted: {', '.join(names)})" if len(names) <= SHORT_LIST else ""
        return f'unknown key; did you mean "{close}"?{accepted}'
    for field in kind.fields:
        inner = _struct_in(field.type)
        if inner is not None and any(f.encode_name == name for f in inner.fields):
            return f'unknown key; "{clip(name)}" belongs inside "{field.encode_name}"'
    return f"unknown key (accepted: {', '.join(names)})"


def suggest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that ``word`` is probably a misspelling of."""
    matches = get_close_matches(word[:64].lower().replace("-", "_"), list(choices), 1, 0.7)
    return matches[0] if matches else None


def _struct_in(kind: inspect.Type) -> inspect.StructType | None:
    match kind:
        case inspect.Metadata(type=inner):
            return _struct_in(inner)
        case inspect.UnionType(types=members):
            return next((s for s in map(_struct_in, members) if s is not None), None)
        case inspect.StructType():
            return kind
        case _:
            return None


def _same_kind(node: Node, kind: inspect.Type) -> bool:
    """Whether the value is of the type's JSON kind, constraints aside."""
    value = node.value
    match kind:
        case inspect.Metadata(type=inner):
            return _same_kind(node, inner)
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool)
        case inspect.FloatType():
            return isinstance(value, int | float) and not isinstance(value, bool)
        case inspect.StrType() | inspect.LiteralType():
            return isinstance(value, str)
        case inspect.NoneType():
            return value is None
        case inspect.ListType():
            return isinstance(value, list)
        case inspect.DictType() | inspect.StructType():
            return isinstance(value, dict)
        case _:
            raise TypeError(f"{kind} is not known here")


def _fits(value: Any, kind: inspect.Type) -> bool:
    """Whether a scalar of the right kind meets the type's constraints."""
    match kind:
        case inspect.IntType() | inspect.FloatType():
            return not (
                (kind.gt is not None and value <= kind.gt)
                or (kind.ge is not None and value < kind.ge)
                or (kind.le is not None and value > kind.le)
            )
        case inspect.StrType():
            return not (
                (kind.min_length is not None and len(value) < kind.min_length)
                or (kind.pattern is not None and re.search(kind.pattern, value) is None)
            )
        case inspect.LiteralType():
            return value in kind.values
        case _:
            return True

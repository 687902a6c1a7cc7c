"""A configuration file as a tree in which every value knows where it is written."""

from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that cannot be used, whatever was expected there; says why."""

    reason: str


Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Node:
    """One value. ``line`` and ``column`` count from 1.

    ``written`` is the text of an unquoted scalar, empty for anything else.
    ``size`` (nodes) and ``depth`` (levels) count this node and all below it, each
    alias as often as it is used.
    """

    value: "Scalar | list[Node] | dict[str, Entry] | Unreadable"
    line: int = 0
    column: int = 0
    written: str = ""
    size: int = 1
    depth: int = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a mapping, and its value."""

    key: Node
    value: Node


Path: TypeAlias = tuple[str | int, ...]


def path_text(path: Path) -> str:
    """``("namespaces", 0, "plugin")`` as ``namespaces[0].plugin``."""
    parts: list[str] = []
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        else:
            parts.append(f".{clip(step)}" if parts else clip(step))
    return "".join(parts)


def clip(text: str, length: int = 40) -> str:
    """``text`` on one line, cut to ``length`` characters."""
    line = "".join(c if c.isprintable() else " " for c in text[: length + 1])
    return line if len(line) <= length else line[: length - 1] + "…"


def find(root: Node, path: Path) -> Node:
    """The node at ``path``, or the nearest one above it that was written."""
    node = root
    for step in path:
        if isinstance(node.value, dict) and step in node.value:
            node = node.value[str(step)].value
        elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
        else:
            break
    return node


def to_plain(node: Node) -> Any:
    """The tree's values as dicts, lists and scalars."""
    if isinstance(node.value, dict):
        return {key: to_plain(entry.value) for key, entry in node.value.items()}
    if isinstance(node.value, list):
        return [to_plain(item) for item in node.value]
    return node.value

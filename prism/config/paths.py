"""Relative paths in a configuration start at the file's own directory."""

from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import msgspec
from msgspec import inspect

from prism.config.typecheck import type_of
from prism.config.types import CataloguePlugin, Config, Launch, PluginConfig

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def absolute_paths(config: Config, directory: Path) -> Config:
    """``config`` with every path absolute and every ``command`` a list.

    A command runs in ``directory`` unless it says where, so that file names among its
    arguments start there too. Its program is a path only if it has a slash. A command line whose
    quotes do not match stays as it is, for the rules to report.
    """
    return _block(config, directory)


def _block(block: _Struct, directory: Path) -> _Struct:
    kind = type_of(type(block))
    assert isinstance(kind, inspect.StructType)  # noqa: S101 - for mypy
    changes = {
        field.name: _value(getattr(block, field.name), field.type, directory)
        for field in kind.fields
    }
    if isinstance(block, Launch) and block.command:
        changes["command"] = _command(block, directory)
    if _starts_program(block) and block.working_directory is None:
        changes["working_directory"] = str(directory)
    return msgspec.structs.replace(block, **changes)


def _starts_program(block: msgspec.Struct) -> TypeGuard[Launch]:
    """Whether it is for this block, not for one that it is merged with, to say where it runs."""
    if isinstance(block, CataloguePlugin):
        return block.type == "sidecar"
    return isinstance(block, PluginConfig) and block.command is not None


def _value(value: Any, kind: inspect.Type, directory: Path) -> Any:
    if isinstance(value, msgspec.Struct):
        return _block(value, directory)
    if isinstance(value, str) and is_path(kind):
        return str(directory / value)
    if isinstance(value, list):
        return [_value(item, inspect.AnyType(), directory) for item in value]
    if isinstance(value, dict):
        return {key: _value(item, inspect.AnyType(), directory) for key, item in value.items()}
    return value


def is_path(kind: inspect.Type) -> bool:
    """Whether the type is marked as a file-system path."""
    match kind:
        case inspect.Metadata(type=inner, extra=extra):
            return bool((extra or {}).get("path")) or is_path(inner)
        case inspect.UnionType(types=members):
            return any(is_path(member) for member in members)
        case _:
            return False


def _command(block: Launch, directory: Path) -> list[str] | str | None:
    try:
        program, *arguments = block.argv
    except ValueError:
        return block.command
    return [str(directory / program) if "/" in program else program, *arguments]

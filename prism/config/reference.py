"""The reference page of the configuration, generated from the types."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import NODEFAULT, inspect

from prism.config.base import NAME_PATTERN
from prism.config.errors import ConfigError
from prism.config.loading import parse_config
from prism.config.paths import is_path
from prism.config.reference_samples import BROKEN, PLUGIN_FORMS, SMALLEST
from prism.config.typecheck import type_of
from prism.config.types import CataloguePlugin, CatalogueVersion, Config, Launch
from prism.config.wording import expected

_INTRODUCTION = """\
# Configuration reference

<!-- Generated from the types in prism/config/types*.py; do not edit. -->

Prism reads one YAML file. This is enough to start with:

```yaml
{smallest}```

- Unknown keys, wrong types and values out of range are refused, all in one message.
- A relative path starts at the directory of the configuration file.
- Nothing is taken from the environment.
- Names of namespaces and plugins have 1 to 63 lower-case letters, digits and hyphens.
- `schemas/config.schema.json` is a JSON Schema of this page, for editors.
- `examples/config/` has whole files, for several kinds of plugin and for a catalogue.
"""

_SECRETS = """\
## Secrets

Passwords have their place in `credentials`, as `"{{ secret:name }}"` (in quotes), alone or inside
a longer value. Prism reads the file `name` in `secrets.directory` whenever it starts an instance of
the plugin, so a reload picks up a rotated secret. Newlines at the end of the file are dropped.
Anywhere else a placeholder is an error, and a password written out draws a warning. No message
and no log shows a value of `credentials`, `config` or `environment`.
"""

_YAML = """\
## YAML's traps

The file is YAML 1.1. A word that YAML would turn into something else is refused where text is
expected: `yes`, `no`, `on`, `off`, `12345`, `1.2`, dates. Put it in quotes. Refused everywhere:
numbers such as `50:51` (base 60) and `0600` (octal), infinity and NaN, a key given twice, tags such
as `!!python/object`, a second document. Anchors, aliases and merge keys (`<<`) work, within 100,000
values and 64 levels. A file may have 1 MiB.
"""


def reference_markdown() -> str:
    """The text of ``docs/configuration.md``."""
    parts = [_INTRODUCTION.format(smallest=SMALLEST), "## Top level\n"]
    root = type_of(Config)
    assert isinstance(root, inspect.StructType)  # noqa: S101 - for mypy
    parts.append(_table(root))
    for path, block in _blocks(root, ""):
        parts.append(f"## `{path}`\n")
        parts.append(_describe(block))
    parts.append("## Ways to describe a plugin\n")
    for title, explanation, sample in PLUGIN_FORMS:
        parts.append(f"### {title}\n\n{explanation}\n\n```yaml\n{sample}```\n")
    parts.extend((_SECRETS, _YAML, _messages()))
    return "\n".join(parts)


def _blocks(block: inspect.StructType, path: str) -> Iterator[tuple[str, inspect.StructType]]:
    """Every block below, in the order of the keys; plugins' start keys only once."""
    for field in block.fields:
        if block.cls is CataloguePlugin and field.name in Launch.__struct_fields__:
            continue
        found = _block_in(field.type)
        if found is not None:
            suffix, inner = found
            here = f"{path}.{field.name}{suffix}" if path else f"{field.name}{suffix}"
            yield here, inner
            if inner.cls is not CatalogueVersion:
                yield from _blocks(inner, here)


def _block_in(kind: inspect.Type) -> tuple[str, inspect.StructType] | None:
    match kind:
        case inspect.Metadata(type=inner):
            return _block_in(inner)
        case inspect.StructType():
            return "", kind
        case inspect.ListType(item_type=inspect.StructType() as item):
            return "[]", item
        case inspect.DictType(value_type=inspect.StructType() as item):
            return ".<version>", item
        case inspect.UnionType(types=members):
            return next((b for b in map(_block_in, members) if b is not None), None)
        case _:
            return None


def _describe(block: inspect.StructType) -> str:
    sentence = f"{(block.cls.__doc__ or '').splitlines()[0]}\n"
    start_keys = ", ".join(f"`{name}`" for name in Launch.__struct_fields__)
    if block.cls is CatalogueVersion:
        return f"{sentence}\nKeys, as in `namespaces[].plugin`: {start_keys}.\n"
    if block.cls is CataloguePlugin:
        table = _table(block, leave_out=Launch.__struct_fields__)
        return f"{sentence}\n{table}\nAnd, as in `namespaces[].plugin`: {start_keys}.\n"
    return f"{sentence}\n{_table(block)}"


def _table(block: inspect.StructType, leave_out: tuple[str, ...] = ()) -> str:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    # A plugin's identity first; inheritance puts the start keys before it.
    first = ("name", "version", "type")
    for field in sorted(block.fields, key=lambda field: field.name not in first):
        if field.name not in leave_out:
            cells = (f"`{field.name}`", _value(field), _default(field), _meaning(field))
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _value(field: inspect.Field) -> str:
    """The type, with the unit that the key's name ends in."""
    kind = _bare(field.type)
    unit = next((u for u in ("seconds", "bytes") if field.name.endswith(f"_{u}")), "")
    match kind:
        case inspect.IntType(ge=ge, le=le):
            return f"{unit}, {ge} to {le}" if unit else f"{ge} to {le}"
        case inspect.FloatType(le=le):
            return f"{unit}, above 0, up to {le:g}"
        case inspect.LiteralType(values=values):
            return ", ".join(f"`{value}`" for value in values)
        case inspect.StructType():
            return "block"
        case inspect.ListType(item_type=inspect.StructType()):
            return "list of blocks"
        case inspect.DictType(value_type=inspect.StructType()):
            return "blocks by name"
        case inspect.StrType(pattern=pattern) if pattern == NAME_PATTERN:
            return "name"
        case inspect.StrType() if is_path(field.type):
            return "path"
        case _:
            return expected(field.type).replace(" that is not empty", "")


def _bare(kind: inspect.Type) -> inspect.Type:
    """Without metadata and ``None``."""
    if isinstance(kind, inspect.Metadata):
        return _bare(kind.type)
    if isinstance(kind, inspect.UnionType):
        return next(_bare(m) for m in kind.types if not isinstance(m, inspect.NoneType))
    return kind


def _default(field: inspect.Field) -> str:
    if field.required:
        return "**required**"
    default: Any = field.default
    if default is None or default == "":
        return "none"
    if default is NODEFAULT:
        return "empty"
    if isinstance(default, msgspec.Struct):
        return "as below"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, float):
        return f"`{default:g}`"
    mebibytes = default // 1024**2 if isinstance(default, int) else 0
    return f"`{default}`" + (f" ({mebibytes} MiB)" if mebibytes else "")


def _meaning(field: inspect.Field) -> str:
    kind = field.type
    assert isinstance(kind, inspect.Metadata)  # noqa: S101 - a test holds that all have one
    schema = kind.extra_json_schema or {}
    types = (kind.extra or {}).get("types", ())
    scope = f"*{', '.join(types)}:* " if types else ""
    return scope + str(schema["description"])


def _messages() -> str:
    try:
        parse_config(BROKEN, "prism.yaml")
    except ConfigError as error:
        output = str(error)
    return (
        f"## What a mistake looks like\n\nThis file\n\n```yaml\n{BROKEN}```\n\n"
        f"is refused with\n\n```text\n{output}\n```\n"
    )

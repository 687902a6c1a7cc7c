"""The ``config:`` of a built-in plugin, which is read like the rest of the file.

What a plugin's settings are, only the plugin knows, and most plugins are not run to
be asked. Those that come with Prism and run inside it are: their ``Config`` type is
checked with every problem in its place, and its paths start at the configuration's
directory as all others do.
"""

import importlib
from pathlib import Path as FilePath

import msgspec
from msgspec import NODEFAULT, inspect

from prism.config.catalogue import resolve_plugin
from prism.config.nodes import Node, Path, find
from prism.config.paths import is_path
from prism.config.report import Report
from prism.config.typecheck import check_types_at, type_of
from prism.config.types import Config, NamespaceConfig, PluginConfig

PACKAGE = "prism_plugins."
NO_FILE = ":memory:"
"""What databases call a database that has no file."""


def config_type(plugin: PluginConfig) -> type[msgspec.Struct] | None:
    """The type of the ``config:`` of a plugin that comes with Prism and runs inside it."""
    module, _, name = (plugin.module or "").partition(":")
    if not module.startswith(PACKAGE) or plugin.path is not None:
        return None
    kind = getattr(importlib.import_module(module), name, None)
    config: type[msgspec.Struct] | None = getattr(kind, "Config", None)
    return config


def check_config(plugin: PluginConfig, root: Node, path: Path, report: Report) -> None:
    """Report what is wrong with the ``config:`` at ``path``, if its type is known."""
    kind = config_type(plugin)
    if kind is not None and report.sound(path):
        check_types_at(find(root, path), kind, path, report)


def with_absolute_paths(config: Config, directory: FilePath) -> Config:
    """``config`` with the paths in the ``config:`` of built-in plugins absolute."""
    namespaces = [_namespace(config, namespace, directory) for namespace in config.namespaces]
    return msgspec.structs.replace(config, namespaces=namespaces)


def _namespace(config: Config, namespace: NamespaceConfig, directory: FilePath) -> NamespaceConfig:
    kind = config_type(resolve_plugin(config, namespace))
    if kind is None:
        return namespace
    info = type_of(kind)
    assert isinstance(info, inspect.StructType)  # noqa: S101 - for mypy
    settings = dict(namespace.config)
    for field in info.fields:
        default = None if field.default is NODEFAULT else field.default
        value = settings.get(field.encode_name, default)
        if is_path(field.type) and isinstance(value, str) and value != NO_FILE:
            settings[field.encode_name] = str(directory / value)
    return msgspec.structs.replace(namespace, config=settings)

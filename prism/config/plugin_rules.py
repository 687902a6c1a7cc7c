"""Rules for plugins: which keys go together, and whether they can be used."""

import msgspec
from msgspec import inspect

from prism.config.catalogue import PLACEHOLDER, needs_version
from prism.config.launch import PluginType
from prism.config.nodes import Node, Path, find
from prism.config.report import Report
from prism.config.typecheck import type_of
from prism.config.types import CataloguePlugin, Launch, PluginConfig
from prism.streams.addresses import (
    WebSocketURL,
    check_socket_path,
    is_loopback,
    parse_endpoint,
)

START_KEYS = {
    "in_process": ("module", "library"),
    "sidecar": ("command", "socket"),
    "remote": ("endpoint",),
    "grpc": ("endpoint",),
    "websocket": ("endpoint",),
}
"""The keys of which an inline plugin of a type has exactly one."""


def check_plugin(plugin: PluginConfig, root: Node, path: Path, report: Report) -> None:
    """A namespace's ``plugin`` block."""
    node = find(root, path)
    written = _written(root, path)
    if plugin.type is None:
        _check_reference(root, path, report)
        return
    for key in ("name", "version"):
        if key in written:
            message = f'"{key}" refers to the catalogue and cannot stand beside "type"'
            report.error(find(root, (*path, key)), (*path, key), message)
    _check_keys(plugin.type, written, PluginConfig, root, path, report)
    startable = any(key in written for key in START_KEYS[plugin.type])
    if not startable and report.sound(path):
        names = " or ".join(f'"{key}"' for key in START_KEYS[plugin.type])
        report.error(node, path, f"type {plugin.type} needs {names}")
    if plugin.mode == "0660" and plugin.group is None:
        report.error(find(root, (*path, "mode")), (*path, "mode"), 'mode "0660" needs a "group"')
    if plugin.dial and (plugin.group or plugin.mode):
        message = "with dial: true the plugin makes the socket, so group and mode are its own"
        report.error(find(root, (*path, "dial")), (*path, "dial"), message)
    if plugin.socket is not None:
        _check_socket_path(plugin.socket, root, (*path, "socket"), report)
    _check_placeholder(plugin, "a version: only catalogue plugins have", root, path, report)
    check_launch(plugin, plugin.type, root, path, report)


def check_catalogue_plugin(entry: CataloguePlugin, root: Node, path: Path, report: Report) -> None:
    """An entry of ``plugins``, and each of its versions."""
    common = _written(root, path)
    places: list[tuple[Path, Launch]] = [
        ((*path, "versions", name), launch) for name, launch in entry.versions.items()
    ]
    starts = [key for key in START_KEYS[entry.type] if key != "socket"]
    names = " or ".join(f'"{key}"' for key in starts)
    _check_keys(entry.type, common, CataloguePlugin, root, path, report, alone=not places)
    if not places:
        _check_placeholder(entry, '"versions"', root, path, report)
    for place, launch in places or [(path, entry)]:
        written = common | _written(root, place)
        if places:
            _check_keys(entry.type, written, Launch, root, place, report)
        if report.sound(place) and not any(key in written for key in starts):
            report.error(find(root, place), place, f"type {entry.type} needs {names}")
        if report.sound(place):
            check_launch(launch, entry.type, root, place, report, entry)


def check_launch(
    launch: Launch,
    kind: PluginType,
    root: Node,
    path: Path,
    report: Report,
    common: Launch | None = None,
) -> None:
    """That the command can be split and the endpoint used; ``common`` fills what is not set."""
    common = common or launch
    try:
        empty = launch.command is not None and not "".join(launch.argv[:1])
        problem = "the command names no program" if empty else ""
    except ValueError as error:
        problem = f"the command cannot be split into words: {error}".lower()
    if problem:
        report.error(find(root, (*path, "command")), (*path, "command"), problem)
    endpoint = launch.endpoint or common.endpoint
    tls = launch.tls or common.tls
    if tls is not None and (tls.cert is None) != (tls.key is None):
        message = '"cert" and "key" go together'
        report.error(find(root, (*path, "tls")), (*path, "tls"), message)
    if endpoint is None:
        return
    secure = tls is not None and tls.enabled
    try:
        if kind == "websocket" and "://" in endpoint:
            secure, host, _, _ = WebSocketURL.parse(endpoint)
        else:
            host, _ = parse_endpoint(endpoint)
    except ValueError as error:
        report.error(find(root, (*path, "endpoint")), (*path, "endpoint"), str(error))
        return
    if secure:
        return
    message = ""
    if not is_loopback(host):
        message = f"{host} is not this machine: add a `tls` block (plain text only to loopback)"
    elif not (launch.insecure or common.insecure):
        message = 'plain text needs "insecure: true", or add a `tls` block'
    if message:
        report.error(find(root, (*path, "endpoint")), (*path, "endpoint"), message)


def _check_reference(root: Node, path: Path, report: Report) -> None:
    """A plugin named from the catalogue: start keys are the catalogue's business."""
    extras = _extras(PluginConfig)
    for key in sorted(_written(root, path)):
        types = extras[key].get("types")
        if types:
            where = (*path, key)
            if "name" in _written(root, path):
                message = f'"{key}" cannot stand beside "name"; it belongs into the catalogue'
            else:
                message = f'"{key}" needs "type: {types[0]}" beside it'
            report.error(find(root, where), where, message)


def _check_keys(
    plugin_type: str,
    written: set[str],
    struct: type[msgspec.Struct],
    root: Node,
    path: Path,
    report: Report,
    *,
    alone: bool = True,
) -> None:
    """Keys of other types, keys without their companion, two ways to start.

    With ``alone=False`` only the first: versions may bring the companions.
    """
    extras = _extras(struct)
    here = _written(root, path)
    for key in sorted(here & extras.keys()):
        types, needs = extras[key].get("types"), extras[key].get("needs")
        message = ""
        if types and plugin_type not in types:
            names = " or ".join(types)
            message = f'"{key}" belongs to type {names}, not {plugin_type}'
        elif alone and needs and not written & set(needs):
            names = " or ".join(f'"{name}"' for name in needs)
            message = f'"{key}" means nothing without {names}'
        if message:
            report.error(find(root, (*path, key)), (*path, key), message)
    starts = [key for key in START_KEYS[plugin_type] if key in written]
    if alone and len(starts) > 1:
        where = (*path, starts[1])
        message = f'either "{starts[0]}" or "{starts[1]}", not both'
        report.error(find(root, where), where, message)


def _check_placeholder(launch: Launch, needs: str, root: Node, path: Path, report: Report) -> None:
    key = needs_version(launch)
    if key is not None:
        where = (*path, key)
        report.error(find(root, where), where, f"{PLACEHOLDER} means nothing without {needs}")


def _check_socket_path(socket: str, root: Node, path: Path, report: Report) -> None:
    try:
        check_socket_path(socket)
    except ValueError as error:
        report.error(find(root, path), path, str(error))


def _written(root: Node, path: Path) -> set[str]:
    """The keys of the block at ``path`` that are there and not null."""
    parent = find(root, path[:-1]).value
    step = path[-1]
    present = (isinstance(parent, dict) and step in parent) or isinstance(parent, list)
    block = find(root, path).value
    if not present or not isinstance(block, dict):
        return set()
    return {key for key, entry in block.items() if entry.value.value is not None}


def _extras(struct: type[msgspec.Struct]) -> dict[str, dict[str, tuple[str, ...]]]:
    kind = type_of(struct)
    assert isinstance(kind, inspect.StructType)  # noqa: S101 - for mypy
    return {
        field.name: (field.type.extra or {}) if isinstance(field.type, inspect.Metadata) else {}
        for field in kind.fields
    }

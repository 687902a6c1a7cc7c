"""Rules that concern several keys, checked on whatever part of the file has sound types."""

import os.path
from datetime import date
from pathlib import Path as FilePath
from typing import Any

import msgspec

from prism.config.admin_rules import NO_HOST, check_admin
from prism.config.built_in import check_config, with_absolute_paths
from prism.config.catalogue import BUILT_IN, UnknownPlugin, UnknownVersion, resolve_plugin
from prism.config.nodes import Node, Path, find, to_plain
from prism.config.paths import absolute_paths
from prism.config.plugin_rules import check_catalogue_plugin, check_plugin
from prism.config.report import Report
from prism.config.types import Config, NamespaceConfig
from prism.config.verification import is_weak, public_bytes
from prism.streams.addresses import can_be_listened_on, is_loopback


def check_rules(root: Node, report: Report, directory: FilePath) -> Config | None:
    """Report what is wrong beyond types; the ``Config`` if nothing is wrong at all."""
    config, namespaces, plugins = _sound_part(root, report)
    config = absolute_paths(config, directory)
    _check_listeners(config, root, report)
    _check_unique_names(root, report)
    _check_trusted_keys(config, root, report)
    for index, entry in zip(plugins, config.plugins, strict=True):
        check_catalogue_plugin(entry, root, ("plugins", index), report)
    sockets: dict[str, Path] = {}
    for index, namespace in zip(namespaces, config.namespaces, strict=True):
        path = ("namespaces", index)
        check_plugin(namespace.plugin, root, (*path, "plugin"), report)
        _check_namespace(namespace, root, path, report)
        _check_socket_unique(namespace, sockets, root, path, report)
        _check_resolves(config, namespace, root, path, report)
    if not config.namespaces and report.sound(()):
        report.warning(root, (), "there are no namespaces, so clients can reach nothing")
    return None if report.errors else with_absolute_paths(config, directory)


def _sound_part(root: Node, report: Report) -> tuple[Config, list[int], list[int]]:
    """What can be converted, and where its namespaces and catalogue entries stand in the file."""
    plain: dict[str, Any] = to_plain(root) if isinstance(root.value, dict) else {}
    kept = {key: value for key, value in plain.items() if report.sound((key,))}
    for block in ("listen", "admin"):
        keys = plain.get(block)
        if isinstance(keys, dict):
            kept[block] = {key: keys[key] for key in keys if report.sound((block, key))}
    indices: dict[str, list[int]] = {"namespaces": [], "plugins": []}
    for block, sound in indices.items():
        items = plain.get(block)
        if isinstance(items, list):
            sound += [index for index in range(len(items)) if report.sound((block, index))]
            kept[block] = [items[index] for index in sound]
    config = msgspec.convert(kept, Config)
    return config, indices["namespaces"], indices["plugins"]


def _check_listeners(config: Config, root: Node, report: Report) -> None:
    listen, admin = config.listen, config.admin
    path: Path = ("listen", "address")
    node = find(root, path)
    if not can_be_listened_on(listen.address):
        report.error(node, path, NO_HOST)
    elif not is_loopback(listen.address) and not config.insecure and report.sound(("insecure",)):
        message = (
            f"{listen.address} can be reached from other machines, and clients are not "
            'authenticated; use 127.0.0.1, or accept it with "insecure: true" at the top level'
        )
        report.error(node, path, message)
    if not admin.enabled:
        return
    check_admin(config, root, report)
    if listen.port == admin.port != 0 and listen.address == admin.address:
        path = ("admin", "port")
        report.error(find(root, path), path, f"port {admin.port} is already that of `listen`")


def _check_unique_names(root: Node, report: Report) -> None:
    for block in ("namespaces", "plugins"):
        items = find(root, (block,)).value
        first: dict[str, Node] = {}
        for index in range(len(items) if isinstance(items, list) else 0):
            path = (block, index, "name")
            node = find(root, path)
            if not isinstance(node.value, str):
                continue
            earlier = first.setdefault(node.value, node)
            if earlier is not node:
                message = f'the name "{node.value}" is taken by line {earlier.line}'
                report.error(node, path, message)


def _check_trusted_keys(config: Config, root: Node, report: Report) -> None:
    """Days exist, and keys and their names are given once."""
    first: dict[str, Node] = {}
    for index, key in enumerate(config.verification.trusted_keys):
        path: Path = ("verification", "trusted_keys", index)
        for field, text in (("name", key.name), ("key", key.key)):
            node = find(root, (*path, field))
            earlier = first.setdefault(text, node)
            if earlier is not node:
                message = f"the {field} is taken by line {earlier.line}"
                report.error(node, (*path, field), message)
        if is_weak(public_bytes(key.key)):
            message = "no private key belongs to this, and anybody could sign for it"
            report.error(find(root, (*path, "key")), (*path, "key"), message)
        try:
            date.fromisoformat(key.expires or "2000-01-01")
        except ValueError:
            where = (*path, "expires")
            report.error(find(root, where), where, f"there is no day {key.expires}")
    policy = config.verification.policy
    if policy == "require" and not config.verification.trusted_keys:
        where = ("verification", "policy")
        message = '"require" needs "trusted_keys" beside it; without one no plugin could start'
        report.error(find(root, where), where, message)


def _check_namespace(namespace: NamespaceConfig, root: Node, path: Path, report: Report) -> None:
    limits = namespace.limits
    if limits.timeout_seconds > limits.max_timeout_seconds:
        where = (*path, "limits", "timeout_seconds")
        message = (
            f"{limits.timeout_seconds:g} seconds is more than max_timeout_seconds, "
            f"which is {limits.max_timeout_seconds:g}"
        )
        report.error(find(root, where), where, message)
    frame = namespace.plugin.max_frame_bytes
    if limits.max_payload_bytes > frame:
        where = (*path, "limits", "max_payload_bytes")
        message = (
            f"{limits.max_payload_bytes} bytes do not fit into a frame; "
            f"the plugin's max_frame_bytes is {frame}"
        )
        report.error(find(root, where), where, message)


def _check_socket_unique(
    namespace: NamespaceConfig, sockets: dict[str, Path], root: Node, path: Path, report: Report
) -> None:
    if namespace.plugin.socket is None:
        return
    where = (*path, "plugin", "socket")
    node = find(root, where)
    earlier = sockets.setdefault(os.path.normpath(namespace.plugin.socket), where)
    if earlier != where:
        line = find(root, earlier).line
        message = f"the socket is taken by line {line}; each namespace needs its own"
        report.error(node, where, message)


def _check_resolves(
    config: Config, namespace: NamespaceConfig, root: Node, path: Path, report: Report
) -> None:
    """The plugin's name and version exist, and its config fits, as far as it is known.

    Not asked where the answer may be hidden by errors.
    """
    name = namespace.plugin.name or namespace.backend
    if not report.sound(("plugins",)) or not report.sound((*path, "plugin")):
        return
    try:
        plugin = resolve_plugin(config, namespace)
        if plugin.unsupported is not None:
            where: Path = (*path, "plugin")
            report.warning(find(root, where), where, f"it cannot start: {plugin.unsupported}")
        if namespace.config:
            check_config(plugin, root, (*path, "config"), report)
    except UnknownPlugin as error:
        if isinstance(error, UnknownVersion) and namespace.plugin.version is not None:
            where = (*path, "plugin", "version")
        elif namespace.plugin.name is not None:
            where = (*path, "plugin", "name")
        else:
            where = (*path, "backend")
        named = namespace.plugin.name or name in BUILT_IN or isinstance(error, UnknownVersion)
        hint = "" if named else "; or describe it in `plugin:`"
        report.error(find(root, where), where, f"{error}{hint}")

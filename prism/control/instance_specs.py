"""What the supervision needs to know of a configuration: a spec for each namespace."""

from functools import partial
from pathlib import Path

import msgspec

from prism.config import Credentials, UnresolvedPlugin, resolve_plugin
from prism.config.types import Config, NamespaceConfig, PluginConfig
from prism.contract.errors import UnknownVersion
from prism.supervision.instance import InstanceSpec


def instance_specs(config: Config) -> list[InstanceSpec]:
    """One spec for each namespace of ``config``."""
    return [instance_spec(namespace, config) for namespace in config.namespaces]


def instance_spec(namespace: NamespaceConfig, config: Config) -> InstanceSpec:
    """What the supervision needs to know of ``namespace``'s plugin."""
    plugin = resolve_plugin(config, namespace)
    return InstanceSpec(
        namespace=namespace.name,
        backend=namespace.backend,
        plugin_name=namespace.plugin.name or namespace.backend,
        plugin=plugin,
        config_json=msgspec.json.encode(namespace.config).decode(),
        credentials=Credentials(namespace.credentials, Path(config.secrets.directory)),
        verification=config.verification,
        at_version=partial(_plugin_at_version, config, namespace),
    )


def _plugin_at_version(config: Config, namespace: NamespaceConfig, version: str) -> PluginConfig:
    try:
        return resolve_plugin(config, namespace, version)
    except UnresolvedPlugin as error:
        raise UnknownVersion(f"namespace {namespace.name!r}: {error}") from None

"""Which plugin a namespace means: inline, from the catalogue, or built in."""

import importlib
import re
from typing import Any, Literal

import msgspec

from prism.config.plugin_types import Endpoint
from prism.config.types import CataloguePlugin, Config, Launch, NamespaceConfig, PluginConfig
from prism.contract.settings import did_you_mean

BUILT_IN = {
    "sqlite": CataloguePlugin(
        name="sqlite", type="in_process", module="prism_plugins.sqlite:SQLitePlugin"
    ),
    "postgres": CataloguePlugin(
        name="postgres", type="in_process", module="prism_plugins.postgres:PostgresPlugin"
    ),
    "redis": CataloguePlugin(
        name="redis", type="in_process", module="prism_plugins.redis:RedisPlugin"
    ),
    # Threads of its own, which would take turns with the proxy's.
    "kafka": CataloguePlugin(
        name="kafka", type="sidecar", command=["python", "-m", "prism_plugins.kafka"]
    ),
}
"""Plugins that come with Prism; a catalogue entry of the same name goes first."""
PACKAGE = "prism_plugins."
"""Where their modules are."""

PLACEHOLDER = "{version}"
"""Stands for the version's name in the keys of a catalogue entry."""
VERSIONED = (
    "command",
    "endpoint",
    "entry",
    "file",
    "library",
    "module",
    "path",
    "signature",
    "working_directory",
)
"""The keys in which the placeholder is replaced."""


_UNSET = Launch()


class UnresolvedPlugin(LookupError):
    """The catalogue does not have the plugin; says what it has.

    ``key`` is the key of ``plugin`` that is at fault.
    """

    def __init__(self, message: str, key: Literal["name", "version"] = "name") -> None:
        super().__init__(message)
        self.key = key


def resolve_plugin(
    config: Config, namespace: NamespaceConfig, version: str | None = None
) -> PluginConfig:
    """The namespace's plugin with its ``type`` and start keys filled in.

    ``version`` replaces the configured one (a reload with ``--version``); name
    and version stay readable on the result. An inline plugin is its own result.

    Raises:
        UnresolvedPlugin: the catalogue has no such plugin, or not in this version.
    """
    plugin = namespace.plugin
    if plugin.type is not None:
        if version is not None:
            raise UnresolvedPlugin("the plugin is written inline, so it has no versions", "version")
        return plugin
    name = plugin.name or namespace.backend
    entry = next((e for e in config.plugins if e.name == name), None) or BUILT_IN.get(name)
    if entry is None:
        raise UnresolvedPlugin(_no_such_plugin(name, config))
    chosen = _choose_version(entry, version or plugin.version)
    return msgspec.structs.replace(
        plugin, name=name, version=chosen, type=entry.type, **launch_keys(entry, chosen)
    )


def shadow_as_namespace(namespace: NamespaceConfig) -> NamespaceConfig | None:
    """The namespace's shadow, as the namespace that it would be by itself; None without one.

    Its name is the namespace's, which its plugin is told.
    """
    shadow = namespace.shadow
    if shadow is None:
        return None
    plugin = namespace.plugin if shadow.plugin is None else shadow.plugin
    if plugin.name is None and plugin.type is None:
        plugin = msgspec.structs.replace(plugin, name=namespace.plugin.name)
    return msgspec.structs.replace(
        namespace,
        plugin=plugin,
        config=namespace.config if shadow.config is None else shadow.config,
        credentials=namespace.credentials if shadow.credentials is None else shadow.credentials,
        shadow=None,
        record=None,
        cache=None,
    )


def launch_keys(entry: CataloguePlugin, version: str | None) -> dict[str, Any]:
    """How this version starts: the entry's keys, replaced one by one by the version's.

    ``{version}`` in them is replaced by the version's name.
    """
    launches: list[Launch] = [entry]
    if version is not None:
        launches.append(entry.versions[version])
    keys = {
        name: getattr(launch, name)
        for launch in launches
        for name in Launch.__struct_fields__
        if launch is entry or getattr(launch, name) != getattr(_UNSET, name)
    }
    if version is not None:
        for name in VERSIONED:
            keys[name] = _with_version(keys[name], _spelled(version, name))
    return keys


def _spelled(version: str, key: str) -> str:
    """The version as it is put into ``key``: a module's name can have no dots of its own."""
    return re.sub(r"[^A-Za-z0-9]", "_", version) if key == "module" else version


def _with_version(value: Any, version: str) -> Any:
    if isinstance(value, list):
        return [_with_version(item, version) for item in value]
    if isinstance(value, Endpoint):
        return msgspec.structs.replace(value, address=_with_version(value.address, version))
    return value.replace(PLACEHOLDER, version) if isinstance(value, str) else value


def needs_version(launch: Launch) -> str | None:
    """The first key of ``launch`` that has a placeholder in it, if one has."""
    return next((name for name in VERSIONED if PLACEHOLDER in str(getattr(launch, name))), None)


def _choose_version(entry: CataloguePlugin, version: str | None) -> str | None:
    versions = ", ".join(entry.versions)
    if not entry.versions:
        if version is not None:
            raise UnresolvedPlugin(
                f'version "{version}" of plugin "{entry.name}" is not in the catalogue; '
                "the plugin has no versions there",
                "version",
            )
        return None
    if version is None and len(entry.versions) > 1:
        raise UnresolvedPlugin(f'the plugin "{entry.name}" needs a version, one of: {versions}')
    chosen = version or next(iter(entry.versions))
    if chosen not in entry.versions:
        verb = "is" if len(entry.versions) == 1 else "are"
        raise UnresolvedPlugin(
            f'version "{chosen}" of plugin "{entry.name}" is not in the catalogue; '
            f"there {verb} {versions}",
            "version",
        )
    return chosen


def _no_such_plugin(name: str, config: Config) -> str:
    names = [entry.name for entry in config.plugins]
    hint = did_you_mean(name, [*names, *BUILT_IN])
    catalogue = ", ".join(names) or "nothing"
    return (
        f'there is no plugin "{name}"{hint} '
        f"(the catalogue has: {catalogue}; built in: {', '.join(BUILT_IN)})"
    )


def _comes_with_prism(plugin: PluginConfig) -> tuple[str, str] | None:
    """Module and class of a plugin that comes with Prism, inside it or as a process of its own;
    the class is empty where the module's only one is meant."""
    if plugin.path is not None:
        return None
    module, _, name = (plugin.module or "").partition(":")
    if plugin.command is not None and plugin.argv[:2] == ["python", "-m"]:
        module = "".join(plugin.argv[2:3])
    return (module, name) if module.startswith(PACKAGE) else None


def _load(plugin: PluginConfig) -> type[Any] | None:
    """The class of a plugin that comes with Prism; None for another.

    Raises:
        ImportError: it is not installed whole.
    """
    known = _comes_with_prism(plugin)
    if known is None:
        return None
    module = importlib.import_module(known[0])
    name = known[1] or next(each for each in module.__all__ if each != "Config")
    kind: type[Any] | None = getattr(module, name, None)
    return kind


def plugin_class(plugin: PluginConfig) -> type[Any] | None:
    """The class of a plugin that comes with Prism.

    What others are, only their own code knows, and that is not run to be asked.
    """
    try:
        return _load(plugin)
    except ImportError:  # see `missing_library`
        return None


def missing_library(plugin: PluginConfig) -> str | None:
    """What a plugin that comes with Prism lacks to run, in its own words."""
    try:
        _load(plugin)
    except ImportError as error:
        return str(error)
    return None


def config_type(plugin: PluginConfig) -> type[msgspec.Struct] | None:
    """The type of the ``config:`` of a plugin that comes with Prism; its driver need not be there.

    ``contract.settings`` has what such a type says beside its fields.
    """
    known = _comes_with_prism(plugin)
    if known is None:
        return None
    try:
        package = importlib.import_module(".".join(known[0].split(".")[:2]))
    except ImportError:
        return None
    config: type[msgspec.Struct] | None = getattr(package, "Config", None)
    return config

"""Which plugin a namespace means: inline, from the catalogue, or built in."""

import msgspec

from prism.contract.config import CataloguePlugin, Config, Launch, NamespaceConfig, PluginConfig
from prism.core.config.typecheck import suggest

BUILT_IN = {
    "sqlite": CataloguePlugin(
        name="sqlite", type="in_process", module="prism_plugins.sqlite:SQLitePlugin"
    )
}
"""Plugins that come with Prism; a catalogue entry of the same name goes first."""


class UnknownPlugin(LookupError):
    """The catalogue has no such plugin, or not in this version; says what it has."""


def resolve_plugin(
    config: Config, namespace: NamespaceConfig, version: str | None = None
) -> PluginConfig:
    """The namespace's plugin with its ``type`` and start keys filled in.

    ``version`` replaces the configured one (a reload with ``--version``); name
    and version stay readable on the result. An inline plugin is its own result.

    Raises:
        UnknownPlugin: the catalogue has no such plugin or version.
    """
    plugin = namespace.plugin
    if plugin.type is not None:
        if version is not None:
            raise UnknownPlugin("the plugin is written inline, so it has no versions")
        return plugin
    name = plugin.name or namespace.backend
    entry = next((e for e in config.plugins if e.name == name), None) or BUILT_IN.get(name)
    if entry is None:
        raise UnknownPlugin(_no_such_plugin(name, config))
    chosen = _choose_version(entry, version or plugin.version)
    return msgspec.structs.replace(
        plugin, name=name, version=chosen, type=entry.type, **launch_keys(entry, chosen)
    )


def launch_keys(entry: CataloguePlugin, version: str | None) -> dict[str, object]:
    """How this version starts: the entry's keys, replaced one by one by the version's."""
    launches: list[Launch] = [entry]
    if version is not None:
        launches.append(entry.versions[version])
    return {
        field.name: getattr(launch, field.name)
        for launch in launches
        for field in msgspec.structs.fields(Launch)
        if launch is entry or getattr(launch, field.name) not in (None, False, {})
    }


def _choose_version(entry: CataloguePlugin, version: str | None) -> str | None:
    versions = ", ".join(entry.versions)
    if not entry.versions:
        if version is not None:
            raise UnknownPlugin(f'the plugin "{entry.name}" has no versions')
        return None
    if version is None and len(entry.versions) > 1:
        raise UnknownPlugin(f'the plugin "{entry.name}" needs a version, one of: {versions}')
    chosen = version or next(iter(entry.versions))
    if chosen not in entry.versions:
        raise UnknownPlugin(
            f'the plugin "{entry.name}" has no version "{chosen}"; it has: {versions}'
        )
    return chosen


def _no_such_plugin(name: str, config: Config) -> str:
    names = [entry.name for entry in config.plugins]
    close = suggest(name, [*names, *BUILT_IN])
    hint = f'; did you mean "{close}"?' if close else ""
    catalogue = ", ".join(names) or "nothing"
    return (
        f'there is no plugin "{name}"{hint} '
        f"(the catalogue has: {catalogue}; built in: {', '.join(BUILT_IN)})"
    )

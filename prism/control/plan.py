"""What a configuration asks of a running proxy, and what another one would change.

Plain values and functions. Namespaces, with their plugins, change as one or not at all; the
rest of the file takes effect in the same moment where ``AT_ONCE`` says so, and what remains is
for the next process, which a rolling restart starts without losing a call.

The file says what is wanted only where it has changed: a namespace whose entry is as before
keeps the version that an operator chose for it with a reload.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace as replace_spec
from functools import partial
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from prism.config import LoadedConfig, UnresolvedPlugin, resolve_plugin
from prism.config.catalogue import shadow_as_namespace
from prism.config.secrets import as_written, redact
from prism.config.types import (
    CacheConfig,
    Config,
    IsolationConfig,
    NamespaceConfig,
    PluginConfig,
)
from prism.contract.errors import UnknownVersion
from prism.contract.messages import CacheSettings
from prism.isolation.policy import policy_of
from prism.secrets import Secrets
from prism.supervision.apply import Action, Change
from prism.supervision.instance import InstanceSpec, shadow_name
from prism.supervision.status import Receipt

AT_ONCE = (
    "handover_timeout_seconds",
    "isolation",
    "limits_store",
    "log.level",
    "plugins",
    "secrets",
    "shedding",
    "verification",
)
"""Settings of the whole process that a running one takes over: these, and all below them."""


# -- what operators are told: frozen values ---------------------------------------


class Difference(msgspec.Struct, frozen=True):
    """A key whose value differs: what it is, and what it would be; null where it is not set.

    Secrets are `***` on both sides.
    """

    key: str
    old: Any
    new: Any


class NamespaceChange(msgspec.Struct, frozen=True):
    """What becomes of one namespace.

    ``update``: its limits, access or texts change, its plugin goes on. ``restart``: its plugin may
    not run twice, so that calls wait. ``note`` says where it runs what the file does not say.
    ``differences`` are those of its entry in the file, with its plugin as the catalogue has it.
    """

    namespace: str
    action: Action | Literal["update"]
    note: str = ""
    differences: list[Difference] = []


class SettingChange(msgspec.Struct, frozen=True):
    """A setting of the whole process that differs: ``setting`` is its path in the file.

    ``old`` and ``new`` as in ``Difference``.
    """

    setting: str
    takes_effect: Literal["now", "at restart"]
    old: Any = None
    new: Any = None


class ConfigPlan(msgspec.Struct, frozen=True):
    """What applying the file, as it is now, would do."""

    file: str
    changes: list[NamespaceChange]
    settings: list[SettingChange]
    warnings: list[str]


class ConfigOutcome(msgspec.Struct, frozen=True):
    """How an application went: all of it took effect, or, with ``failures``, nothing did.

    ``failures`` maps a namespace to the reason. ``receipts`` are of the plugins replaced: one
    that may not run twice, and did not come up, is ``rolled_back`` there, or ``failed`` where the
    old one did not come back. ``generation`` is the number of the configuration in use; the
    first is 1.
    """

    file: str
    applied: bool
    generation: int
    changes: list[NamespaceChange]
    settings: list[SettingChange]
    warnings: list[str]
    failures: dict[str, str]
    receipts: list[Receipt]


# -- what the supervision is asked to run -------------------------------------------


def instance_specs(config: Config, secrets: Secrets, file: str = "") -> list[InstanceSpec]:
    """One spec for each namespace of ``config``, and for its shadow; ``secrets`` reads those that
    it names. ``file`` is what ``config`` was read from, if it was."""
    specs = [instance_spec(each, config, secrets, file=file) for each in config.namespaces]
    for namespace in config.namespaces:
        shadow = shadow_as_namespace(namespace)
        if shadow is not None:
            spec = instance_spec(shadow, config, secrets, shadow_of=namespace.name, file=file)
            specs.append(spec)
    return specs


def instance_spec(
    namespace: NamespaceConfig,
    config: Config,
    secrets: Secrets,
    *,
    shadow_of: str = "",
    file: str = "",
) -> InstanceSpec:
    """What the supervision needs to know of ``namespace``'s plugin."""
    plugin = resolve_plugin(config, namespace)
    return InstanceSpec(
        namespace=shadow_name(shadow_of) if shadow_of else namespace.name,
        shadow_of=shadow_of,
        backend=namespace.backend,
        plugin_name=namespace.plugin.name or namespace.backend,
        plugin=plugin,
        config_json=msgspec.json.encode(namespace.config).decode(),
        credentials=secrets.credentials(namespace.credentials, config.secrets),
        verification=config.verification,
        at_version=partial(_plugin_at_version, config, namespace),
        cache=_cache_settings(namespace.cache),
        zone=config.zone,
        isolation=policy_of(namespace, config, file),
    )


def _cache_settings(cache: CacheConfig | None) -> CacheSettings | None:
    if cache is None:
        return None
    return CacheSettings(
        operations=list(cache.operations),
        ttl_seconds=cache.ttl_seconds,
        max_bytes=cache.max_bytes,
        write_through=cache.write_through,
    )


def _plugin_at_version(config: Config, namespace: NamespaceConfig, version: str) -> PluginConfig:
    try:
        return resolve_plugin(config, namespace, version)
    except UnresolvedPlugin as error:
        raise UnknownVersion(f"namespace {namespace.name!r}: {error}") from None


def next_specs(
    wanted: Config,
    in_use: Config,
    running: Mapping[str, InstanceSpec],
    secrets: Secrets,
    unfinished: Collection[str] = (),
    file: str = "",
) -> list[InstanceSpec]:
    """What to run for ``wanted``: what is running, where its entry is as in the file ``in_use``.

    ``unfinished`` namespaces did not get what that file asked for, so they are to get it now.
    """
    before = {spec.namespace: spec for spec in instance_specs(in_use, secrets)}
    specs = []
    for spec in instance_specs(wanted, secrets, file):
        name = spec.namespace
        if name in running and name not in unfinished and before.get(name) == spec:
            spec = replace_spec(
                running[name],
                at_version=spec.at_version,
                verification=spec.verification,
                isolation=spec.isolation,
            )
        specs.append(spec)
    return specs


# -- what would change ----------------------------------------------------------------


def make_plan(
    loaded: LoadedConfig,
    in_use: Config,
    running: Mapping[str, InstanceSpec],
    changes: Iterable[Change],
) -> ConfigPlan:
    """The plan for ``loaded``; ``changes`` are what becomes of the plugins."""
    return ConfigPlan(
        loaded.file,
        list(_namespace_changes(loaded.config, in_use, running, changes)),
        list(setting_changes(in_use, loaded.config)),
        [str(warning) for warning in loaded.warnings],
    )


def _namespace_changes(
    wanted: Config,
    in_use: Config,
    running: Mapping[str, InstanceSpec],
    changes: Iterable[Change],
) -> Iterator[NamespaceChange]:
    before = {namespace.name: namespace for namespace in in_use.namespaces}
    after = {namespace.name: namespace for namespace in wanted.namespaces}
    for change in changes:
        name = change.namespace
        both = name in before and name in after
        found = (
            list(differences(_resolved(in_use, before[name]), _resolved(wanted, after[name])))
            if both
            else []
        )
        if change.action != "stay":
            yield NamespaceChange(name, change.action, differences=found)
            continue
        if not both:  # a shadow: what of it changes is told with its namespace
            continue
        is_same = _updatable(before[name]) == _updatable(after[name])
        note = _difference(running[name].plugin, resolve_plugin(wanted, after[name]))
        yield NamespaceChange(name, "stay" if is_same else "update", note, found)


def _resolved(config: Config, namespace: NamespaceConfig) -> NamespaceConfig:
    """The namespace with its plugin as the catalogue has it."""
    return replace(namespace, plugin=resolve_plugin(config, namespace))


def _updatable(namespace: NamespaceConfig) -> NamespaceConfig:
    """What changes without the plugin noticing: all that is not for it."""
    return replace(
        namespace,
        plugin=PluginConfig(),
        config={},
        credentials={},
        cache=None,
        isolation=IsolationConfig(),
    )


def _difference(running: PluginConfig, wanted: PluginConfig) -> str:
    """Where an operator's reload made it run another version than the file says."""
    if running == wanted:
        return ""
    return (
        f"runs {running.version or 'another version'}, which a reload asked for; "
        f"the file says {wanted.version or 'otherwise'}"
    )


def setting_changes(before: Config, after: Config) -> Iterator[SettingChange]:
    """Every setting outside the namespaces that differs."""
    for found in differences(replace(before, namespaces=[]), replace(after, namespaces=[])):
        path = found.key
        at_once = any(path == one or path.startswith(f"{one}.") for one in AT_ONCE)
        yield SettingChange(path, "now" if at_once else "at restart", found.old, found.new)


def differences(before: msgspec.Struct, after: msgspec.Struct) -> Iterator[Difference]:
    """Every key that differs between two blocks of one type."""
    old, new = as_written(before), as_written(after)
    yield from _differing(old, new, redact(old), redact(new), "")


def _differing(
    old: Any, new: Any, shown_old: Any, shown_new: Any, path: str
) -> Iterator[Difference]:
    """``shown`` is what may be seen of a value. A list of named blocks is like a mapping, and
    so is one of other blocks if it is as long as before."""
    if old == new:
        return
    four = (old, new, shown_old, shown_new)
    if all(_are_blocks(one) and len(one) == len(old) for one in four):
        for number, entry in enumerate(zip(*four, strict=True)):
            yield from _differing(*entry, f"{path}[{number}]")
        return
    a, b, shown_a, shown_b = map(_by_name, four)
    if not all(isinstance(block, dict) for block in (a, b, shown_a, shown_b)):
        yield Difference(path, shown_old, shown_new)
        return
    for key in dict.fromkeys((*a, *b)):
        below = f"{path}.{key}" if path else str(key)
        yield from _differing(a.get(key), b.get(key), shown_a.get(key), shown_b.get(key), below)


def _are_blocks(value: Any) -> bool:
    """Is it a list of blocks without names?"""
    return isinstance(value, list) and all(isinstance(x, dict) and "name" not in x for x in value)


def _by_name(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(x, dict) and "name" in x for x in value):
        return {item["name"]: item for item in value}
    return value


def taken_over(in_use: Config, wanted: Config) -> Config:
    """``in_use`` with what a running process takes over from ``wanted``."""
    for path in ("namespaces", *AT_ONCE):
        block, _, key = path.partition(".")
        value = getattr(wanted, block)
        if key:
            value = replace(getattr(in_use, block), **{key: getattr(value, key)})
        in_use = replace(in_use, **{block: value})
    return in_use

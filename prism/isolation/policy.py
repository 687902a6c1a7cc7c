"""What a plugin is kept from, and what is its own, as far as a configuration says."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from prism.config.catalogue import UnresolvedPlugin, config_type, resolve_plugin
from prism.config.isolation_types import IsolationConfig
from prism.config.secrets import is_reference
from prism.config.typecheck import fields_of, meta_of
from prism.config.types import Config, NamespaceConfig, SecretsConfig

SECRET = frozenset({"file", "key", "token_file"})
"""The keys of the configuration, of those that name a file, whose files are the proxy's alone."""
SYSTEM = ("/etc", "/usr", "/run", "/var/run", "/dev", "/proc", "/sys", "/bin", "/lib", "/lib64")
"""Where files that another namespace names are for all."""

_PATH = re.compile(r"""(?<![\w/.~-])(/(?!/)[^\s:,;'"?&]+)|:///*(/[^\s:,;'"?&]+)""")


@dataclass(frozen=True)
class IsolationPolicy:
    """What is asked for a plugin's processes.

    ``closed`` are the paths that are the proxy's own or another plugin's; what the plugin itself
    was told of, it may reach nevertheless. ``sockets`` and ``ports`` are the Unix sockets and the
    TCP ports of this machine that it may connect to where it has no network otherwise.
    """

    settings: IsolationConfig = field(default_factory=IsolationConfig)
    closed: tuple[str, ...] = field(default=(), compare=False)
    sockets: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()


def policy_of(namespace: NamespaceConfig, config: Config, file: str = "") -> IsolationPolicy:
    """The policy of ``namespace``'s plugin in ``config``, which was read from ``file``."""
    closed = dict.fromkeys(_of_the_proxy(config, file))
    closed.update(dict.fromkeys(_of_others(namespace, config)))
    return IsolationPolicy(namespace.isolation.over(config.isolation), tuple(closed))


def paths_in(value: Any) -> Iterator[str]:
    """Every absolute path in the texts of ``value``, in URLs and lists of paths, too."""
    if isinstance(value, str):
        for plain, in_url in _PATH.findall(value):
            yield plain or in_url
    elif isinstance(value, dict):
        for each in value.values():
            yield from paths_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from paths_in(each)


def _of_the_proxy(config: Config, file: str) -> Iterator[str]:
    if file:
        yield str(Path(file).absolute())
    # Under its default the directory may be the plugins' own, as in containers.
    if _reads_secrets(config):
        yield config.secrets.directory
    yield from _secret_files(config)


def _secret_files(block: msgspec.Struct) -> Iterator[str]:
    """Keys, tokens, records: certificates, and whose authorities they are of, are public."""
    for name, each in fields_of(type(block)).items():
        value = getattr(block, each.name)
        below = list(value.values()) if isinstance(value, dict) else value
        for one in below if isinstance(below, list) else [value]:
            if isinstance(one, msgspec.Struct):
                yield from _secret_files(one)
        if name in SECRET and isinstance(value, str) and meta_of(each.type, "path"):
            yield value


def _reads_secrets(config: Config) -> bool:
    if config.secrets.directory != SecretsConfig().directory:
        return True
    return any(
        is_reference(text)
        for namespace in config.namespaces
        for text in namespace.credentials.values()
    )


def _of_others(mine: NamespaceConfig, config: Config) -> Iterator[str]:
    """Sockets and databases of the other namespaces: files that somebody named for their plugin."""
    for other in config.namespaces:
        if other.name == mine.name:
            continue
        if other.plugin.socket is not None:
            yield other.plugin.socket
        try:
            kind = config_type(resolve_plugin(config, other))
        except UnresolvedPlugin:
            continue
        if kind is not None:
            for name, each in fields_of(kind).items():
                value = other.config.get(name)
                if meta_of(each.type, "path") and not meta_of(each.type, "read") and value:
                    yield from paths_in(value)
            continue
        for path in paths_in(other.config):
            is_shared = any(path.startswith(f"{place}/") for place in SYSTEM)
            if not is_shared and Path(path).is_file():
                yield path

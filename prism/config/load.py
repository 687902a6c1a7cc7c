"""From a file to a ``Config``: either all of it is right, or every problem is listed.

Text -> values with their places (``document``) -> what the types say of them (``typecheck``)
-> ``Config`` -> what the rules say of that (``rules``).
"""

import stat
from contextlib import suppress
from dataclasses import dataclass, field
from dataclasses import replace as replace_field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import NODEFAULT
from msgspec.structs import replace

from prism.config.catalogue import config_type, resolve_plugin, shadow_as_namespace
from prism.config.document import Place, read_yaml
from prism.config.errors import ConfigError, ConfigProblem, Report
from prism.config.rules import check_rules
from prism.config.secrets import check_secrets
from prism.config.sharing import find_shared
from prism.config.sources import read_file, unusable
from prism.config.typecheck import Annotation, alternatives, check_types, fields_of, meta_of
from prism.config.types import (
    CataloguePlugin,
    Config,
    Launch,
    NamespaceConfig,
    PluginConfig,
    ShadowConfig,
)

MAX_PROBLEMS = 100
"""So many are listed one by one; more is a wrong file rather than wrong lines."""

LaunchType = TypeVar("LaunchType", bound=Launch)

_SMALLEST = "the smallest useful one is\n\nnamespaces:\n  - name: notes\n    backend: sqlite\n"
_NO_FILE = ":memory:"
"""What databases call a database that has no file."""


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration that can be used: paths absolute, commands split into words.

    ``warnings`` are for the operator; ``file`` is the name it was read under; ``root`` knows where
    each value is written.
    """

    config: Config
    warnings: tuple[ConfigProblem, ...]
    file: str
    root: Place | None = field(default=None, repr=False, compare=False)


def load_config(path: str | Path) -> LoadedConfig:
    """Read, check and convert the file. Blocks for as long as the disk takes.

    Raises:
        ConfigError: it cannot be read, or it is wrong; lists every problem found.
    """
    text = read_file(path)
    loaded = parse_config(text, str(path))
    mode = Path(path).stat().st_mode
    if stat.S_ISREG(mode) and mode & stat.S_IWOTH:  # by a group may be meant
        said = f"any user may change this file (mode {stat.S_IMODE(mode):04o}); chmod it to 0640"
        changeable = ConfigProblem(str(path), 0, 0, "", said)
        loaded = replace_field(loaded, warnings=(changeable, *loaded.warnings))
    return loaded


def parse_config(text: str, file: str) -> LoadedConfig:
    """Check and convert ``text``; relative paths start at the directory of ``file``.

    Raises:
        ConfigError: it is wrong; lists every problem found (the first ``MAX_PROBLEMS``
            one by one), in the file's order.
    """
    report = Report(file)
    root = read_yaml(text, report)
    if root is None:
        raise ConfigError([*report.errors, *unusable(file, f"is empty; {_SMALLEST}").problems])
    at = Place(report, root)
    check_types(at, Config)
    check_secrets(at)
    directory = Path(file).absolute().parent
    config = _convert_sound_part(at, directory)
    if config is not None:
        check_rules(config, at)
    if config is None or report.errors:
        raise ConfigError(_first(sorted(report.errors, key=_place), file))
    namespaces = [
        _with_shadow_settings(config, _with_settings(config, n, directory), directory)
        for n in config.namespaces
    ]
    config = replace(config, namespaces=namespaces)
    for place, shared in find_shared(config, at):
        place.warning(shared)
    return LoadedConfig(config, tuple(sorted(report.warnings, key=_place)), file, at)


def _first(problems: list[ConfigProblem], file: str) -> list[ConfigProblem]:
    rest = len(problems) - MAX_PROBLEMS
    if rest <= 0:
        return problems
    more = ConfigProblem(file, 0, 0, "", f"and {rest} more problem{'s' if rest > 1 else ''}")
    return [*problems[:MAX_PROBLEMS], more]


def _place(problem: ConfigProblem) -> tuple[int, int]:
    return problem.line, problem.column


def _convert_sound_part(at: Place, directory: Path) -> Config | None:
    """The part of the file whose types are right: what the rules have to say of it comes
    together with what the types have to say of the rest."""
    plain = at.node.plain()
    sound: dict[str, Any] = {}
    for name, value in plain.items() if isinstance(plain, dict) else ():
        if at[name].is_sound:
            sound[name] = value
        elif name in ("listen", "admin") and isinstance(value, dict):
            sound[name] = {key: value[key] for key in value if at[name][key].is_sound}
        elif name in ("namespaces", "plugins") and isinstance(value, list):
            places = at[name].items()
            sound[name] = [value[i] for i, place in enumerate(places) if place.is_sound]
    try:
        config = msgspec.convert(_absolute_block(sound, Config, directory), Config)
    except msgspec.ValidationError as error:  # check_types has no words for it
        at.error(str(error))
        return None
    plugins = []
    for entry in config.plugins:
        versions = {name: _startable(launch, directory) for name, launch in entry.versions.items()}
        plugins.append(replace(_startable(entry, directory), versions=versions))
    namespaces = [
        replace(
            n,
            plugin=_startable(n.plugin, directory),
            shadow=n.shadow and _startable_shadow(n.shadow, directory),
        )
        for n in config.namespaces
    ]
    return replace(config, plugins=plugins, namespaces=namespaces)


# -- paths: relative ones start at the file's own directory ---------------------


def _absolute_block(
    keys: dict[str, Any], block: type[msgspec.Struct], directory: Path
) -> dict[str, Any]:
    fields = fields_of(block)
    return {name: _absolute(keys[name], fields[name].type, directory) for name in keys}


def _absolute(value: Any, annotation: Annotation, directory: Path) -> Any:
    """``value`` with every path in it absolute, by the annotations that say what is a path."""
    for one in alternatives(annotation):
        if isinstance(value, str) and one.meta("path") and value != _NO_FILE:
            return str(directory / value)
        if isinstance(value, dict) and one.block is not None:
            return _absolute_block(value, one.block, directory)
        if isinstance(value, dict) and get_origin(one.kind) is dict:
            below = get_args(one.kind)[1]
            return {name: _absolute(item, below, directory) for name, item in value.items()}
        if isinstance(value, list) and get_origin(one.kind) is list:
            below = get_args(one.kind)[0]
            return [_absolute(item, below, directory) for item in value]
    return value


def _startable(launch: LaunchType, directory: Path) -> LaunchType:
    """``launch`` with its command as a list and a directory to run it in.

    The program is a path only if it has a slash. A command line whose quotes do not match
    stays as it is, for the rules to report.
    """
    command, runs_in = launch.command, launch.working_directory
    with suppress(ValueError):
        if launch.argv:
            program, *arguments = launch.argv
            command = [str(directory / program) if "/" in program else program, *arguments]
    if isinstance(launch, CataloguePlugin):
        is_whole = launch.type == "sidecar"
    else:  # a version is merged with its entry, which says where it runs
        is_whole = isinstance(launch, PluginConfig) and launch.command is not None
    if is_whole and runs_in is None:
        runs_in = str(directory)
    return replace(launch, command=command, working_directory=runs_in)


def _startable_shadow(shadow: ShadowConfig, directory: Path) -> ShadowConfig:
    if shadow.plugin is None:
        return shadow
    return replace(shadow, plugin=_startable(shadow.plugin, directory))


def _with_settings(config: Config, namespace: NamespaceConfig, directory: Path) -> NamespaceConfig:
    """``namespace`` with the paths in the ``config:`` of a built-in plugin absolute."""
    kind = config_type(resolve_plugin(config, namespace))
    if kind is None:
        return namespace
    paths = {
        name: field.default
        for name, field in fields_of(kind).items()
        if meta_of(field.type, "path") and field.default is not NODEFAULT
    }
    settings = _absolute_block(paths | namespace.config, kind, directory)
    return replace(namespace, config=settings)


def _with_shadow_settings(
    config: Config, namespace: NamespaceConfig, directory: Path
) -> NamespaceConfig:
    """Likewise for its shadow, where that has settings of its own."""
    shadow, whole = namespace.shadow, shadow_as_namespace(namespace)
    if shadow is None or whole is None or shadow.config is None:
        return namespace
    settings = _with_settings(config, whole, directory).config
    return replace(namespace, shadow=replace(shadow, config=settings))

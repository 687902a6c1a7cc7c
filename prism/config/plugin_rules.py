"""What types cannot say of plugins: in the catalogue, inline, and with a namespace's settings."""

from typing import Any

import msgspec
from msgspec.structs import FieldInfo

from prism.config.catalogue import (
    BUILT_IN,
    PLACEHOLDER,
    UnresolvedPlugin,
    config_type,
    launch_keys,
    needs_version,
    resolve_plugin,
)
from prism.config.document import Place
from prism.config.plugin_types import BalanceConfig
from prism.config.typecheck import check_types, fields_of, meta_of
from prism.config.types import (
    CataloguePlugin,
    Config,
    IsolationConfig,
    Launch,
    NamespaceConfig,
    PluginConfig,
    PluginForm,
    PluginType,
)
from prism.contract.settings import settings_problems
from prism.streams.addresses import (
    WebSocketURL,
    check_socket_path,
    is_address,
    is_loopback,
    parse_endpoint,
)
from prism.streams.destinations import Destination

PROCESSES = (PluginForm.COMMAND, PluginForm.LIBRARY, PluginForm.WASM)
"""The forms of plugins that are processes which Prism starts."""
START_KEYS = {
    "in_process": ("module", "library"),
    "sidecar": ("command", "socket"),
    "wasm": ("file",),
    "remote": ("endpoint",),
    "grpc": ("endpoint",),
    "websocket": ("endpoint",),
}
"""The keys of which an inline plugin of a type has exactly one, but for `command` and `socket`: a
program that is started, and reached over a socket with a path."""


def check_catalogue_plugin(entry: CataloguePlugin, at: Place) -> None:
    """An entry of ``plugins``, and each of its versions."""
    common = at.written_keys()
    starts = [key for key in START_KEYS[entry.type] if key != "socket"]
    names = " or ".join(f'"{key}"' for key in starts)
    _check_keys(entry.type, at, common, CataloguePlugin, is_whole=not entry.versions)
    if not entry.versions:
        _check_placeholder(entry, at, '"versions"')
    for version in entry.versions or (None,):
        place = at if version is None else at["versions"][version]
        written = common | place.written_keys()
        if version is not None:
            _check_keys(entry.type, place, written, Launch)
        if place.is_sound and not any(key in written for key in starts):
            place.error(f"type {entry.type} needs {names}")
        if place.is_sound:
            _check_launch(Launch(**launch_keys(entry, version)), entry.type, place, at)


def check_plugin(plugin: PluginConfig, at: Place) -> None:
    """A namespace's ``plugin``."""
    written = at.written_keys()
    if plugin.type is None:
        _check_reference(at, written)
        return
    for key in ("name", "version"):
        if key in written:
            at[key].error(f'"{key}" refers to the catalogue and cannot stand beside "type"')
    _check_keys(plugin.type, at, written, PluginConfig)
    if at.is_sound and written.isdisjoint(START_KEYS[plugin.type]):
        names = " or ".join(f'"{key}"' for key in START_KEYS[plugin.type])
        at.error(f"type {plugin.type} needs {names}")
    if plugin.mode == "0660" and plugin.group is None:
        at["mode"].error('mode "0660" needs a "group"')
    if plugin.dial and (plugin.group or plugin.mode):
        at["dial"].error(
            "with dial: true the plugin makes the socket, so group and mode are its own"
        )
    if plugin.socket is not None:
        check_unix_path(plugin.socket, at["socket"])
        if plugin.command is not None and plugin.dial and plugin.overlap:
            at["overlap"].error("two processes of it cannot listen at one path")
    _check_placeholder(plugin, at, "a version: only catalogue plugins have")
    _check_launch(plugin, plugin.type, at, at)


def check_unix_path(path: str, at: Place) -> None:
    """That ``path`` can be that of a Unix socket."""
    try:
        check_socket_path(path)
    except ValueError as error:
        at.error(str(error))


def _check_reference(at: Place, written: set[str]) -> None:
    """A plugin named from the catalogue: how it starts is the catalogue's business."""
    for key in sorted(written):
        types = meta_of(fields_of(PluginConfig)[key].type, "types")
        if types and "name" in written:
            at[key].error(f'"{key}" cannot stand beside "name"; it belongs into the catalogue')
        elif types:
            at[key].error(f'"{key}" needs "type: {types[0]}" beside it')


def _check_keys(
    plugin_type: PluginType,
    at: Place,
    written: set[str],
    block: type[msgspec.Struct],
    *,
    is_whole: bool = True,
) -> None:
    """Keys of other types, keys without their companion, two ways to start.

    ``written``: the keys here and in the entry that a version belongs to. An entry with
    versions is not whole: they may bring the companions.
    """
    fields = fields_of(block)
    for key in sorted(at.written_keys() & fields.keys()):
        types, needs = meta_of(fields[key].type, "types"), meta_of(fields[key].type, "needs")
        if types and plugin_type not in types:
            at[key].error(f'"{key}" belongs to type {" or ".join(types)}, not {plugin_type}')
        elif is_whole and needs and written.isdisjoint(needs):
            names = " or ".join(f'"{name}"' for name in needs)
            at[key].error(f'"{key}" means nothing without {names}')
    starts = [key for key in START_KEYS[plugin_type] if key in written]
    if is_whole and len(starts) > 1 and starts != ["command", "socket"]:
        at[starts[1]].error(f'either "{starts[0]}" or "{starts[1]}", not both')


def _check_placeholder(launch: Launch, at: Place, needs: str) -> None:
    key = needs_version(launch)
    if key is not None:
        at[key].error(f"{PLACEHOLDER} means nothing without {needs}")


def _check_launch(launch: Launch, plugin_type: PluginType, at: Place, entry: Place) -> None:
    """That the command can be split and the endpoint used.

    ``entry`` is where the keys are that are not written ``at`` the version.
    """

    def place(key: str) -> Place:
        return at[key] if at[key].is_written or not entry[key].is_written else entry[key]

    try:
        if launch.command is not None and not "".join(launch.argv[:1]):
            place("command").error("the command names no program")
    except ValueError as error:
        place("command").error(f"the command cannot be split into words: {error}".lower())
    tls = launch.tls
    if tls is not None and (tls.cert is None) != (tls.key is None):
        place("tls").error('"cert" and "key" go together')
    if launch.endpoint is None:
        return
    if isinstance(launch.endpoint, str):
        _check_endpoint(launch.endpoint, launch, plugin_type, place("endpoint"))
        return
    taken: dict[tuple[str, int], Place] = {}
    for here, one in zip(place("endpoint").items(), launch.endpoints, strict=True):
        where = here["address"] if isinstance(here.node.value, dict) else here
        address = _check_endpoint(one.address, launch, plugin_type, where)
        if address is not None and taken.setdefault(address, where) is not where:
            where.error(f"its host and port are those of line {taken[address].line}, too")


def _check_endpoint(
    text: str, launch: Launch, plugin_type: PluginType, at: Place
) -> tuple[str, int] | None:
    """The host and the port, if they can be read."""
    is_secure = launch.tls is not None and launch.tls.enabled
    try:
        if plugin_type == "websocket" and "://" in text:
            is_secure, host, port, _ = WebSocketURL.parse(text)
        else:
            host, port = parse_endpoint(text)
    except ValueError as error:
        at.error(str(error))
        return None
    if is_secure:
        pass
    elif not is_loopback(host):
        at.error(f"{host} is not this machine: add a `tls` block (plain text only to loopback)")
    elif not launch.insecure:
        at.error('plain text needs "insecure: true", or add a `tls` block')
    return host, port


def check_unsound(config: Config, at: Place) -> None:
    """What can be said of a namespace's plugin is told together with what is wrong beside it."""
    plain = at.node.plain()
    if not isinstance(plain, dict) or not (at["plugin"].is_sound and at["backend"].is_written):
        return
    keys = {
        key: plain[key]
        for key in ("backend", "plugin", "config", "credentials")
        if key in plain and at[key].is_sound
    }
    if "backend" in keys:
        namespace = msgspec.convert({"name": "unsound", **keys}, NamespaceConfig)
        check_resolves(config, namespace, at)


def check_resolves(config: Config, namespace: NamespaceConfig, at: Place) -> None:
    """The plugin's name and version exist, and its config fits, as far as it is known."""
    name, version = namespace.plugin.name, namespace.plugin.version
    try:
        plugin = resolve_plugin(config, namespace)
    except UnresolvedPlugin as error:
        if error.key == "version" and version is not None:
            at["plugin"]["version"].error(str(error))
        elif name is not None:
            at["plugin"]["name"].error(str(error))
        else:
            is_known = error.key == "version" or namespace.backend in BUILT_IN
            hint = "" if is_known else "; or describe it in `plugin:`"
            place = at["backend"] if at["backend"].is_written else at["plugin"]
            place.error(f"{error}{hint}")
        return
    _check_replicas(plugin, at["plugin"])
    if plugin.has_replicas and namespace.cache is not None:
        at["cache"].warning(
            "each replica has a cache of its own, and what is written through the others shows "
            f"there up to {namespace.cache.ttl_seconds:g} s later (ttl_seconds)"
        )
    kind = config_type(plugin)
    if kind is not None:
        _check_settings(kind, namespace, at)


def check_sandbox(isolation: IsolationConfig, at: Place) -> None:
    """That it is a word: YAML takes ``off`` for one of its own, and ``on``, too."""
    if isolation.sandbox is True:
        at["sandbox"].error("true does not say how far; write auto, or required")


def check_isolation(config: Config, namespace: NamespaceConfig, at: Place) -> None:
    """That there is a process to confine, and that what is asked for it means something."""
    here = at["isolation"]
    check_sandbox(namespace.isolation, here)
    settings = namespace.isolation.over(config.isolation)
    if not here.is_sound or namespace.isolation == IsolationConfig():
        return
    check_egress(namespace.isolation, here)
    try:
        plugin = resolve_plugin(config, namespace)
    except UnresolvedPlugin:  # which is told elsewhere
        return
    if plugin.shares_process:
        out = "leave plugin.isolation out" if plugin.library else "run it by a `command`"
        here.error(f"it runs in the proxy's own process, which cannot be confined for it; {out}")
    elif plugin.form not in PROCESSES:
        here.error("Prism does not start it: who starts it confines it")
    elif settings.sandbox == "off":
        for key in sorted(here.written_keys() - {"sandbox"}):
            here[key].error('it means nothing with "sandbox: off"')
    elif settings.egress is not None:
        if settings.network is not None:
            here["egress"].error('it goes without "network", which says all or nothing')
        if plugin.socket is not None:
            here["egress"].error(
                "its plugin could not be met on a `socket`; let it take the connection it is given"
            )


def check_egress(isolation: IsolationConfig, at: Place) -> None:
    """That destinations can be read, and that no Unix socket is to speak TLS."""
    here = at["egress"]
    if not here.is_written or not here.is_sound:
        return
    for place, entry in zip(here.items(), isolation.destinations, strict=True):
        try:
            destination = Destination.parse(entry.to)
        except ValueError as error:
            (place["to"] if place["to"].is_written else place).error(str(error))
            continue
        if destination.path and entry.tls is not None:
            place["tls"].error("there is no TLS over a Unix socket")


def _check_replicas(plugin: PluginConfig, at: Place) -> None:
    """That there can be several of the plugin, if there are to be, and how they share is of use."""
    if plugin.processes > 1:
        here = at["processes"]
        match plugin.form:
            case PluginForm.COMMAND:
                why = getattr(config_type(plugin), "one_process", "")
                if plugin.socket is not None:
                    here.error("several processes of it cannot share one socket")
                elif why:
                    here.warning(f"one process serves this better: {why}")
            case PluginForm.WASM:
                if plugin.wasm.grants.key_value_bytes:
                    here.warning("each process has a table of its own (wasm.grants)")
            case PluginForm.LIBRARY if not plugin.shares_process:
                pass
            case PluginForm.LIBRARY:
                here.error("a plugin in the proxy's own process is there once (isolation: none)")
            case PluginForm.MODULE:
                once = "a plugin in the proxy's own process is there once"
                why = getattr(config_type(plugin), "one_process", "")
                if why:
                    here.error(f"{once}, and one process serves this better: {why}")
                else:
                    here.error(f"{once}; run it by a `command` (type: sidecar)")
            case PluginForm.SOCKET:
                here.error("one process dials a socket; the proxy starts several by a `command`")
            case _:
                here.error("the proxy starts none of it: it is reached at its `endpoint`")
    if plugin.resolve == "all":
        _check_resolve_all(plugin, at)
    if plugin.has_replicas and plugin.overlap is False:
        here = at["processes"] if plugin.processes > 1 else at
        here.error("it must not run twice at a time (overlap: false), so it cannot have replicas")
    if plugin.balance != BalanceConfig() and not plugin.has_replicas:
        at["balance"].error(
            "there is one replica, which gets all calls; set `processes`, a list as `endpoint`, or "
            "`resolve: all`"
        )


def _check_resolve_all(plugin: PluginConfig, at: Place) -> None:
    here = at["resolve"]
    if plugin.form is not PluginForm.ENDPOINT:
        here.error("it is not reached at an `endpoint` whose host DNS could have addresses of")
        return
    if not isinstance(plugin.endpoint, str):
        here.error("it goes with one `endpoint`; a list says itself which there are")
        return
    if plugin.type == "websocket":
        host = WebSocketURL.parse(plugin.websocket_url).host
    else:
        host = plugin.address[0]
    if is_address(host):
        here.error(f"{host} is an address, and no name that could have several")


def check_zones(config: Config, namespace: NamespaceConfig, at: Place) -> None:
    """That endpoints have zones only where the proxy has one."""
    if config.zone or isinstance(namespace.plugin.endpoint, str | None):
        return
    for place, endpoint in zip(at["endpoint"].items(), namespace.plugin.endpoints, strict=True):
        if endpoint.zone:
            place["zone"].warning(
                'it means nothing without "zone" at the top level: where is this?'
            )
            return


def _check_settings(kind: type[msgspec.Struct], namespace: NamespaceConfig, at: Place) -> None:
    """The ``config:`` of a plugin that comes with Prism, as the plugin itself would judge it."""
    here = at["config"]
    if here.is_written and here.node.value is not None:
        if not isinstance(here.node.value, dict):
            return
        check_types(here, kind)
    else:
        for name, field in fields_of(kind).items():
            if field.required:
                here.error(f'the required key "{name}" is missing')
    settings = {
        field.name: _sound_value(field, name, namespace.config, here)
        for name, field in fields_of(kind).items()
    }
    _check_connect_timeout(settings, namespace.plugin.start_timeout_seconds, here)
    credentials = namespace.credentials if at["credentials"].is_sound else {}
    for problem in settings_problems(kind, kind(**settings), credentials):
        place = at
        for step in problem.path:
            place = place[step]
        place.error(problem.message)


def _check_connect_timeout(settings: dict[str, Any], start: float, at: Place) -> None:
    """Who is out of time at the same moment cannot say what was not reached."""
    for key in ("connect_timeout", "connect_timeout_seconds"):
        seconds = settings.get(key)
        if isinstance(seconds, int | float) and seconds >= start:
            at[key].warning(
                f"{seconds:g} s to connect leave no time to say why it failed: the plugin has "
                f"{start:g} s to start (plugin.start_timeout_seconds)"
            )


def _sound_value(field: FieldInfo, name: str, written: dict[str, Any], at: Place) -> Any:
    """The key's value as the plugin gets it; None where it is wrong."""
    if not at[name].is_sound:
        return None
    if name in written:
        return msgspec.convert(written[name], field.type)
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return None if field.required else field.default

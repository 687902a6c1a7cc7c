"""What types cannot say: rules that concern several keys, one function for each section.

They see the part of the file whose types are right, and point at its places.
"""

import importlib.util
import os.path
from collections.abc import Iterable, Iterator
from datetime import date
from ipaddress import ip_network
from urllib.parse import urlsplit

from prism.config.catalogue import UnresolvedPlugin, resolve_plugin, shadow_as_namespace
from prism.config.document import Place
from prism.config.errors import clip
from prism.config.fields import is_weak, public_bytes
from prism.config.plugin_rules import (
    check_catalogue_plugin,
    check_egress,
    check_isolation,
    check_plugin,
    check_resolves,
    check_sandbox,
    check_unix_path,
    check_unsound,
    check_zones,
)
from prism.config.secrets import placeholders
from prism.config.types import (
    AuthenticationConfig,
    Config,
    NamespaceAccess,
    NamespaceConfig,
    NamespaceLimits,
    PluginConfig,
    RateLimitConfig,
    SheddingConfig,
)
from prism.streams.addresses import (
    can_be_listened_on,
    is_loopback,
    parse_store_url,
    unix_path,
)

_NO_HOST = 'expected an IP address or "localhost"'


def check_rules(config: Config, at: Place) -> None:
    """Report what is wrong with ``config``, the sound part of the file."""
    plugins = [place for place in at["plugins"].items() if place.is_sound]
    namespaces = [place for place in at["namespaces"].items() if place.is_sound]
    unsound = [place for place in at["namespaces"].items() if not place.is_sound]
    _check_listen(config, at)
    if at["listen"]["trusted_proxies"].is_sound:
        _check_proxies(config, at["listen"]["trusted_proxies"])
    if config.admin.enabled:
        _check_admin(config, at)
    _check_client_certificates(config, at)
    _check_authentication(config, at)
    _check_vault(config, at["secrets"])
    _check_limits_store(config, at["limits_store"])
    _check_shedding(config.shedding, at["shedding"])
    check_egress(config.isolation, at["isolation"])
    _check_verification(config, at["verification"])
    check_sandbox(config.isolation, at["isolation"])
    _check_unique(at["namespaces"], "name")
    _check_unique(at["plugins"], "name")
    for place, entry in zip(plugins, config.plugins, strict=True):
        check_catalogue_plugin(entry, place)
    sockets: dict[str, Place] = {}
    files: dict[str, Place] = {}
    if config.audit is not None:
        _check_file_is_own(config.audit.file, at["audit"]["file"], files)
    for place, namespace in zip(namespaces, config.namespaces, strict=True):
        check_plugin(namespace.plugin, place["plugin"])
        _check_access(namespace.access, place["access"], at["authentication"])
        _check_limits(
            namespace.limits, namespace.plugin, config.drain_timeout_seconds, place["limits"]
        )
        _check_memory(namespace.limits, config.listen.limits.request_memory_bytes, place["limits"])
        _check_rates(namespace.limits, place["limits"]["rate"], at)
        _check_resilience(namespace, place, at)
        _check_socket_is_own(namespace.plugin, place["plugin"]["socket"], sockets)
        if at["plugins"].is_sound and place["plugin"].is_sound:
            check_resolves(config, namespace, place)
            check_zones(config, namespace, place["plugin"])
            check_isolation(config, namespace, place)
        _check_shadow(config, namespace, place, sockets, catalogue_is_sound=at["plugins"].is_sound)
        if namespace.record is not None:
            _check_file_is_own(namespace.record.file, place["record"]["file"], files)
    for place in unsound if at["plugins"].is_sound else ():
        check_unsound(config, place)
    if not config.namespaces and at.is_sound:
        at.warning("there are no namespaces, so clients can reach nothing")


def _check_unique(items: Place, key: str) -> None:
    """That no two items, sound or not, have the same text under ``key``."""
    first: dict[str, Place] = {}
    for item in items.items():
        place = item[key]
        text = place.node.value
        if not isinstance(text, str) or not place.is_written:
            continue
        if text in first:
            place.error(f'the {key} "{clip(text)}" is taken by line {first[text].line}')
        first.setdefault(text, place)


# -- listeners ----------------------------------------------------------------


def _check_listen(config: Config, at: Place) -> None:
    address = config.listen.address
    place = at["listen"]["address"]
    if not can_be_listened_on(address):
        place.error(_NO_HOST)
    elif not is_loopback(address) and not config.insecure and at["insecure"].is_sound:
        reach, accept = f"{address} can be reached from other machines", '"insecure: true"'
        if not at["authentication"].is_written:
            place.error(
                f"{reach}, and clients are not authenticated; use 127.0.0.1, or "
                f"set authentication, or accept it with {accept} at the top level"
            )
        elif config.listen.tls is None and at["listen"]["tls"].is_sound:
            place.error(
                f"{reach}, and what clients show would pass in plain text; set tls, or accept it "
                f"with {accept} at the top level"
            )
    elif not is_loopback(address) and config.insecure:
        if not at["authentication"].is_written:
            place.warning(
                f"all who can reach {address} may call every namespace: "
                "clients are not authenticated"
            )
        elif config.listen.tls is None:
            place.warning(f"what clients show passes in plain text at {address}: there is no tls")


def _check_client_certificates(config: Config, at: Place) -> None:
    for tls, place in ((config.listen.tls, at["listen"]), (config.admin.tls, at["admin"])):
        if tls is not None and tls.client_crl is not None and tls.client_ca is None:
            place["tls"]["client_crl"].error('revocation lists mean nothing without "client_ca"')
    listen, here = config.listen, at["listen"]["client_certificates"]
    if not (at["listen"].is_sound and at["authentication"].is_sound):
        return
    has_ca = listen.tls is not None and listen.tls.client_ca is not None
    if listen.client_certificates in ("optional", "required") and not has_ca:
        here.error(f'"{listen.client_certificates}" needs tls.client_ca: whose they may be')
    if config.authentication is None or config.authentication.client_certificates is None:
        return
    place = at["authentication"]["client_certificates"]
    if not has_ca or listen.client_certificates == "none":
        place.error("no client is asked for its certificate: set listen.tls.client_ca")
    elif listen.server == "hypercorn":
        place.error("hypercorn does not tell whose certificate it was; use server: prism")


# -- authentication, access ---------------------------------------------------


def _check_authentication(config: Config, at: Place) -> None:
    here = at["authentication"]
    if not here.is_written or not here.is_sound:
        return
    if config.authentication == AuthenticationConfig():
        here.error(
            "it names no way for clients to say who they are; set api_keys, jwt, introspection "
            "or client_certificates"
        )
    _check_unique(here["jwt"], "issuer")
    issuers = config.authentication.jwt if config.authentication is not None else []
    for place, issuer in zip(here["jwt"].items(), issuers, strict=True):
        if issuer.jwks_url is not None:
            _check_trusted_url(issuer.jwks_url, place["jwks_url"], "keys")
        elif why := _untrusted(issuer.issuer):
            place["issuer"].error(f"without jwks_url its keys are looked for there; {why}")
    if config.authentication is not None and config.authentication.introspection is not None:
        _check_trusted_url(
            config.authentication.introspection.url, here["introspection"]["url"], "introspect"
        )


def _check_trusted_url(url: str, at: Place, example: str) -> None:
    if why := _untrusted(url, example):
        at.error(why)


def _untrusted(text: str, example: str = "") -> str:
    """Why nothing that clients are judged by may come from there; empty if it may."""
    try:
        url = urlsplit(text)
        is_good = bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        is_good = False
    if not is_good or url.scheme not in ("http", "https"):
        return f"expected a URL such as https://idp.example.com{example and '/'}{example}"
    if url.username is not None:
        return "expected a URL without a user and a password"
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        return "what comes in plain text can be anybody's; use https"
    return ""


def _check_vault(config: Config, at: Place) -> None:
    vault, here = config.secrets.vault, at["vault"]
    if vault is None or not at.is_sound:
        return
    _check_trusted_url(vault.address, here["address"], "")
    ways = [name for name in ("token", "role_id", "kubernetes_role") if getattr(vault, name)]
    if len(ways) != 1:
        here.error(
            "how does Prism log in? Set token, role_id or kubernetes_role"
            + (f", and not {' and '.join(ways)}" if ways else "")
        )
    if vault.secret_id is not None and vault.role_id is None:
        here["secret_id"].error("it goes with role_id, which is not set")
    if vault.auth_mount is not None and vault.token is not None:
        here["auth_mount"].error("with a token there is no login")
    _check_unique(here["secrets"], "name")
    in_vault = {secret.name for secret in vault.secrets}
    for place, secret in zip(here["secrets"].items(), vault.secrets, strict=True):
        if secret.name in config.secrets.environment:
            place["name"].error(f"secrets.environment has {secret.name}, too: it has one place")
    for key in ("token", "secret_id"):
        for name in placeholders(getattr(vault, key) or ""):
            if name in in_vault:
                here[key].error(f"{name} is in Vault itself, where it is needed to log in")


_KINDS = {
    "group": "group", "groups": "group", "role": "group", "scope": "scope", "scopes": "scope",
    "user": "", "principal": "",
}  # fmt: skip
"""What people write before a name, and what rules have for it."""


def _check_access(access: NamespaceAccess | None, at: Place, authentication: Place) -> None:
    if access is None:
        if authentication.is_written and not at.is_written:
            at.warning("nobody may use this namespace: it has no `access`")
        return
    if not authentication.is_written:
        at.error('who calls is not known without "authentication" at the top level')
    _check_who([*at["owners"].items(), *_named(at["allow"])])


def _named(rules: Place) -> Iterator[Place]:
    """Each ``who`` of the ``rules``."""
    for rule in rules.items():
        yield from rule["who"].items()


def _check_who(places: Iterable[Place]) -> None:
    for place in places:
        who = str(place.node.value)
        if who.startswith(("group:", "scope:")) and who.endswith((":", "*")):
            place.error("a group, or a scope, is named in full")
        kind, colon, name = who.partition(":")
        meant = _KINDS.get(kind.lower())
        if colon and meant is not None and kind != meant:
            place.warning(
                f'this is a principal of that name; did you mean "{meant + ":" if meant else ""}'
                f'{name}"?'
            )


def _check_proxies(config: Config, at: Place) -> None:
    if config.listen.trusted_proxies is None:
        return
    if config.listen.trusted_proxies.proxy_protocol and config.listen.server == "hypercorn":
        at["proxy_protocol"].error("hypercorn reads no PROXY headers; use server: prism")
    for place, network in zip(
        at["networks"].items(), config.listen.trusted_proxies.networks, strict=True
    ):
        try:
            ip_network(network)
        except ValueError as error:
            place.error(f"expected an IP address or network: {error}")


def _check_admin(config: Config, at: Place) -> None:
    """The admin port is never open to other machines without a token."""
    admin, listen = config.admin, config.listen
    here = at["admin"]
    _check_unique(here["tokens"], "name")
    _check_unique(here["tokens"], "file")
    _check_who(_named(here["allow"]))
    if admin.allow and not at["authentication"].is_written:
        here["allow"].error('who asks is not known without "authentication" at the top level')
    socket = unix_path(admin.address)
    if socket is not None:
        if socket.startswith("/"):
            check_unix_path(socket, here["address"])
        else:
            here["address"].error('after "unix:" an absolute path is expected')
        if admin.tls is not None:
            here["tls"].error("a Unix socket is not served with TLS")
    elif not can_be_listened_on(admin.address):
        here["address"].error(f"{_NO_HOST}, or unix: and an absolute path")
    elif not is_loopback(admin.address):
        reach = f"{admin.address} can be reached from other machines"
        sound = all(here[key].is_sound for key in ("token_file", "tokens", "allow"))
        if not admin.knows_operators and sound:
            here["address"].error(
                f"{reach}, so operators need a token; set token_file or tokens, or use 127.0.0.1"
            )
        elif admin.tls is None and not config.insecure and here["tls"].is_sound:
            here["address"].error(
                f"{reach}, and the token would pass in plain text; set tls, or accept it with "
                '"insecure: true" at the top level'
            )
        elif admin.tls is None and admin.knows_operators:
            here["address"].warning(
                f"the tokens of operators pass in plain text at {admin.address}: there is no tls"
            )
        if admin.without_token in ("read", "change"):
            here["without_token"].error(f'{reach}: only "probe" may be open without the token')
    if listen.port == admin.port != 0 and listen.address == admin.address:
        here["port"].error(f"port {admin.port} is already that of `listen`")


# -- verification -------------------------------------------------------------


def _check_verification(config: Config, at: Place) -> None:
    """Days exist, keys can sign, and keys and their names are given once."""
    verification, keys = config.verification, at["trusted_keys"]
    _check_unique(keys, "name")
    _check_unique(keys, "key")
    # Where the section is not sound, there are places, and no keys.
    for place, key in zip(keys.items(), verification.trusted_keys, strict=False):
        if is_weak(public_bytes(key.key)):
            place["key"].error("no private key belongs to this, and anybody could sign for it")
        try:
            date.fromisoformat(key.expires or "2000-01-01")
        except ValueError:
            place["expires"].error(f"there is no day {key.expires}")
    if verification.policy == "require" and not verification.trusted_keys:
        at["policy"].error(
            '"require" needs "trusted_keys" beside it; without one no plugin could start'
        )


# -- namespaces ---------------------------------------------------------------

LONG_HEDGE = 10.0
"""Seconds; a hedge after more is most likely a percentile, or milliseconds."""
SHORT_LAG = 0.01
"""Seconds by which an event loop that is not overloaded may be late."""

ENVELOPE_BYTES = 64 * 1024
"""For what is in a frame beside the params: names, ids, who calls, and the trace."""


def _check_limits(
    limits: NamespaceLimits, plugin: PluginConfig, stop_seconds: float, at: Place
) -> None:
    if limits.timeout_seconds > limits.max_timeout_seconds:
        at["timeout_seconds"].error(
            f"{limits.timeout_seconds:g} seconds is more than max_timeout_seconds, "
            f"which is {limits.max_timeout_seconds:g}"
        )
    if limits.max_payload_bytes > plugin.max_frame_bytes:
        at["max_payload_bytes"].error(
            f"{limits.max_payload_bytes} bytes do not fit into a frame; "
            f"the plugin's max_frame_bytes is {plugin.max_frame_bytes}"
        )
    elif limits.max_payload_bytes + ENVELOPE_BYTES > plugin.max_frame_bytes:
        at["max_payload_bytes"].warning(
            f"a body of {limits.max_payload_bytes} bytes has no room for its metadata in a frame; "
            "give the plugin a max_frame_bytes of at least "
            f"{limits.max_payload_bytes + ENVELOPE_BYTES}"
        )
    adaptive = limits.adaptive
    if adaptive is not None:
        highest = limits.max_in_flight if adaptive.max is None else adaptive.max
        if highest > limits.max_in_flight:
            at["adaptive"]["max"].error(
                f"{highest} calls are more than max_in_flight, which is {limits.max_in_flight}"
            )
        elif adaptive.min > highest:
            whose = "max_in_flight" if adaptive.max is None else "max"
            at["adaptive"]["min"].error(f"{adaptive.min} is more than {whose}, which is {highest}")
    for what, drain in (
        ("a reload of its plugin", plugin.drain_timeout_seconds),
        ("a stop of the proxy", stop_seconds),
    ):
        if limits.timeout_seconds >= drain:
            at["timeout_seconds"].warning(
                f"calls may take {limits.timeout_seconds:g} s, and {what} cuts them off after "
                f"{drain:g} s (drain_timeout_seconds)"
            )


def _check_memory(limits: NamespaceLimits, of_proxy: int, at: Place) -> None:
    own = limits.request_memory_bytes
    if own is not None and own < limits.max_payload_bytes:
        at["request_memory_bytes"].error(
            f"{own} bytes have no room for one body; max_payload_bytes is "
            f"{limits.max_payload_bytes}"
        )
    elif limits.max_payload_bytes > of_proxy:
        at["max_payload_bytes"].error(
            f"{limits.max_payload_bytes} bytes are more than all requests may take; "
            f"listen.limits.request_memory_bytes is {of_proxy}"
        )


def _check_rates(limits: NamespaceLimits, at: Place, root: Place) -> None:
    places = [at] if isinstance(limits.rate, RateLimitConfig) else at.items()
    if limits.rate == []:
        at.error("it has no limit in it; remove it")
    for place, rate in zip(places, limits.rates, strict=True):
        burst = rate.most_at_once
        for operation, cost in rate.costs.items():
            here = place["costs"][operation]
            if cost > burst:
                here.error(
                    f"a call of {operation!r} uses {cost}, and no more than {burst} can be there "
                    "at once, so that none would ever pass; lower it, or raise burst"
                )
            elif rate.operations and operation not in rate.operations:
                here.error(f"{operation!r} is not among the operations that are limited here")
        if rate.when_store_is_down is not None and not root["limits_store"].is_written:
            place["when_store_is_down"].error(
                "there is no store that could be down; set limits_store at the top level, or "
                "remove this"
            )
        if rate.per == "principal" and not root["authentication"].is_written:
            place["per"].warning(
                "all callers are anonymous, and have one budget together; set authentication, or "
                "limit per client"
            )


def _check_resilience(namespace: NamespaceConfig, at: Place, root: Place) -> None:
    """Warn of what has no effect, or most likely another one than was meant."""
    if namespace.hedging is not None and isinstance(namespace.hedging.after, float | int):
        after, longest = namespace.hedging.after, namespace.limits.max_timeout_seconds
        said = []
        if after >= longest:
            said.append(f"no call may take so long: limits.max_timeout_seconds is {longest:g}")
        if after > LONG_HEDGE:
            percentile = f'the percentile "p{after:g}", or ' if 50 <= after <= 99.9 else ""
            said.append(f"it is in seconds; did you mean {percentile}{after / 1000:g}?")
        if said:
            at["hedging"]["after"].warning("; ".join(said))
    breaker = namespace.breaker
    if breaker is not None and breaker.slow_seconds is None:
        rate = at["breaker"]["slow_rate"]
        if rate.is_written:
            rate.warning("no call is slow without slow_seconds beside it")
    if at["priority"].is_written and not root["shedding"].is_written:
        at["priority"].warning("it has no effect without `shedding` at the top level")


def _check_shedding(shedding: SheddingConfig | None, at: Place) -> None:
    if shedding is None or not at.is_sound:
        return
    lag = shedding.loop_lag_seconds
    if lag is not None and lag < SHORT_LAG:
        at["loop_lag_seconds"].warning(
            f"an event loop is {lag:g} s late now and then without having too much to do, and "
            f"calls are refused then; {SHORT_LAG:g} is little already"
        )


def _check_limits_store(config: Config, at: Place) -> None:
    store = config.limits_store
    if store is None or not at.is_sound:
        return
    try:
        host = parse_store_url(store.url).host
    except ValueError as error:
        at["url"].error(str(error))
        return
    is_plain = store.url.startswith("redis:")
    if store.ca_cert is not None and is_plain:
        at["ca_cert"].error("redis: is plain text; use rediss: in the url, or remove this")
    if store.username is not None and store.password is None:
        at["username"].error("it goes with password, which is not set")
    if is_plain and store.password is not None and not is_loopback(host):
        at["url"].warning(f"the password passes in plain text to {host}; use rediss:")
    if not any(namespace.limits.rates for namespace in config.namespaces):
        at.warning("no namespace has limits.rate, so there is nothing to count")
    if importlib.util.find_spec("coredis") is None:
        at.warning(
            "it needs coredis, which the extra 'limits' brings; docs/install.md, 'Drivers of "
            "plugins', says how to install it"
        )


def _check_socket_is_own(plugin: PluginConfig, at: Place, sockets: dict[str, Place]) -> None:
    if plugin.socket is None:
        return
    earlier = sockets.setdefault(os.path.normpath(plugin.socket), at)
    if earlier is not at:
        at.error(f"the socket is taken by line {earlier.line}; each namespace needs its own")


def _check_file_is_own(file: str, at: Place, files: dict[str, Place]) -> None:
    if os.path.realpath(file) == os.path.realpath(at.report.file):
        at.error("this is the configuration itself, and lines would be added to it; name another")
    earlier = files.setdefault(os.path.normpath(file), at)
    if earlier is not at:
        at.error(f"the file is taken by line {earlier.line}; each recording needs its own")


def _check_shadow(
    config: Config,
    namespace: NamespaceConfig,
    at: Place,
    sockets: dict[str, Place],
    *,
    catalogue_is_sound: bool,
) -> None:
    shadow, whole, here = namespace.shadow, shadow_as_namespace(namespace), at["shadow"]
    if shadow is None or whole is None:
        return
    if shadow.plugin is not None:
        check_plugin(shadow.plugin, here["plugin"])
    _check_socket_is_own(whole.plugin, here["plugin"]["socket"], sockets)
    if shadow.operations and shadow.config is None and shadow.credentials is None:
        here["operations"].warning(
            "the shadow has the namespace's own config and credentials: what an operation named "
            "here writes is written twice to the same place; give the shadow a config of its own"
        )
    if not (catalogue_is_sound and here["plugin"].is_sound):
        return
    check_resolves(config, whole, here)
    try:
        plugin = resolve_plugin(config, whole)
    except UnresolvedPlugin:
        return
    if plugin.shares_process:
        here["plugin"].warning(
            "this shadow runs in the proxy itself, so that it can hold up calls; "
            f"{_as_process(plugin)}".rstrip()
        )


def _as_process(plugin: PluginConfig) -> str:
    if plugin.library is not None:
        return "give it a process of its own (leave isolation: none out)"
    package = (plugin.module or "").partition(":")[0]
    return f"make it a sidecar (type: sidecar, command: python -m {package})"

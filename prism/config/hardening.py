"""The hardening checklist: what a proxy that others reach should not leave as it is.

A file that breaks one of these is right, and may be meant: so these are no errors of it. ``prism
config check --strict`` shows them, and takes them for errors where the data port is not on
loopback. ``docs/security.md`` has the list for people; a test compares the two.
"""

from collections.abc import Callable, Iterator

from prism.config.catalogue import (
    BUILT_IN,
    UnresolvedPlugin,
    resolve_plugin,
    shadow_as_namespace,
)
from prism.config.document import Place
from prism.config.secrets import is_reference, is_secret
from prism.config.types import Config, PluginConfig
from prism.contract.redaction import is_user_key
from prism.streams.addresses import is_loopback

Finding = tuple[Place, str]


def find_weaknesses(config: Config, at: Place) -> Iterator[tuple[str, Place, str]]:
    """The id of each item of the list that ``config`` breaks, the place, and what to do."""
    for name, check in CHECKLIST.items():
        for place, advice in check(config, at):
            yield name, place, advice


def is_exposed(config: Config) -> bool:
    """Can other machines reach the data port?"""
    return not is_loopback(config.listen.address)


def _authentication(config: Config, at: Place) -> Iterator[Finding]:
    if config.authentication is None:
        yield at["authentication"], "clients are not authenticated; set authentication"


def _tls(config: Config, at: Place) -> Iterator[Finding]:
    if config.listen.tls is None:
        yield at["listen"], "what clients send and show passes in plain text; set listen.tls"


def _insecure(config: Config, at: Place) -> Iterator[Finding]:
    if config.insecure:
        yield at["insecure"], "it allows what the rules refuse; remove it"


def _dry_run(config: Config, at: Place) -> Iterator[Finding]:
    for index, namespace in enumerate(config.namespaces):
        if namespace.access is not None and namespace.access.mode == "dry_run":
            yield at["namespaces"][index]["access"]["mode"], "it refuses nobody; remove it"


def _everybody(config: Config, at: Place) -> Iterator[Finding]:
    for index, namespace in enumerate(config.namespaces):
        access = at["namespaces"][index]["access"]
        rules = [] if namespace.access is None else namespace.access.allow
        for number, rule in enumerate(rules):
            if "*" in rule.who and set(rule.permissions) - {"read"}:
                yield (
                    access["allow"][number]["who"],
                    "every authenticated caller may change everything; name who may",
                )
        if namespace.access is not None and "*" in namespace.access.owners:
            yield access["owners"], "every authenticated caller owns the namespace; name who does"
    for number, operators in enumerate(config.admin.allow):
        if "*" in operators.who and operators.may != "read":
            yield (
                at["admin"]["allow"][number]["who"],
                "every authenticated caller is an operator; name who is",
            )


def _prefixes(config: Config, at: Place) -> Iterator[Finding]:
    authentication = config.authentication
    if authentication is None:
        return
    sources = [(one.prefix, at["authentication"]["jwt"][i])
               for i, one in enumerate(authentication.jwt)]  # fmt: skip
    if authentication.introspection is not None:
        sources.append((authentication.introspection.prefix, at["authentication"]["introspection"]))
    if len(sources) < 2:
        return
    taken: set[str] = set()
    for prefix, place in sources:
        if prefix in taken:
            yield place, "its names are taken for those of another source; set a prefix"
        taken.add(prefix)


def _revocation(config: Config, at: Place) -> Iterator[Finding]:
    tls = config.listen.tls
    if tls is not None and tls.client_ca is not None and tls.client_crl is None:
        yield (
            at["listen"]["tls"]["client_ca"],
            "a client certificate that leaks is good until it ends; set listen.tls.client_crl",
        )


def _audit(config: Config, at: Place) -> Iterator[Finding]:
    if config.audit is None:
        yield at["audit"], "nothing tells afterwards who did what; set audit"


def _admin(config: Config, at: Place) -> Iterator[Finding]:
    if config.admin.enabled and not config.admin.knows_operators:
        yield (
            at["admin"],
            "every user of this machine may see what the proxy does; set admin.tokens",
        )
    elif config.admin.enabled and config.admin.without_token in ("read", "change"):
        yield at["admin"]["without_token"], 'what needs no token should be probes alone; "probe"'


def _signatures(config: Config, at: Place) -> Iterator[Finding]:
    if config.verification.policy == "require":
        return
    if any(
        plugin.argv or plugin.module or plugin.library for plugin, _ in _others_plugins(config, at)
    ):
        yield (
            at["verification"],
            "who can write a plugin's file can have it run; set verification.policy: require",
        )


def _isolation(config: Config, at: Place) -> Iterator[Finding]:
    for plugin, place in _others_plugins(config, at):
        if plugin.shares_process:
            out = "leave isolation: none out" if plugin.library else "make it a sidecar"
            yield place, f"it shares the proxy's memory, with all credentials; {out}"
    for index, namespace in enumerate(config.namespaces):
        if namespace.isolation.over(config.isolation).sandbox == "off":
            yield (
                at["namespaces"][index]["isolation"],
                "nothing keeps its plugin's process from the files, the memory and the sockets of "
                "others; remove sandbox: off",
            )


_WRITTEN_OUT = 'who reads this file has it; write "{{ secret:name }}"'


def _secrets(config: Config, at: Place) -> Iterator[Finding]:
    for index, namespace in enumerate(config.namespaces):
        for key, text in namespace.credentials.items():
            if not is_reference(text) and (is_secret(key, text) or not is_user_key(key)):
                place = at["namespaces"][index]["credentials"][key]
                yield place, _WRITTEN_OUT
        shadow = namespace.shadow
        for key, text in (shadow.credentials or {}).items() if shadow is not None else ():
            if not is_reference(text) and (is_secret(key, text) or not is_user_key(key)):
                yield at["namespaces"][index]["shadow"]["credentials"][key], _WRITTEN_OUT
    store = config.limits_store
    if store is not None and store.password is not None and not is_reference(store.password):
        yield at["limits_store"]["password"], _WRITTEN_OUT
    vault = config.secrets.vault
    for key in ("token", "secret_id") if vault is not None else ():
        if getattr(vault, key) is not None and not is_reference(getattr(vault, key)):
            yield at["secrets"]["vault"][key], _WRITTEN_OUT


def _others_plugins(config: Config, at: Place) -> Iterator[tuple[PluginConfig, Place]]:
    """The plugins that Prism does not bring, each with its namespace's place."""
    for index, namespace in enumerate(config.namespaces):
        place = at["namespaces"][index]
        for each, where in ((namespace, place), (shadow_as_namespace(namespace), place["shadow"])):
            if each is None:
                continue
            try:
                plugin = resolve_plugin(config, each)
            except UnresolvedPlugin:
                continue
            if plugin.name not in BUILT_IN or plugin.name in {one.name for one in config.plugins}:
                yield plugin, where["plugin"]


def _recordings(config: Config, at: Place) -> Iterator[Finding]:
    for index, namespace in enumerate(config.namespaces):
        place = at["namespaces"][index]
        if namespace.record is not None and namespace.record.values == "keep":
            yield (
                place["record"]["values"],
                "what clients send and get is written to a file; remove it after the recording",
            )
        if namespace.shadow is not None and namespace.shadow.values == "keep":
            yield (
                place["shadow"]["values"],
                "the shadow's report shows what clients get; remove it after the trial",
            )


def _rates(config: Config, at: Place) -> Iterator[Finding]:
    for index, namespace in enumerate(config.namespaces):
        if not namespace.limits.rates:
            yield (
                at["namespaces"][index]["limits"],
                "one caller may take all that its plugin can do; set limits.rate",
            )


CHECKLIST: dict[str, Callable[[Config, Place], Iterator[Finding]]] = {
    "authentication": _authentication,
    "tls": _tls,
    "insecure": _insecure,
    "dry_run": _dry_run,
    "everybody": _everybody,
    "prefixes": _prefixes,
    "revocation": _revocation,
    "audit": _audit,
    "admin": _admin,
    "signatures": _signatures,
    "isolation": _isolation,
    "secrets": _secrets,
    "recordings": _recordings,
    "rates": _rates,
}
"""Each item by its id."""

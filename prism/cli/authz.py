"""``prism authz``: what the rules of a configuration mean."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from prism.cli.connection import DEFAULT_ADMIN_URL, Admin, admin_options, admin_path
from prism.cli.output import CommandError

if TYPE_CHECKING:
    from prism.config.types import AdminConfig, AuthenticationConfig, Config, NamespaceConfig

EPILOG = """\b
Examples:
  prism authz explain --config prism.yaml reports orders get
  prism authz explain --config prism.yaml --group billing ada orders set --needs write

\b
The groups of a principal without --group are those of its keys (authentication.api_keys).
What an operation takes, its plugin declares: a built-in one is asked here, the plugin of
another namespace by way of the running proxy, at the file's admin.port unless --url says
otherwise; --needs says it where none runs.
"""


@click.group(epilog=EPILOG)
def authz() -> None:
    """Explain who may do what."""


@authz.command()
@click.argument("principal", metavar="PRINCIPAL")
@click.argument("namespace", metavar="NAMESPACE")
@click.argument("operation", metavar="OPERATION")
@click.option("--config", "-c", "file", required=True, metavar="FILE", envvar="PRISM_CONFIG")
@click.option("--group", "groups", multiple=True, metavar="GROUP", help="A group it is in.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="A scope of its token.")
@click.option(
    "--needs",
    type=click.Choice(["read", "write", "admin"]),
    help="What the operation takes; without it the running proxy is asked, unless the plugin "
    "is built in.",
)
@admin_options
def explain(
    principal: str,
    namespace: str,
    operation: str,
    file: str,
    groups: tuple[str, ...],
    scopes: tuple[str, ...],
    needs: str | None,
    admin: Admin,
) -> None:
    """Say whether somebody may make a call, and which line decides it.

    PRINCIPAL would call OPERATION in NAMESPACE. Exit status: 0 where it may, 1 where it may
    not.
    """
    from prism.access.identity import Identity
    from prism.access.permissions import NAMES, AccessTable
    from prism.config import load_config
    from prism.contract.errors import UnknownNamespace

    config = load_config(file).config
    found = {one.name: one for one in config.namespaces}
    if namespace not in found:
        raise UnknownNamespace(namespace, sorted(found))
    if config.authentication is None:
        click.echo(f"allowed: {file} has no authentication, so anybody may do anything")
        return
    source = click.get_current_context().get_parameter_source("url")
    if source is ParameterSource.DEFAULT and config.admin.enabled:
        admin = admin.at(_address(config.admin))
    needs = needs or _needs(config, found[namespace], operation, admin)
    known = ""
    groups = tuple(group.removeprefix("group:") for group in groups)  # as rules write them
    if not groups:
        groups, known = _groups_of(principal, config.authentication)
    identity = Identity(principal, frozenset(groups), frozenset(scopes))
    permission = {name: bit for bit, name in NAMES.items()}[needs]
    access = found[namespace].access
    row = AccessTable(namespace, access).deciding(identity, permission)
    if row is not None:
        number = [one.name for one in config.namespaces].index(namespace)
        line = _line(file, ("namespaces", number, "access", *row.path))
        click.echo(
            f"allowed: {operation} takes {needs}, which {file}:{line} gives to {row.who!r}{known}"
        )
        return
    why = "the namespace has no access" if access is None else "no row of its access gives it"
    told = f"{operation} takes {needs}, and {why} to {principal!r}"
    told += known or ("" if groups else ", in no groups; --group names one that it is in")
    if access is not None and access.mode == "dry_run":
        click.echo(f"allowed, because of mode: dry_run; else denied: {told}")
        return
    click.echo(f"denied: {told}")
    raise SystemExit(1)


def _address(admin: "AdminConfig") -> str:
    """Where a proxy with this configuration has its admin port, seen from this machine."""
    from prism.streams.addresses import unix_path

    if unix_path(admin.address) is not None:
        return admin.address
    if not admin.port:  # a free one, which is not known here
        return DEFAULT_ADMIN_URL
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(admin.address, admin.address)  # noqa: S104 - is dialled
    scheme = "http" if admin.tls is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{admin.port}"


def _groups_of(
    principal: str, authentication: "AuthenticationConfig"
) -> tuple[tuple[str, ...], str]:
    """The groups that the principal's good keys are in, and a sentence that says so."""
    from prism.access.api_keys import read_keys

    if authentication.api_keys is None or not Path(authentication.api_keys.file).exists():
        return (), ""
    file = authentication.api_keys.file
    groups = {
        group
        for entry in read_keys(Path(file))
        if entry.principal == principal and entry.revoked is None and entry.ends > time.time()
        for group in entry.groups
    }
    said = f", in groups by its keys in {file}: {', '.join(sorted(groups))}" if groups else ""
    return tuple(sorted(groups)), said


def _needs(config: "Config", namespace: "NamespaceConfig", operation: str, admin: Admin) -> str:
    """What the plugin declares: a built-in one's class, another where it runs."""
    from prism.access.permissions import NAMES, needed
    from prism.config.catalogue import plugin_class, resolve_plugin

    kind = plugin_class(resolve_plugin(config, namespace))
    if kind is not None:
        declared = {name: NAMES[needed(of.declaration)] for name, of in kind.operations.items()}
    else:
        try:
            described = admin.get(admin_path("namespaces", namespace.name))
        except SystemExit:  # what went wrong has been said
            click.echo(
                "Only the running plugin knows what its operations take. With --needs read, "
                "write or admin, no proxy need run.",
                err=True,
            )
            raise
        declared = {one["name"]: str(one["access"]) for one in described["operations"]}
    if operation not in declared:
        names = ", ".join(sorted(declared))
        raise CommandError(f"namespace {namespace.name!r} has no {operation!r}; it has: {names}")
    return declared[operation]


def _line(file: str, path: tuple[str | int, ...]) -> int:
    from prism.config.document import Place, read_yaml
    from prism.config.errors import Report

    report = Report(file)
    root = read_yaml(Path(file).read_text(), report)
    if root is None:
        return 0
    place = Place(report, root)
    for step in path:
        place = place[step]
    return place.line

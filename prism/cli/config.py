"""``prism config``: check a configuration, and what a running proxy makes of it."""

import sys
from typing import Any

import click

from prism.cli.connection import Admin, admin_options
from prism.cli.output import output_option, show, show_one

EPILOG = """\b
Examples:
  prism config check prism.yaml
  prism config check --strict prism.yaml    on the machine that will serve it
  prism config schema > prism.schema.json
  prism config plan                  what would change, were the file applied now
  prism config apply                 change it, as one change or not at all
  prism config show                  what the proxy uses now
  prism config show --config FILE    what a file says, without a proxy
"""


@click.group(epilog=EPILOG)
def config() -> None:
    """Check configurations, and change that of a running proxy."""


@config.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--strict", is_flag=True, help="What is missing here, or weak, is an error, too.")
def check(files: tuple[str, ...], strict: bool) -> None:
    """Check configuration files without starting anything.

    Every problem is listed with its place. Exit status: 0 when all files can be
    used, 1 otherwise. Warnings do not count: so a file can be checked on another machine than
    the one that it is for. With --strict it must fit this one: certificates and keys, secrets and
    tokens, programs and scripts, the directories of sockets; and Vault is asked for the secrets
    that it should have, which else it is not. And it is compared with the hardening
    checklist (docs/security.md), which a proxy must pass that other machines can reach.
    """
    from prism.config import load_config
    from prism.config.errors import ConfigError
    from prism.config.hardening import is_exposed
    from prism.control.machine import check_machine, weaknesses

    failed = False
    for file in files:
        try:
            loaded = load_config(file)
        except ConfigError as error:
            failed = True
            click.echo(str(error), err=True)
            continue
        weak = weaknesses(loaded) if strict else []
        missing, doubtful = check_machine(loaded, ask_vault=strict)
        stricter = {problem.message for problem in missing if strict}
        for warning in loaded.warnings:
            is_told = not warning.line and any("hardening: file" in one.message for one in weak)
            if warning.message not in stricter and not is_told:
                click.echo(f"warning: {warning}", err=True)
        for warning in doubtful:
            click.echo(f"warning: {warning}", err=True)
        said = {warning.message for warning in loaded.warnings}
        for problem in missing:
            if strict or problem.message not in said:
                click.echo(str(problem) if strict else f"warning: {problem}", err=True)
        must = strict and is_exposed(loaded.config)
        for problem in weak:
            click.echo(str(problem) if must else f"warning: {problem}", err=True)
        if (missing and strict) or (weak and must):
            failed = True
            continue
        names = ", ".join(namespace.name for namespace in loaded.config.namespaces)
        click.echo(f"{file}: ok, namespaces: {names or 'none'}")
    if failed:
        raise SystemExit(1)


@config.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors and CI."""
    from prism.config import schema_json

    click.echo(schema_json(), nl=False)


@config.command()
@output_option
@admin_options
def plan(output: str, admin: Admin) -> None:
    """Say what applying the file would change.

    The proxy reads its configuration file as it is now, and changes nothing. A namespace
    starts, reloads (no call is lost), restarts (its plugin may not run twice, so calls wait),
    is updated (limits), stops, or stays.
    """
    _show_changes(admin.get("/admin/config/plan"), output)


@config.command()
@output_option
@admin_options
def apply(output: str, admin: Admin) -> None:
    """Have the proxy use its configuration file as it is now.

    As one change or, if one plugin does not start, not at all. SIGHUP does the same. Exit
    status 1 where it was not applied, or where a plugin could not be replaced.
    """
    outcome = admin.post("/admin/config/apply", {})
    _show_changes(outcome, output)
    failures = dict(outcome["failures"])
    for receipt in outcome["receipts"]:
        if receipt["outcome"] == "rolled_back":
            failures[receipt["namespace"]] = f"runs as before: {receipt['reason']}"
        elif receipt["outcome"] == "partial":
            failures[receipt["namespace"]] = f"was stopped half-way: {receipt['reason']}"
        elif receipt["outcome"] == "failed":
            failures[receipt["namespace"]] = f"has no plugin now: {receipt['reason']}"
    if not outcome["applied"]:
        click.echo("Nothing has changed:", err=True)
    elif output == "table":
        click.echo(f"Applied; this is configuration {outcome['generation']}.")
    for namespace, reason in failures.items():
        click.echo(f"{namespace}: {reason}", err=True)
    if failures:
        sys.exit(1)


def _show_changes(found: dict[str, Any], output: str) -> None:
    if output != "table":
        show_one(found, output)
        return
    for warning in found["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    if found["changes"]:
        show(found["changes"], output, ["namespace", "action", "note"])
    differences = [
        {"namespace": change["namespace"], **difference}
        for change in found["changes"]
        for difference in change["differences"]
    ]
    if differences:
        click.echo()
        show(differences, output, ["namespace", "key", "old", "new"])
    if found["settings"]:
        click.echo()
        show(found["settings"], output, ["setting", "takes_effect", "old", "new"])
    if not found["changes"] and not found["settings"]:
        click.echo("no namespaces")


@config.command("show")
@click.option("--config", "-c", "file", metavar="FILE", help="Of this file, without a proxy.")
@click.option("--output", "-o", type=click.Choice(["yaml", "json"]), default="yaml")
@admin_options
def show_config(file: str | None, output: str, admin: Admin) -> None:
    """Print the configuration in use, or a file's.

    In full: defaults too, secrets hidden. It can be used as a file again.
    """
    if file is None:
        show_one(admin.get("/admin/config")["config"], output)
        return
    from prism.config import load_config, redacted

    show_one(redacted(load_config(file).config), output)

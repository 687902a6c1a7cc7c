"""``prism config``: check a configuration, and describe what one may contain."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from prism.contract.config import ListenConfig

EPILOG = """\b
Examples:
  prism config check prism.yaml
  prism config schema > prism.schema.json
"""


@click.group(epilog=EPILOG)
def config() -> None:
    """Check configurations, and describe what they may contain."""


@config.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def check(files: tuple[str, ...]) -> None:
    """Check configuration files without starting anything.

    Every problem is listed with its place. Exit status: 0 when all files can be
    used, 1 otherwise. Warnings do not count.
    """
    from prism.contract.exceptions import ConfigError
    from prism.core.config import load_config

    failed = False
    for file in files:
        try:
            loaded = load_config(file)
        except ConfigError as error:
            failed = True
            click.echo(str(error), err=True)
            continue
        for warning in loaded.warnings:
            click.echo(f"warning: {warning}", err=True)
        if (unusable := _tls_problem(loaded.config.listen)) is not None:
            click.echo(f"warning: {unusable}", err=True)
        names = ", ".join(namespace.name for namespace in loaded.config.namespaces)
        click.echo(f"{file}: ok, namespaces: {names or 'none'}")
    if failed:
        raise SystemExit(1)


def _tls_problem(listen: "ListenConfig") -> str | None:
    """Why the listener's files cannot be used here; they may be elsewhere than the checker."""
    from pathlib import Path

    from prism.contract.exceptions import ConfigError
    from prism.frontends.server import ServerTLS

    if (tls := listen.tls) is None:
        return None
    try:
        ServerTLS(Path(tls.cert), Path(tls.key), Path(tls.client_ca) if tls.client_ca else None)
    except ConfigError as error:
        return str(error)
    return None


@config.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors and CI."""
    from prism.core.config import schema_json

    click.echo(schema_json(), nl=False)

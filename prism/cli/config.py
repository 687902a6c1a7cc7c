"""``prism config``: check a configuration, and describe what one may contain."""

import click

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
        names = ", ".join(namespace.name for namespace in loaded.config.namespaces)
        click.echo(f"{file}: ok, namespaces: {names or 'none'}")
    if failed:
        raise SystemExit(1)


@config.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors and CI."""
    from prism.core.config import schema_json

    click.echo(schema_json(), nl=False)

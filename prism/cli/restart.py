"""``prism restart``: a rolling restart of a running proxy."""

import sys

import click

from prism.cli.connection import Admin, admin_options
from prism.cli.output import output_option, show_one


@click.command()
@click.option(
    "--wait/--no-wait",
    default=True,
    show_default=True,
    help="Wait until the successor serves, or has failed.",
)
@output_option
@admin_options
def restart(wait: bool, output: str, admin: Admin) -> None:
    """Start a running proxy anew without losing a call.

    It starts its own command once more, with the program and configuration that are there
    now, and hands over when that serves (docs/operations.md). Exit status 1 where the
    successor failed, and the old process goes on.
    """
    outcome = admin.post("/admin/restart", {"wait": wait})
    if output != "table":
        show_one(outcome, output)
    elif outcome["outcome"] == "replaced":
        click.echo(f"pid {outcome['pid']} serves now")
    elif outcome["outcome"] == "starting":
        click.echo("a successor is being started; the log says how it goes")
    else:
        click.echo(
            f"the successor failed, so pid {outcome['pid']} goes on: {outcome['reason']}", err=True
        )
    if outcome["outcome"] == "kept":
        sys.exit(1)

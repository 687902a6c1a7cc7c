"""The ``prism`` command.

Exit status of every command: 0 success, 1 failure (said on standard error),
2 wrong usage; ``prism serve`` also 3 when it was made to end at once.
"""

import os
import sys
from importlib import import_module

import click

from prism import __version__
from prism.cli import completion
from prism.cli.output import LINES, harmless
from prism.contract.errors import PrismError

TRACEBACK_VARIABLE = "PRISM_TRACEBACK"

COMMANDS = {
    "audit": "audit",
    "authz": "authz",
    "call": "call",
    "completion": "completion",
    "config": "config",
    "key": "key",
    "namespace": "plugin",
    "plugin": "plugin",
    "replay": "replay",
    "restart": "restart",
    "serve": "serve",
    "shadow": "shadow",
    "tail": "tail",
    "token": "token",
    "top": "top",
}
"""Each command, and the module of ``prism.cli`` that has it under its name."""


class Commands(click.Group):
    """The commands; a module is imported when its command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"prism.cli.{COMMANDS[cmd_name]}"), cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101 - as the table says
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As any group's; click knows no names to suggest before they are imported."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            close = get_close_matches(name, COMMANDS, 1)
            ctx.fail(
                f"No such command {name!r}." + (f" Did you mean {close[0]!r}?" if close else "")
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: prism serve",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda context, _, asked: show_version(context) if asked else None,
    help="Show the version, and what of it is compiled, and exit.",
)
def prism() -> None:
    """One door before many data stores.

    Clients call namespaces over HTTP; plugins know the backends behind them.
    """


def show_version(context: click.Context) -> None:
    """Print what runs here; the proxy's dependencies are imported only for this."""
    from prism.calls import is_compiled
    from prism.calls.json_text import IS_COMPILED
    from prism.server.http2.implementation import choose
    from prism.server.settings import ServerSettings

    calls, json = ("compiled" if it else "Python" for it in (is_compiled(), IS_COMPILED))
    http2 = choose(ServerSettings().http2_codec)
    click.echo(f"prism {__version__} (HTTP/2: {http2}; JSON: {json}; calls: {calls})")
    context.exit()


def main() -> None:
    """Run the command line; the errors of users never show as tracebacks."""
    try:
        prism(complete_var=completion.VARIABLE)
    except PrismError as error:
        click.echo(f"prism: {harmless(str(error), keep=LINES)}", err=True)
        sys.exit(1)
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        click.echo(
            f"prism: internal error: {type(error).__name__}: {error}\n"
            f"This is a bug. {TRACEBACK_VARIABLE}=1 shows where it happened.",
            err=True,
        )
        sys.exit(1)

"""The ``prism`` command.

Exit status of every command: 0 success, 1 failure (said on standard error),
2 wrong usage; ``prism serve`` also 3 when it was made to end at once.
"""

import os
import sys

import click

from prism import __version__
from prism.cli.authz import authz
from prism.cli.call import call
from prism.cli.completion import VARIABLE, completion
from prism.cli.config import config
from prism.cli.key import key
from prism.cli.plugin import namespace, plugin
from prism.cli.restart import restart
from prism.cli.serve import serve
from prism.cli.tail import tail
from prism.contract.errors import PrismError

TRACEBACK_VARIABLE = "PRISM_TRACEBACK"


@click.group(
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
    from prism.calls.json_text import IS_COMPILED
    from prism.server import ServerSettings
    from prism.server.http2.implementation import choose

    json = "compiled" if IS_COMPILED else "Python"
    http2 = choose(ServerSettings().http2_codec)
    click.echo(f"prism {__version__} (HTTP/2: {http2}; JSON: {json})")
    context.exit()


prism.add_command(serve)
prism.add_command(call)
prism.add_command(tail)
prism.add_command(completion)
prism.add_command(config)
prism.add_command(namespace)
prism.add_command(plugin)
prism.add_command(restart)
prism.add_command(key)
prism.add_command(authz)


def main() -> None:
    """Run the command line; the errors of users never show as tracebacks."""
    try:
        prism(complete_var=VARIABLE)
    except PrismError as error:
        click.echo(f"prism: {error}", err=True)
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

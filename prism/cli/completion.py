"""``prism completion``: what a shell has to know to complete commands and options."""

import sys

import click
from click.shell_completion import get_completion_class

VARIABLE = "_PRISM_COMPLETE"

EPILOG = """\b
Examples:
  prism completion bash > /etc/bash_completion.d/prism
  prism completion zsh > "${fpath[1]}/_prism"
  prism completion fish > ~/.config/fish/completions/prism.fish
"""


@click.command(epilog=EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has one for each of the choices
    try:
        script = kind(context.find_root().command, {}, "prism", VARIABLE).source()
    except RuntimeError as error:  # a bash that is too old
        click.echo(f"prism: {error}", err=True)
        sys.exit(1)
    click.echo(script)

"""``prism plugin sign``: say, with a key, what a plugin's content is."""

from pathlib import Path

import click

from prism.cli.output import output_option, show_one

EPILOG = """\b
Examples:
  prism plugin sign --key release.key --name orders --version v1.3 dist/orders
  prism plugin sign --key release.key my_package/

\b
PATH is a program, a script, a library, or the directory of a Python package. The
signature goes beside it, into PATH.sig. A plugin that the catalogue has a name and
versions for needs --name and --version, exactly as they are there.
"""


@click.command(epilog=EPILOG)
@click.argument("path", metavar="PATH")
@click.option("--key", "key_file", metavar="FILE", required=True, help="The private key.")
@click.option("--name", metavar="NAME", help="The plugin's name in the catalogue.")
@click.option("--version", metavar="VERSION", help="Its version in the catalogue.")
@output_option
def sign(path: str, key_file: str, name: str | None, version: str | None, output: str) -> None:
    """Sign the plugin at PATH."""
    from prism.verification.signing import load_key
    from prism.verification.signing import sign as sign_path

    statement, place = sign_path(path, load_key(Path(key_file)), name, version)
    show_one(
        {
            "digest": str(statement.digest),
            "name": statement.name,
            "version": statement.version,
            "key": statement.key,
            "signature": str(place),
        },
        output,
    )

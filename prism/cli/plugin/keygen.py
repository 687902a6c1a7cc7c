"""``prism plugin keygen``: make a key to sign plugins with."""

import re
from pathlib import Path

import click

from prism.cli.output import output_option, show_one

EPILOG = """\b
Examples:
  prism plugin keygen release.key
  prism plugin keygen --name orders-team keys/orders.key

\b
The private key is written to FILE, which only you can read and which must not exist.
Keep it off the machines that run Prism; they need the public key only.
"""


@click.command(epilog=EPILOG)
@click.argument("file", metavar="FILE")
@click.option("--name", metavar="NAME", help="Whose key it is; by default FILE without its ending.")
@output_option
def keygen(file: str, name: str | None, output: str) -> None:
    """Make a key to sign plugins with, and print what to trust it by."""
    from prism.contract import names
    from prism.verification.signature import key_id, public_text
    from prism.verification.signing import generate_key

    path = Path(file)
    name = name or path.stem.lower()
    if re.fullmatch(names.PLUGIN, name) is None:
        raise click.UsageError(f"{name!r} is no name: {names.NAMESPACE_FORM}; use --name")
    public = generate_key(path).public
    text = public_text(public)
    if output != "table":
        show_one({"name": name, "key": text, "id": key_id(public), "private_key": file}, output)
        return
    click.echo(
        f"# The private key is in {file}. Whoever trusts it has in the configuration:\n"
        "verification:\n"
        "  trusted_keys:\n"
        f"    - name: {name}\n"
        f'      key: "{text}"  # id {key_id(public)}'
    )

"""``prism key``: API keys, in the file that ``authentication.api_keys`` names."""

import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prism.cli.output import output_option, show, show_one

if TYPE_CHECKING:
    from prism.access.api_keys import KeyEntry

EPILOG = """\b
Examples:
  prism key create reports --group billing
  prism key create nightly-export --expires 2030-12-31
  prism key list
  prism key revoke 3f2a9c41d07b

\b
A running proxy takes a change over within two seconds. Its streams that a revoked key had
opened end then.
"""

file_option = click.option(
    "--file",
    "-f",
    metavar="FILE",
    default="keys.yaml",
    show_default=True,
    envvar="PRISM_KEYS",
    help="The file of keys.",
)


@click.group(epilog=EPILOG)
def key() -> None:
    """Make, list and revoke the API keys of clients."""


@key.command()
@click.argument("principal", metavar="PRINCIPAL")
@click.option("--group", "groups", multiple=True, metavar="GROUP", help="A group it is in.")
@click.option("--expires", metavar="DAY", help="Its last day (UTC), as 2030-12-31.")
@file_option
@output_option
def create(
    principal: str, groups: tuple[str, ...], expires: str | None, file: str, output: str
) -> None:
    """Make a key for PRINCIPAL, and print it: it is shown this once."""
    from prism.access.api_keys import create_key, today

    if expires is not None:
        try:
            expires = date.fromisoformat(expires).isoformat()
        except ValueError:
            raise click.UsageError(f"{expires!r} is no day; write it as 2030-12-31") from None
        if expires < today():
            raise click.UsageError(f"--expires {expires} is over: today is {today()} (UTC)")
    text, entry = create_key(Path(file), principal, list(groups), expires)
    if output != "table":
        show_one({"key": text, "id": entry.id, "principal": principal, "file": file}, output)
        return
    click.echo(text)
    click.echo(f"This is all there is of it: {file} has its hash alone.", err=True)


@key.command("list")
@file_option
@output_option
def list_keys(file: str, output: str) -> None:
    """List the keys: whose they are, never what they are."""
    from prism.access.api_keys import read_keys

    records: list[dict[str, Any]] = [
        {
            "id": entry.id,
            "principal": entry.principal,
            "groups": ", ".join(entry.groups) if output == "table" else entry.groups,
            "created": entry.created,
            "expires": _last_day(entry) if output == "table" else entry.expires,
            "revoked": entry.revoked,
        }
        for entry in read_keys(Path(file))
    ]
    show(records, output, ("id", "principal", "groups", "created", "expires", "revoked"))


def _last_day(entry: "KeyEntry") -> str | None:
    return f"{entry.expires} (expired)" if entry.ends <= time.time() else entry.expires


@key.command()
@click.argument("key_id", metavar="ID")
@file_option
def revoke(key_id: str, file: str) -> None:
    """Revoke the key with the ID that `prism key list` shows."""
    from prism.access.api_keys import revoke_key

    entry = revoke_key(Path(file), key_id)
    click.echo(f"The key {entry.id} of {entry.principal} is revoked")

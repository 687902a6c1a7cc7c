"""``prism token``: what is in a bearer token, and whether a proxy takes it."""

import base64
import binascii
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from prism.cli.output import CommandError, output_option, show_one

if TYPE_CHECKING:
    from prism.access.identity import Identity
    from prism.config.types import Config

EPILOG = """\b
Examples:
  prism token inspect ada.token
  jq -r .access_token answer.json | prism token inspect - --config prism.yaml

\b
FILE has the token, or is - for standard input: on the command line everybody on this machine could
read it. Its signature is never printed.
"""

TIMES = ("exp", "nbf", "iat", "auth_time")


@click.group(epilog=EPILOG)
def token() -> None:
    """See what is in a bearer token, and whether a proxy takes it."""


@token.command()
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
@click.option(
    "--config",
    "-c",
    "config_file",
    metavar="FILE",
    help="Judge the token by this configuration, as a proxy would: issuers are asked for it.",
)
@output_option
def inspect(file: str, config_file: str | None, output: str) -> None:
    """Print what is in a token.

    With --config also who it is to a proxy, or why it is refused. Exit status: 0; with --config 1
    where the token is not taken.
    """
    try:
        with click.open_file(file, "rb") as opened:
            text = opened.read(16 * 1024).strip()
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from error
    if text.lower().startswith(b"bearer "):
        text = text[7:].strip()
    if not text or b"\n" in text:
        raise click.UsageError("expected a file with one token, on one line")
    told = _contents(text)
    taken = True
    if config_file is not None:
        from prism.config import load_config

        config = load_config(config_file).config
        taken, verdict = _judged(config, text)
        told.update(verdict)
    show_one(told, output)
    if not taken:
        sys.exit(1)


def _contents(text: bytes) -> dict[str, Any]:
    """What anybody can read in it. Nothing of it is proven."""
    parts = text.split(b".")
    decoded = [_json(part) for part in parts[:2]]
    if len(parts) != 3 or None in decoded:
        kind = "an API key" if text.startswith(b"prism_") else "an opaque token"
        return {"kind": f"{kind}: nothing can be read in it"}
    header, claims = decoded
    assert header is not None  # noqa: S101 - neither is None, as was asked above
    assert claims is not None  # noqa: S101 - likewise
    for name in TIMES:
        if isinstance(claims.get(name), int | float):
            claims[name] = _moment(claims[name])
    return {"kind": "a JWT; what it says is proven by --config alone", **header, **claims}


def _json(part: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _moment(seconds: float) -> str:
    """A time, and how far away it is."""
    try:
        text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return f"{seconds}, which is no time"
    away = seconds - time.time()
    return f"{text} ({'in ' if away > 0 else ''}{abs(away):.0f} s{'' if away > 0 else ' ago'})"


def _judged(config: "Config", text: bytes) -> tuple[bool, dict[str, Any]]:
    """Whether a proxy with ``config`` takes the token, and what it is told."""
    import trio

    from prism.contract.errors import CallError, Unauthenticated

    if config.authentication is None:
        return True, {"verdict": "not looked at: the configuration has no authentication"}
    try:
        identity = trio.run(_identify, config, text)
    except Unauthenticated as error:
        return False, {"verdict": f"refused: {error.logged}"}
    except CallError as error:
        return False, {"verdict": f"not judged: {error}"}
    return True, {
        "verdict": "good",
        "principal": identity.name,
        "groups": sorted(identity.groups),
        "scopes": sorted(identity.scopes),
    }


async def _identify(config: "Config", text: bytes) -> "Identity":
    import trio

    from prism.access.authentication import Authentication
    from prism.access.identity import Identity, KeysAwaited
    from prism.contract.errors import CallError
    from prism.secrets import Secrets

    assert config.authentication is not None  # noqa: S101 - as was asked above
    authentication = Authentication.from_config(config.authentication, config.secrets, Secrets())
    headers = [(b"authorization", b"Bearer " + text)]
    found: Identity | CallError
    async with trio.open_nursery() as nursery:
        nursery.start_soon(authentication.run)
        try:
            try:
                found = authentication.identify(headers)
            except KeysAwaited as awaited:
                await awaited.wait()
                found = authentication.identify(headers)
        except CallError as error:
            found = error  # not out of the nursery, which would make a group of it
        nursery.cancel_scope.cancel()
    if isinstance(found, CallError):
        raise found
    return found

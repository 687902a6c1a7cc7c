"""Hosts: plugin processes for what is no program of its own, as a library or a module is.

A host is a plugin on the SDK, like any other: the proxy starts it, speaks frames with it, and
starts it anew when it has crashed. What it hosts it gets as a descriptor, whose bytes are those
that were verified. It imports the SDK and the contract alone.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from prism.sdk.plugin import Plugin
from prism.sdk.serving import serve

DESCRIPTOR_OPTION = "--descriptor"
CANCEL_GRACE_OPTION = "--cancel-grace"
DEFAULT_CANCEL_GRACE = 5.0
"""Seconds, as ``plugin.cancel_grace_seconds`` in the configuration."""


def host_command(program: str, place: str, descriptor: int, cancel_grace: float) -> list[str]:
    """The command of a host. ``program`` is a module of this package, ``place`` the name of what
    it is to host, whose content ``descriptor`` has."""
    options = [DESCRIPTOR_OPTION, str(descriptor), CANCEL_GRACE_OPTION, str(cancel_grace)]
    # -P: what lies in the directory where it runs is not to be imported.
    return [sys.executable, "-P", "-m", f"{__name__}.{program}", place, *options]


def host_environment() -> dict[str, str]:
    """What a host's environment needs beside a plugin's: it imports the Prism that runs here."""
    return {"PYTHONPATH": str(Path(__file__).parents[2])}


class HostOptions(argparse.Namespace):
    """What to host: ``place`` names it, ``source`` is the path to load it from."""

    place: str
    descriptor: int | None
    cancel_grace: float

    @property
    def source(self) -> str:
        """The path of its content."""
        return self.place if self.descriptor is None else f"/proc/self/fd/{self.descriptor}"


def parse_host_options(
    program: str, what: str, argv: Sequence[str]
) -> tuple[HostOptions, list[str]]:
    """A host's own options, and the rest, which are the SDK's. ``what`` is hosted: "library".

    Wrong ones end the process with status 2 and a usage message.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {__name__}.{program}",
        description=f"Serves a {what} as a plugin. Prism starts it where the configuration has "
        f"`{what}:`; by hand, say where the proxy is, with the options of every plugin.",
        allow_abbrev=False,
        add_help=bool({"-h", "--help"} & set(argv)),
    )
    parser.add_argument("place", metavar=what.upper(), help=f"the {what}'s file")
    parser.add_argument(
        DESCRIPTOR_OPTION, type=int, metavar="N", help="the open file to load in its place"
    )
    parser.add_argument(
        CANCEL_GRACE_OPTION,
        type=float,
        default=DEFAULT_CANCEL_GRACE,
        metavar="SECONDS",
        help="how long a cancelled call may go on before the process is ended",
    )
    return parser.parse_known_args(argv, HostOptions())


def serve_hosted(plugin: type[Plugin], argv: Sequence[str]) -> NoReturn:
    """Serve as every plugin does, and end the process without what it hosts having a say:
    threads of it may run on while the process is taken down around them."""
    code: int | str | None = 0
    try:
        serve(plugin, argv)
    except SystemExit as ending:
        code = ending.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)

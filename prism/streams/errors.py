"""Why a plugin, or an address to listen on, cannot be had."""

import os
import re
from collections.abc import Sequence

import trio

from prism.contract.errors import PrismError

_TRACE = re.compile(r"\s+at \S")
_AROUND_A_TRACE = re.compile(r"\s|[{}\])]|Node\.js v\d")
"""Lines of a trace, of an error's fields, and Node's version, which it writes last of all."""


def telling_line(output: Sequence[str]) -> str:
    """The line of what a process wrote last that is likeliest to name the cause; "" without any.

    That is the last one, but where Node and Java write their traces behind the error.
    """
    written = [line for line in output if line.strip()]
    told = written
    if any(_TRACE.match(line) for line in written):
        told = [line for line in written if not _AROUND_A_TRACE.match(line)] or written
    return told[-1].strip() if told else ""


class LaunchError(PrismError):
    """A plugin could not be started; the message says which one, why, and what to do.

    ``output`` is what its process wrote last: for operators, never for clients.
    ``crashed``: it was started and failed by itself, so that starting it again and again
    may be of no use; not so where a backend or a peer is not there yet.
    """

    def __init__(self, *facts: str, output: Sequence[str] = (), crashed: bool = False) -> None:
        super().__init__(*facts)
        self.output = tuple(output)
        self.crashed = crashed

    @property
    def explained(self) -> str:
        """The message with the line of the output that is likeliest to name the cause."""
        line = telling_line(self.output)
        return f"{self}; the last that it wrote: {line}" if line else str(self)


class ConnectionAged(trio.BrokenResourceError):
    """The peer closed the connection as a matter of routine, and said so."""


class ListenError(PrismError):
    """An address could not be listened on; says why, and the way out."""

    def __init__(self, place: str, why: str, way_out: str) -> None:
        super().__init__(place, why, way_out)
        self.place = place
        self.why = why
        self.way_out = way_out

    def __str__(self) -> str:
        return f"cannot listen on {self.place}: {self.why}; {self.way_out}"


class TLSFilesError(PrismError):
    """Files cannot be used for TLS; says which, and why."""

    def __init__(self, files: str | os.PathLike[str], why: str) -> None:
        super().__init__(files, why)
        self.files = os.fspath(files)
        self.why = why

    def __str__(self) -> str:
        return f"{self.files}: cannot be used for TLS: {self.why}"


def innermost(error: BaseException) -> BaseException:
    """What ``error`` comes from; of trio's "all attempts failed", the first attempt's error."""
    while isinstance(error.__cause__, BaseException):
        error = error.__cause__
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
    return error

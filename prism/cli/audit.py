"""``prism audit``: read the audit log, and see whether it is as it was written."""

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prism.cli.output import (
    CommandError,
    ReaderGone,
    cell,
    end_on_interrupt,
    output_option,
    print_line,
    show_one,
)

if TYPE_CHECKING:
    from prism.observability.audit_reading import CallLine

EPILOG = """\b
Examples:
  prism audit tail /var/log/prism/audit.jsonl --follow
  prism audit tail /var/log/prism/audit.jsonl --principal ada --decision deny
  prism audit verify /var/log/prism/audit.jsonl

\b
FILE is what audit.file says; files that were put aside beside it are read, too.
"""

SHOWN_PROBLEMS = 20
"""Problems, and notes, that a table has; the other forms have all of them."""

POLL = 0.2
"""Seconds after which a file that is followed is looked at again."""

file_argument = click.argument("file", metavar="FILE", type=click.Path(path_type=Path))


@click.group(epilog=EPILOG)
def audit() -> None:
    """Read the audit log, and see whether it is as it was written."""


@audit.command()
@file_argument
@output_option
def verify(file: Path, output: str) -> None:
    """See whether the log is as it was written.

    Exit status: 0 where it is, 1 where lines were changed, removed or put elsewhere, or its end
    is missing; 1 also where FILE is no audit log.
    """
    from prism.observability.audit_reading import Verification, is_written, lines_of

    found = Verification()
    with _reading():
        written = is_written(file)
        for text, place in lines_of(file):
            found.read(text, place)
    if not found.chains:
        raise _no_log(file)
    found.finish(is_written=written)
    if output != "table":
        show_one(
            {
                "file": str(file),
                "whole": not found.problems,
                "records": found.records,
                "lost": found.lost,
                "chains": len(found.chains),
                "problems": found.problems,
                "notes": found.notes,
            },
            output,
        )
    else:
        for problem in found.problems[:SHOWN_PROBLEMS]:
            click.echo(problem)
        if len(found.problems) > SHOWN_PROBLEMS:
            click.echo(f"... and {len(found.problems) - SHOWN_PROBLEMS} more; -o json has them all")
        for note in found.notes[:SHOWN_PROBLEMS]:
            click.echo(f"note: {note}", err=True)
        if len(found.notes) > SHOWN_PROBLEMS:
            click.echo(f"... and {len(found.notes) - SHOWN_PROBLEMS} more notes", err=True)
        state = "not as it was written" if found.problems else "whole"
        lost = f", {found.lost} lost" if found.lost else ""
        chains = f"{len(found.chains)} chain{'' if len(found.chains) == 1 else 's'}"
        click.echo(f"{file}: {state}: {found.records} records{lost}, {chains}")
    if found.problems:
        raise SystemExit(1)


@audit.command("tail")
@file_argument
@click.option("--lines", "-n", default=10, show_default=True, help="How many of the last ones.")
@click.option("--follow", "-f", is_flag=True, help="Print those that come, too, until Ctrl-C.")
@click.option("--namespace", help="Of this namespace alone.")
@click.option("--principal", help="Of this caller alone.")
@click.option("--decision", type=click.Choice(["allow", "deny", "none"]), help="Of this alone.")
@click.option("--json", "as_json", is_flag=True, help="As they are in the file.")
def show_tail(file: Path, lines: int, follow: bool, as_json: bool, **wanted: str | None) -> None:
    """Print the last records, one on a line."""
    asked = {name: value for name, value in wanted.items() if value is not None}
    end_on_interrupt()
    try:
        with _reading():
            for text, call in _calls(file, lines, asked, follow=follow):
                print_line(text.decode() if as_json else _brief(call))
    except ReaderGone:
        sys.exit(0)


@contextmanager
def _reading() -> Iterator[None]:
    """Say of a file that cannot be opened which it is, and why."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise CommandError(f"{error.filename}: {error.strerror}") from error


def _no_log(file: Path) -> CommandError:
    return CommandError(f"{file}: this is no audit log: none of its lines is one of such a log")


def _calls(
    file: Path, lines: int, asked: dict[str, str], *, follow: bool
) -> "Iterator[tuple[bytes, CallLine]]":
    """The last ``lines`` records of which ``asked`` holds, and then those that come."""
    from prism.observability.audit_reading import newest, parse, parse_call, put_aside

    last: deque[tuple[bytes, CallLine]] = deque(maxlen=lines)
    is_log, is_empty = False, True
    source = newest(file)
    try:
        for text in chain(_lines(put_aside(file, source)[-1:]), source):
            is_empty = False
            is_log = is_log or parse(text) is not None
            call = parse_call(text)
            if call is not None and _is_wanted(call, asked):
                last.append((text.rstrip(b"\n"), call))
        if not (is_log or is_empty):
            raise _no_log(file)
        yield from last
        if not last:
            by = " ".join(f"--{name} {value}" for name, value in asked.items())
            said = f"no record of {file} is one with {by}" if by else f"{file} has no records yet"
            click.echo(said, err=True)
        begun = b""
        while follow:
            text = begun + source.readline()
            if text.endswith(b"\n"):
                begun = b""
                call = parse_call(text)
                if call is not None and _is_wanted(call, asked):
                    yield text.rstrip(b"\n"), call
                continue
            begun = text  # the rest of the line is still to come
            if _is_another(source.fileno(), file):
                source.close()
                source, begun = file.open("rb"), b""
                continue
            time.sleep(POLL)
    finally:
        source.close()


def _lines(files: list[Path]) -> Iterator[bytes]:
    for each in files:
        with each.open("rb") as opened:
            yield from opened


def _is_wanted(call: "CallLine", asked: dict[str, str]) -> bool:
    return all(getattr(call, name) == value for name, value in asked.items())


def _is_another(descriptor: int, file: Path) -> bool:
    """Is ``file`` another one by now? While there is none, it is not."""
    try:
        now = file.stat()
    except FileNotFoundError:
        return False
    return not os.path.samestat(os.fstat(descriptor), now)


def _brief(call: "CallLine") -> str:
    """A record for people."""
    said = [call.decision]
    if call.rule:
        said.append(f"by {call.rule}")
    if call.reason:
        said.append(call.reason)
    if call.ran == "unknown":
        said.append("may have run")
    return cell(
        f"{call.time} {call.principal} {call.namespace}/{call.operation} {call.status} "
        f"{call.duration_ms:g} ms ({', '.join(said)}) {call.request_id}"
    )

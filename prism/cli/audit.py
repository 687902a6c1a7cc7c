"""``prism audit``: read the audit log, and see whether it is as it was written."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from prism.cli.output import ReaderGone, cell, end_on_interrupt, output_option, print_line, show_one

EPILOG = """\b
Examples:
  prism audit tail /var/log/prism/audit.jsonl --follow
  prism audit tail /var/log/prism/audit.jsonl --principal ada --decision deny
  prism audit verify /var/log/prism/audit.jsonl

\b
FILE is what audit.file says; files that were put aside beside it are read, too.
"""

SHOWN_PROBLEMS = 20
"""Problems that a table has; the other forms have all of them."""

POLL = 0.2
"""Seconds after which a file that is followed is looked at again."""

file_argument = click.argument("file", metavar="FILE", type=click.Path(exists=True, path_type=Path))


@click.group(epilog=EPILOG)
def audit() -> None:
    """Read the audit log, and see whether it is as it was written."""


@audit.command()
@file_argument
@output_option
def verify(file: Path, output: str) -> None:
    """See whether the log is as it was written.

    Exit status: 0 where it is, 1 where lines were changed, removed or put elsewhere, or its end
    is missing.
    """
    from prism.observability.audit_reading import Verification, is_written, lines_of

    found = Verification()
    written = is_written(file)
    for text, place in lines_of(file):
        found.read(text, place)
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
        for note in found.notes:
            click.echo(f"note: {note}", err=True)
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
        for text in _texts(file, lines, asked, follow=follow):
            print_line(text.decode() if as_json else _brief(json.loads(text)))
    except ReaderGone:
        sys.exit(0)


def _texts(file: Path, lines: int, asked: dict[str, str], *, follow: bool) -> Iterator[bytes]:
    """The last ``lines`` records of which ``asked`` holds, and then those that come."""
    from prism.observability.audit_reading import rotated_files

    last: deque[bytes] = deque(maxlen=lines)
    for each in rotated_files(file)[-1:]:
        with each.open("rb") as older:
            last.extend(text for text in older if _is_wanted(text, asked))
    source = file.open("rb")
    last.extend(text for text in source if _is_wanted(text, asked))
    yield from (text.rstrip(b"\n") for text in last)
    begun = b""
    while follow:
        text = begun + source.readline()
        if text.endswith(b"\n"):
            begun = b""
            if _is_wanted(text, asked):
                yield text.rstrip(b"\n")
            continue
        begun = text  # the rest of the line is still to come
        if _is_another(source.fileno(), file):
            source.close()
            source, begun = file.open("rb"), b""
            continue
        time.sleep(POLL)


def _is_wanted(text: bytes, asked: dict[str, str]) -> bool:
    try:
        record = json.loads(text)
    except ValueError:
        return False
    return "decision" in record and all(record.get(name) == it for name, it in asked.items())


def _is_another(descriptor: int, file: Path) -> bool:
    """Is ``file`` another one by now? While there is none, it is not."""
    try:
        now = file.stat()
    except FileNotFoundError:
        return False
    return not os.path.samestat(os.fstat(descriptor), now)


def _brief(record: dict[str, Any]) -> str:
    """A record for people."""
    said = [record["decision"]]
    if record.get("rule"):
        said.append(f"by {record['rule']}")
    if record.get("reason"):
        said.append(record["reason"])
    if record["ran"] == "unknown":
        said.append("may have run")
    call = f"{record['namespace']}/{record['operation']}"
    return cell(
        f"{record['time']} {record['principal']} {call} {record['status']} "
        f"{record['duration_ms']:g} ms ({', '.join(said)}) {record['request_id']}"
    )

"""How commands print what they found: a table for people, JSON or YAML for programs.

Programs get every field; the table has those that a line has room for. Lines of a stream are
printed as they come.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from prism.contract.errors import PrismError

GAP = "  "
LINES = "\n\t"
"""What is not printable in text of several lines."""


class CommandError(PrismError):
    """A command cannot do what it was asked, and no other error says why: ``prism: ...``, 1."""


output_option = click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="How to print it.",
)
"""``--output``, which a command passes on to :func:`show` or :func:`show_one`."""


def show(records: Sequence[Mapping[str, Any]], output: str, columns: Sequence[str]) -> None:
    """Print records that have the same fields; ``columns`` are the table's."""
    if output != "table":
        show_data([dict(record) for record in records], output)
        return
    rows = [[column.replace("_", " ").upper() for column in columns]]
    rows += [[cell(record.get(column)) for column in columns] for record in records]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(GAP.join(cells).rstrip())


def show_one(record: Mapping[str, Any], output: str) -> None:
    """Print one record, a line for each field."""
    if output != "table":
        show_data(dict(record), output)
        return
    width = max(map(len, record)) + 1
    for name, value in record.items():
        click.echo(f"{(name.replace('_', ' ') + ':').ljust(width)} {cell(value)}")


def show_data(data: Any, output: str) -> None:
    """Print ``data`` for programs, as JSON or YAML."""
    if output == "yaml":
        import yaml

        yaml.safe_dump(data, sys.stdout, sort_keys=False, allow_unicode=True)
    else:
        click.echo(as_json(data))


def as_json(data: Any) -> str:
    """``data`` as JSON for people and programs, on several lines; escaped is only what could drive
    a terminal, or cannot be written at all."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    return _UNFIT.sub(lambda found: json.dumps(found[0])[1:-1], text)


_UNFIT = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""DEL and the controls of Latin-1, which JSON need not escape; ends of lines, and directions, of
Unicode; halves of surrogate pairs."""


def cell(value: Any) -> str:
    """A value on one line. What a plugin or a file has named cannot drive the terminal."""
    match value:
        case None | "" | []:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(cell, value))
        case dict():
            return cell(json.dumps(value, ensure_ascii=False))
        case _:
            return harmless(_BREAKS.sub(" ", str(value)))


def harmless(text: str, keep: str = "") -> str:
    """``text``, but for ``keep``, without what could drive the terminal."""
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in text)


def brief(value: Any) -> str:
    """What a configuration or a state has, on one line for people: the names and values of a
    block, in brackets where it is in another one; numbers without noise, a rate as such."""
    match value:
        case {"calls_per_second": _, "burst": _}:
            return _rate(value)
        case dict():
            # What has commas of its own is set off by semicolons.
            gap = "; " if any(map(_is_rate, value.values())) else ", "
            shown = (
                brief(each) if _is_rate(each) else f"{name} {_bracketed(each)}"
                for name, each in value.items()
            )
            return cell(gap.join(shown))
        case [dict(), *_]:
            return cell("; ".join(map(brief, value)))
        case list() | tuple():
            return cell(list(map(brief, value)))
        case float():
            return f"{value:.10g}"
        case _:
            return cell(value)


def _bracketed(value: Any) -> str:
    is_block = isinstance(value, dict) or (isinstance(value, list) and dict in map(type, value))
    return f"({brief(value)})" if value and is_block else brief(value)


def _is_rate(value: Any) -> bool:
    return isinstance(value, dict) and {"calls_per_second", "burst"} <= value.keys()


def _rate(limit: Mapping[str, Any]) -> str:
    """A rate limit, and then what else is said of it."""
    rest = dict(limit)
    said = f"{brief(rest.pop('calls_per_second'))}/s, burst {brief(rest.pop('burst'))}"
    if (per := rest.pop("per", None)) is not None:
        said += f", per {per}"
    if operations := rest.pop("operations", None):
        said += f", of {', '.join(operations)}"
    return cell(f"{said}, {brief(rest)}" if rest else said)


_BREAKS = re.compile(r"\s*[\t\n\v\f\r]\s*")
"""What cannot be on one line, with the spaces around it."""


def end_on_interrupt() -> None:
    """Let Ctrl-C end this process as it ends any program (130 in a shell).

    There is nothing to clean up, and an exception could come at any place of a library.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class ReaderGone(Exception):
    """Nobody reads standard output any more, as behind ``| head``: the end, not a failure."""


def print_line(text: str) -> None:
    """Print one line of a stream, at once.

    Raises:
        ReaderGone: nobody reads it.
    """
    try:
        click.echo(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ReaderGone from None


def refused(status: int, text: str) -> str:
    """A refusal with the body ``text``, in one sentence; not only Prism refuses."""
    problem = decoded(text)
    said = cell(" ".join(text[:500].split()))
    return explained(problem, f"HTTP {status}: {said}" if text.strip() else f"HTTP {status}")


def decoded(text: str) -> Any:
    """JSON's value; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def explained(problem: object, otherwise: str) -> str:
    """An error, as the proxy's problem details say it, in one sentence for people."""
    said = otherwise
    if isinstance(problem, dict) and {"code", "detail"} <= problem.keys():
        found: dict[str, Any] = problem
        said = f"{found['code']}: {found['detail']} (request {found.get('request_id', '-')})"
    return f"prism: {harmless(said, keep=LINES)}"

"""``prism replay``: play recorded calls against another version, and compare the answers."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click

from prism.cli.connection import (
    Number,
    ca_cert_option,
    cert_option,
    credential_headers,
    target_url,
)
from prism.cli.output import (
    LINES,
    CommandError,
    end_on_interrupt,
    harmless,
    output_option,
    show_one,
)
from prism.cli.shadow import latency, print_differences

EPILOG = """\b
Examples:
  prism replay kv.jsonl --against http://127.0.0.1:50051 kv
  prism replay kv.jsonl --plugin-config '{"path": "copy.db"}' -- python -m prism_plugins.sqlite

\b
Calls that may write are left out unless --writes is given. Of a recording whose values are
redacted, the answers cannot be compared: that all calls are answered, and how fast, is told.
Exit status: 0 all answers are equal, 1 some differ or did not come, 2 wrong usage, or there
is no such namespace.
"""


@click.command(epilog=EPILOG)
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.option(
    "--against",
    nargs=2,
    metavar="URL NAMESPACE",
    help="Play them against a namespace of the proxy whose data port this is.",
)
@click.option(
    "--plugin-config",
    metavar="JSON",
    default="{}",
    help="The config of a plugin that COMMAND starts; @FILE reads it from a file.",
)
@click.option(
    "--plugin-credentials",
    metavar="FILE",
    help="File with a JSON object: the credentials of that plugin.",
)
@click.option("--writes", is_flag=True, help="Play calls, too, that may change something.")
@click.option("--ignore", multiple=True, metavar="PATH", help="Do not compare items[*].updated_at.")
@click.option("--concurrency", type=click.IntRange(1, 1000), default=8, show_default=True)
@click.option("--rate", type=Number(0, min_open=True), help="Calls a second, at most.")
@click.option("--show-values", is_flag=True, help="Show values that differ, and all keys.")
@click.option(
    "--key-file",
    metavar="FILE",
    envvar="PRISM_KEY_FILE",
    show_envvar=True,
    help="File with an API key, or another bearer token, to show.",
)
@ca_cert_option
@cert_option
@output_option
def replay(
    file: str,
    command: tuple[str, ...],
    against: tuple[str, str] | None,
    plugin_config: str,
    plugin_credentials: str | None,
    writes: bool,
    ignore: tuple[str, ...],
    concurrency: int,
    rate: float | None,
    show_values: bool,
    key_file: str | None,
    ca_cert: str | None,
    cert: str | None,
    output: str,
) -> None:
    """Play recorded calls again, and compare.

    The calls in FILE: against a namespace of a running proxy (--against), or against a plugin that
    is started for it.
    """
    import trio

    from prism.calls.comparison import Ignored
    from prism.cli.replay_targets import PluginTarget, ProxyTarget, Target
    from prism.cli.replaying import Replay
    from prism.observability.recording import Reader

    if bool(command) == (against is not None):
        raise click.UsageError("say --against URL NAMESPACE, or -- and the command of a plugin")
    try:
        ignored = Ignored(ignore)
    except ValueError as error:
        raise click.UsageError(f"--ignore: {error}") from None
    if against is not None:
        url, namespace = against
        target_url(url, namespace, "any")  # refuses names that are none
        headers = credential_headers(key_file)
        target: Target = ProxyTarget(url, namespace, headers, ca_cert, cert)
        _warn_if_recorded(Path(file), namespace)
    else:
        config, credentials = _settings(plugin_config), _credentials(plugin_credentials)
        target = PluginTarget(list(command), config, credentials)
        _show_log()
    played = Replay(Reader(Path(file)), target, ignored, writes=writes, show_values=show_values)
    end_on_interrupt()  # a plugin that was started ends, too: it has a guardian
    try:
        trio.run(played.run, concurrency, rate)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror or error}") from None
    report = played.report(file)
    if output == "table":
        show_one(_head(report), output)
        print_differences(report["differences"], report["other_differences"], report["recent"])
    else:
        show_one(report, output)
    if not report["played"]:
        click.echo(f"prism: {_nothing(report)}", err=True)
    sys.exit(0 if report["is_equal"] else 1)


class _Harmless(logging.Formatter):
    """What is logged of a plugin has text of the plugin in it."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record), keep=LINES)


def _show_log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Harmless())
    logging.getLogger().addHandler(handler)


def _warn_if_recorded(file: Path, namespace: str) -> None:
    from prism.observability.audit_reading import is_written

    try:
        is_recorded = is_written(file)
    except OSError:  # which is said when it is read
        return
    if is_recorded:
        click.echo(
            f"prism: a proxy is recording to {file}: where that is namespace {namespace}, these "
            "calls are added to it, too; replay a copy, or without `record`",
            err=True,
        )


def _settings(text: str) -> str:
    """JSON, as it is or in a file."""
    if text.startswith("@"):
        text = _read("--plugin-config", text[1:])
    _object("--plugin-config", text)
    return text


def _credentials(file: str | None) -> dict[str, str]:
    if file is None:
        return {}
    found = _object(f"--plugin-credentials: {file}", _read("--plugin-credentials", file))
    if not all(isinstance(each, str) for each in found.values()):
        raise click.UsageError(f"--plugin-credentials: {file}: expected texts as values")
    return found


def _read(option: str, file: str) -> str:
    try:
        return Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise click.UsageError(f"{option}: cannot read {file}: {reason}") from None


def _object(what: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:  # which say where, and show nothing of it
        raise click.UsageError(f"{what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.UsageError(f"{what} is no JSON object")
    return found


def _nothing(report: dict[str, Any]) -> str:
    if report["skipped_writes"]:
        return "every call in the recording may write; --writes plays them"
    return f"there is no recorded call in {report['file']}"


def _head(report: dict[str, Any]) -> dict[str, Any]:
    named = ("file", "against", "played", "skipped_writes", "skipped_lines", "unanswered")
    found = {name: report[name] for name in named}
    found |= report["outcomes"] if report["compared"] else {"compared": "no: values are redacted"}
    for name in ("latency_then", "latency_now"):
        found[name] = latency(report[name])
    return found

"""``prism plugin test``: hold a plugin in any language to the frame protocol, rule by rule."""

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prism.cli.output import LINES, harmless

if TYPE_CHECKING:
    from prism.sdk.conformance import Result, Target

EPILOG = """\b
Examples:
  prism plugin test -- ./echo
  prism plugin test --call 'get={"key": "a"}' --slow 'sleep={"seconds": 60}' -- python orders.py
  prism plugin test --only cancel-running --slow 'sleep={}' -- node echo.js
  prism plugin test --listen /tmp/echo.sock -- java -jar echo.jar
  prism plugin test --socket /run/orders.sock --config-file orders.json
  prism plugin test --output junit -- ./echo > conformance.xml

\b
COMMAND is started again and again, each time with PRISM_PLUGIN_FD; with --listen once, with
PLUGIN_SOCKET, and with --socket once, to listen there itself. Operations of it are called:
those that --call and --slow name, and else one that declares that it reads.
Exit status: 0 where no rule is broken that a plugin must keep, 1 where one is, 2 where the
plugin cannot be tried.
"""


@click.command("test", epilog=EPILOG)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--socket", metavar="ADDRESS", help="Dial a plugin that listens: PATH, tcp:HOST:PORT."
)
@click.option("--listen", metavar="PATH", help="Listen here for a plugin that dials in.")
@click.option("--config", metavar="JSON", default="{}", help="The `config:` of its namespace.")
@click.option("--config-file", type=click.Path(exists=True, dir_okay=False), help="That as a file.")
@click.option(
    "--credentials",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="A JSON file with its `credentials:`, an object of texts.",
)
@click.option(
    "--call",
    "calls",
    multiple=True,
    metavar="OPERATION=PARAMS",
    help="A call that succeeds; of a stream, a JSON list: what its client says.",
)
@click.option("--slow", metavar="OPERATION=PARAMS", help="A call that runs until it is cancelled.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable for the plugin.")
@click.option("--only", multiple=True, metavar="RULE", help="Try this rule alone; may be repeated.")
@click.option("--list", "list_rules", is_flag=True, help="Print the rules, and try none.")
@click.option(
    "--output", "-o", type=click.Choice(["text", "json", "junit"]), default="text",
    show_default=True, help="How to print what is found.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(0.1), default=10.0, show_default=True,
    help="Seconds to wait for anything.",
)  # fmt: skip
@click.option(
    "--strict", is_flag=True, help="Fail, too, where a rule is broken that one should keep."
)
def test(
    command: tuple[str, ...],
    socket: str | None,
    listen: str | None,
    config: str,
    config_file: str | None,
    credentials: str | None,
    calls: tuple[str, ...],
    slow: str | None,
    env: tuple[str, ...],
    only: tuple[str, ...],
    list_rules: bool,
    output: str,
    timeout: float,
    strict: bool,
) -> None:
    """Try whether a plugin, in any language, keeps the frame protocol.

    Plays a proxy against it, and tells each rule that it breaks, the frames that show it, and the
    way out.
    """
    from prism.sdk.conformance import RULES, CannotStart, Setup, run
    from prism.sdk.conformance.report import as_json, as_junit, as_lines, rules_as_data, summary

    if list_rules:
        _print_rules(output, rules_as_data())
        return
    if unknown := sorted(set(only) - set(RULES)):
        raise click.UsageError(f"there is no rule {unknown[0]}; see --list")
    setup = Setup(
        config=_object(_text_of(config_file) if config_file else config, "--config"),
        credentials=_credentials(credentials),
        calls=dict(_call(each, "--call") for each in calls),
        slow=_call(slow, "--slow") if slow else None,
    )
    environment = dict(_pair(each, "--env") for each in env)
    target = _target(command, socket, listen, timeout, environment)

    def tell(result: "Result") -> None:
        if output == "text" and (result.outcome != "passed" or only):
            for line in as_lines(result):
                click.echo(harmless(line, keep=LINES))

    try:
        report = run(target, setup, only=only, on_result=tell)
    except CannotStart as error:
        click.echo(f"prism: {error}", err=True)
        sys.exit(2)
    if output == "text":
        click.echo(summary(report))
    else:
        click.echo(as_json(report) if output == "json" else as_junit(report))
    broken = report.count("failed") if strict else report.count("failed", "must")
    sys.exit(1 if broken else 0)


def _target(
    command: tuple[str, ...],
    socket: str | None,
    listen: str | None,
    timeout: float,
    environment: dict[str, str],
) -> "Target":
    from prism.sdk.conformance import CannotStart, DiallingIn, Listening, Spawned

    if socket is not None and listen is not None:
        raise click.UsageError("--socket dials, and --listen waits: give one of them")
    if not command and socket is None and listen is None:
        raise click.UsageError("say what to try: -- COMMAND, --socket ADDRESS or --listen PATH")
    if command and shutil.which(command[0]) is None:
        raise click.UsageError(f"there is no program {command[0]}")
    options: dict[str, Any] = {"timeout": timeout, "environment": environment}
    try:
        if socket is not None:
            return Listening(socket, command, **options)
        if listen is not None:
            return DiallingIn(listen, command, **options)
    except (CannotStart, ValueError) as error:
        raise click.UsageError(str(error)) from None
    return Spawned(command, **options)


def _print_rules(output: str, rules: list[dict[str, Any]]) -> None:
    if output == "json":
        click.echo(json.dumps(rules, indent=2, ensure_ascii=False))
        return
    width = max(len(rule["id"]) for rule in rules)
    for rule in rules:
        click.echo(
            f"{rule['id']:{width}}  {rule['severity']:6}  {rule['section']:>2}  {rule['title']}"
        )


def _text_of(path: str) -> str:
    return Path(path).read_text()


def _object(text: str, option: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.UsageError(f"{option}: a JSON object is needed")
    return found


def _credentials(path: str | None) -> dict[str, str]:
    if path is None:
        return {}
    found = _object(_text_of(path), "--credentials")
    wrong = [name for name, value in found.items() if not isinstance(value, str)]
    if wrong:
        raise click.UsageError(f"--credentials: {wrong[0]} is no text")
    return found


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.UsageError(f"{option}: {text!r} is not NAME=VALUE")
    return name, value


def _call(text: str, option: str) -> tuple[str, Any]:
    name, params = _pair(text, option)
    try:
        return name, json.loads(params)
    except ValueError as error:
        raise click.UsageError(f"{option}: the params of {name} are not JSON: {error}") from None

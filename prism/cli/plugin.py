"""``prism plugin`` and ``prism namespace``: what operators see of a running proxy, and do."""

import json
import sys
import threading
import time
from concurrent.futures import Future, wait
from datetime import UTC, datetime
from typing import Any

import click

from prism.cli import completion
from prism.cli.conformance import test
from prism.cli.connection import Admin, Number, admin_options, admin_path
from prism.cli.new import new
from prism.cli.output import (
    LINES,
    ReaderGone,
    brief,
    end_on_interrupt,
    harmless,
    output_option,
    print_line,
    show,
    show_one,
)
from prism.cli.verification import keygen, sign, verify

COLUMNS = [
    "namespace",
    "plugin",
    "configured_version",
    "version",
    "state",
    "in_flight",
    "restarts",
    "reason",
]
WATCHED = ["instance", *(name for name in COLUMNS[1:] if name != "in_flight")]
"""What of a status can change with an event."""
PROGRESS_SECONDS = 0.5
"""Seconds between two looks at a change that takes its time."""
TRIAL_SECONDS = 10.0
"""Seconds between two lines about a canary, of which something changes all the time."""
REPLICA_COLUMNS = {"name", "state", "in_flight", "share"}
"""What is shown of each replica; more where it says something."""
LINE_SHOWN = 120
"""Characters of a plugin's last line that a table has room for."""


EPILOG = """\b
Examples:
  prism plugin list
  prism plugin reload user-profiles --version v1.3 --token-file admin.token
  prism plugin new orders --language go
  prism plugin keygen release.key
  prism plugin sign --key release.key --name orders --version v1.3 /opt/orders/v1.3/plugin
  prism plugin verify --config prism.yaml
  prism plugin trace user-profiles
  prism plugin test -- python orders.py
"""


@click.group(epilog=EPILOG)
def plugin() -> None:
    """Operate a running proxy's plugins; make, test and sign new ones."""


@click.group()
def namespace() -> None:
    """Look at namespaces, and operate their circuit breakers."""


@namespace.command("list")
@output_option
@admin_options
def list_namespaces(output: str, admin: Admin) -> None:
    """Every namespace."""
    found = admin.get("/admin/namespaces")["namespaces"]
    show(found, output, ["namespace", "backend", "ready", "in_flight", "operations"])


@namespace.command()
@click.argument("name", shell_complete=completion.administered)
@output_option
@admin_options
def describe(name: str, output: str, admin: Admin) -> None:
    """One namespace: its plugin, operations and limits."""
    found = admin.get(admin_path("namespaces", name))
    if output == "table":
        status = found["plugin"]
        found["plugin"] = f"{status['plugin']}, {status['state']}"
        found["operations"] = [operation["name"] for operation in found["operations"]]
        policies = found.pop("policies", {})  # which an older proxy does not tell
        # What the policy of that name shows is more than what is configured.
        limits = {name: value for name, value in found["limits"].items() if name not in policies}
        found["limits"] = brief(limits)
        for name, state in policies.items():
            found[name] = brief(_dated(state))
        show_one(found, output)
        _show_replicas(status)
        return
    show_one(found, output)


@namespace.command()
@click.argument("name", shell_complete=completion.administered)
@click.argument("action", type=click.Choice(["open", "close", "auto"]))
@output_option
@admin_options
def breaker(name: str, action: str, output: str, admin: Admin) -> None:
    """Open or close a circuit breaker by hand, or undo that (auto).

    While it is open every call is refused. What is asked for holds for the plugins that follow,
    too, until it is taken back with auto, or the proxy is restarted.
    """
    found = admin.post("/admin/breaker", {"namespace": name, "action": action})
    if output == "table":
        found = {"namespace": found["namespace"], **_dated(found["breaker"])}
    show_one(found, output)


def _dated(state: dict[str, Any]) -> dict[str, Any]:
    """What a policy shows, with the time since which that holds in words, if it has one."""
    if not state.get("since"):
        return state
    when = datetime.fromtimestamp(state["since"], UTC).isoformat(timespec="seconds")
    return {**state, "since": when}


@plugin.command("list")
@output_option
@admin_options
def list_plugins(output: str, admin: Admin) -> None:
    """Every namespace's plugin and its state."""
    found = admin.get("/admin/plugins")["plugins"]
    show([_with_last_line(each) for each in found] if output == "table" else found, output, COLUMNS)


@plugin.command()
@click.argument("namespace", shell_complete=completion.administered)
@click.option("--watch", is_flag=True, help="Print a line whenever its state has changed.")
@output_option
@admin_options
def status(namespace: str, watch: bool, output: str, admin: Admin) -> None:
    """Show one namespace's plugin."""
    path = admin_path("plugins", namespace)
    if not watch:
        _show(admin.get(path), output)
        return
    end_on_interrupt()
    shown = ""

    def look() -> None:
        nonlocal shown
        found = admin.get(path)
        line = "  ".join(f"{name}={found[name]}" for name in WATCHED if found[name])
        if line != shown:
            print_line(_watched(found, output) if output != "table" else line)
        shown = line

    try:
        while True:  # a proxy that is replaced ends the stream, and its successor has another
            for _event in admin.lines(f"/admin/events?tail=0&namespace={namespace}", look):
                look()
    except ReaderGone:
        return


@plugin.command()
@click.argument("namespace", shell_complete=completion.administered)
@click.option("--version", help="A version of the catalogue; without it, the same one again.")
@click.option(
    "--canary", metavar="SHARE", help="Try it on a share of the calls first, such as 10%."
)
@click.option(
    "--min-calls", type=click.IntRange(1), help="Calls a canary must have answered (100)."
)
@click.option("--min-seconds", type=Number(0), help="Seconds a canary takes at least (30).")
@click.option(
    "--max-seconds",
    type=Number(0),
    help="Seconds until a canary with too few calls is rolled back (600).",
)
@click.option("--abort", is_flag=True, help="Roll back the reload that is under way.")
@output_option
@admin_options
def reload(
    namespace: str,
    version: str | None,
    canary: str | None,
    min_calls: int | None,
    min_seconds: float | None,
    max_seconds: float | None,
    abort: bool,
    output: str,
    admin: Admin,
) -> None:
    """Replace a plugin without losing a call; prints the receipt.

    Several replicas are replaced one at a time. Exit status 1 where the new one was given up: the
    old one serves on, or (failed) none, or (partial) it serves as some of the replicas.
    """
    limits = _given(min_calls=min_calls, min_seconds=min_seconds, max_seconds=max_seconds)
    if limits and canary is None:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in limits)
        raise click.UsageError(f"{names}: of a canary, so --canary SHARE is needed")
    if abort and (version is not None or canary is not None):
        raise click.UsageError("--abort stops a reload, and begins none")
    if abort:
        _show(admin.post("/admin/plugin/abort", {"namespace": namespace}), output)
        return
    trial = None if canary is None else {"share": canary, **limits}
    body = {"namespace": namespace, **_given(version=version, canary=trial)}
    _tell(_change(admin, "reload", body), output)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _simple(name: str, help_text: str) -> None:
    @plugin.command(name, help=help_text)
    @click.argument("namespace", shell_complete=completion.administered)
    @output_option
    @admin_options
    def command(namespace: str, output: str, admin: Admin) -> None:
        _tell(_change(admin, name, {"namespace": namespace}), output)


_simple("restart", "End a plugin, and its streams, and start it again; calls wait.")
_simple("drain", "Let a plugin end after its calls, and start none.")
_simple("reset", "Forget a plugin's failures, and try to start it now.")


@plugin.command()
@click.argument("namespace", required=False, shell_complete=completion.administered)
@click.option("--tail", type=click.IntRange(0), default=20, show_default=True, help="Past events.")
@output_option
@admin_options
def events(namespace: str | None, tail: int, output: str, admin: Admin) -> None:
    """Follow what happens to plugins, until Ctrl-C.

    Every change of state, each step of a reload, namespaces that come and go.
    """
    if namespace is not None:
        admin_path("plugins", namespace)
    query = f"tail={tail}" + (f"&namespace={namespace}" if namespace is not None else "")
    end_on_interrupt()
    try:
        for text in admin.lines(f"/admin/events?{query}"):
            event = json.loads(text)
            print_line(_watched(event, output) if output != "table" else _event_line(event))
    except ReaderGone:
        return


def _event_line(event: dict[str, Any]) -> str:
    if "kind" not in event:
        return json.dumps(event)  # so many were lost, or the stream's end
    when = datetime.fromtimestamp(event["time"], UTC).isoformat(timespec="milliseconds")
    what = event.get("state", "") if event["kind"] == "state" else event["kind"]
    who = event.get("instance") or event["namespace"] or "the proxy"
    return f"{when} {who:20} {what:12} {_plain(event.get('reason', ''))}".rstrip()


@plugin.command()
@click.argument("namespace", shell_complete=completion.administered)
@click.option("--tail", type=click.IntRange(0), default=100, show_default=True, help="Last lines.")
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines.")
@admin_options
def logs(namespace: str, tail: int, follow: bool, admin: Admin) -> None:
    """Show what a plugin wrote to its output, and its log records."""
    path = admin_path("plugins", namespace, f"/logs?tail={tail}")
    if not follow:
        for line in admin.get(path)["lines"]:
            click.echo(_log_line(line))
        return
    end_on_interrupt()
    try:
        for text in admin.lines(f"{path}&follow=true"):
            print_line(_log_line(json.loads(text)))
    except ReaderGone:
        return


def _log_line(line: dict[str, Any]) -> str:
    if "text" not in line:
        return json.dumps(line)  # so many were lost, or the stream's end
    when = datetime.fromtimestamp(line["time"], UTC).isoformat(timespec="milliseconds")
    return f"{when} {line['level']:7} {line['instance']} {_plain(line['text'])}"


@plugin.command()
@click.argument("namespace", shell_complete=completion.administered)
@click.option(
    "--payloads",
    is_flag=True,
    help="Show what is in the frames, shortened; needs `may: operate`.",
)
@output_option
@admin_options
def trace(namespace: str, payloads: bool, output: str, admin: Admin) -> None:
    """Follow the frames between the proxy and a plugin, until Ctrl-C.

    Values are left out unless --payloads asks for them; credentials are blanked in any case.
    """
    path = admin_path("plugins", namespace, "/frames/payloads" if payloads else "/frames")
    end_on_interrupt()
    try:
        for text in admin.lines(path):
            frame = json.loads(text)
            print_line(_watched(frame, output) if output != "table" else _frame_line(frame))
    except ReaderGone:
        return


def _frame_line(frame: dict[str, Any]) -> str:
    if "kind" not in frame:
        return json.dumps(frame)  # so many were lost, or the stream's end
    when = datetime.fromtimestamp(frame["time"], UTC).time().isoformat(timespec="milliseconds")
    arrow = "->" if frame["sender"] == "proxy" else "<-"
    call, aux, size = frame.get("call"), frame.get("aux"), frame["size"]
    words = [
        frame["kind"],
        str(call) if call else "",
        frame.get("method", ""),
        frame.get("status", ""),
        f"{aux} {UNITS.get(frame['kind'], '')}".rstrip() if aux else "",
        *frame.get("flags", ()),
        f"{size} bytes" if size else "",
        frame.get("payload", ""),
    ]
    return f"{when} {frame['instance']} {arrow} {harmless(' '.join(filter(None, words)))}"


UNITS = {"OPEN": "ms", "CREDIT": "bytes"}
"""What a frame's ``aux`` counts."""


def _plain(text: str) -> str:
    """What a plugin has said, its further lines indented; it cannot drive the terminal."""
    return harmless(text, keep=LINES).replace("\n", "\n    ")


def _change(admin: Admin, operation: str, body: dict[str, Any]) -> dict[str, Any]:
    """What the admin port answers; while that takes, how far it is goes to standard error."""
    answer: Future[dict[str, Any]] = Future()
    admin.prepare()

    def ask() -> None:
        try:
            answer.set_result(admin.post(f"/admin/plugin/{operation}", body))
        except BaseException as error:
            answer.set_exception(error)

    # Of a kind that Ctrl-C need not wait for: the proxy goes on with what was begun.
    threading.Thread(target=ask, daemon=True).start()
    shown, again_at = "", 0.0
    while not wait([answer], PROGRESS_SECONDS).done:
        status = admin.peek(f"/admin/plugins/{body['namespace']}") or {}
        trial = status.get("canary")
        line = _trial(trial) if trial else _progress(status)
        if line in ("", shown) or answer.done() or (trial and time.monotonic() < again_at):
            continue
        click.echo(line, err=True)
        shown, again_at = line, time.monotonic() + TRIAL_SECONDS
    return answer.result()


def _progress(status: dict[str, Any]) -> str:
    return "; ".join(
        f"{each['id']} {each['state'].replace('_', ' ')}, {each['in_flight']} in flight"
        for each in status.get("generations", ())
    )


def _trial(canary: dict[str, Any]) -> str:
    """How a canary stands, and what becomes of it when."""
    said = f"canary: {canary['calls']} of {canary['min_calls']} calls"
    if canary["calls"]:
        said += f", errors {canary['error_rate']:.1%} (old: {canary['old_error_rate']:.1%})"
    if canary["calls"] < canary["min_calls"]:
        return f"{said}, rolled back in {_duration(canary['max_seconds'] - canary['seconds'])}"
    return f"{said}, judged in {_duration(canary['min_seconds'] - canary['seconds'])}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _tell(answer: dict[str, Any], output: str) -> None:
    _show(answer, output)
    if answer.get("outcome") in ("rolled_back", "partial", "failed"):
        sys.exit(1)


def _show(record: dict[str, Any], output: str) -> None:
    """Programs get all of ``record``."""
    if output != "table":
        show_one(record, output)
        return
    found = _readable(_with_last_line(record))
    if found.get("outcome") == "failed" and "phases" in found:
        found["phases"] += "; it has no instance still"
    if found.get("last_error") and str(found["last_error"]) in str(found.get("reason", "")):
        del found["last_error"]  # the reason says it
    written = found.pop("last_output", [])
    if record.get("isolation"):
        found["isolation"] = _isolation(record["isolation"])
    show_one(found, output)
    _show_isolation(record.get("isolation"))
    _show_replicas(record)
    if written:
        click.echo("last output:")
    for line in written:
        click.echo(f"    {_plain(line)}")


def _isolation(isolation: dict[str, Any]) -> str:
    """By which mechanism, and what it is kept from."""
    kept = ", ".join(name.replace("_", " ") for name in isolation["holds"])
    return f"{isolation['mechanism']}: {kept}" if kept else isolation["mechanism"]


def _show_isolation(isolation: dict[str, Any] | None) -> None:
    """What a plugin could not be kept from, and why, below its status."""
    lacks = isolation["lacks"] if isolation else {}
    if lacks:
        click.echo("not confined:")
    for name, why in lacks.items():
        click.echo(f"    {name.replace('_', ' ')}: {_plain(why)}")


def _show_replicas(record: dict[str, Any]) -> None:
    """A table of the replicas below a status, or a receipt."""
    replicas = record.get("replicas") or []
    if not replicas:
        return
    click.echo("replicas:")
    if "outcome" in record:
        rows = [
            {
                "name": one["replica"],
                "outcome": one["outcome"],
                "old": (one["old"] or {}).get("id"),
                "new": (one["new"] or {}).get("id"),
                "total": f"{one['phases']['total']:.3f} s",
                "reason": one["reason"],
            }
            for one in replicas
        ]
        show(rows, "table", ["name", "outcome", "old", "new", "total", "reason"])
        return
    rows = [_replica_row(one) for one in replicas]
    columns = ["name", "zone", "state", "version", "pid", "in_flight", "share", "ejected_for"]
    shown = [name for name in columns if name in REPLICA_COLUMNS or any(r[name] for r in rows)]
    show(rows, "table", [*shown, "reason"])


def _replica_row(one: dict[str, Any]) -> dict[str, Any]:
    ejected = one["ejected_for"]
    return one | {
        "share": f"{one['share']:.0%}",
        "ejected_for": None if ejected is None else f"{ejected:.1f} s",
    }


def _with_last_line(status: dict[str, Any]) -> dict[str, Any]:
    """A plugin that is not there, and the last line that it wrote, which often says why; and one
    whose secrets have changed without it."""
    if status.get("secrets"):
        reasons = [status.get("reason"), status["secrets"]]
        status = status | {"reason": "; ".join(reason for reason in reasons if reason)}
    from prism.streams.errors import telling_line  # brings trio, which only this needs

    line = telling_line(status.get("last_output", ()))
    if status.get("instance") is not None or not (status.get("reason") and line):
        return status
    shown = line if len(line) <= LINE_SHOWN else f"{line[:LINE_SHOWN]}…"
    return status | {"reason": f"{status['reason']}; it wrote: {shown}"}


def _watched(record: dict[str, Any], output: str) -> str:
    """One of many: a line of JSON, or a YAML document."""
    if output == "json":
        return json.dumps(record)
    import yaml

    text: str = yaml.safe_dump(record, explicit_start=True, sort_keys=False, allow_unicode=True)
    return text.rstrip("\n")


def _readable(record: dict[str, Any]) -> dict[str, Any]:
    """``record`` with what is nested on one line, and without what is not there."""
    flat = {}
    for name, value in record.items():
        if isinstance(value, dict):
            inner = [
                f"{key} {_number(each, name)}"
                for key, each in value.items()
                if each not in (None, "")
            ]
            flat[name] = ", ".join(inner)
        elif value not in (None, "", []) and name not in {
            "generations",
            "replicas",
            "time",
            "since",
        }:
            flat[name] = f"{value:.1f} s" if name == "retry_in" else value
    return flat


def _number(value: object, of: str) -> str:
    """A value within a record; the phases of a reload are seconds."""
    if of == "phases" and isinstance(value, int | float):
        return f"{value:.3f} s"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


for command in (new, keygen, sign, verify, test):
    plugin.add_command(command)

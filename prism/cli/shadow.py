"""``prism shadow``: how the answers of a namespace's shadow compare."""

from typing import Any

import click

from prism.cli import completion
from prism.cli.connection import Admin, admin_options, admin_path
from prism.cli.output import output_option, show, show_one

MAX_LINES = 10
"""Places of differences, and calls, that a table has room for."""


@click.group()
def shadow() -> None:
    """Look at the shadows of namespaces."""


@shadow.command()
@click.argument("namespace", shell_complete=completion.administered)
@output_option
@admin_options
def report(namespace: str, output: str, admin: Admin) -> None:
    """Show how its answers compare.

    How often they were equal, where they differ, and how fast it is.
    """
    found = admin.get(admin_path("namespaces", namespace, "/shadow"))
    if output != "table":
        show_one(found, output)
        return
    show_one(_head(found), output)
    print_differences(found["differences"], found["other_differences"], found["recent"])


def _head(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "namespace": found["namespace"],
        "shadow": f"{found['instance'] or 'does not serve'} {found['version'] or ''}".strip(),
        "share": f"{found['share']:.10g}",
        "copied": found["copied"],
        **found["outcomes"],
        "dropped": ", ".join(f"{name} {n}" for name, n in found["dropped"].items() if n),
        "latency": latency(found["latency"]),
        "shadow_latency": latency(found["shadow_latency"]),
    }


def latency(found: dict[str, float]) -> str:
    """Percentiles, in milliseconds."""
    return ", ".join(f"{name} {seconds * 1000:.3g} ms" for name, seconds in found.items())


def print_differences(
    groups: list[dict[str, Any]], others: int, recent: list[dict[str, Any]]
) -> None:
    """Where answers differ, as a table, and the last calls of which they did."""
    if not groups:
        return
    click.echo()
    show(groups[:MAX_LINES], "table", ["count", "operation", "kind", "path"])
    rest = others + sum(group["count"] for group in groups[MAX_LINES:])
    if rest:
        click.echo(f"and {rest} more (--output json lists them)")
    click.echo()
    rows = [
        {
            "request": call["request_id"],
            "operation": call["operation"],
            "differences": [_difference(each) for each in call["differences"]],
        }
        for call in recent[-MAX_LINES:]
    ]
    show(rows, "table", ["request", "operation", "differences"])


def _difference(found: dict[str, str]) -> str:
    old, new = found.get("old", ""), found.get("new", "")
    change = f" {old or '-'} -> {new or '-'}" if old or new else ""
    return f"{found['kind']} {found['path']}{change}"

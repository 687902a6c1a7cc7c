"""``prism namespace list`` and ``describe``."""

import click

from prism.cli.admin import Admin, admin_options, admin_path
from prism.cli.output import output_option, show, show_one


@click.group()
def namespace() -> None:
    """Look at namespaces."""


@namespace.command("list")
@output_option
@admin_options
def list_namespaces(output: str, admin: str, token_file: str | None) -> None:
    """Every namespace."""
    found = Admin(admin, token_file).get("/admin/namespaces")["namespaces"]
    show(found, output, ["namespace", "backend", "ready", "in_flight", "operations"])


@namespace.command()
@click.argument("name")
@output_option
@admin_options
def describe(name: str, output: str, admin: str, token_file: str | None) -> None:
    """One namespace: its plugin, operations and limits."""
    found = Admin(admin, token_file).get(admin_path("namespaces", name))
    if output == "table":
        found["plugin"] = f"{found['plugin']['plugin']}, {found['plugin']['state']}"
        found["operations"] = [operation["name"] for operation in found["operations"]]
        found["limits"] = ", ".join(f"{key} {value}" for key, value in found["limits"].items())
    show_one(found, output)

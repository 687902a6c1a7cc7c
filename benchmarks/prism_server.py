"""``prism serve`` with generated configurations."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.processes import server

IN_PROCESS = {"type": "in_process", "module": "benchmarks.echo_plugin:Echo"}
SPAWNED = {
    "type": "sidecar",
    "command": [sys.executable, "-m", "benchmarks.echo_plugin", "trio", "msgpack"],
}


def echo_namespace(name: str, plugin: dict[str, Any]) -> dict[str, Any]:
    """A namespace with the echo plugin, run as ``plugin`` says."""
    return {"name": name, "backend": "echo", "plugin": plugin}


@contextmanager
def prism(folder: Path, namespaces: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """A running proxy: its pid and URL. ``folder`` gets its configuration."""
    file = folder / "prism.yaml"
    file.write_text(yaml.safe_dump({"namespaces": namespaces}))
    command = [sys.executable, "-m", "prism", "serve", "--config", str(file)]
    with server(
        [*command, "--port", "0", "--admin-port", "0"], r"Prism serves .* (http:\S+)"
    ) as up:
        yield up

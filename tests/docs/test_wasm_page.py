"""The commands of docs/wasm.md print what the page shows, from the source to an answer."""

import os
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from prism.hosts.wasm import core, guest, http, jobs
from tests.docs.test_commands import PRISM, ROOT, Served, matches, serve, steps
from tests.hosts.wasm.modules import missing, rust_compiler

__all__ = ["serve"]  # a fixture
PAGE = "docs/wasm.md"
TEXT = (ROOT / PAGE).read_text()


def test_the_page_tells_the_truth(serve, tmp_path: Path) -> None:
    compiler = rust_compiler()
    if compiler is None:
        missing("there is no rustc with the library of wasm32-unknown-unknown")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "rustc").symlink_to(compiler)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    proxy: Served | None = None
    for command, expected in steps(PAGE):
        if command.startswith("prism serve "):
            proxy = serve(*command.split()[2:])
            assert matches(expected, proxy.printed), proxy.printed
            continue
        environment = {**os.environ, "PATH": f"{programs}:{PRISM.parent}:{os.environ['PATH']}"}
        if proxy is not None:
            command = proxy.as_run(command)
            environment["PRISM_ADMIN"] = proxy.as_run("http://127.0.0.1:50052")
        deadline = time.monotonic() + 60
        while True:  # what is logged, and what becomes of a plugin, comes in its own time
            ran = subprocess.run(
                ["sh", "-c", command.replace("curl ", "curl -sS ")],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
            )
            printed = ran.stdout + ran.stderr
            if matches(expected, printed):
                break
            said = f"{command}\nprinted\n{printed}\ninstead of\n{expected}"
            assert command.startswith("prism plugin "), said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)


@pytest.mark.parametrize("name", [name for place, name in core.IMPORTS if place == core.OURS])
def test_what_modules_import_is_on_the_page(name: str) -> None:
    line = next(line for line in TEXT.splitlines() if line.startswith(f"| `{name}("))
    needs = core.IMPORTS[core.OURS, name].needs
    granted = {"key_value": "key_value_bytes"}.get(needs, needs)
    assert line.rstrip().endswith(f"| `{granted}` |" if granted else "| |")


@pytest.mark.parametrize("name", [*core.EXPORTS, *core.OPTIONAL])
def test_what_modules_export_is_on_the_page(name: str) -> None:
    assert f"| `{name}(" in TEXT


def test_the_numbers_on_the_page() -> None:
    assert f"{jobs.MAX_LOG_LINES} lines a call of {jobs.MAX_LOG_BYTES // 1024} KiB" in TEXT
    assert f"| stack | {guest.STACK // 1024} KiB" in TEXT
    assert f"{guest.MAX_TABLE:,} elements" in TEXT
    assert f"| the module | {guest.MAX_CODE >> 20} MiB" in TEXT
    assert f"| an answer or a message | {guest.MAX_RESULT >> 20} MiB" in TEXT
    assert f"at most {http.MAX_BODY >> 20} MiB, a request at most {http.MAX_SECONDS:g} s" in TEXT
    fields = [field.name for field in msgspec.structs.fields(guest.Declared)]
    assert ", ".join(f'"{name}"' for name in fields) in TEXT

"""The commands in the documentation print what the documentation shows.

Blocks marked ``console`` are run in order against a fresh ``prism serve``. In an
expected output ``...`` stands for anything.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "docs/getting-started.md",
    "docs/sqlite.md",
    "docs/http-api.md",
    "docs/plugin-verification.md",
    "docs/admin.md",
    "docs/security.md",
    "docs/resilience.md",
]
PRISM = Path(sys.executable).parent / "prism"
PROGRESS = re.compile(r"^\S+/\d+ .* in flight\n", re.MULTILINE)
"""What commands that wait say meanwhile, on a machine where that takes long."""
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def steps(page: str) -> list[tuple[str, str]]:
    """(command, expected output) for each ``$`` line of the page's console blocks."""
    found = []
    for block in BLOCK.findall((ROOT / page).read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            while command.endswith("\\"):
                line, _, output = output.partition("\n")
                command = command[:-1] + line.strip()
            if "<<'END'" in command:
                text, _, output = output.partition("\nEND\n")
                command = f"{command}\n{text}\nEND\n"
            found.append((command, output.strip()))
    return found


def matches(expected: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in expected.split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


class Served:
    """A ``prism serve`` on free ports, which the pages call 50051 and 50052."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [PRISM, "serve", *arguments, "--port", "0", "--admin-port", "0"],
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.printed = ""
        lines = 6 if not arguments or "--demo" in arguments else 2
        for _ in range(lines):
            self.printed += self.process.stdout.readline()
        found = re.findall(r":(\d+)", self.printed)[:2]
        self._ports = dict(zip(("50051", "50052"), found, strict=True))
        self.printed = self.as_shown(self.printed)

    def as_run(self, command: str) -> str:
        """``command`` with the ports that this proxy has."""
        for shown, real in self._ports.items():
            command = command.replace(f":{shown}", f":{real}")
        return command

    def as_shown(self, printed: str) -> str:
        """What was printed, with the ports of the pages."""
        for shown, real in self._ports.items():
            printed = printed.replace(f":{real}", f":{shown}")
        return printed

    def stop(self) -> None:
        """End it; a proxy always ends gracefully."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait() == 0
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start proxies that end with the test."""
    started: list[Served] = []

    def start(*arguments: str) -> Served:
        started.append(Served(tmp_path, *arguments))
        return started[-1]

    yield start
    for proxy in started:
        proxy.stop()


@pytest.mark.parametrize("page", PAGES)
def test_the_page_tells_the_truth(page: str, serve: Callable[..., Served], tmp_path: Path) -> None:
    if shutil.which("curl") is None and not os.environ.get("CI"):
        pytest.skip("curl is not installed (Debian: apt-get install curl)")
    proxy = serve()
    for command, expected in steps(page):
        if command.startswith("make serve DEMO="):
            break  # test_demos.py runs those, and what comes after them
        if command == "make serve":
            assert matches(expected, proxy.printed), proxy.printed
            continue
        if command.startswith("prism serve "):
            proxy = serve(*command.split()[2:])
            assert matches(expected, proxy.printed), proxy.printed
            continue
        environment = {
            "PATH": f"{PRISM.parent}{os.pathsep}{os.environ['PATH']}",
            "PRISM_URL": proxy.as_run("http://127.0.0.1:50051"),
            "PRISM_ADMIN": proxy.as_run("http://127.0.0.1:50052"),
            "TERM": "dumb",
        }
        ran = subprocess.run(
            ["sh", "-c", proxy.as_run(command).replace("curl ", "curl -sS ")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        errors = PROGRESS.sub("", ran.stderr)
        printed = proxy.as_shown((ran.stdout + errors).replace("\r", ""))
        assert matches(expected, printed), f"{command}\nprinted\n{printed}\ninstead of\n{expected}"

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
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "docs/getting-started.md",
    "docs/sqlite.md",
    "docs/http-api.md",
    "docs/plugin-verification.md",
]
PRISM = Path(sys.executable).parent / "prism"
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


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """The data port of a fresh demo proxy, and what it printed at its start."""
    with subprocess.Popen(
        [PRISM, "serve", "--port", "0", "--admin-port", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        printed = "".join(process.stdout.readline() for _ in range(6))
        port = re.search(r"on http://127\.0\.0\.1:(\d+)\n", printed)
        assert port is not None, printed
        yield int(port[1]), printed
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


@pytest.mark.parametrize("page", PAGES)
def test_the_page_tells_the_truth(page: str, proxy: tuple[int, str], tmp_path: Path) -> None:
    if shutil.which("curl") is None and not os.environ.get("CI"):
        pytest.skip("curl is not installed (Debian: apt-get install curl)")
    port, greeting = proxy
    greeting = greeting.replace(f":{port}", ":50051")
    greeting = re.sub(r"Metrics and health on http://127\.0\.0\.1:\d+", _admin, greeting)
    environment = {
        "PATH": f"{PRISM.parent}{os.pathsep}{os.environ['PATH']}",
        "PRISM_URL": f"http://127.0.0.1:{port}",
        "TERM": "dumb",
    }
    for command, expected in steps(page):
        if command == "make serve":
            assert matches(expected, greeting), greeting
            continue
        ran = subprocess.run(
            ["sh", "-c", command.replace(":50051", f":{port}").replace("curl ", "curl -sS ")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        printed = (ran.stdout + ran.stderr).replace("\r", "").replace(f":{port}", ":50051")
        assert matches(expected, printed), f"{command}\nprinted\n{printed}\ninstead of\n{expected}"


def _admin(_found: re.Match[str]) -> str:
    return "Metrics and health on http://127.0.0.1:50052"

"""The kits of ``sdks/``: one line for each language, which all tests of kits go by.

``{out}`` is a folder for what is built; commands run in the kit's own folder.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SDKS = ROOT / "sdks"
BUILD_LIMIT = 280.0
"""Seconds for a build, with nothing in any cache, on a busy machine."""

RUST = str(ROOT / "build" / "kits" / "rust")
"""What cargo builds stays there, so that the next run of the suite has it."""


class Kit(NamedTuple):
    """How the kit's example is built and started.

    ``tools`` are programs, and the Debian package of each. ``inherits``: it can take a
    descriptor; one that cannot dials in. ``by_shell``: a shell hands it the descriptor as its
    standard input. ``says``: what stands in which of its files, with the ``{version}`` of the
    proxy and of the ``{protocol}``. ``shows``: the file of the template that its README has.
    """

    tools: dict[str, str]
    build: Sequence[str]
    command: Sequence[str]
    inherits: bool = True
    by_shell: bool = False
    tls: bool = True
    says: tuple[tuple[str, str], ...] = ()
    shows: str = ""


KITS: dict[str, Kit] = {
    "go": Kit(
        {"go": "golang-go"},
        ["go", "build", "-buildvcs=false", "-o", "{out}/kit", "./examples/kit"],
        ["{out}/kit"],
        says=(
            ("plugin.go", "const Protocol = {protocol}"),
            ("plugin.go", 'const Version = "{version}"'),
        ),
        shows="main.go",
    ),
    "c": Kit(
        {"gcc": "gcc", "make": "make"},
        ["make", "-s", "CC=gcc", "OUT={out}", "{out}/kit"],
        ["{out}/kit"],
        tls=False,
        says=(
            ("prism_plugin.h", "#define PRISM_PROTOCOL {protocol} "),
            ("prism_plugin.h", '#define PRISM_VERSION "{version}"'),
            ("prism-plugin.pc.in", "Version: {version}"),
        ),
        shows="my_plugin.c",
    ),
    "rust": Kit(
        {"cargo": "cargo"},
        ["cargo", "build", "--quiet", "--locked", "--examples", "--target-dir", RUST],
        [f"{RUST}/debug/examples/kit"],
        tls=False,
        says=(
            ("Cargo.toml", 'version = "{version}"'),
            ("src/wire.rs", "const PROTOCOL: u32 = {protocol};"),
        ),
        shows="src/main.rs",
    ),
    "java": Kit(
        {"javac": "default-jdk-headless", "java": "default-jre-headless", "bash": "bash"},
        ["javac", "-d", "{out}", "--source-path", "src/main/java", "examples/Kit.java"],
        # A JVM can use a descriptor that is its standard input, and no other.
        [
            "bash",
            "-c",
            'exec java -XX:+UseSerialGC -cp {out} Kit "$@" 0<&${{PRISM_PLUGIN_FD:-0}}',
            "kit",
        ],
        by_shell=True,
        says=(
            ("src/main/java/dev/prism/plugin/Plugin.java", "int PROTOCOL = {protocol};"),
            (
                "pom.xml",
                "<artifactId>prism-plugin-sdk</artifactId>\n  <version>{version}</version>",
            ),
        ),
        shows="src/main/java/my_plugin/MyPlugin.java",
    ),
    "node": Kit(
        {"node": "nodejs"},
        [],
        ["node", "{kit}/examples/kit.js"],
        says=(
            ("lib/plugin.js", "export const PROTOCOL = {protocol};"),
            ("package.json", '"version": "{version}"'),
        ),
        shows="plugin.js",
    ),
}

FAST = {
    "rust": KITS["rust"]._replace(
        build=[*KITS["rust"].build, "--release"], command=[f"{RUST}/release/examples/kit"]
    )
}
"""What is measured, where what is tested is built in less time than it takes to be fast."""


def need(tools: dict[str, str]) -> None:
    """Skip, or fail in CI, where one of the programs is missing."""
    for name, package in tools.items():
        if shutil.which(name) is None:
            message = f"{name} is not installed (Debian: apt-get install {package})"
            pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Only one of the suite's processes is within the block, for this directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as file:
        flock(file, LOCK_EX)
        yield


def build(language: str, shared: Path, *, fast: bool = False) -> list[str]:
    """The command that starts the example of ``language``, built once in a run of the suite.

    ``shared`` is a directory that all workers of the run have.
    """
    kit = FAST.get(language, KITS[language]) if fast else KITS[language]
    need(kit.tools)
    out = shared / "kits" / (f"{language}-fast" if fast else language)
    with alone(out):
        told = out / ".built"
        if not told.exists():
            if kit.build:
                command = [word.format(out=out) for word in kit.build]
                done = subprocess.run(
                    command,
                    cwd=SDKS / language,
                    capture_output=True,
                    text=True,
                    timeout=BUILD_LIMIT,
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            told.touch()
    return [word.format(out=out, kit=SDKS / language) for word in kit.command]

"""Builds the probe library, once in a run for each way to build it."""

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

PROBE = Path(__file__).with_name("probe.c")
FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-shared", "-fPIC"]


def tool(name: str) -> str:
    """The program's path; skips the test where it is not there, but not in CI."""
    path = shutil.which(name)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is not installed, and CI needs it")
        pytest.skip(f"this needs {name}")
    return path


def needs_loader() -> None:
    """Skips the test where Prism's own part in C was not built."""
    try:
        import prism.hosts._library  # noqa: F401
    except ImportError as error:
        assert "CI" not in os.environ
        pytest.skip(f"{error}; this needs a C compiler when Prism is installed")


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="prism-libraries-")


@cache
def probe_library(*arguments: str) -> Path:
    """The probe as a library, built with ``arguments``; see there for those that mean something."""
    needs_loader()
    target = Path(_folder().name) / f"libprobe{probe_library.cache_info().currsize}.so"
    more = os.environ.get("PRISM_PROBE_FLAGS", "").split()  # sanitizers
    command = [tool("gcc"), *FLAGS, *more, *arguments, "-o", target, PROBE, "-lpthread"]
    subprocess.run(command, check=True, timeout=120)
    return target

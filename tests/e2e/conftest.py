"""Fixtures for tests with real processes; what they are made of is in ``support/``.

Every process that a test starts is ended by its pid. A proxy that leaves
processes behind, or a traceback in its log, fails the test that started it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent / "support"))

from prism_process import STOP_LIMIT, Proxy

StartProxy = Callable[..., Proxy]


@contextmanager
def proxies(directory: Path) -> Iterator[StartProxy]:
    """A function that starts proxies in ``directory``, all of which end with the block."""
    started: list[Proxy] = []

    def start(config: Mapping[str, Any] | None = None, **options: Any) -> Proxy:
        proxy = Proxy(directory, config, **options)
        started.append(proxy)
        return proxy.wait_ready()

    try:
        yield start
    finally:
        with_faults = []
        for proxy in reversed(started):
            try:
                proxy.check()
            except BaseException as error:
                with_faults.append(error)
        if with_faults:
            raise with_faults[0]


@pytest.fixture
def start_prism(tmp_path: Path) -> Iterator[StartProxy]:
    """Start proxies that end with the test."""
    with proxies(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def start_shared_prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartProxy]:
    """Start proxies that end with the module."""
    with proxies(tmp_path_factory.mktemp("prism")) as start:
        yield start


StartProcess = Callable[..., subprocess.Popen[bytes]]


@contextmanager
def processes() -> Iterator[StartProcess]:
    """A function that starts processes (plugins that dial or listen), which end with the block."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, log: Path, **environment: str) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            started.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **environment},
                )
            )
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@pytest.fixture
def start_process() -> Iterator[StartProcess]:
    """Start processes that end with the test."""
    with processes() as start:
        yield start


@pytest.fixture(scope="module")
def start_shared_process() -> Iterator[StartProcess]:
    """Start processes that end with the module."""
    with processes() as start:
        yield start


class Curl:
    """curl, as people type it."""

    def __call__(self, *arguments: str) -> str:
        """Its standard output."""
        done = subprocess.run(
            ["curl", "-sS", "--max-time", "60", *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def version(self, *arguments: str) -> str:
        """The HTTP version that a request was answered in: ``1.1`` or ``2``."""
        return self("-o", os.devnull, "-w", "%{http_version}", *arguments)


@pytest.fixture(scope="session")
def curl() -> Curl:
    if shutil.which("curl") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("curl is missing")
        pytest.skip("curl is not installed")
    return Curl()

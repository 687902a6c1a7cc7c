"""`prism serve` in a process of its own, plugins in theirs, and clients to talk to them.

Every process that a test starts is ended by its pid. A proxy that leaves
processes behind, or a traceback in its log, fails the test that started it.
"""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

HERE = Path(__file__).parent
START_LIMIT = 20.0
"""Seconds for a process to start; a loaded machine needs some."""
STOP_LIMIT = 20.0
FAST_CHECKS = {"interval_seconds": 0.2, "timeout_seconds": 1.0, "failure_threshold": 2}


def eventually(check: Callable[[], Any], limit: float = 10.0) -> Any:
    """Wait until ``check`` returns something true, and return that."""
    give_up = time.monotonic() + limit
    while not (found := check()):
        if time.monotonic() > give_up:
            pytest.fail(f"not within {limit:g} s: {getattr(check, '__doc__', None) or check}")
        time.sleep(0.02)
    return found


def group_members(group: int) -> list[int]:
    """The processes of a process group that have not ended."""
    members = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            # pid (name) state ppid pgrp ...; the name may hold anything.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] not in "ZX":
                members.append(int(entry.name))
    return members


class Proxy:
    """One `prism serve`. ``url`` and ``admin`` are known once it greeted."""

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, Any] | None = None,
        *,
        arguments: tuple[str, ...] = ("--port", "0", "--admin-port", "0"),
        environment: Mapping[str, str] | None = None,
        preexec: Callable[[], None] | None = None,
        tracebacks: bool = False,
    ) -> None:
        self.directory = directory
        self.tracebacks = tracebacks
        command = [sys.executable, "-m", "prism", "serve", *arguments]
        if config is not None:
            file = directory / "prism.yaml"
            file.write_text(json.dumps(config))  # every JSON document is YAML
            command += ["--config", str(file)]
        self.log_file = directory / f"log-{time.monotonic_ns()}"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(HERE), **(environment or {})},
                preexec_fn=preexec,
            )
        self.pid = self.process.pid
        self.greeting = ""
        self.url = self.admin = ""

    def wait_greeting(self) -> "Proxy":
        """Wait until it serves; fails the test with its log if it does not."""
        output = self.process.stdout
        assert output is not None
        give_up = time.monotonic() + START_LIMIT
        while "/readyz" not in self.greeting:
            ready, _, _ = select.select([output], [], [], max(0.0, give_up - time.monotonic()))
            chunk = os.read(output.fileno(), 65536) if ready else b""
            if not chunk:
                self.end()
                pytest.fail(f"prism did not start: {self.greeting!r}\n{self.log}")
            self.greeting += chunk.decode()
        self.url, self.admin = re.findall(r"(https?://[^\s/,]+)", self.greeting)[:2]
        return self

    @property
    def port(self) -> int:
        """The data port."""
        return int(self.url.rpartition(":")[2])

    @property
    def log(self) -> str:
        """Everything on standard error so far."""
        return self.log_file.read_text(errors="replace")

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log's complete lines, each of which must be JSON."""
        return [json.loads(line) for line in self.log.splitlines(True) if line.endswith("\n")]

    def logged(self, text: str) -> list[dict[str, Any]]:
        """The log records whose message contains ``text``."""
        return [record for record in self.records if text in record["message"]]

    @property
    def plugin_pids(self) -> list[int]:
        """The pid of every plugin process that this proxy ever started."""
        return [int(pid) for pid in re.findall(r"started as pid (\d+)", self.log)]

    def call(
        self, namespace: str, operation: str, params: Any = None, **headers: str
    ) -> httpx.Response:
        """One call on a connection of its own."""
        content = json.dumps({} if params is None else params)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(
            f"{self.url}/v1/{namespace}/{operation}", content=content, headers=named, timeout=30
        )

    def metric(self, name: str, **labels: str) -> float:
        """The value of one metric; 0 if it is not there yet."""
        for line in httpx.get(f"{self.admin}/metrics").text.splitlines():
            if line.startswith((name + "{", name + " ")) and all(
                f'{label}="{value}"' in line for label, value in labels.items()
            ):
                return float(line.rpartition(" ")[2])
        return 0.0

    def ready(self) -> bool:
        """Every namespace has its plugin."""
        return httpx.get(f"{self.admin}/readyz").status_code == 200

    def resident(self) -> int:
        """Bytes of memory in use."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_LIMIT)

    def end(self) -> list[int]:
        """Make sure that it is gone; returns its orphans, which are ended as well."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                pytest.fail(f"prism did not stop on SIGTERM; its log:\n{self.log}")
        if self.process.stdout is not None:
            self.process.stdout.close()
        give_up = time.monotonic() + 5
        while left := [pid for group in self.plugin_pids for pid in group_members(group)]:
            if time.monotonic() > give_up:
                break
            time.sleep(0.02)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left

    def check(self) -> None:
        """End it, and hold it to what every proxy must keep."""
        orphans = self.end()
        assert not orphans, f"processes left behind: {orphans}\n{self.log}"
        if not self.tracebacks:
            assert "Traceback" not in self.log, self.log


StartProxy = Callable[..., Proxy]


@contextmanager
def proxies(directory: Path) -> Iterator[StartProxy]:
    """A function that starts proxies in ``directory``, all of which end with the block."""
    started: list[Proxy] = []

    def start(config: Mapping[str, Any] | None = None, **options: Any) -> Proxy:
        proxy = Proxy(directory, config, **options)
        started.append(proxy)
        return proxy.wait_greeting()

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


@pytest.fixture
def start_process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start processes (plugins that dial or listen) that end with the test."""
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


class Curl:
    """curl, as people type it."""

    def __call__(self, *arguments: str) -> str:
        """Its standard output."""
        done = subprocess.run(
            ["curl", "-sS", "--max-time", "20", *arguments], capture_output=True, text=True
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


@pytest.fixture(scope="session")
def helpers() -> Any:
    """The functions and paths of this file that tests use."""

    class Helpers:
        pass

    for name, value in {
        "eventually": staticmethod(eventually),
        "group_members": staticmethod(group_members),
        "chaos": [sys.executable, str(HERE / "chaos_plugin.py")],
        "waiting": [sys.executable, str(HERE / "waiting_plugin.py")],
        "fast_checks": FAST_CHECKS,
        "proxy": Proxy,
    }.items():
        setattr(Helpers, name, value)
    return Helpers

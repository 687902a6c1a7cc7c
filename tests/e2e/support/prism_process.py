"""`prism serve` in a process of its own: started, asked, and ended by its pid."""

import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

SUPPORT = Path(__file__).parent
CHAOS = [sys.executable, str(SUPPORT / "chaos_plugin.py")]
WAITING = [sys.executable, str(SUPPORT / "waiting_plugin.py")]
LIMIT = 60.0
"""Seconds after which something counts as hung: for a start, a stop, and whatever is awaited."""
START_LIMIT = STOP_LIMIT = LIMIT
FAST_CHECKS = {"interval_seconds": 0.2, "timeout_seconds": 2.0, "failure_threshold": 3}


def eventually(check: Callable[[], Any], limit: float = LIMIT) -> Any:
    """Wait until ``check`` returns something true, and return that."""
    deadline = time.monotonic() + limit
    while not (found := check()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {limit:g} s: {getattr(check, '__doc__', None) or check}")
        time.sleep(0.02)
    return found


def unused_port() -> int:
    """A port for a server that is stopped and started again: not one of those that the kernel
    gives to others that ask for any, or another test may have it in between."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def settled(measure: Callable[[], Any], pause: float = 0.1, times: int = 8) -> Any:
    """What ``measure`` returns once it has returned the same many times."""
    last, same = measure(), 1

    def is_settled() -> bool:
        """It changes no more"""
        nonlocal last, same
        time.sleep(pause)
        now = measure()
        last, same = now, same + 1 if now == last else 1
        return same == times

    eventually(is_settled)
    return last


def readable(descriptor: int, timeout: float) -> bool:
    """There is something to read within ``timeout`` seconds. Unlike select, at any descriptor."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


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
    """One `prism serve`. ``url`` and ``admin`` are known once it is ready."""

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
                env={**os.environ, "PYTHONPATH": str(SUPPORT), **(environment or {})},
                preexec_fn=preexec,
            )
        self.pid = self.process.pid
        # A connection for each request, and no certificates, which take long to load.
        self.client = httpx.Client(
            verify=False,
            trust_env=False,
            timeout=60,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self.printed = ""
        self.url = self.admin = ""

    def wait_ready(self) -> "Proxy":
        """Wait until it serves; fails the test with its log if it does not."""
        output = self.process.stdout
        assert output is not None
        deadline = time.monotonic() + START_LIMIT
        while "/readyz" not in self.printed:
            told = readable(output.fileno(), max(0.0, deadline - time.monotonic()))
            chunk = os.read(output.fileno(), 65536) if told else b""
            if not chunk:
                self.end()
                pytest.fail(f"prism did not start: {self.printed!r}\n{self.log}")
            self.printed += chunk.decode()
        self.url, self.admin = re.findall(r"(https?://[^\s/,]+)", self.printed)[:2]
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
        """The log's complete lines, each of which must be JSON; the warnings of a configuration,
        which come before there is a log, are none."""
        lines = [line for line in self.log.splitlines(True) if line.endswith("\n")]
        return [json.loads(line) for line in lines if not line.startswith("warning: ")]

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
        target = f"{self.url}/v1/{namespace}/{operation}"
        return self.client.post(target, content=content, headers=named)

    def metric(self, name: str, **labels: str) -> float:
        """The value of one metric; 0 if it is not there yet."""
        for line in self.client.get(f"{self.admin}/metrics").text.splitlines():
            if line.startswith((name + "{", name + " ")) and all(
                f'{label}="{value}"' in line for label, value in labels.items()
            ):
                return float(line.rpartition(" ")[2])
        return 0.0

    def ready(self) -> bool:
        """Every namespace has its plugin."""
        return self.client.get(f"{self.admin}/readyz").status_code == 200

    def absence(self, namespace: str) -> str:
        """Why a namespace has no plugin, as operators are told; "ready" if it has one."""
        told: str = self.client.get(f"{self.admin}/readyz").json()["namespaces"][namespace]
        return told

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
        self.client.close()
        if self.process.stdout is not None:
            self.process.stdout.close()
        deadline = time.monotonic() + 5
        while left := [pid for group in self.plugin_pids for pid in group_members(group)]:
            if time.monotonic() > deadline:
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
            told = [line for line in self.log.splitlines() if "Traceback" in line]
            assert not told, "\n".join([*told, "the log to its end:", self.log[-4000:]])

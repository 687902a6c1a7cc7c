"""What do reloads cost who calls, and many namespaces who does not?

One reload after the other under full load, each to the catalogue's other version, over
the admin port. In each round the same load is measured with and without them. Every
receipt is kept: a call that was lost or failed would be in one. (Those that h2load leaves
open when its time is up are cancelled, and no loss.)
"""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.effort import Effort
from benchmarks.load.target import Target
from benchmarks.machine import cpu_seconds, resident_bytes
from benchmarks.report.page import Section
from benchmarks.report.tables import table, verdict
from benchmarks.samples import Load, Sample
from benchmarks.sides import prism

RELOADS = 100
WINDOW = 3.0
"""Seconds of load in each half of a round."""
BUSY = Load(64)
NAMESPACES, FEW_NAMESPACES = 200, 10
IDLE_SECONDS = 5.0
MB = 1024 * 1024
HEAD = (
    "plugin",
    "reloads",
    "calls meanwhile",
    "not answered with 200",
    "lost or failed",
    "p99 ms at rest",
    "p99 ms while reloading",
    "ratio",
    "calls/s, ratio",
)


def measure(effort: Effort) -> Section:
    reloads = 2 if effort.quick else RELOADS
    window = 0.5 if effort.quick else WINDOW
    rows, verdicts = [], []
    for way, plugin in ((prism.SPAWN, prism.SPAWNED), (prism.LOCAL, prism.IN_PROCESS)):
        with _reloadable(plugin) as (target, admin):
            row, ratio, lost = _reload_under_load(target, admin, reloads, window)
        rows.append([way, *row])
        verdicts += [
            verdict(f"Calls lost or failed, {way}", float(lost), 0, at_least=False),
            verdict(f"p99 while reloading / at rest, {way}", ratio, 2, at_least=False),
        ]
    namespaces = FEW_NAMESPACES if effort.quick else NAMESPACES
    text = [
        table(HEAD, rows),
        "",
        *verdicts,
        "",
        f"{namespaces} namespaces with in-process plugins (SQLite in memory), called by nobody:",
        "",
        *_many(namespaces),
    ]
    return Section("\n".join(text))


def _reload_under_load(
    target: Target, admin: httpx.Client, reloads: int, window: float
) -> tuple[list[str], float, int]:
    receipts: list[dict[str, Any]] = []
    rest: list[Sample] = []
    during: list[Sample] = []
    target(BUSY, window)  # to warm up
    while len(receipts) < reloads:
        rest.append(target(BUSY, window))
        with _reloading(admin, receipts):
            during.append(target(BUSY, window))  # raises if an answer is not 200
    counts = [receipt["calls"] for receipt in receipts]
    lost = sum(count["lost"] + count["failed"] for count in counts)
    swapped = sum(receipt["outcome"] == "swapped" for receipt in receipts)
    ratio = median(b.p99 / a.p99 for a, b in zip(rest, during, strict=True))
    rate = median(b.rate / a.rate for a, b in zip(rest, during, strict=True))
    row = [
        f"{swapped} of {len(receipts)}",
        f"{sum(sample.calls for sample in during):,}",
        "0",
        str(lost),
        f"{median(sample.p99 for sample in rest) * 1e3:.1f}",
        f"{median(sample.p99 for sample in during) * 1e3:.1f}",
        f"{ratio:.2f}",
        f"{rate:.2f}",
    ]
    return row, ratio, lost


@contextmanager
def _reloadable(plugin: dict[str, Any]) -> Iterator[tuple[Target, httpx.Client]]:
    """A proxy whose plugin has two versions; its target, and its admin port."""
    with tempfile.TemporaryDirectory() as name:
        socket = str(Path(name, "admin.sock"))
        settings = {
            "plugins": [{"name": "echo", **plugin, "versions": {"v1": {}, "v2": {}}}],
            "admin": {"address": f"unix:{socket}"},
        }
        namespaces = [prism.echo("echo", {"name": "echo", "version": "v1"})]
        with (
            prism.prism(Path(name), namespaces, prism.fastest_codec(), settings) as (pid, url),
            httpx.Client(transport=httpx.HTTPTransport(uds=socket), timeout=60) as admin,
        ):
            yield Target(f"{url}/v1/echo/echo", [pid]), admin


@contextmanager
def _reloading(admin: httpx.Client, receipts: list[dict[str, Any]]) -> Iterator[None]:
    """One reload after the other within the block."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            version = ("v2", "v1")[len(receipts) % 2]
            asked = {"namespace": "echo", "version": version}
            answer = admin.post("http://admin/admin/plugin/reload", json=asked)
            receipts.append(answer.raise_for_status().json())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _many(count: int) -> Iterator[str]:
    """Lines about so many idle namespaces, compared with a proxy that has one."""
    with _idle(1) as (pid, _):
        one = resident_bytes(pid)
    with _idle(count) as (pid, took):
        each = (resident_bytes(pid) - one) / (count - 1)
        before = cpu_seconds(pid)
        time.sleep(IDLE_SECONDS)
        busy = (cpu_seconds(pid) - before) / IDLE_SECONDS
    yield verdict("Until all are ready", took, 10, at_least=False, unit=" s")
    yield verdict("Resident memory for each", each / MB, 2, at_least=False, unit=" MB")
    yield verdict("CPU of the whole proxy meanwhile", busy * 100, 1, at_least=False, unit=" %")


@contextmanager
def _idle(count: int) -> Iterator[tuple[int, float]]:
    with tempfile.TemporaryDirectory() as name:
        path = Path(":memory:")
        namespaces = [prism.sqlite(f"ns-{number}", path) for number in range(count)]
        began = time.monotonic()
        with prism.prism(Path(name), namespaces, prism.fastest_codec()) as (pid, _url):
            took = time.monotonic() - began
            time.sleep(1)  # until what started has settled
            yield pid, took

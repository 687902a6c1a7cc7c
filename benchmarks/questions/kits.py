"""What does a call cost a plugin's process, in each language that a kit is there for?

One proxy has a namespace for each: the example of the kit, and the Python SDK's echo as a
measure. What counts is the CPU time of the plugin's process; the rest is the proxy's.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.effort import Effort
from benchmarks.lineup import Lineup, Unavailable
from benchmarks.load.target import Target
from benchmarks.processes import ROOT, children
from benchmarks.report.page import Section
from benchmarks.report.tables import absent, load_table, microseconds_each, verdict
from benchmarks.samples import Load, Side, take_turns
from benchmarks.sides import prism
from tests.sdks.kits import KITS, build

PYTHON = "Python SDK"
ONE, BUSY = Load(1), Load(64)
MOST = {"go": 0.6, "rust": 0.6, "c": 0.6, "java": 1.5, "node": 1.5}
"""CPU time per call, as multiples of the Python SDK's, that a kit may take at most."""


def measure(effort: Effort) -> Section:
    loads = effort.some([ONE, BUSY], BUSY)
    with Lineup() as lineup:
        lineup.add(PYTHON, _behind_a_proxy(prism.SPAWNED, prism.ECHO_PLUGIN))
        for language in KITS:
            lineup.add(language, _kit(language))
        results = take_turns(
            lineup.sides, loads, rounds=effort.rounds, seconds=max(effort.seconds, 0.2)
        )
    each = microseconds_each(lambda sample: sample.peer_cpu)
    text = [
        load_table(results, lineup.sides, loads, PYTHON, servers=("proxy", "plugin")),
        "",
        *absent(lineup.missing | results.failed),
        *(
            verdict(
                f"CPU time of the plugin per call, {language} / {PYTHON}, {BUSY}",
                results.ratio(language, PYTHON, BUSY, each),
                MOST.get(language, 1.5),
                at_least=False,
            )
            for language in KITS
        ),
    ]
    return Section("\n".join(text), {}, results.failed)


@contextmanager
def _kit(language: str) -> Iterator[Side]:
    """The example of a kit behind a proxy.

    Raises:
        Unavailable: it cannot be built here.
    """
    # Built by an earlier run, perhaps of other sources; each ecosystem's tool sees what is new.
    (ROOT / "build" / "kits" / language / ".built").unlink(missing_ok=True)
    try:
        command = build(language, ROOT / "build", fast=True)
    except (pytest.skip.Exception, pytest.fail.Exception, AssertionError) as reason:
        raise Unavailable(str(reason)) from None
    running = language if KITS[language].by_shell else command[0]
    with _behind_a_proxy({"type": "sidecar", "command": command}, running) as side:
        yield side


@contextmanager
def _behind_a_proxy(plugin: dict[str, object], running: str) -> Iterator[Side]:
    with tempfile.TemporaryDirectory() as folder:
        namespaces = [prism.echo("kit", dict(plugin))]
        with prism.prism(Path(folder), namespaces, prism.fastest_codec()) as (pid, url):
            yield Target(f"{url}/v1/kit/echo", [pid], children(pid, running))

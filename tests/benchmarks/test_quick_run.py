"""The benchmarks run and write their page. Nothing here asserts a speed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.load.generator import Order
from benchmarks.load.h2load import PACKAGE, PROGRAM
from benchmarks.load.target import Target, generate
from benchmarks.questions import QUESTIONS
from benchmarks.samples import Load, SideFailed
from benchmarks.sides import hypercorn, prism
from tests.services.fixtures import check_installed
from tests.services.kafka import Kafka

WITH_TARGETS = {
    "access",
    "policies",
    "constant",
    "proxied",
    "postgres",
    "redis",
    "latency",
    "hop",
    "kits",
    "native",
    "memory",
    "streams",
    "supervision",
    "growth",
    "kafka",
}


@pytest.fixture
def h2load() -> None:
    """Skips where h2load is missing, except in CI, which has to have it."""
    if not shutil.which(PROGRAM):
        wanted = f"{PROGRAM} is missing: sudo apt-get install {PACKAGE}"
        if os.environ.get("CI") == "true":
            pytest.fail(wanted)
        pytest.skip(wanted)


@pytest.mark.slow
@pytest.mark.usefixtures("h2load")
def test_load_on_a_url_without_a_path():
    with hypercorn.hypercorn() as target:
        sample = target(Load(1), 0.2)
        assert sample.calls > 0
        assert sample.cpu > 0
        paced, outcome = target.at_fixed_rate(100, 0.2)
        assert paced.calls == len(outcome.late) == 20


@pytest.mark.slow
@pytest.mark.usefixtures("h2load")
def test_wrong_answers_are_not_counted(tmp_path: Path):
    namespaces = [prism.echo("echo", prism.IN_PROCESS)]
    with prism.prism(tmp_path, namespaces, prism.H2) as (pid, url):
        wrong = Target(f"{url}/v1/echo/nothing", [pid])
        with pytest.raises(SideFailed, match="404"):
            wrong(Load(1), 0.2)
        with pytest.raises(SideFailed, match="not answered 200"):
            wrong.at_fixed_rate(100, 0.1)


@pytest.mark.slow
def test_a_plugin_is_called_directly():
    outcome = generate(Order(rate=200, seconds=0.1))
    assert len(outcome.latencies) == 20
    assert outcome.peer_cpu > 0


@pytest.mark.slow
@pytest.mark.parametrize("part", QUESTIONS)
@pytest.mark.usefixtures("h2load")
def test_a_quick_run_writes_its_part_of_the_page(tmp_path: Path, part: str):
    if part == "kafka":
        check_installed(Kafka)
    page = tmp_path / "performance.md"
    page.write_text(f"<!-- measured: {part} -->\n<!-- end: {part} -->\n")
    subprocess.run(
        [sys.executable, "-m", "benchmarks", part, "--quick", "--page", page], check=True
    )
    text = page.read_text()
    assert "| ---" in text
    assert ("target: at " in text) == (part in WITH_TARGETS)
    pictures = [line for line in text.splitlines() if line.startswith("![")]
    assert len(pictures) == len(list(tmp_path.glob("performance/*.svg")))


def test_the_page_has_a_place_for_every_question():
    page = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    for part in QUESTIONS:
        assert f"<!-- measured: {part} -->" in page

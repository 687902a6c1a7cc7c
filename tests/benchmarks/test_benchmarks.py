"""The benchmarks run and write their page. Nothing here asserts a speed."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import load
from benchmarks.measure import Load, Results, Sample, percentile, take_turns
from benchmarks.prism_server import IN_PROCESS, echo_namespace, prism
from benchmarks.processes import server
from benchmarks.report import table, update_page, verdict


def sample(calls: int) -> Sample:
    return Sample(calls, seconds=1.0, p50=0.1, p99=0.2)


def test_sides_take_turns_and_the_order_alternates():
    asked: list[str] = []

    def side(name: str, calls: int):
        def run(_load: Load, _seconds: float) -> Sample:
            asked.append(name)
            return sample(calls)

        return run

    results = take_turns({"a": side("a", 30), "b": side("b", 10)}, [Load(1)], rounds=2, seconds=1)
    assert "".join(asked) == "ab" + "ab" + "ba"
    assert results.ratio("a", "b", Load(1), lambda found: found.rate) == 3.0


def test_a_ratio_compares_round_by_round():
    results = Results()
    for mine, theirs in [(10, 5), (100, 50), (9, 3)]:
        results.add("mine", Load(1), sample(mine))
        results.add("theirs", Load(1), sample(theirs))
    assert results.ratio("mine", "theirs", Load(1), lambda found: found.rate) == 2.0
    assert results.median("mine", Load(1), lambda found: found.rate) == 10.0


def test_percentile():
    assert percentile(range(100), 0.5) == 50
    assert percentile([7], 0.99) == 7


def test_a_page_keeps_everything_but_what_is_measured(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# Speed\n<!-- measured: hop -->\nold\n<!-- end: hop -->\nProse.\n")
    update_page(page, "hop", table(("side", "p50"), [("a", "1")]))
    assert page.read_text() == (
        "# Speed\n<!-- measured: hop -->\n"
        "| side | p50 |\n| --- | ---: |\n| a | 1 |\n"
        "<!-- end: hop -->\nProse.\n"
    )
    with pytest.raises(ValueError, match="no markers for 'proxy'"):
        update_page(page, "proxy", "")


def test_a_verdict_says_when_a_target_is_missed():
    assert "met" in verdict("p50", 0.4, 0.5, at_least=False)
    assert "missed" in verdict("calls", 9.0, 10, at_least=True)


@pytest.mark.slow
@pytest.mark.parametrize("http1", [False, True])
def test_the_python_load_generator(tmp_path: Path, monkeypatch, http1: bool):
    monkeypatch.setattr(load, "H2LOAD", None)
    with prism(tmp_path, [echo_namespace("echo", IN_PROCESS)]) as (pid, url):
        target = load.Target(f"{url}/v1/echo/echo", '{"a":1}', pid)
        assert target(Load(4, http1=http1), 0.2).calls > 0
        wrong = load.Target(f"{url}/v1/echo/nothing", "{}", pid)
        with pytest.raises(subprocess.CalledProcessError):
            wrong(Load(1, http1=http1), 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("http1", [False, True])
def test_the_python_load_generator_takes_a_url_without_a_path(monkeypatch, http1: bool):
    monkeypatch.setattr(load, "H2LOAD", None)
    bare = [sys.executable, "-m", "benchmarks.bare_hypercorn"]
    with server(bare, "(http:.*)") as (pid, url):
        target = load.Target(url, "{}", pid, attempts=5)
        assert target(Load(1, http1=http1), 0.2).calls > 0


@pytest.mark.slow
@pytest.mark.parametrize("part", ["hop", "proxy", "memory"])
def test_a_quick_run_writes_its_part_of_the_page(tmp_path: Path, part: str):
    pytest.importorskip("grpc")
    page = tmp_path / "performance.md"
    page.write_text(f"<!-- measured: {part} -->\n<!-- end: {part} -->\n")
    subprocess.run(
        [sys.executable, "-m", "benchmarks", part, "--quick", "--page", page], check=True
    )
    text = page.read_text()
    assert "| ---" in text
    assert "target: at " in text

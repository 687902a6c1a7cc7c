"""Tables, verdicts and plots, and their places in the page."""

import itertools
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.report.page import Section, update_page
from benchmarks.report.plots import Axis, line_plot
from benchmarks.report.tables import NOTE, load_table, table, verdict
from benchmarks.samples import SHARES, Load, Results, Sample


def test_a_page_keeps_everything_but_what_is_measured(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# Speed\n<!-- measured: hop -->\nold\n<!-- end: hop -->\nProse.\n")
    section = Section(table(("side", "p50"), [("a", "1")]), {"a-plot": "<svg/>"})
    update_page(page, "hop", section, "A machine.")
    assert page.read_text() == (
        "# Speed\n<!-- measured: hop -->\n"
        "A machine.\n\n"
        "![a plot](performance/a-plot.svg)\n\n"
        "| side | p50 |\n| --- | ---: |\n| a | 1 |\n"
        "<!-- end: hop -->\nProse.\n"
    )
    assert (tmp_path / "performance" / "a-plot.svg").read_text() == "<svg/>"
    with pytest.raises(ValueError, match="no markers for 'proxy'"):
        update_page(page, "proxy", section)


def test_a_verdict_says_when_a_target_is_missed():
    assert "met" in verdict("p50", 0.4, 0.5, at_least=False)
    assert "missed" in verdict("calls", 9.0, 10, at_least=True)
    assert "not measured" in verdict("calls", None, 10, at_least=True)


def results() -> Results:
    found = Results()
    for name, calls, load_cpu in (("slow", 10, 0.1), ("fast", 30, 0.95)):
        found.add(
            name,
            Load(1),
            Sample(
                calls=calls, seconds=1, quantiles=tuple(SHARES), cpu=calls / 1e6, load_cpu=load_cpu
            ),
        )
    return found


def test_a_table_has_rates_ratios_latencies_and_cpu_times():
    lines = load_table(
        results(), ["slow", "fast", "absent"], [Load(1)], "slow", servers=("server", "")
    ).split("\n")
    assert lines[0] == "| load: side | calls/s | x slow | p50 ms | p99 ms | server CPU µs |"
    assert lines[2:] == [
        "| 1 in flight: slow | 10 | 1.00 | 500.00 | 990.00 | 1.0 |",
        "| 1 in flight: fast | 30 † | 3.00 | 500.00 | 990.00 | 1.0 |",
        "",
        NOTE,
    ]


TEXT = "{http://www.w3.org/2000/svg}text"


def places(svg: str) -> dict[str, tuple[float, float]]:
    """Where the texts of a picture stand."""
    root = ElementTree.fromstring(svg)
    return {
        text.text or "": (float(text.attrib["x"]), float(text.attrib["y"]))
        for text in root.iter(TEXT)
    }


def test_a_plot_names_its_lines_apart_and_inside_the_picture():
    same = [(1.0, 10.0), (64.0, 1000.0)]
    lines = {f"<side {number}>": same for number in range(12)}
    svg = line_plot("Rates & costs", Axis("in flight", logarithmic=True), Axis("calls/s"), lines)
    labels = sorted(y for name, (_, y) in places(svg).items() if name.startswith("<side"))
    assert len(labels) == 12
    assert min(after - before for before, after in itertools.pairwise(labels)) >= 12
    assert 0 < labels[0] < labels[-1] < 400


def test_the_axes_say_their_values():
    ticks = [(1.0, "1"), (16.0, "16")]
    svg = line_plot(
        "t", Axis("x", True, ticks), Axis("y", True), {"a": [(1, 2_000.0), (16, 30_000.0)]}
    )
    found = places(svg)
    assert {"1", "16", "1k", "10k", "100k"} <= set(found)
    assert found["1"][0] < found["16"][0]
    assert found["1k"][1] > found["10k"][1] > found["100k"][1]


@pytest.mark.parametrize("logarithmic", [True, False])
def test_a_plot_of_one_point_or_none_is_a_picture_still(logarithmic: bool):
    axis = Axis("x", logarithmic)
    for points in ([], [(64.0, 1000.0)]):
        ElementTree.fromstring(line_plot("t", axis, axis, {"a": points}))

"""How the suite chooses its tests, and what its workers may say."""

import importlib.util
import json
from itertools import combinations, product
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def suite():
    """The conftest.py at the root."""
    path = Path(__file__).parents[1] / "conftest.py"
    spec = importlib.util.spec_from_file_location("suite", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pairs(points):
    return {pair for point in points for pair in combinations(enumerate(point), 2)}


FULL = list(product("abcde", "1234567", range(20)))


@pytest.mark.parametrize(
    ("points", "most"),
    [
        (FULL, 145),  # 140 pairs of the larger two dimensions
        (list(product("abc", "123")), 9),
        ([point for point in FULL if point[1] < "4" or point[2] % 3], 140),
        ([], 0),
    ],
    ids=["full", "two dimensions", "with gaps", "none"],
)
def test_every_pair_occurs_in_few_points(suite, points, most):
    chosen = suite.pairwise(points)
    assert chosen <= set(points)
    assert pairs(chosen) == pairs(points)
    assert len(chosen) <= most


def test_the_choice_is_the_same_in_every_worker(suite):
    assert suite.pairwise(FULL) == suite.pairwise(list(FULL))


def test_a_report_with_lone_surrogates_can_be_sent(suite):
    report = {"sections": [("log", "a \ud800 b")], "\udfff": 1.5, "longrepr": None}
    sent = suite.encodable(report)
    assert sent == {"sections": [("log", "a \\ud800 b")], "\\udfff": 1.5, "longrepr": None}
    json.dumps(sent, ensure_ascii=False).encode()

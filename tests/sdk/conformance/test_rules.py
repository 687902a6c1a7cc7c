"""The rules against the page that they are taken from."""

import importlib.util
import re
from pathlib import Path

import pytest

from prism.sdk.conformance import RULES
from prism.sdk.conformance.rules import CASES, WATCHED

ROOT = Path(__file__).parents[3]


def sections():
    """The text of each section of the page, by number, its line breaks as blanks."""
    page = (ROOT / "docs/protocol.md").read_text()
    parts = re.split(r"^## (\d+)\. ", page, flags=re.MULTILINE)
    return {
        number: " ".join(text.split())
        for number, text in zip(parts[1::2], parts[2::2], strict=True)
    }


SECTIONS = sections()


@pytest.mark.parametrize("name", RULES)
def test_the_page_says_so(name):
    rule = RULES[name]
    assert " ".join(rule.sentence.split()) in SECTIONS[rule.section]


def test_each_rule_is_tried_or_watched():
    tried = [case.rule.id for case in CASES]
    assert len(tried) == len(set(tried))
    assert set(tried) | WATCHED == set(RULES)
    assert not set(tried) & WATCHED


def test_each_rule_tells_the_way_out():
    for rule in RULES.values():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.id)
        assert rule.fix.endswith(".")
        assert not rule.title.endswith(".")


def test_the_file_is_fresh():
    path = ROOT / "scripts/generate_conformance_rules.py"
    spec = importlib.util.spec_from_file_location("generate_conformance_rules", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.FILE.read_text() == script.text(), "run: make generate"

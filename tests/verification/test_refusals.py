"""The table of checks, and the page that lists their words."""

import re
from pathlib import Path
from string import Formatter

import pytest

from prism.streams.errors import LaunchError
from prism.verification.refusals import Check, PluginRefused

PAGE = (Path(__file__).parents[2] / "docs" / "plugin-verification.md").read_text()


def test_the_page_lists_every_reason():
    listed = PAGE.partition("\n## Reasons\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+`) \|", listed, re.MULTILINE)
    words = [word for row in rows for word in re.findall(r"`(\w+)`", row)]
    assert len(words) == len(set(words))
    assert set(words) == {check.reason for check in Check}


@pytest.mark.parametrize("check", Check)
def test_a_refusal_says_what_was_found_expected_and_the_way_out(check):
    sentences = check.expected + check.way_out
    names = {name for _, name, _, _ in Formatter().parse(sentences) if name}
    facts = {name: f"<{name}>" for name in names - {"place"}}
    error = PluginRefused(check, "plugin 'small'", "/opt/small", "it {is} odd", **facts)
    assert isinstance(error, LaunchError)
    assert not error.crashed
    expected = check.expected.replace("{", "<").replace("}", ">").replace("<place>", "/opt/small")
    way_out = check.way_out.replace("{place}", "/opt/small")
    assert str(error) == (
        f"plugin 'small' was refused ({check.reason}): /opt/small: it {{is}} odd; "
        f"expected {expected}; {way_out}"
    )


def test_one_in_full():
    error = PluginRefused(Check.WORLD_PERMISSION, "plugin 'a'", "/opt/a", "any user can write it")
    assert str(error) == (
        "plugin 'a' was refused (world_writable): /opt/a: any user can write it; "
        "expected no write permission for others; chmod o-w /opt/a"
    )

"""What a tool is told to overlook has its reason beside it, or in the comment above."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKED = ("prism", "plugins", "scripts")
OVERLOOKED = re.compile(r"# (?:noqa|type: ignore)\b.*")
BARE = re.compile(r"# (?:noqa(?:: [A-Z0-9, ]+)?|type: ignore(?:\[[a-z-]+\])?)\s*")


def without_reason(text):
    """The numbers of the lines that say none."""
    lines = text.splitlines()
    return [
        number
        for number, line in enumerate(lines, 1)
        if (found := OVERLOOKED.search(line))
        and not BARE.sub("", found[0])
        and not (number > 1 and lines[number - 2].lstrip().startswith("#"))
    ]


def test_what_counts_as_a_reason():
    assert without_reason(
        "import a  # noqa: F401\nb = c  # type: ignore[x-y]  # noqa: S1, S2\n"
    ) == [1, 2]
    assert (
        without_reason("import a  # noqa: F401 - for its effect\n# why\nb = c  # type: ignore\n")
        == []
    )


@pytest.mark.parametrize("place", CHECKED)
def test_every_exception_has_its_reason(place):
    found = ROOT / place
    for file in sorted(found.rglob("*.py")):
        assert without_reason(file.read_text()) == [], file

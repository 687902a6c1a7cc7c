"""Files and functions that the pages about the code name are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["docs/design.md", "docs/call.md", "docs/http2.md", "CONTRIBUTING.md"]
WHERE = [ROOT, *(ROOT / place for place in ("prism", "prism/server/http2", "prism/frontends"))]
PLACEHOLDER = "NAME"


def quoted(page: str) -> list[str]:
    """What stands between backticks, code blocks apart."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("page", PAGES)
def test_files(page):
    named = [
        name
        for name in quoted(page)
        if re.fullmatch(r"[a-z_0-9]+(?:/[\w.]+)+/?", name) and PLACEHOLDER not in name
    ]
    assert named
    missing = [name for name in named if not any((place / name).exists() for place in WHERE)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES[:2])
def test_functions(page):
    sources = [path.read_text() for path in (ROOT / "prism").rglob("*.py")]
    missing = []
    for name in quoted(page):
        if match := re.fullmatch(r"([A-Z]\w+)\.(\w+)", name):
            owner = rf"^class {match[1]}\b"
            member = rf"^    (?:async )?def {match[2]}\b|^    {match[2]}\b|self\.{match[2]}\b"
            homes = [source for source in sources if re.search(owner, source, re.MULTILINE)]
            if not any(re.search(member, home, re.MULTILINE) for home in homes):
                missing.append(name)
    assert missing == []

"""Files and functions that the pages about the code name are there."""

import re
from pathlib import Path

import pytest

from prism.calls.policies import POLICIES
from prism.contract.errors import CallError
from prism.control.live_config import InvalidConfig
from prism.signals import RestartRefused

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


def test_every_reason_is_on_a_page():
    pages = "".join(
        (ROOT / f"docs/{name}.md").read_text() for name in ("http-api", "grpc", "admin")
    )
    # Named where they are at home elsewhere, so that all are there whatever else was imported.
    kinds = [InvalidConfig, RestartRefused, *CallError.__subclasses__()]
    for kind in kinds:
        kinds += kind.__subclasses__()  # which come later in the loop
    kinds = [kind for kind in kinds if kind.__module__.startswith("prism.")]  # not tests' own
    reasons = {kind.reason for kind in kinds if kind.reason}
    assert len(reasons) > 30
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in pages] == []


def test_every_policy_is_on_the_page_of_a_call():
    page = (ROOT / "docs/call.md").read_text()
    rows = re.findall(r"`(\w+)`", "".join(re.findall(r"^   \| (`.*?) \|", page, re.MULTILINE)))
    assert rows == [policy.__name__ for policy in POLICIES]


RETIRED = re.compile(r"farewell|whoever|last_words|(?<![a-z])gives?_up|moody|\bbed\b")
"""Words of mood, and riddles, for which there are plain ones."""
SEARCHED = ("benchmarks", "docs", "examples", "native", "plugins", "prism", "scripts", "tests")


def test_retired_words_are_gone():
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for place in (
            "benchmarks",
            "docs",
            "examples",
            "native",
            "plugins",
            "prism",
            "scripts",
            "tests",
        )
        for path in sorted((ROOT / place).rglob("*"))
        if path.suffix in {".c", ".h", ".md", ".py", ".sh", ".yaml"} and path != Path(__file__)
        for word in RETIRED.findall(path.read_text())
    ]
    assert found == []


TWICE = {
    "Event": "a frame's, and what happens to a plugin",
    "Group": "of users, and of differences: the admin port's schema names it so",
    "Head": "of HTTP/1.1, and of HTTP/2",
    "Problem": "the answer, and its schema",
    "Request": "of HTTP/1.1, and of HTTP/2",
    "Trigger": "of the two tables of states: a stream's, and a generation's",
}
"""Names that two classes of the proxy have, and why."""


def test_no_two_classes_have_one_name():
    """The SDK is apart: it is installed without the proxy, too, and has its own words."""
    homes: dict[str, list[str]] = {}
    for path in sorted((ROOT / "prism").rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        if not place.startswith("prism/sdk/"):
            for name in re.findall(r"^class ([A-Z]\w*)", path.read_text(), re.MULTILINE):
                homes.setdefault(name, []).append(place)
    twice = {name: found for name, found in homes.items() if len(found) > 1}
    assert {name: found for name, found in twice.items() if name not in TWICE} == {}
    assert [name for name in TWICE if len(twice.get(name, ())) != 2] == []

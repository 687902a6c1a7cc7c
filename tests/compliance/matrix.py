"""The matrix of ``docs/plugins.md``: which plugin keeps which promise of which group."""

import importlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.compliance.groups import GROUPS
from tests.compliance.subjects import ROOT, SUBJECTS, Subject

PAGE = ROOT / "docs" / "plugins.md"
BEGIN, END = "<!-- matrix: made by make generate-matrix -->\n", "<!-- end of the matrix -->\n"

KEPT, NOT_KEPT, NOT_DECLARED, FAILED = "yes", "no", "-", "**fails**"


class Result(NamedTuple):
    """A test of a group, and how it went for one plugin."""

    group: str
    test: str
    plugin: str
    outcome: str


def promises(group: str) -> list[str]:
    """The names of a group's tests, as they stand in their file."""
    module = importlib.import_module(f"tests.compliance.test_{group}")
    path = Path(module.__file__ or "")
    return re.findall(r"^async def (test_\w+)\(", path.read_text(), re.MULTILINE)


def expected() -> list[Result]:
    """What a run gives in which no test fails."""
    return [
        Result(group, test, one.name, "deviation" if test in one.deviations else "passed")
        for group in GROUPS
        for test in promises(group)
        for one in SUBJECTS
        if group in one.groups
    ]


def render(results: Iterable[Result]) -> str:
    """The part of the page between its marks."""
    outcomes: dict[tuple[str, str, str], set[str]] = {}
    for group, test, plugin, outcome in results:
        outcomes.setdefault((group, test, plugin), set()).add(outcome)
    heads = [f"[{one.name}]({one.page})" for one in SUBJECTS]
    lines = [_row("", *heads), _row("---", *["---"] * len(SUBJECTS))]
    for group in GROUPS:
        declared = [KEPT if group in one.groups else NOT_DECLARED for one in SUBJECTS]
        lines.append(_row(f"**`{group}`**", *declared))
        for test in promises(group):
            cells = [_cell(group, test, one, outcomes) for one in SUBJECTS]
            lines.append(_row(_words(test), *cells))
    reasons = [
        f"- {one.name}, {_words(test)}: no, {reason}."
        for one in SUBJECTS
        for test, reason in one.deviations.items()
    ]
    return "\n".join([*lines, "", *reasons, ""])


def replaced(page: str, matrix: str) -> str:
    """The page with this matrix in it."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{matrix}\n{END}{after}"


def _cell(
    group: str, test: str, one: Subject, outcomes: dict[tuple[str, str, str], set[str]]
) -> str:
    if group not in one.groups:
        return NOT_DECLARED
    found = outcomes.get((group, test, one.name), set())
    if found == {"passed"}:
        return KEPT
    return NOT_KEPT if found == {"deviation"} else FAILED


def _words(test: str) -> str:
    text = test.removeprefix("test_").replace("_", " ")
    return re.sub(r"\bjson\b", "JSON", re.sub(r"\bsql\b", "SQL", text))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")

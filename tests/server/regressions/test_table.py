"""README.md names every test here, and only tests that are there."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_the_table_is_complete():
    named = re.findall(r"`(test_\w+)`", (HERE / "README.md").read_text())
    written = [
        name
        for file in HERE.glob("test_*.py")
        if file != Path(__file__)
        for name in re.findall(r"^async def (test_\w+)", file.read_text(), re.MULTILINE)
    ]
    assert sorted(named) == sorted(written)


def test_the_files_it_names_are_there():
    for name in re.findall(r"`([./\w]*test_\w+\.py)`", (HERE / "README.md").read_text()):
        assert (HERE / name).exists(), name

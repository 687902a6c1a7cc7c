"""What a page, a script or a message has people install is ours."""

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOMEBODY_ELSES = "prism-proxy"


def test_nothing_of_ours_is_to_be_installed_from_an_index() -> None:
    """It is built from a checkout: who takes the name on an index would be installed."""
    found = subprocess.run(
        [
            "git",
            "grep",
            "-nIE",
            r"install.* '?prism-(data-proxy|plugin-sdk)",
            "--",
            "docs",
            "prism",
            "plugins",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert not found


def test_nothing_is_to_be_installed_under_somebody_elses_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "prism-data-proxy"
    assert project["scripts"]["prism-data-proxy"] == project["scripts"]["prism"]
    listed = subprocess.run(
        ["git", "grep", "-hIE", r"(pip3?|pipx|uv|uvx) .*prism"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert "pip" in listed
    for line in listed.splitlines():
        assert not re.search(rf"(?<![\w-]){SOMEBODY_ELSES}(?![\w-])", line), line

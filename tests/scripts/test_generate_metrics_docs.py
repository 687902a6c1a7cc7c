"""The page of the metrics is fresh, and has all that a proxy exports."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/metrics.md"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "scripts/generate_metrics_docs.py"
    spec = importlib.util.spec_from_file_location("generate_metrics_docs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_fresh(script: ModuleType) -> None:
    assert PAGE.read_text() == script.page(), "run: make generate"


def test_what_is_of_a_namespace_is_not_among_what_is_of_the_process(script: ModuleType) -> None:
    assert "`namespace`" not in script.page().partition("## The process")[2]


def test_every_family_in_the_code_is_on_the_page() -> None:
    """Also those that the script does not think of."""
    named = set()
    for file in (ROOT / "prism").rglob("*.py"):
        named |= set(re.findall(r'MetricFamily\(\s*"(prism_\w+)"', file.read_text()))
    assert len(named) > 25
    page = PAGE.read_text()
    assert {name for name in named if not re.search(rf"`{name}(_total|_info)?`", page)} == set()


def test_every_metric_that_a_page_names_exists() -> None:
    known = set(re.findall(r"`(prism_\w+)`", PAGE.read_text()))
    known.add("prism_plugins")  # the package
    for code in [*(ROOT / "schemas/abi").iterdir(), *(ROOT / "examples/plugins").rglob("*.[ch]")]:
        known.update(re.findall(r"\bprism_\w+", code.read_text()))  # functions of plugins
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for name in re.findall(r"`(prism_[a-z_]+)[`{]", page.read_text()):
            assert name in known, f"{page.name} names {name}"

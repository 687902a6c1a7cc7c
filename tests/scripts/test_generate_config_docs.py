"""The generated files are fresh, and what they say is true."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from prism.config import config_schema, parse_config, schema_json

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/generate_config_docs.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_config_docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_files_are_fresh(script: ModuleType) -> None:
    hint = "run: make generate"
    assert (ROOT / "schemas/config.schema.json").read_text() == schema_json(), hint
    assert (ROOT / "docs/configuration.md").read_text() == script.reference_page(), hint


def test_the_script_writes_both_files(script: ModuleType, tmp_path: Path) -> None:
    for name in ("schemas", "docs", "scripts"):
        (tmp_path / name).mkdir()
    copy = tmp_path / "scripts" / SCRIPT.name
    copy.write_text(SCRIPT.read_text())
    subprocess.run([sys.executable, copy], check=True, cwd=ROOT)
    assert (tmp_path / "schemas/config.schema.json").read_text() == schema_json()
    assert (tmp_path / "docs/configuration.md").read_text() == script.reference_page()


def test_every_sample_on_the_page_loads_except_the_wrong_one(script: ModuleType) -> None:
    page = script.reference_page()
    samples = re.findall(r"(This file\n\n)?```yaml\n(.*?)```", page, re.DOTALL)
    assert len(samples) > 7
    for wrong, sample in samples:
        if not wrong:
            assert not parse_config(sample, "prism.yaml").warnings


def test_every_key_is_on_the_page(script: ModuleType) -> None:
    page = script.reference_page()
    for block in (config_schema(), *config_schema()["$defs"].values()):
        for key in block["properties"]:
            assert f"`{key}`" in page

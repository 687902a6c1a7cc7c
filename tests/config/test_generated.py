"""The generated files are fresh, and what they say is true."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prism.config import config_schema, parse_config, reference_markdown, schema_json
from prism.config.types import Config

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("what", "file", "generate"),
    [
        ("schema", "schemas/config.schema.json", schema_json),
        ("reference", "docs/configuration.md", reference_markdown),
    ],
)
def test_the_generated_file_is_fresh(what: str, file: str, generate: Any) -> None:
    command = f"python -m prism.config {what} > {file}"
    assert (ROOT / file).read_text() == generate(), f"run: {command}"
    module = [sys.executable, "-m", "prism.config", what]
    printed = subprocess.run(module, capture_output=True, check=True, cwd=ROOT)
    assert printed.stdout.decode() == generate()


def test_the_schema_is_closed_and_every_reference_leads_somewhere() -> None:
    schema = config_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for block in (schema, *schema["$defs"].values()):
        assert block["additionalProperties"] is False
        assert block["title"]
        assert block["description"]
        assert all(key["description"] for key in block["properties"].values())
    references = set(re.findall(r'"\$ref": "#/\$defs/(\w+)"', schema_json()))
    assert references == set(schema["$defs"])
    assert schema["properties"].keys() == set(Config.__struct_fields__)


def test_the_schema_s_defaults_are_the_types_own() -> None:
    defaults = {
        key: value["default"]
        for key, value in config_schema()["properties"].items()
        if "default" in value
    }
    assert msgspec.convert(defaults, Config) == Config()


def test_the_schema_s_patterns_are_read_by_other_regex_dialects() -> None:
    patterns = re.findall(r'"pattern": "(.*)"', schema_json())
    assert patterns
    assert not any(r"\\z" in pattern.lower() for pattern in patterns)


def test_every_sample_on_the_page_loads_except_the_wrong_one() -> None:
    samples = re.findall(r"(This file\n\n)?```yaml\n(.*?)```", reference_markdown(), re.DOTALL)
    assert len(samples) > 7
    for wrong, sample in samples:
        if not wrong:
            warnings = parse_config(sample, "prism.yaml").warnings
            assert all("not supported yet" in str(warning) for warning in warnings)


def test_every_key_is_on_the_page() -> None:
    page = reference_markdown()
    for block in (config_schema(), *config_schema()["$defs"].values()):
        for key in block["properties"]:
            assert f"`{key}`" in page

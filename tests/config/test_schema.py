import json
import re

import msgspec

from prism.config import config_schema, schema_json
from prism.config.types import Config


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
    assert json.loads(schema_json()) == schema


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

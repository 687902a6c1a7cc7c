"""How a watched plugin is told to programs."""

import json

import pytest
import yaml

from prism.cli.plugin import _watched

RECORDS = [{"namespace": "kv", "state": "ready", "pid": None}, {"namespace": "kv", "state": "down"}]


@pytest.mark.parametrize(
    ("output", "read_all"),
    [
        ("json", lambda text: [json.loads(line) for line in text.splitlines()]),
        ("yaml", lambda text: list(yaml.safe_load_all(text))),
    ],
)
def test_one_after_the_other_can_be_told_apart(output, read_all):
    printed = "".join(f"{_watched(record, output)}\n" for record in RECORDS)
    assert read_all(printed) == RECORDS

"""How plugins, and what they write, are told to programs and people."""

import json

import pytest
import yaml

from prism.cli.plugin import _log_line, _watched

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


def test_a_line_of_the_log_shows_newlines_and_nothing_that_drives_a_terminal():
    line = {
        "time": 0,
        "level": "ERROR",
        "instance": "kv/1",
        "text": "failed\nTrace\x1b[2J:\n\there",
    }
    assert _log_line(line) == (
        "1970-01-01T00:00:00.000+00:00 ERROR   kv/1 failed\n    Trace\ufffd[2J:\n    \there"
    )

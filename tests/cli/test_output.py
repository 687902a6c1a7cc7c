import json

import click
import pytest
import yaml
from click.testing import CliRunner

from prism.cli.output import as_json, output_option, refused, show, show_one

RECORDS = [
    {"name": "a", "healthy": True, "tags": ["x", "y"], "extra": 1},
    {"name": "long\x1b[31m\r\n\t name", "healthy": False, "tags": [], "extra": None},
]


@click.command()
@output_option
def many(output: str) -> None:
    show(RECORDS, output, ("name", "healthy", "tags"))


@click.command()
@output_option
def one(output: str) -> None:
    show_one({"name": "a", "last_error": None}, output)


def run(command, *arguments):
    return CliRunner().invoke(command, arguments).stdout


def test_a_table_is_for_people_and_cannot_drive_the_terminal():
    assert run(many) == (
        "NAME            HEALTHY  TAGS\n"
        "a               yes      x, y\n"
        "long\ufffd[31m name  no       -\n"
    )


@pytest.mark.parametrize(("name", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_programs_get_everything(name, read):
    assert read(run(many, "--output", name)) == RECORDS
    assert read(run(one, "-o", name)) == {"name": "a", "last_error": None}


def test_json_has_what_it_is_of_and_cannot_drive_the_terminal():
    hostile = ["\x1b[2J", "\x9b2J", "\x7f", "\u202e", "\u2028", "\ud800"]
    fit = ["\xe4\xdf\u4e2d", "\U0001f469\u200d\U0001f680"]
    text = as_json({"hostile": hostile, "fit": fit})
    assert json.loads(text) == {"hostile": hostile, "fit": fit}
    assert not set("".join(hostile[1:])) & set(text) - {"2", "J"}
    assert all(each in text for each in fit)
    assert text.encode()


def test_one_record_has_a_line_for_each_field():
    assert run(one) == "name:       a\nlast error: -\n"


def test_no_records():
    assert run(click.command()(output_option(lambda output: show([], output, ("a",))))) == "A\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"code": "NOT_FOUND", "detail": "gone"}', "prism: NOT_FOUND: gone (request -)"),
        (
            "this port speaks TLS:\r\n use https:\r\n",
            "prism: HTTP 400: this port speaks TLS: use https:",
        ),
        ("\x1b[31m" + "x" * 600, "prism: HTTP 400: \N{REPLACEMENT CHARACTER}[31m" + "x" * 495),
        ("\r\n", "prism: HTTP 400"),
        (
            '{"code": "INTERNAL", "detail": "one\\n\\u001b[2Jtwo\\u009b", "request_id": "\\u202e"}',
            "prism: INTERNAL: one\n\ufffd[2Jtwo\ufffd (request \ufffd)",
        ),
        ("[" * 100_000, "prism: HTTP 400: " + "[" * 500),
    ],
    ids=range(6),
)
def test_a_refusal_of_any_side(text: str, said: str) -> None:
    assert refused(400, text) == said

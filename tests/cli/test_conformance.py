"""``prism plugin test``: what it prints, and how it ends."""

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner

from prism.cli.conformance import test as command

ROOT = Path(__file__).parents[2]
PLUGIN = [sys.executable, "-S", str(ROOT / "tests/conformance/wrong_plugin.py")]


def run(*arguments, fault=""):
    return CliRunner().invoke(command, [*arguments, "--", *PLUGIN, *([fault] if fault else [])])


def test_a_rule_that_is_kept():
    done = run("--only", "ping-answered")
    assert done.output == (
        "pass  ping-answered: it answers PING\nwrong 1: 1 passed, 0 failed, 0 warned, 0 skipped\n"
    )
    assert done.exit_code == 0


def test_a_rule_that_is_broken_is_told_with_its_sentence_the_way_out_and_the_frames():
    done = run("--only", "initialize-twice", fault="initialized-again")
    assert done.exit_code == 1
    told = done.output
    assert "FAIL  initialize-twice: a second Initialize is refused\n" in told
    assert "a second Initialize was answered with status 0 OK; it is 9 FAILED_PRECONDITION" in told
    assert "      section 7: A second one is answered FAILED_PRECONDITION; so is an" in told
    assert "      way out: Remember that Initialize has succeeded;" in told
    assert " -> OPEN 1 Initialize " in told
    assert " <- CLOSE 1 status 0 " in told


def test_a_rule_that_cannot_be_tried_is_not_passed():
    done = run("--only", "stream-credit")
    assert "skip  stream-credit: no such call of a stream is known; name one: --call" in done.output
    assert "0 passed, 0 failed, 0 warned, 1 skipped" in done.output
    assert done.exit_code == 0


@pytest.mark.parametrize(("strict", "status"), [([], 0), (["--strict"], 1)])
def test_what_a_plugin_should_do(strict, status):
    done = run("--only", "hello-named", *strict, fault="hello-nameless")
    assert "warn  hello-named: its HELLO has a name\n" in done.output
    assert done.exit_code == status


def test_calls_that_are_named(tmp_path):
    credentials = tmp_path / "credentials.json"
    credentials.write_text('{"password": "hunter2-of-the-cli"}')
    config = tmp_path / "config.json"
    config.write_text('{"size": 3}')
    only = ["--only", "cancel-running", "--only", "stream-credit"]
    calls = ["--call", 'count={"to": 50}', "--slow", "sleep={}"]
    given = ["--credentials", str(credentials), "--config-file", str(config)]
    done = run(*only, *calls, *given)
    assert "2 passed, 0 failed, 0 warned, 0 skipped" in done.output
    told = run("--only", "initialize-twice", *given, fault="initialized-again").output
    assert "hunter2" not in told
    assert r'"config_json": "{\"size\": 3}", "credentials": {"password": "[redacted]"}' in told


def test_json():
    done = run("--output", "json", "--only", "initialize-twice", fault="initialized-again")
    found = json.loads(done.output)
    (result,) = found["results"]
    assert (found["conforms"], found["counts"]["failed"]) == (False, 1)
    assert (result["id"], result["outcome"], result["severity"]) == (
        "initialize-twice",
        "failed",
        "must",
    )
    assert result["found"]
    assert result["frames"]


def test_junit():
    only = ["initialize-twice", "ping-answered", "stream-credit", "hello-named"]
    options = [word for name in only for word in ("--only", name)]
    suite = ET.fromstring(run("-o", "junit", *options, fault="initialized-again").output)
    assert {k: suite.attrib[k] for k in ("tests", "failures", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "skipped": "1",
    }
    cases = {case.attrib["name"]: [child.tag for child in case] for case in suite}
    assert cases == {
        "initialize-twice": ["failure"],
        "ping-answered": [],
        "stream-credit": ["skipped"],
        "hello-named": [],
    }


def test_the_list_of_rules():
    listed = CliRunner().invoke(command, ["--list", "-o", "json"])
    assert json.loads(listed.output) == json.loads(
        (ROOT / "schemas/conformance/rules.json").read_text()
    )
    lines = CliRunner().invoke(command, ["--list"]).output.splitlines()
    assert len(lines) == len(json.loads(listed.output))
    assert any(line.split()[:3] == ["ping-answered", "must", "8"] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "say what to try: -- COMMAND, --socket ADDRESS or --listen PATH"),
        (["--socket", "/a", "--listen", "/b"], "give one of them"),
        (["--", "no-such-program"], "there is no program no-such-program"),
        (["--only", "fly", "--", "true"], "there is no rule fly; see --list"),
        (["--config", "{", "--", "true"], "--config: not JSON"),
        (["--config", "[]", "--", "true"], "--config: a JSON object is needed"),
        (["--call", "get", "--", "true"], "--call: 'get' is not NAME=VALUE"),
        (["--slow", "get={", "--", "true"], "--slow: the params of get are not JSON"),
        (["--listen", "/nonexistent/s", "--", "true"], "cannot listen on /nonexistent/s"),
        (["--socket", "tcp:x", "--", "true"], "is not an address"),
        (["--socket", "/nonexistent/s"], "nothing listens on unix:/nonexistent/s"),
    ],
)
def test_what_cannot_be_tried(arguments, why):
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 2
    assert why in done.output
    assert "Traceback" not in done.output


def test_a_plugin_that_ends_at_once_fails_and_is_heard():
    program = ["sh", "-c", "echo what is wrong >&2; exit 3"]
    done = CliRunner().invoke(command, ["--only", "hello-first", "--timeout", "60", "--", *program])
    assert done.exit_code == 1
    assert "the plugin ended the connection before it said HELLO" in done.output
    assert "what is wrong" in done.output


def test_the_page_names_every_option():
    page = (ROOT / "docs/plugin-conformance.md").read_text()
    options = {name for each in command.params for name in each.opts if name.startswith("--")}
    assert {name for name in options if name not in page} == set()

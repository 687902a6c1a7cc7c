import os
import re
import shlex
import sys

import pytest
from click.testing import CliRunner

from prism.app import Ready
from prism.cli.demo import Demo, demo
from prism.cli.main import prism
from prism.cli.serve import _say, start_message, this_program
from prism.config.types import Config, NamespaceConfig
from prism.streams.addresses import Address

READY = Ready([Address("http", "127.0.0.1", 1234)], [Address("http", "127.0.0.1", 1235)])


def sqlite() -> Demo:
    return demo("sqlite", None, {})


def test_the_message_of_the_demo_says_what_to_try(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = start_message(sqlite().config, READY, sqlite())
    first, second, *_ = text.splitlines()
    assert first == "Prism serves 1 namespace on http://127.0.0.1:1234"
    assert second == "Metrics and health on http://127.0.0.1:1235/metrics, /readyz"
    commands = re.findall(r"^  curl .+ http://127\.0\.0\.1:1234/v1/demo/(\w+)$", text, re.MULTILINE)
    assert commands == ["set", "get"]


@pytest.mark.parametrize(
    ("started_as", "path", "shown"),
    [
        (".venv/bin/prism", "/usr/bin", ".venv/bin/prism"),
        ("{bin}/prism", "/usr/bin", "{bin}/prism"),
        ("{bin}/prism", "{bin}", "prism"),
        ("{bin}/prism/__main__.py", "{bin}", f"{shlex.quote(sys.executable)} -m prism"),
    ],
)
def test_the_message_of_the_demo_names_the_program_as_it_was_started(
    tmp_path, monkeypatch, started_as, path, shown
):
    (tmp_path / "prism").touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [started_as.format(bin=tmp_path), "serve"])
    monkeypatch.setenv("PATH", path.format(bin=tmp_path))
    assert this_program() == shown.format(bin=tmp_path)
    assert f"  {this_program()} plugin reload demo" in start_message(
        sqlite().config, READY, sqlite()
    )


def test_the_message_without_an_admin_port():
    namespaces = [NamespaceConfig(name=name, backend="sqlite") for name in ("a", "b")]
    config = Config(namespaces=namespaces)
    text = start_message(config, Ready(READY.data, []), None)
    assert text == "Prism serves 2 namespaces on http://127.0.0.1:1234"


def test_the_message_counts_who_has_no_plugin_yet():
    namespaces = [NamespaceConfig(name=name, backend="sqlite") for name in ("a", "b")]
    text = start_message(Config(namespaces=namespaces), Ready(READY.data, [], ["b"]), None)
    assert text == "Prism serves 2 namespaces, 1 ready, on http://127.0.0.1:1234"


def test_the_message_of_a_demo_that_is_not_there_sends_to_the_log():
    text = start_message(sqlite().config, Ready(READY.data, READY.admin, ["demo"]), sqlite())
    assert "cannot be served: the log says why" in text
    assert "curl" not in text
    assert "cannot be served" not in start_message(sqlite().config, READY, sqlite())


def test_the_message_of_a_demo_that_is_refused_says_why_and_does_not_invite():
    shown = demo("postgres", None, {"PGPASSWORD": "wrong"})
    problems = {"demo": "password authentication failed"}
    text = start_message(shown.config, Ready(READY.data, READY.admin, ["demo"], problems), shown)
    assert "database prism of PostgreSQL at 127.0.0.1:5432, cannot be served: password auth" in text
    assert "--server postgresql://USER@HOST:5432/DATABASE, with the password in PGPASSWORD" in text
    assert "curl" not in text


def test_a_message_that_nobody_reads_is_no_reason_not_to_serve(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        _say("hello")
        output.write("what is left goes nowhere")


def test_a_process_without_standard_output_prints_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    _say("hello")


@pytest.mark.parametrize("words", [["8080"], ["--prot", "1"], ["--port"], ["--port", "x"]])
def test_under_make_it_says_how_options_are_passed(monkeypatch, words):
    monkeypatch.delenv("MAKELEVEL", raising=False)
    plain = CliRunner().invoke(prism, ["serve", *words])
    assert plain.exit_code == 2
    assert "ARGS" not in plain.output
    monkeypatch.setenv("MAKELEVEL", "1")
    done = CliRunner().invoke(prism, ["serve", *words])
    assert done.exit_code == 2
    assert done.output.startswith(plain.output)
    assert "make serve ARGS='--port 8080'; a configuration is CONFIG=FILE" in done.output

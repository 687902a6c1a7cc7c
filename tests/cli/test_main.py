import os
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from prism import __version__
from prism.cli import main as main_module
from prism.cli.main import prism
from prism.cli.output import CommandError
from prism.streams.errors import LaunchError


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "prism", *arguments], capture_output=True, text=True, timeout=20
    )


def test_python_dash_m_prism_is_the_command():
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    parts = r"HTTP/2: (nghttp2|h2) [0-9.]+; JSON: (compiled|Python); calls: (compiled|Python)"
    assert re.fullmatch(rf"prism {__version__} \({parts}\)\n", done.stdout)


IMPORTED = """
import sys
from prism.cli.main import main
sys.argv[0] = "prism"
try:
    main()
finally:
    print(*sys.modules, sep="\\n", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "used", "unused"),
    [
        (["--version"], {"prism.calls.json_text"}, {"httpx", "prism.app", "yaml"}),
        (["--help"], {"prism.cli.serve"}, {"trio", "httpx", "msgspec", "yaml", "prism.calls"}),
        (["call", "-h"], {"prism.cli.call"}, {"trio", "httpx", "prism.cli.plugin", "prism.app"}),
        (["completion", "zsh"], {"prism.cli.completion"}, {"trio", "httpx", "msgspec"}),
        (["config", "schema"], {"msgspec"}, {"prism.cli.serve", "httpx", "prism.server"}),
        (["key", "list", "-f", os.devnull], {"prism.access.api_keys"}, {"httpx", "prism.server"}),
    ],
)
def test_a_command_imports_only_what_it_uses(arguments, used, unused):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *arguments], capture_output=True, text=True, timeout=60
    )
    imported = set(done.stderr.split("\n"))
    assert used <= imported, done.stderr
    assert not unused & imported


def groups(command, path=()):
    """Every command that has commands below it."""
    if isinstance(command, click.Group):
        yield list(path)
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from groups(command.get_command(context, name), (*path, name))


@pytest.mark.parametrize("group", list(groups(prism)))
def test_no_sentence_is_cut_off_in_a_list_of_commands(group):
    result = CliRunner().invoke(prism, [*group, "--help"], terminal_width=80)
    listed = result.output.partition("Commands:")[2]
    assert listed
    assert "..." not in listed


def test_what_is_taken_from_the_environment_is_in_the_help():
    for command, variable in (
        ("call", "PRISM_URL"),
        ("call", "PRISM_KEY_FILE"),
        ("plugin list", "PRISM_ADMIN"),
        ("plugin list", "PRISM_TOKEN_FILE"),
        ("serve", "PRISM_CONFIG"),
    ):
        result = CliRunner().invoke(prism, [*command.split(), "--help"])
        assert f"[env var: {variable}" in " ".join(result.output.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_the_commands(shell):
    done = run("completion", shell)
    assert done.returncode == 0
    assert f"_PRISM_COMPLETE={shell}_complete" in done.stdout
    words = {"COMP_WORDS": "prism plug", "COMP_CWORD": "1", "_PRISM_COMPLETE": "bash_complete"}
    printed = subprocess.run(
        [sys.executable, "-m", "prism"], capture_output=True, text=True, env={**os.environ, **words}
    ).stdout
    assert "plugin" in printed or shell != "bash"


@pytest.mark.parametrize("command", [[], ["serve"], ["call"], ["config"], ["config", "check"]])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help(command, option):
    result = CliRunner().invoke(prism, [*command, option])
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert max(map(len, result.output.splitlines())) <= 100
    for word in {"": ["serve", "call", "config"], "serve": ["--port"], "call": ["Exit status"]}.get(
        " ".join(command), []
    ):
        assert word in result.output


@pytest.mark.parametrize(
    "arguments", [["nosuch"], ["serve", "--port", "70000"], ["serve", "x"], ["call", "kv"]]
)
def test_wrong_usage_is_status_2(arguments):
    result = CliRunner().invoke(prism, arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.output


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["top", "--interval"],
        ["replay", os.devnull, "--rate"],
        ["plugin", "reload", "kv", "--canary", "10%", "--min-seconds"],
        ["plugin", "reload", "kv", "--canary", "10%", "--max-seconds"],
    ],
    ids=lambda arguments: arguments[0] + arguments[-1],
)
def test_a_number_is_one(arguments, number):
    result = CliRunner().invoke(prism, [*arguments, number])
    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[-1]}'" in result.output


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LaunchError("it is not there"), "prism: it is not there\n"),
        (LaunchError("it said\n\x1b[2J\x9b"), "prism: it said\n\ufffd[2J\ufffd\n"),
        (ValueError("what?"), "prism: internal error: ValueError: what?\nThis is a bug."),
    ],
)
def test_errors_are_sentences(monkeypatch, capsys, error, said):
    def fail(**_options):
        raise error

    monkeypatch.setattr(main_module, "prism", fail)
    with pytest.raises(SystemExit) as ended:
        main_module.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(said)


def test_a_variable_shows_the_traceback_of_a_bug(monkeypatch):
    def fail(**_options):
        raise ValueError

    monkeypatch.setattr(main_module, "prism", fail)
    monkeypatch.setenv(main_module.TRACEBACK_VARIABLE, "1")
    with pytest.raises(ValueError):
        main_module.main()


@pytest.mark.parametrize(("typed", "meant"), [("serv", "serve"), ("confg", "config")])
def test_a_command_that_is_nearly_one(typed, meant):
    result = CliRunner().invoke(prism, [typed])
    assert result.exit_code == 2
    assert f"No such command '{typed}'. Did you mean '{meant}'?" in result.stderr
    assert "mean" not in CliRunner().invoke(prism, ["xyzzy"]).stderr
    assert "No such option" in CliRunner().invoke(prism, ["--xyzzy"]).stderr


def test_a_configuration_without_its_option():
    result = CliRunner().invoke(prism, ["serve", "prism.yaml"])
    assert result.exit_code == 2
    assert "'prism.yaml'; a configuration is named with --config FILE" in result.stderr


@pytest.mark.parametrize(
    ("name", "why"), [("", "Is a directory"), ("missing", "No such file or directory")]
)
def test_a_token_that_cannot_be_read(tmp_path, name, why):
    result = CliRunner().invoke(prism, ["token", "inspect", str(tmp_path / name)])
    assert result.exit_code == 1
    assert isinstance(result.exception, CommandError)
    assert str(result.exception) == f"{tmp_path / name}: {why}"

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from prism.cli.main import prism

GOOD = "namespaces: [{name: kv, backend: sqlite}]\n"
BAD = "listen:\n  prot: 1\nlog: {level: loud}\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(GOOD)
    Path("bad.yaml").write_text(BAD)
    Path("warned.yaml").write_text("namespaces: []\n")


@pytest.mark.usefixtures("files")
def test_a_good_file():
    result = CliRunner().invoke(prism, ["config", "check", "good.yaml"])
    assert (result.exit_code, result.stdout) == (0, "good.yaml: ok, namespaces: kv\n")


@pytest.mark.usefixtures("files")
def test_every_problem_of_every_file():
    result = CliRunner().invoke(prism, ["config", "check", "bad.yaml", "good.yaml", "none.yaml"])
    assert result.exit_code == 1
    assert result.stdout == "good.yaml: ok, namespaces: kv\n"
    places = [line.partition(" ")[0] for line in result.stderr.splitlines()]
    assert places == ["bad.yaml:2:3:", "bad.yaml:3:14:", "none.yaml:"]


@pytest.mark.usefixtures("files")
def test_a_certificate_that_is_not_here_draws_a_warning_that_names_it():
    Path("cert.pem").touch()
    Path("tls.yaml").write_text(GOOD + "listen: {tls: {cert: cert.pem, key: none.pem}}\n")
    result = CliRunner().invoke(prism, ["config", "check", "tls.yaml"])
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"warning: {Path('none.pem').absolute()}: cannot be used for TLS")


@pytest.mark.usefixtures("files")
def test_warnings_do_not_fail():
    result = CliRunner().invoke(prism, ["config", "check", "warned.yaml"])
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: warned.yaml:1:")


def test_the_schema_is_the_one_that_is_checked_in():
    result = CliRunner().invoke(prism, ["config", "schema"])
    assert result.exit_code == 0
    checked_in = Path(__file__).parents[2] / "schemas/config.schema.json"
    assert json.loads(result.stdout) == json.loads(checked_in.read_text())

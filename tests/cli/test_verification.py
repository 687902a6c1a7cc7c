"""keygen, sign and verify, by what they print and write."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from prism.cli.main import prism
from prism.config import parse_config
from prism.contract.errors import PrismError


def run(*words):
    return CliRunner().invoke(prism, ["plugin", *map(str, words)])


@pytest.fixture
def key(tmp_path, monkeypatch):
    """A key, made in the current directory; its public half."""
    monkeypatch.chdir(tmp_path)
    made = json.loads(run("keygen", "release.key", "-o", "json").stdout)
    assert made["name"] == "release"
    return made["key"]


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "plugin"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_keygen_prints_what_a_configuration_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("keygen", "keys.key", "--name", "orders-team")
    assert result.exit_code == 0
    (trusted,) = parse_config(result.stdout, "f").config.verification.trusted_keys
    assert trusted.name == "orders-team"
    assert Path("keys.key").stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" in Path("keys.key").read_text()
    assert "PRIVATE" not in result.stdout


def test_keygen_replaces_nothing(key):
    before = Path("release.key").read_bytes()
    result = run("keygen", "release.key")
    assert isinstance(result.exception, PrismError)
    assert Path("release.key").read_bytes() == before
    assert run("keygen", "Not A Name.key").exit_code == 2
    assert not Path("Not A Name.key").exists()


def test_sign_and_verify_a_path(key, program):
    signed = run("sign", "--key", "release.key", program, "-o", "yaml")
    assert signed.exit_code == 0
    said = yaml.safe_load(signed.stdout)
    assert said["signature"] == f"{program}.sig"
    result = run("verify", "--key", key, program, "-o", "json")
    assert result.exit_code == 0
    (found,) = json.loads(result.stdout)
    assert (found["result"], found["signed_by"], found["key"]) == ("ok", "given-1", said["key"])
    assert said["digest"] == f"sha256:{found['digest']}"
    program.write_text("#!/bin/sh\ntampered\n")
    result = run("verify", "--key", key, program)
    assert result.exit_code == 1
    assert "digest_mismatch" in result.stdout
    assert f"expected {said['digest']}, by {program}.sig" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("sign", "--key", "release.key", "nowhere"),
        ("sign", "--key", "none.key", "plugin"),
        ("sign", "--key", "plugin", "plugin"),
        ("sign", "--key", "release.key", "--name", "No Name", "plugin"),
        ("sign", "--key", "release.key", "--version", "v 1", "plugin"),
    ],
)
def test_what_cannot_be_signed(key, program, words):
    program.chmod(0o600)
    result = run(*words)
    assert isinstance(result.exception, PrismError)
    assert "\n" not in str(result.exception)
    assert not Path("plugin.sig").exists()


def test_a_signature_that_cannot_be_written(key, program):
    Path("plugin.sig.new").mkdir()
    assert "cannot write" in str(run("sign", "--key", "release.key", program).exception)


CONFIG = """
plugins:
  - name: orders
    type: sidecar
    command: {program}
    versions: {{v1.2: {{}}, v1.3: {{sha256: "{zeros}"}}}}
  - {{name: far, type: remote, endpoint: "localhost:1", insecure: true}}
namespaces:
  - {{name: a, backend: b, plugin: {{name: orders, version: v1.2}}}}
  - {{name: inline, backend: b, plugin: {{type: sidecar, command: {program}}}}}
  - {{name: dials, backend: b, plugin: {{type: sidecar, socket: s}}}}
  - {{name: kv, backend: sqlite}}
"""


@pytest.fixture
def config(program):
    path = program.with_name("prism.yaml")
    path.write_text(CONFIG.format(program=program, zeros="0" * 64))
    return path


def results(result):
    return [(found["plugin"], found["version"], found["result"]) for found in json.loads(result)]


def test_everything_that_the_proxy_would_start(key, config):
    result = run("verify", "--config", config, "-o", "json")
    assert result.exit_code == 1
    assert results(result.stdout) == [
        ("orders", "v1.2", "ok"),
        ("orders", "v1.3", "digest_mismatch"),
        ("inline", None, "ok"),
    ]
    assert result.stderr.startswith("prism: plugin 'orders' v1.3 was refused (digest_mismatch): ")


def test_one_plugin_and_one_version(key, config):
    result = run("verify", "-c", config, "orders", "v1.2", "-o", "json")
    assert (result.exit_code, results(result.stdout)) == (0, [("orders", "v1.2", "ok")])
    assert len(results(run("verify", "-c", config, "orders", "-o", "json").stdout)) == 2


def test_a_plugin_that_prism_does_not_start(key, config):
    result = run("verify", "-c", config, "far")
    assert result.exit_code == 0
    assert result.stdout == ("Prism starts none of these plugins, so there is nothing to verify\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("orders", "v1.4"),
            'version "v1.4" of plugin "orders" is not in the catalogue; there are ',
        ),
        (("oders",), 'there is no plugin "oders"; did you mean "orders"?'),
        (("./plugin", "v1"), "a path has no VERSION"),
        (("--key", "ed25519:abc", "./plugin"), "44 characters"),
    ],
)
def test_wrong_usage(key, config, words, message):
    result = run("verify", "-c", config, *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_without_a_configuration_there_must_be_a_path():
    result = run("verify", "orders")
    assert result.exit_code == 2
    assert "a path with a slash in it, or a --config" in result.stderr

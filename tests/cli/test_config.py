import json
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

from prism.cli.main import prism
from prism.config import load_config
from prism.control.machine import weaknesses
from tests.services.vault import ROLE_ID, SECRET_ID, Vault

GOOD = "namespaces: [{name: kv, backend: sqlite}]\n"
ALL = """
listen: {tls: {cert: c.pem, key: k.pem}}
admin: {tokens: [{name: ann, file: t, may: change}]}
plugins:
  - {name: orders, type: sidecar, command: [/opt/orders], versions: {v1: {}, v2: {overlap: false}}}
namespaces:
  - {name: a, backend: orders, plugin: {version: v2}, credentials: {password: hunter2}}
  - {name: b, backend: x, plugin: {type: sidecar, socket: /run/x/b.sock, group: root}}
  - {name: c, backend: x, plugin: {type: remote, endpoint: "h:1", tls: {server_name: n}}}
  - {name: d, backend: sqlite, config: {path: d.db}}
"""
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
def test_a_secret_that_any_user_may_read_is_a_warning_with_its_place():
    Path("secrets").mkdir()
    secret = Path("secrets/pw").absolute()
    secret.write_text("hunter2")
    secret.chmod(0o644)
    entry = '{name: kv, backend: redis, credentials: {password: "{{ secret:pw }}"}}'
    text = f"secrets: {{directory: secrets}}\nnamespaces: [{entry}]\n"
    Path("open.yaml").write_text(text)
    for strict in ([], ["--strict"]):
        result = CliRunner().invoke(prism, ["config", "check", *strict, "open.yaml"])
        column = text.splitlines()[1].index('"{{') + 1
        place = f"open.yaml:2:{column}: namespaces[0].credentials.password"
        assert result.stderr.startswith(f"warning: {place}")
        assert f"any user may read the secret file {secret}; chmod it to 0600" in result.stderr


@pytest.mark.usefixtures("files")
def test_what_is_not_on_this_machine_is_a_warning_or_if_asked_for_an_error():
    Path("cert.pem").touch()
    Path("tls.yaml").write_text(GOOD + "listen: {tls: {cert: cert.pem, key: none.pem}}\n")
    result = CliRunner().invoke(prism, ["config", "check", "tls.yaml"])
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    missing = (
        f"tls.yaml:2:37: listen.tls.key: {Path('none.pem').absolute()}: No such file or directory"
    )
    assert line == f"warning: {missing}"
    assert result.stdout == "tls.yaml: ok, namespaces: kv\n"
    result = CliRunner().invoke(prism, ["config", "check", "--strict", "tls.yaml", "good.yaml"])
    told = [line for line in result.stderr.splitlines() if "(hardening: " not in line]
    assert (result.exit_code, told) == (1, [missing])
    assert result.stdout == "good.yaml: ok, namespaces: kv\n"


@pytest.mark.usefixtures("files")
def test_what_is_weak_is_an_error_where_others_reach_the_proxy():
    Path("exposed.yaml").write_text(GOOD + "listen: {address: 0.0.0.0}\ninsecure: true\n")
    for name, status, begins in (("exposed", 1, ""), ("good", 0, "warning: ")):
        result = CliRunner().invoke(prism, ["config", "check", "--strict", f"{name}.yaml"])
        assert result.exit_code == status
        assert f"{begins}{name}.yaml:1:1: audit: nothing tells afterwards" in result.stderr
    exposed = CliRunner().invoke(prism, ["config", "check", "exposed.yaml"])
    assert exposed.exit_code == 0
    assert "hardening" not in exposed.stderr


@pytest.mark.usefixtures("files")
def test_a_file_of_keys_that_others_may_change_is_an_error_and_one_of_the_configuration_is_told():
    Path("keys.yaml").write_text("keys: []\n")
    Path("keyed.yaml").write_text(GOOD + "authentication: {api_keys: {file: keys.yaml}}\n")
    Path("keys.yaml").chmod(0o666)
    for arguments, status, begins in (([], 0, "warning: "), (["--strict"], 1, "")):
        result = CliRunner().invoke(prism, ["config", "check", *arguments, "keyed.yaml"])
        assert result.exit_code == status
        place = f"\n{begins}keyed.yaml:2:35: authentication.api_keys.file: "
        assert place in f"\n{result.stderr}"
        assert "may be changed by other users (mode 0666); chmod it to 0600" in result.stderr
    Path("good.yaml").chmod(0o646)
    for arguments in ([], ["--strict"]):
        result = CliRunner().invoke(prism, ["config", "check", *arguments, "good.yaml"])
        assert result.stderr.count("may change this file (mode 0646); chmod it to 0640") == 1


@pytest.mark.usefixtures("files")
def test_authorities_that_a_group_may_change_are_weak():
    authority = trustme.CA()
    authority.cert_pem.write_to_path("ca.pem")
    vault = (
        "{address: 'https://v', token: t, ca_cert: ca.pem, secrets: [{name: a, path: b, key: c}]}"
    )
    Path("vault.yaml").write_text(GOOD + f"secrets: {{vault: {vault}}}\n")
    for mode, count in ((0o644, 0), (0o664, 1)):
        Path("ca.pem").chmod(mode)
        loaded = load_config("vault.yaml")
        weak = [str(each) for each in weaknesses(loaded) if "decides who is trusted" in str(each)]
        assert len(weak) == count
        assert all("secrets.vault.ca_cert: others may change" in each for each in weak)


@pytest.mark.usefixtures("files")
def test_what_is_shown_of_a_file_is_a_file_again():
    Path("all.yaml").write_text(ALL)
    shown = CliRunner().invoke(prism, ["config", "show", "--config", "all.yaml"])
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "hunter2" not in shown.stdout
    Path("shown.yaml").write_text(shown.stdout)
    checked = CliRunner().invoke(prism, ["config", "check", "shown.yaml"])
    assert (checked.exit_code, checked.stdout) == (0, "shown.yaml: ok, namespaces: a, b, c, d\n")
    again = CliRunner().invoke(prism, ["config", "show", "--config", "shown.yaml"])
    assert again.stdout == shown.stdout


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


def test_vault_is_asked_only_if_the_check_is_strict(tmp_path, monkeypatch):
    monkeypatch.setenv("SID", SECRET_ID)
    file = tmp_path / "vault.yaml"
    server = Vault()
    try:
        file.write_text(
            f"secrets: {{environment: [SID], vault: {{address: '{server.address}', "
            f"role_id: {ROLE_ID}, secret_id: '{{{{ secret:SID }}}}', "
            "secrets: [{name: pg, path: prod/pg, key: password}]}}\n"
            "namespaces: [{name: a, backend: b, plugin: {type: sidecar, command: echo}, "
            "credentials: {p: '{{ secret:pg }}'}}]\n"
        )
        result = CliRunner().invoke(prism, ["config", "check", str(file)])
        assert (result.exit_code, result.stderr) == (0, "")
        assert not server.seen
        strict = ["config", "check", "--strict", str(file)]
        result = CliRunner().invoke(prism, strict)
        assert result.exit_code == 1
        assert f"{server.address} secret/prod/pg#password: the secret" in result.stderr
        assert 'there is nothing at "prod/pg"' in result.stderr
        server.kv["prod/pg"] = {"password": "hunter2"}
        result = CliRunner().invoke(prism, strict)
        assert result.exit_code == 0, result.stderr
        assert "hunter2" not in result.output
        assert not server.tokens, "it has logged out"
    finally:
        server.close()
    result = CliRunner().invoke(prism, strict)
    assert "all attempts to connect" in result.stderr
    assert result.exit_code == 1
    assert CliRunner().invoke(prism, ["config", "check", str(file)]).exit_code == 0

"""prism authz explain, by what it prints."""

import pytest
from click.testing import CliRunner

from prism.access.api_keys import create_key, read_keys, revoke_key
from prism.cli.authz import _address
from prism.cli.main import prism
from prism.cli.output import CommandError
from prism.config.types import AdminConfig, ListenerTLS

TEXT = """\
authentication:
  api_keys: {file: keys.yaml}
namespaces:
  - name: orders
    backend: sqlite
    access:
      owners: ["group:platform"]
      allow:
        - who: [reports, "group:billing"]
          permissions: [read]
        - {who: ["svc-*"], permissions: [write]}
  - {name: closed, backend: sqlite}
  - {name: trial, backend: sqlite, access: {mode: dry_run}}
"""


SIDECAR = "backend: x\n    plugin: {type: sidecar, command: [never-run]}"


@pytest.fixture
def explain(tmp_path):
    file = tmp_path / "prism.yaml"

    def run(*words, text=TEXT):
        file.write_text(text)
        words = ["authz", "explain", "-c", str(file), *words]
        result = CliRunner().invoke(prism, words, catch_exceptions=False)
        return result.exit_code, result.output.strip().replace(str(tmp_path) + "/", "")

    return run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("reports", "orders", "get", "--needs", "read"), "prism.yaml:9 gives to 'reports'"),
        (
            ("x", "orders", "get", "--needs", "read", "--group", "billing"),
            ":9 gives to 'group:billing'",
        ),
        (("svc-1", "orders", "set", "--needs", "write"), ":11 gives to 'svc-*'"),
        (("x", "orders", "drop", "--needs", "admin", "--group", "platform"), ":7 gives to"),
        (
            ("x", "trial", "get", "--needs", "read"),
            "allowed, because of mode: dry_run; else denied",
        ),
    ],
)
def test_allowed(explain, words, told):
    status, output = explain(*words)
    assert status == 0
    assert told in output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("reports", "orders", "set", "--needs", "write"), "denied: set takes write, and no row"),
        (("anonymous", "closed", "get", "--needs", "read"), "the namespace has no access"),
    ],
)
def test_denied(explain, words, told):
    status, output = explain(*words)
    assert status == 1
    assert told in output


def test_without_authentication(explain):
    text = "namespaces:\n  - {name: orders, backend: sqlite}\n"
    assert "anybody may do anything" in explain("x", "orders", "get", text=text)[1]


def test_a_built_in_plugin_is_asked_without_a_proxy(explain):
    nowhere = ("--url", "http://127.0.0.1:1")
    assert explain("reports", "orders", "get", *nowhere)[0] == 0
    status, output = explain("reports", "orders", "set", *nowhere)
    assert status == 1
    assert output.startswith("denied: set takes write")
    with pytest.raises(CommandError, match="'orders' has no 'gett'; it has: acknowledge, "):
        explain("reports", "orders", "gett", *nowhere)


def test_of_another_plugin_it_says_how_to_do_without_a_proxy(explain):
    text = TEXT.replace(
        "{name: closed, backend: sqlite}",
        "{name: closed, backend: x, plugin: {type: sidecar, command: [never-run]}}",
    )
    status, output = explain("ada", "closed", "get", "--url", "http://127.0.0.1:1", text=text)
    assert status == 1
    assert output.endswith("With --needs read, write or admin, no proxy need run.")


@pytest.mark.parametrize(
    ("admin", "address"),
    [
        ("{port: 1}", "http://127.0.0.1:1"),
        ("{port: 1, address: '::1'}", "http://[::1]:1"),
    ],
)
def test_the_proxy_is_asked_where_the_file_says(explain, monkeypatch, admin, address):
    monkeypatch.delenv("PRISM_ADMIN", raising=False)
    text = f"admin: {admin}\n" + TEXT.replace("backend: sqlite", SIDECAR, 1)
    assert f"the admin port at {address}:" in explain("ada", "orders", "get", text=text)[1]
    said = explain("ada", "orders", "get", "--url", "http://127.0.0.1:2", text=text)[1]
    assert "the admin port at http://127.0.0.1:2:" in said


@pytest.mark.parametrize(
    ("admin", "address"),
    [
        (AdminConfig(address="unix:/run/admin.sock"), "unix:/run/admin.sock"),
        (AdminConfig(port=0), "http://127.0.0.1:50052"),
        (
            AdminConfig(address="0.0.0.0", tls=ListenerTLS(cert="c", key="k")),
            "https://127.0.0.1:50052",
        ),
    ],
)
def test_where_a_file_has_the_admin_port(admin, address):
    assert _address(admin) == address


def test_the_groups_of_a_principals_keys(explain, tmp_path):
    words = ("clerk", "orders", "get", "--needs", "read")
    status, output = explain(*words)
    assert (status, output) == (
        1,
        "denied: get takes read, and no row of its access gives it to 'clerk', in no groups; "
        "--group names one that it is in",
    )
    create_key(tmp_path / "keys.yaml", "clerk", ["billing"])
    status, output = explain(*words)
    assert status == 0
    assert output.endswith("to 'group:billing', in groups by its keys in keys.yaml: billing")
    assert explain(*words, "--group", "others")[0] == 1  # what is given is what counts
    (entry,) = read_keys(tmp_path / "keys.yaml")
    revoke_key(tmp_path / "keys.yaml", entry.id)
    assert "in no groups" in explain(*words)[1]

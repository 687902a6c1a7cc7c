"""What this machine can tell of a configuration: one thing missing at a time."""

import os
import sys
from pathlib import Path
from typing import get_args

import pytest
import trustme
from msgspec import Struct

from prism.access.api_keys import create_key
from prism.config import load_config
from prism.config.catalogue import BUILT_IN, config_type
from prism.config.typecheck import alternatives, fields_of, meta_of
from prism.config.types import Config, PluginConfig
from prism.control.machine import check_machine

FITS = """
listen: {tls: {cert: cert.pem, key: key.pem, client_ca: ca.pem}}
admin:
  address: unix:{here}/sockets/admin.sock
  tokens: [{name: ann, file: ann.token}]
secrets: {directory: secrets}
audit: {file: audit/log}
authentication:
  api_keys: {file: keys.yaml}
  introspection:
    {url: "https://i/x", client_id: p, client_secret: "{{ secret:pw }}", ca_cert: asked.pem}
  jwt: [{issuer: i, audience: a, jwks_url: "https://i/k", ca_cert: issuer.pem, algorithms: [RS256]}]
plugins:
  - name: orders
    type: sidecar
    command: [python, "./{version}.py"]
    versions: {v1: {}, v2: {}}
namespaces:
  - {name: a, backend: orders, plugin: {version: v1}, credentials: {pw: "{{ secret:pw }}"}}
  - {name: b, backend: x, plugin: {type: sidecar, socket: sockets/b.sock, group: root}}
  - {name: c, backend: x, plugin: {type: in_process, module: "mine:Mine"}}
  - {name: d, backend: x, plugin: {type: in_process, module: "far:Far", path: far}}
  - name: e
    backend: x
    plugin: {type: remote, endpoint: "h:1", tls: {ca_cert: ca.pem, cert: cert.pem, key: key.pem}}
  - {name: f, backend: sqlite, config: {path: data/f.db}}
  - name: g
    backend: x
    plugin: {type: sidecar, command: ./program, working_directory: work}
limits_store: {url: "rediss://l", password: "{{ secret:limits }}", ca_cert: limits.pem}
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with all that ``FITS`` names."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    for name in ("ca.pem", "issuer.pem", "asked.pem", "limits.pem"):
        authority.cert_pem.write_to_path(tmp_path / name)
    create_key(tmp_path / "keys.yaml", "reports", [])
    for name in ("sockets", "secrets", "far", "data", "work", "audit"):
        (tmp_path / name).mkdir()
    for name in ("v1.py", "v2.py", "mine.py", "far/far.py"):
        (tmp_path / name).touch(0o644)
    (tmp_path / "secrets/pw").write_text("hunter2")
    (tmp_path / "secrets/limits").write_text("hunter3")
    (tmp_path / "ann.token").write_text("0123456789abcdef")
    for name in ("secrets/pw", "secrets/limits", "ann.token", "key.pem"):
        (tmp_path / name).chmod(0o600)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return tmp_path


def problems(here: Path, text: str = FITS, *, warnings: bool = False) -> list[str]:
    file = here / "prism.yaml"
    file.write_text(text.replace("{here}", str(here)))
    found = [str(problem) for problem in check_machine(load_config(file))[warnings]]
    return [problem.removeprefix(f"{file}:").replace(f"{here}/", "") for problem in found]


def test_what_is_all_there_fits(here: Path) -> None:
    assert problems(here) == problems(here, warnings=True) == []


def paths(block: type, seen: set[type]) -> set[str]:
    """The keys of ``block``, and of all below it, that are paths."""
    found = set()
    seen.add(block)
    for name, field in fields_of(block).items():
        if meta_of(field.type, "path"):
            found.add(f"{block.__name__}.{name}")
        kinds = [one.kind for one in alternatives(field.type)]
        while kinds:
            kind = kinds.pop()
            kinds += [one.kind for inner in get_args(kind) for one in alternatives(inner)]
            if isinstance(kind, type) and issubclass(kind, Struct) and kind not in seen:
                found |= paths(kind, seen)
    return found


def test_every_path_of_the_configuration_is_thought_of() -> None:
    """Who adds one checks it in ``prism.control.machine``, and then names it here."""
    of_launch = {"path", "library", "file", "working_directory", "signature"}
    assert paths(Config, set()) == {
        "ListenerTLS.cert", "ListenerTLS.key", "ListenerTLS.client_ca",
        "ListenerTLS.client_crl",
        "AdminConfig.token_file", "AdminTokenConfig.file",
        "APIKeysConfig.file", "JWTIssuerConfig.ca_cert", "IntrospectionConfig.ca_cert",
        "AuditConfig.file", "LimitsStoreConfig.ca_cert", "RecordConfig.file",
        "ClientTLS.ca_cert", "ClientTLS.cert", "ClientTLS.key",
        "SecretsConfig.directory", "VaultConfig.ca_cert", "VaultConfig.kubernetes_token_file",
        "PluginConfig.socket",
        *(f"{block}.{name}" for name in of_launch
          for block in ("PluginConfig", "CataloguePlugin", "CatalogueVersion")),
    }  # fmt: skip


GONE = "No such file or directory"
MISSING = [
    ("cert.pem", "2:22: listen.tls.cert: cert.pem: " + GONE),
    ("key.pem", "2:37: listen.tls.key: key.pem: " + GONE),
    ("ca.pem", "2:57: listen.tls.client_ca: ca.pem: " + GONE),
    ("keys.yaml", "9:20: authentication.api_keys.file: keys.yaml: the file is not there"),
    ("issuer.pem", "12:68: authentication.jwt[0].ca_cert: issuer.pem: " + GONE),
    ("asked.pem", "11:83: authentication.introspection.ca_cert: asked.pem: " + GONE),
    ("audit", "7:15: audit.file: there is no directory audit"),
    ("ann.token", "5:30: admin.tokens[0].file: ann.token: " + GONE),
    (
        "secrets/pw",
        '19:73: namespaces[0].credentials.pw: secrets/pw: the secret "pw" cannot be read: ' + GONE,
    ),
    ("v1.py", "16:14: plugins[0].command: there is no file v1.py"),
    ("mine.py", "21:62: namespaces[2].plugin.module: there is no Python package 'mine'"),
    ("far/far.py", "22:62: namespaces[3].plugin.module: "),
    ("data", "26:47: namespaces[5].config.path: there is no directory data"),
    ("work", "29:68: namespaces[6].plugin.working_directory: there is no directory work"),
    ("program", "29:38: namespaces[6].plugin.command: there is no program program"),
    ("limits.pem", "30:77: limits_store.ca_cert: limits.pem: " + GONE),
    (
        "secrets/limits",
        '30:45: limits_store.password: secrets/limits: the secret "limits" cannot be read: ' + GONE,
    ),
    ("sockets", "4:12: admin.address: there is no directory sockets"),
]


@pytest.mark.parametrize(("name", "problem"), MISSING)
def test_each_thing_that_is_missing_is_found_at_its_place(
    here: Path, name: str, problem: str
) -> None:
    (here / name).rename(here / "elsewhere")
    found = problems(here)
    assert any(each.startswith(problem) for each in found), found


SOCKET = """
namespaces:
  - {name: b, backend: x, plugin: {type: sidecar, socket: "{here}/run/prism/b.sock", dial: {dial}}}
"""


def test_the_proxy_makes_the_directory_of_a_socket_that_it_listens_on(here: Path) -> None:
    place = "3:59: namespaces[0].plugin.socket: "
    assert not problems(here, SOCKET.replace("{dial}", "false"))
    dials = problems(here, SOCKET.replace("{dial}", "true"))
    assert dials == [place + "there is no directory run/prism"]
    (here / "run").touch()
    (problem,) = problems(here, SOCKET.replace("{dial}", "false"))
    assert problem == place + "there is no directory run"
    (here / "run").unlink()
    assert not (here / "run").exists()  # nothing is made by looking


def test_shedding_by_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for of_group, told in ((None, 1), (2**30, 0)):
        monkeypatch.setattr("prism.control.machine.cgroup_memory", lambda limit=of_group: limit)
        text = f"{FITS}shedding: {{loop_lag_seconds: null}}\n"
        found = [each for each in problems(here, text, warnings=True) if "is looked at" in each]
        assert len(found) == told
        assert not [
            each
            for each in problems(here, f"{FITS}shedding: {{}}\n", warnings=True)
            if "is looked at" in each
        ]


def test_a_key_that_is_another_certificates(here: Path) -> None:
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(here / "key.pem")
    assert "2:37: listen.tls.key: key.pem: the key is not the certificate's" in problems(here)


def test_revocation_lists(here: Path) -> None:
    text = FITS.replace("client_ca: ca.pem", "client_ca: ca.pem, client_crl: crl.pem")
    (problem,) = problems(here, text)
    assert problem.endswith("listen.tls.client_crl: crl.pem: No such file or directory")
    (here / "crl.pem").write_text("no list")
    (problem,) = problems(here, text)
    assert "crl.pem: expected revocation lists in PEM" in problem


def test_a_token_that_all_may_read(here: Path) -> None:
    (here / "ann.token").chmod(0o644)
    (problem,) = problems(here)
    assert "admin.tokens[0].file: ann.token: other users may read it" in problem


def test_a_program_that_others_may_write_or_nobody_may_run(here: Path) -> None:
    (here / "program").chmod(0o757)
    (problem,) = problems(here)
    assert problem.startswith("29:38: namespaces[6].plugin.command: ")
    assert "world_writable" in problem
    (here / "program").chmod(0o644)
    assert problems(here) == ["29:38: namespaces[6].plugin.command: program is not executable"]


def test_webassembly(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "namespaces: [{name: a, backend: b, plugin: {type: wasm, file: a.wasm}}]"
    place = "1:63: namespaces[0].plugin.file: "
    (missing,) = problems(here, text)
    assert missing.startswith(place)
    assert "a.wasm" in missing
    file = here / "a.wasm"
    file.write_bytes(b"(module)")
    file.chmod(0o644)
    assert problems(here, text) == [place + "a.wasm is no WebAssembly in binary form"]
    file.write_bytes(b"\0asm")
    assert problems(here, text) == []
    file.chmod(0o666)
    (refused,) = problems(here, text)
    assert "a.wasm" in refused
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lacks = "WebAssembly needs wasmtime: the extra `wasm` (docs/install.md)"
    assert problems(here, text) == [place + lacks]


def test_a_version_has_its_own_command(here: Path) -> None:
    text = FITS.replace("v2: {}", "v2: {command: /no/such}").replace("version: v1", "version: v2")
    assert problems(here, text) == [
        "17:38: plugins[0].versions.v2.command: there is no program /no/such"
    ]


def test_a_group_that_is_not_there(here: Path) -> None:
    assert problems(here, FITS.replace("group: root", "group: nosuch")) == [
        "20:82: namespaces[1].plugin.group: there is no group nosuch"
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_this_user_may_not_write(here: Path) -> None:
    (here / "data").chmod(0o555)
    assert problems(here) == ["26:47: namespaces[5].config.path: this user may not write in data"]


OF_PLUGINS = """
namespaces:
  - name: a
    backend: redis
    config: {url: "rediss://h", ca_cert: ca.pem, client_cert: cert.pem, client_key: key.pem}
  - name: b
    backend: kafka
    config:
      brokers: [h]
      topic_prefix: ""
      tls: {ca_cert: ca.pem, cert: cert.pem, key: key.pem}
  - {name: c, backend: sqlite, config: {path: data/c.db}}
"""
OF_PLUGINS_MISSING = {
    "ca.pem": ["5:42: namespaces[0].config.ca_cert", "11:22: namespaces[1].config.tls.ca_cert"],
    "cert.pem": ["5:63: namespaces[0].config.client_cert", "11:36: namespaces[1].config.tls.cert"],
    "key.pem": ["5:85: namespaces[0].config.client_key", "11:51: namespaces[1].config.tls.key"],
}


def test_files_that_plugins_read_need_not_be_where_they_could_write(here: Path) -> None:
    if os.geteuid():
        here.chmod(0o555)
    assert problems(here, OF_PLUGINS) == []


@pytest.mark.parametrize("name", OF_PLUGINS_MISSING)
def test_a_file_that_a_plugin_reads_is_found_missing(here: Path, name: str) -> None:
    (here / name).unlink()
    places = OF_PLUGINS_MISSING[name]
    assert problems(here, OF_PLUGINS) == [f"{place}: {name}: {GONE}" for place in places]


@pytest.mark.parametrize("name", OF_PLUGINS_MISSING)
def test_a_file_that_says_whom_a_plugin_trusts_is_not_every_users_to_change(
    here: Path, name: str
) -> None:
    (here / name).chmod(0o602)
    why = "any user may change it (mode 0602); chmod it to 0600"
    places = OF_PLUGINS_MISSING[name]
    assert problems(here, OF_PLUGINS) == [f"{place}: {name}: {why}" for place in places]


def test_a_private_key_that_any_user_may_read_is_told(here: Path) -> None:
    (here / "key.pem").chmod(0o644)
    why = "any user may read the private key key.pem; chmod it to 0600"
    keys = OF_PLUGINS_MISSING["key.pem"]
    assert problems(here, OF_PLUGINS, warnings=True) == [f"{place}: {why}" for place in keys]
    found = problems(here, warnings=True)
    assert [one.split(": ", 1)[1] for one in found if "key.pem" in one] == [
        f"listen.tls.key: {why}", f"namespaces[4].plugin.tls.key: {why}",
    ]  # fmt: skip
    assert problems(here) == problems(here, OF_PLUGINS) == []


def test_a_directory_is_no_database(here: Path) -> None:
    text = OF_PLUGINS.replace("data/c.db", "data")
    assert problems(here, text) == ["12:47: namespaces[2].config.path: data is a directory"]


def test_every_path_of_a_plugin_s_settings_is_thought_of() -> None:
    found: dict[str, set[str]] = {}
    for entry in BUILT_IN.values():
        launch = PluginConfig(type=entry.type, module=entry.module, command=entry.command)
        kind = config_type(launch)
        assert kind is not None
        found[entry.name] = paths(kind, set())
    assert found == {
        "sqlite": {"SQLiteConfig.path"},
        "postgres": set(),
        "redis": {f"RedisConfig.{key}" for key in ("ca_cert", "client_cert", "client_key")},
        "kafka": {f"TLS.{key}" for key in ("ca_cert", "cert", "key")},
    }


def test_a_driver_that_is_not_installed(here: Path, lacking: str) -> None:
    settings = {
        "postgres": "{connection_string: 'host=h'}",
        "redis": "{}",
        "kafka": "{brokers: [h], topic_prefix: ''}",
    }
    text = f"namespaces: [{{name: a, backend: {lacking}, config: {settings[lacking]}}}]"
    (problem,) = problems(here, text)
    assert problem.startswith("1:33: namespaces[0].backend: the ")
    assert f"which the extra '{lacking}' brings" in problem


def test_no_plugin_is_run(here: Path) -> None:
    for name in ("v1.py", "mine.py", "far/far.py"):
        (here / name).write_text(f"open({str(here / 'ran')!r}, 'w')\n")
    (here / "program").write_text(f"#!/bin/sh\ntouch {here}/ran\n")
    assert problems(here) == []
    assert not (here / "ran").exists()
    assert "mine" not in sys.modules

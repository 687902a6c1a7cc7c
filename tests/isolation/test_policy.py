"""What is closed to a plugin, and what it is told of, as a configuration says."""

from pathlib import Path

import pytest

from prism.config import parse_config
from prism.isolation.policy import paths_in, policy_of

CONFIG = """
listen: {tls: {cert: tls/cert.pem, key: tls/key.pem}}
admin: {token_file: tokens/admin}
audit: {file: log/audit.jsonl}
authentication: {api_keys: {file: keys.yaml}}
isolation: {sandbox: required, memory: 1GiB}
namespaces:
  - name: a
    backend: sqlite
    config: {path: data/a.db}
    access: {owners: [me]}
  - name: b
    backend: b
    credentials: {x: "{{ secret:x }}"}
    plugin: {type: sidecar, command: [./b]}
    config: {journal: /DIRECTORY/data/b.log, tables: /etc/hosts, dir: /DIRECTORY/data}
    isolation: {memory: 256MiB}
    access: {owners: [me]}
  - name: c
    backend: c
    plugin: {type: sidecar, socket: c.sock}
    access: {owners: [me]}
"""


@pytest.fixture
def policies(tmp_path):
    """The policies of the namespaces, and what is closed by its name below the file's directory."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/b.log").touch()
    text = CONFIG.replace("/DIRECTORY", str(tmp_path))
    file = str(tmp_path / "prism.yaml")
    config = parse_config(text, file).config

    def find(name):
        (namespace,) = [each for each in config.namespaces if each.name == name]
        policy = policy_of(namespace, config, file)
        return policy, {
            str(Path(path).relative_to(tmp_path)) if path.startswith(str(tmp_path)) else path
            for path in policy.closed
        }

    return find


OF_THE_PROXY = {
    *("prism.yaml", "tls/key.pem", "tokens/admin", "log/audit.jsonl", "keys.yaml"),
    "/run/secrets",
}


def test_what_is_the_proxys_or_anothers_is_closed(policies):
    assert policies("a")[1] == OF_THE_PROXY | {"data/b.log", "c.sock"}
    assert policies("b")[1] == OF_THE_PROXY | {"data/a.db", "c.sock"}
    assert policies("c")[1] == OF_THE_PROXY | {"data/a.db", "data/b.log"}


def test_a_namespaces_keys_go_before_those_for_all(policies):
    settings = policies("b")[0].settings
    assert (settings.sandbox, settings.memory_bytes) == ("required", 256 << 20)
    assert policies("a")[0].settings.memory_bytes == 1 << 30


def test_the_directory_of_secrets_is_nobodys_where_none_are_read(tmp_path):
    text = "namespaces: [{name: a, backend: sqlite}]"
    config = parse_config(text, str(tmp_path / "prism.yaml")).config
    assert policy_of(config.namespaces[0], config).closed == ()


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ("/data/x.db", ["/data/x.db"]),
        ({"a": ["--file=/data/x", {"b": "/y"}]}, ["/data/x", "/y"]),
        ("postgres://user@host/name", []),
        ("https://host:1/path?file=/z", ["/z"]),
        ("sqlite:////data/x.db", ["/data/x.db"]),
        ("file:///data/x", ["/data/x"]),
        ("jdbc:sqlite:/data/x.db", ["/data/x.db"]),
        ("a/b ./c ~/d", []),
        ("/a:/b,/c", ["/a", "/b", "/c"]),
        (7, []),
    ],
)
def test_paths_are_found_in_what_a_plugin_is_told(value, paths):
    assert list(paths_in(value)) == paths

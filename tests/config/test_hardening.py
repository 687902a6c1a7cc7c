"""The hardening checklist: one weakness at a time, on a file that has none."""

import re
from pathlib import Path

import pytest

from prism.config import load_config
from prism.config.hardening import CHECKLIST, find_weaknesses, is_exposed

HARD = """\
listen:
  address: 0.0.0.0
  tls: {cert: c, key: k, client_ca: a, client_crl: r}
admin: {tokens: [{name: ann, file: t}]}
audit: {file: log}
verification:
  policy: require
  trusted_keys: [{name: k, key: "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="}]
authentication:
  jwt:
    - {issuer: "https://a", audience: p, algorithms: [RS256], prefix: "a:"}
    - {issuer: "https://b", audience: p, algorithms: [RS256], prefix: "b:"}
  introspection: {url: "https://c/i", client_id: p, client_secret: "{{ secret:c }}"}
namespaces:
  - name: a
    backend: redis
    config: {key_prefix: "a:"}
    credentials: {password: "{{ secret:a }}"}
    access:
      owners: [ann]
      allow: [{who: ["*"], permissions: [read]}]
    limits: {rate: {calls_per_second: 100}}
  - name: b
    backend: mine
    plugin: {type: sidecar, command: [./mine]}
    limits: {rate: {calls_per_second: 100}}
    access: {owners: [ann]}
"""


def found(tmp_path, text):
    file = tmp_path / "prism.yaml"
    file.write_text(text)
    loaded = load_config(file)
    assert is_exposed(loaded.config) is ("0.0.0.0" in text)
    return [(name, place.line) for name, place, _ in find_weaknesses(loaded.config, loaded.root)]


def test_a_hard_file(tmp_path):
    assert found(tmp_path, HARD) == []


@pytest.mark.parametrize(
    ("name", "line", "was", "becomes"),
    [
        ("tls", 2, "0.0.0.0\n  tls: {cert: c, key: k, client_ca: a, client_crl: r}",
         "127.0.0.1\n  server: prism"),
        ("insecure", 28, "access: {owners: [ann]}\n", "access: {owners: [ann]}\ninsecure: true\n"),
        ("dry_run", 27, "access: {owners: [ann]}", "access: {owners: [ann], mode: dry_run}"),
        ("everybody", 21, "permissions: [read]", "permissions: [read, write]"),
        ("everybody", 20, "owners: [ann]\n", 'owners: ["*"]\n'),
        ("everybody", 4, "file: t}]}", "file: t}], allow: [{who: ['*'], may: operate}]}"),
        ("prefixes", 12, 'prefix: "b:"', 'prefix: "a:"'),
        ("revocation", 3, ", client_crl: r", ""),
        ("audit", 1, "audit: {file: log}\n", ""),
        ("admin", 4, "admin: {tokens: [{name: ann, file: t}]}", "admin: {port: 1}"),
        ("admin", 4, "file: t}]", "file: t}], without_token: read"),
        ("signatures", 7, "policy: require", "policy: allow_missing"),
        ("isolation", 25, "type: sidecar, command: [./mine]", "type: in_process, module: 'a:A'"),
        ("secrets", 18, "{{ secret:a }}", "hunter2"),
        ("secrets", 28, "access: {owners: [ann]}\n",
         "access: {owners: [ann]}\n    shadow: {credentials: {password: hunter2}}\n"),
        ("isolation", 28, "access: {owners: [ann]}\n",
         "access: {owners: [ann]}\n"
         "    shadow: {plugin: {type: in_process, module: 'a:A'}}\n"),
        ("recordings", 28, "access: {owners: [ann]}\n",
         "access: {owners: [ann]}\n    record: {file: calls.jsonl, values: keep}\n"),
        ("recordings", 28, "access: {owners: [ann]}\n",
         "access: {owners: [ann]}\n"
         "    shadow: {values: keep, plugin: {type: sidecar, command: [x]}}\n"),
        ("rates", 23, "    limits: {rate: {calls_per_second: 100}}\n    access", "    access"),
    ],
)  # fmt: skip
def test_one_weakness(tmp_path, name, line, was, becomes):
    assert was in HARD
    assert (name, line) in found(tmp_path, HARD.replace(was, becomes, 1))


def test_the_name_of_a_user_is_no_secret(tmp_path):
    for name, text, weak in (
        ("username", "prism_user", False),
        ("sasl_username", "ada", False),
        ("sasl_password", "ada", True),
        ("username", "redis://u:hunter2@h", True),
    ):
        own = "backend: x\n    plugin: {type: sidecar, command: [x]}\n    access: {}\n"
        named = f"  - name: c\n    {own}    credentials: {{{name}: '{text}'}}\n"
        names = [each for each, _ in found(tmp_path, HARD + named)]
        assert ("secrets" in names) is weak, (name, text)


@pytest.mark.parametrize("way", ["token: CANARY", "role_id: r, secret_id: CANARY"])
def test_what_logs_in_to_vault_is_a_secret_too(tmp_path, way):
    secrets = "secrets: [{name: a, path: b, key: c}]"
    vault = f"secrets: {{vault: {{address: 'https://v', {way}, {secrets}}}}}"
    last = len(HARD.splitlines()) + 1
    assert ("secrets", last) in found(tmp_path, f"{HARD}{vault}\n")
    placeholder = vault.replace("CANARY", "'{{ secret:login }}'")
    assert ("secrets", last) not in found(tmp_path, f"{HARD}{placeholder}\n")


@pytest.mark.parametrize(("password", "weak"), [("hunter2", True), ("{{ secret:l }}", False)])
def test_what_logs_in_to_the_limits_store_is_one(tmp_path, password, weak):
    store = f"limits_store: {{url: 'rediss://l', password: '{password}'}}\n"
    assert (("secrets", len(HARD.splitlines()) + 1) in found(tmp_path, HARD + store)) is weak


def test_nobody_is_authenticated(tmp_path):
    text = "namespaces: [{name: a, backend: sqlite, config: {path: a.db}}]\n"
    names = [name for name, _ in found(tmp_path, text)]
    assert names == ["authentication", "tls", "audit", "admin", "rates"]


def test_the_page_has_the_same_list():
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    listed = re.findall(
        r"^\| `(\w+)` \|", page.partition("## The hardening checklist")[2], re.MULTILINE
    )
    assert listed == [*CHECKLIST, "user", "file"]

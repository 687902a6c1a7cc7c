"""What a configuration asks of a running proxy, as plain values."""

import re
from pathlib import Path

import pytest

from prism.config import LoadedConfig, parse_config
from prism.config.errors import ConfigProblem
from prism.config.fields import MIB
from prism.config.types import Config, NamespaceConfig, PluginConfig, SecretsConfig
from prism.contract.errors import UnknownVersion
from prism.contract.messages import CacheSettings
from prism.control.plan import (
    AT_ONCE,
    Difference,
    NamespaceChange,
    SettingChange,
    differences,
    instance_spec,
    instance_specs,
    make_plan,
    next_specs,
    setting_changes,
    taken_over,
)
from prism.secrets import Secrets
from prism.supervision.apply import Change

CATALOGUE = """
plugins:
  - {name: kv, type: sidecar, command: /opt/kv, versions: {v1: {}, v2: {overlap: false}}}
namespaces:
  - {name: a, backend: kv, plugin: {name: kv, version: v1}}
"""


SECRETS = Secrets()


def parsed(text: str) -> Config:
    return parse_config(text, "/etc/prism.yaml").config


async def test_what_the_supervision_is_told_of_a_namespace(tmp_path):
    (tmp_path / "secret").write_text("hidden\n")
    namespace = NamespaceConfig(
        name="kv",
        backend="memory",
        plugin=PluginConfig(type="sidecar", command=["echo"]),
        config={"a": [1]},
        credentials={"password": "{{ secret:secret }}"},
    )
    config = Config(namespaces=[namespace], secrets=SecretsConfig(str(tmp_path)))
    spec = instance_spec(namespace, config, SECRETS)
    assert instance_specs(config, SECRETS) == [spec]
    assert (spec.namespace, spec.backend, spec.plugin_name) == ("kv", "memory", "memory")
    assert spec.config_json == '{"a":[1]}'
    assert spec.cache is None
    assert "hidden" not in repr(spec)
    assert await spec.credentials() == {"password": "hidden"}
    (tmp_path / "secret").write_text("rotated\n")
    assert await spec.credentials() == {"password": "rotated"}


def test_a_cache_is_of_the_instance():
    """So a change of it replaces the instance, and anything else that changes leaves it."""
    text = "namespaces: [{name: a, backend: sqlite, cache: {operations: [get], ttl_seconds: 5}}]"
    (spec,) = instance_specs(parsed(text), SECRETS)
    assert spec.cache == CacheSettings(operations=["get"], ttl_seconds=5, max_bytes=64 * MIB)
    (other,) = instance_specs(parsed(text.replace("5", "6")), SECRETS)
    assert spec != other
    (same,) = instance_specs(parsed(text.replace("name: a,", "name: a, description: d,")), SECRETS)
    assert spec == same


def test_another_version_from_the_catalogue():
    (spec,) = instance_specs(parsed(CATALOGUE), SECRETS)
    assert (spec.plugin.version, spec.at_version("v2").version) == ("v1", "v2")
    with pytest.raises(UnknownVersion, match=r"namespace 'a': version \"v3\" .* v1, v2"):
        spec.at_version("v3")


def test_what_runs_goes_on_until_its_entry_changes():
    before = parsed(CATALOGUE)
    (spec,) = instance_specs(before, SECRETS)
    chosen = {
        "a": instance_spec(before.namespaces[0], parsed(CATALOGUE.replace("v1}", "v2}")), SECRETS)
    }
    assert next_specs(before, before, {"a": spec}, SECRETS) == [spec]
    assert next_specs(before, before, chosen, SECRETS) == [chosen["a"]], (
        "an operator's choice stays"
    )
    assert next_specs(before, before, chosen, SECRETS, unfinished={"a"}) == [spec]
    after = parsed(CATALOGUE.replace("/opt/kv", "/opt/new"))
    assert next_specs(after, before, chosen, SECRETS) == instance_specs(after, SECRETS)
    (same,) = next_specs(parsed(CATALOGUE.replace("v2:", "v3:")), before, {"a": spec}, SECRETS)
    assert same == spec
    assert same.at_version("v3").version == "v3", "the catalogue is the new one"


def test_the_plan_says_what_becomes_of_each_namespace_and_setting():
    before = parsed(CATALOGUE)
    chosen = instance_specs(parsed(CATALOGUE.replace("version: v1", "version: v2")), SECRETS)
    text = CATALOGUE.replace("{name: a,", "{name: a, description: new,") + "insecure: true\n"
    warning = ConfigProblem("f", 1, 2, "a", "odd")
    changes = [Change("a", "stay"), Change("b", "stop")]
    plan = make_plan(LoadedConfig(parsed(text), (warning,), "f"), before, {"a": chosen[0]}, changes)
    assert plan.file == "f"
    assert plan.changes == [
        NamespaceChange(
            "a",
            "update",
            "runs v2, which a reload asked for; the file says v1",
            [Difference("description", "", "new")],
        ),
        NamespaceChange("b", "stop"),
    ]
    assert plan.settings == [SettingChange("insecure", "at restart", False, True)]
    assert plan.warnings == ["f:1:2: a: odd"]


def test_the_plan_says_which_keys_differ_and_shows_no_secret():
    text = """
plugins: [{name: kv, type: sidecar, command: /opt/kv}]
namespaces:
  - name: a
    backend: kv
    config: {url: "db://u:CANARY@h", size: 1, gone: yes}
    credentials: {password: CANARY, name: "{{ secret:a }}"}
"""
    before = parsed(text)
    text = text.replace("/opt/kv", "/opt/kv2").replace("CANARY", "CANARY2")
    text = text.replace("size: 1, gone: yes", "size: 2").replace("secret:a", "secret:b")
    after = parsed(text + "    limits: {max_in_flight: 64}\n")
    running = {spec.namespace: spec for spec in instance_specs(before, SECRETS)}
    plan = make_plan(LoadedConfig(after, (), "f"), before, running, [Change("a", "reload")])
    (change,) = plan.changes
    assert {d.key: (d.old, d.new) for d in change.differences} == {
        "plugin.command": (["/opt/kv"], ["/opt/kv2"]),
        "config.url": ("db://u:***@h", "db://u:***@h"),
        "config.size": (1, 2),
        "config.gone": (True, None),
        "credentials.password": ("***", "***"),
        "credentials.name": ("{{ secret:a }}", "{{ secret:b }}"),
        "limits.max_in_flight": (1024, 64),
    }
    assert plan.settings == [SettingChange("plugins.kv.command", "now", ["/opt/kv"], ["/opt/kv2"])]
    assert "CANARY" not in str(plan)


def test_of_an_entry_in_a_list_the_plan_shows_the_key_that_differs():
    text = """
authentication: {api_keys: {file: keys.yaml}}
namespaces:
  - name: a
    backend: sqlite
    access:
      allow:
        - {who: [ada], permissions: [read]}
        - {who: [bob], permissions: [read]}
"""
    before, after = (
        parsed(text),
        parsed(text.replace("[bob], permissions: [read]", "[bob], permissions: [write]")),
    )
    (found,) = differences(before.namespaces[0], after.namespaces[0])
    assert (found.key, found.old, found.new) == ("access.allow[1].permissions", ["read"], ["write"])
    longer = parsed(text + "        - {who: [cid], permissions: [read]}\n")
    (found,) = differences(before.namespaces[0], longer.namespaces[0])
    assert found.key == "access.allow"


CHANGED = """
listen: {port: 1, server: hypercorn, tls: {cert: c, key: k}}
log: {level: error, format: json}
secrets: {directory: /s}
plugins: [{name: p, type: sidecar, command: x}]
verification: {revoked: [0123456789abcdef]}
drain_timeout_seconds: 1
handover_timeout_seconds: 2
"""


def test_each_setting_says_when_it_takes_effect():
    changes = {c.setting: c.takes_effect for c in setting_changes(Config(), parsed(CHANGED))}
    assert changes == {
        "listen.port": "at restart",
        "listen.server": "at restart",
        "listen.tls": "at restart",
        "plugins.p": "now",
        "verification.revoked": "now",
        "secrets.directory": "now",
        "log.level": "now",
        "log.format": "at restart",
        "drain_timeout_seconds": "at restart",
        "handover_timeout_seconds": "now",
    }


def test_what_takes_effect_at_once_is_what_is_taken_over():
    wanted = parsed(CHANGED + "namespaces: [{name: a, backend: sqlite}]")
    config = taken_over(Config(), wanted)
    assert config.namespaces == wanted.namespaces
    left = [change.setting for change in setting_changes(config, wanted)]
    assert left == [
        change.setting
        for change in setting_changes(Config(), wanted)
        if change.takes_effect == "at restart"
    ]
    assert not any(setting.startswith(AT_ONCE) for setting in left)


def test_the_page_for_operators_names_what_takes_effect_at_once():
    page = (Path(__file__).parents[2] / "docs/admin.md").read_text()
    (sentence,) = re.findall(
        r"Of the settings outside `namespaces`,(.*?)take effect at once", page, re.DOTALL
    )
    assert sorted(re.findall(r"`([\w.]+)`", sentence)) == sorted(AT_ONCE)

import pytest

from prism.config import UnresolvedPlugin, parse_config, resolve_plugin
from prism.config.types import Config, PluginForm

CATALOGUE = """
plugins:
  - name: orders
    type: sidecar
    working_directory: /srv
    environment: {A: common}
    versions:
      v1: {command: [run1], sha256: "%s"}
      v2: {command: [run2], environment: {A: own}}
  - {name: single, type: in_process, module: "a:B"}
  - {name: one-version, type: remote, insecure: true, versions: {v7: {endpoint: "localhost:1"}}}
namespaces:
""" % ("0" * 64)


def load(namespace: str) -> Config:
    return parse_config(f"{CATALOGUE}  - {{name: a, {namespace}}}\n", "/etc/f").config


def test_a_version_s_keys_replace_the_entry_s() -> None:
    config = load("backend: pg, plugin: {name: orders, version: v1, drain_timeout_seconds: 7}")
    plugin = resolve_plugin(config, config.namespaces[0])
    assert (plugin.name, plugin.version, plugin.type) == ("orders", "v1", "sidecar")
    assert plugin.form is PluginForm.COMMAND
    assert plugin.argv == ["run1"]
    assert plugin.sha256 == "0" * 64
    assert plugin.environment == {"A": "common"}
    assert plugin.working_directory == "/srv"
    assert plugin.drain_timeout_seconds == 7, "the namespace's own settings stay"


def test_another_version_at_a_reload() -> None:
    config = load("backend: pg, plugin: {name: orders, version: v1}")
    plugin = resolve_plugin(config, config.namespaces[0], version="v2")
    assert (plugin.version, plugin.argv, plugin.sha256) == ("v2", ["run2"], None)
    assert plugin.environment == {"A": "own"}
    with pytest.raises(UnresolvedPlugin, match=r'"v3" of plugin "orders" is not in.*are v1, v2'):
        resolve_plugin(config, config.namespaces[0], version="v3")


def test_the_only_version_needs_no_name() -> None:
    config = load("backend: pg, plugin: {name: one-version}")
    plugin = resolve_plugin(config, config.namespaces[0])
    assert (plugin.version, plugin.address, plugin.insecure) == ("v7", ("localhost", 1), True)


def test_the_backend_names_the_plugin_where_nothing_else_does() -> None:
    config = load("backend: single")
    assert resolve_plugin(config, config.namespaces[0]).module == "a:B"
    config = load("backend: sqlite, plugin: {start_timeout_seconds: 3}")
    plugin = resolve_plugin(config, config.namespaces[0])
    assert (plugin.type, plugin.module) == ("in_process", "prism_plugins.sqlite:SQLitePlugin")
    assert plugin.start_timeout_seconds == 3


def test_the_catalogue_goes_before_what_is_built_in() -> None:
    text = """
plugins: [{name: sqlite, type: sidecar, command: mine}]
namespaces: [{name: a, backend: sqlite}]
"""
    config = parse_config(text, "f").config
    assert resolve_plugin(config, config.namespaces[0]).argv == ["mine"]


def test_an_inline_plugin_is_its_own_result_and_has_no_versions() -> None:
    config = load("backend: pg, plugin: {type: sidecar, command: x}")
    namespace = config.namespaces[0]
    assert resolve_plugin(config, namespace) is namespace.plugin
    with pytest.raises(UnresolvedPlugin, match="no versions"):
        resolve_plugin(config, namespace, version="v1")


def test_a_plugin_without_versions_cannot_be_asked_for_one() -> None:
    config = load("backend: single")
    with pytest.raises(
        UnresolvedPlugin, match='"single" is not in the catalogue; the plugin has no vers'
    ):
        resolve_plugin(config, config.namespaces[0], version="v1")


def test_the_version_is_put_into_the_entry_s_paths() -> None:
    text = """
plugins:
  - name: orders
    type: sidecar
    command: ["/opt/{version}/run", "--data={version}"]
    working_directory: work/{version}
    signature: /sigs/{version}.sig
    environment: {LITERAL: "{version}"}
    versions: {v1.2: {}, v1.3: {signature: own.sig}}
  - name: inside
    type: in_process
    module: "p_{version}.m:C"
    path: "/p/{version}"
    versions: {v1.2-rc1: {}}
namespaces:
  - {name: a, backend: pg, plugin: {name: orders, version: v1.2}}
  - {name: b, backend: pg, plugin: {name: inside}}
"""
    config = parse_config(text, "/etc/f").config
    plugin = resolve_plugin(config, config.namespaces[0])
    assert plugin.argv == ["/opt/v1.2/run", "--data=v1.2"]
    assert plugin.working_directory == "/etc/work/v1.2"
    assert plugin.signature == "/sigs/v1.2.sig"
    assert plugin.environment == {"LITERAL": "{version}"}
    assert resolve_plugin(config, config.namespaces[0], "v1.3").signature == "/etc/own.sig"
    module = resolve_plugin(config, config.namespaces[1])
    assert (module.module, module.path) == ("p_v1_2_rc1.m:C", "/p/v1.2-rc1")

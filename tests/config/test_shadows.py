"""``shadow`` and ``record`` of a namespace: what they become, and what is wrong with them."""

import pytest

from prism.config import redacted
from prism.config.catalogue import resolve_plugin, shadow_as_namespace
from prism.config.errors import ConfigError
from prism.config.load import parse_config
from prism.control.plan import instance_specs
from prism.secrets import Secrets

CATALOGUE = """\
plugins:
  - name: orders
    type: sidecar
    command: ./orders-{version}
    versions: {v1: {}, v2: {}}
"""


def load(shadow, *, own="plugin: {name: orders, version: v1}", more=""):
    return parse_config(
        f"{CATALOGUE}namespaces:\n  - name: kv\n    backend: any\n    {own}\n"
        f"    config: {{a: 1}}\n    credentials: {{user: prism}}\n    shadow: {shadow}\n{more}",
        "/etc/prism/prism.yaml",
    )


def problems(*arguments, **options):
    with pytest.raises(ConfigError) as caught:
        load(*arguments, **options)
    return [f"{each.path}: {each.message}" for each in caught.value.problems]


def whole(loaded):
    namespace = shadow_as_namespace(loaded.config.namespaces[0])
    return namespace, resolve_plugin(loaded.config, namespace)


def test_another_version_of_the_namespaces_plugin_with_its_settings():
    namespace, plugin = whole(load("{plugin: {version: v2}}"))
    assert plugin.argv == ["/etc/prism/orders-v2"]
    assert (namespace.config, namespace.credentials) == ({"a": 1}, {"user": "prism"})


def test_the_same_plugin_with_other_settings():
    namespace, plugin = whole(load("{config: {}, credentials: {}}"))
    assert plugin.argv == ["/etc/prism/orders-v1"]
    assert (namespace.config, namespace.credentials) == ({}, {})


def test_a_plugin_written_inline_with_paths_made_absolute():
    _, plugin = whole(load("{plugin: {type: sidecar, command: ./other}}"))
    assert plugin.argv == ["/etc/prism/other"]
    assert plugin.working_directory == "/etc/prism"


def test_a_built_in_ones_settings_are_judged_and_their_paths_made_absolute():
    namespace, _ = whole(
        load("{plugin: {name: sqlite}, config: {path: other.db}, credentials: {}}")
    )
    assert namespace.config["path"] == "/etc/prism/other.db"
    (problem,) = problems("{plugin: {name: sqlite}, config: {pth: other.db}, credentials: {}}")
    assert problem.startswith("namespaces[0].shadow.config.pth:")


def test_the_supervision_gets_a_spec_of_its_own():
    specs = instance_specs(load("{plugin: {version: v2}}").config, Secrets())
    assert [(each.namespace, each.shadow_of) for each in specs] == [("kv", ""), ("kv:shadow", "kv")]
    assert specs[1].plugin.version == "v2"


@pytest.mark.parametrize(
    ("shadow", "problem"),
    [
        ("{plugin: {version: v3}}", 'namespaces[0].shadow.plugin.version: version "v3"'),
        ("{plugin: {name: nope}}", 'namespaces[0].shadow.plugin.name: there is no plugin "nope"'),
        ("{plugin: {type: sidecar}}", "namespaces[0].shadow.plugin: type sidecar needs"),
        ("{share: 1.5}", "namespaces[0].shadow.share:"),
        ("{operations: [A B]}", "namespaces[0].shadow.operations[0]:"),
        ("{ignore: [a..b]}", "namespaces[0].shadow.ignore[0]:"),
        ("{credentials: {a: '{{ secre:x }}'}}", "namespaces[0].shadow.credentials.a:"),
        ("{config: {a: '{{ secret:x }}'}}", "namespaces[0].shadow.config.a:"),
    ],
)
def test_what_is_wrong_has_its_place(shadow, problem):
    (found,) = problems(shadow)
    assert found.startswith(problem)


def test_a_namespace_whose_plugin_is_inline_is_shadowed_by_that():
    own = "plugin: {type: sidecar, command: ./mine}"
    _, plugin = whole(load("{config: {}}", own=own))
    assert plugin.argv == ["/etc/prism/mine"]
    (problem,) = problems("{plugin: {drain_timeout_seconds: 1}}", own=own)
    assert problem.startswith('namespaces[0].shadow.plugin: there is no plugin "any"')


def test_a_socket_is_for_one_plugin():
    own = "plugin: {type: sidecar, socket: /run/kv.sock}"
    (problem,) = problems("{config: {}}", own=own)
    assert "the socket is taken by line 9" in problem


def warnings(loaded):
    return [f"{each.path}: {each.message}" for each in loaded.warnings]


def test_writes_to_the_same_place_draw_a_warning():
    (warning,) = warnings(load("{plugin: {version: v2}, operations: [set]}"))
    assert warning.startswith("namespaces[0].shadow.operations: ")
    assert "written twice" in warning
    assert not warnings(load("{plugin: {version: v2}, config: {}, operations: [set]}"))


def test_a_shadow_in_the_proxy_itself_draws_a_warning():
    (warning,) = warnings(load("{plugin: {name: sqlite}, config: {path: o.db}, credentials: {}}"))
    assert "python -m prism_plugins.sqlite" in warning


def test_its_credentials_are_hidden():
    shown = redacted(load("{credentials: {password: hunter2}}").config)
    assert shown["namespaces"][0]["shadow"]["credentials"] == {"password": "***"}


def test_recordings_have_files_of_their_own():
    record = "    record: {file: calls.jsonl}\n"
    loaded = load("{plugin: {version: v2}}", more=record)
    assert loaded.config.namespaces[0].record.file == "/etc/prism/calls.jsonl"
    second = (
        "  - {name: b, backend: any, plugin: {type: sidecar, command: x}, record: {file: %s}}\n"
    )
    (problem,) = problems("{config: {}}", more=record + second % "./calls.jsonl")
    assert problem.startswith("namespaces[1].record.file: the file is taken by line")
    for more in ("    record: {file: ./prism.yaml}\n", "audit: {file: ../prism/prism.yaml}\n"):
        (problem,) = problems("{config: {}}", more=more)
        assert "file: this is the configuration itself" in problem
    (problem,) = problems("{config: {}}", more=record + "audit: {file: calls.jsonl}\n")
    assert problem.startswith("namespaces[0].record.file: the file is taken by line")

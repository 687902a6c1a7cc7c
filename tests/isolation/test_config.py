"""The block `isolation` of a configuration: what is checked of it, and what a change does."""

import json

import pytest
from click.testing import CliRunner

from prism.cli.main import prism
from prism.config import parse_config
from prism.config.errors import ConfigError
from prism.control.plan import instance_specs
from prism.secrets import Secrets
from prism.supervision.apply import Change

SIDECAR = "plugin: {type: sidecar, command: [./a]}"
TEXT = "isolation: {top}\nnamespaces: [{{name: a, backend: a, {plugin}, isolation: {own}}}]"


def parsed(own="{}", top="{}", plugin=SIDECAR):
    return parse_config(TEXT.format(own=own, top=top, plugin=plugin), "/etc/prism/prism.yaml")


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        ("{sandbox: maybe}", "expected one of auto, required, off"),
        ("{memory: 256MB}", 'a size such as "256MiB"'),
        ("{memory: 256}", 'a size such as "256MiB"'),
        ("{cpu: 0}", "0.01"),
        ("{processes: 0}", "1"),
        ("{network: some}", "expected one of all, none"),
        ("{reed: [a]}", 'unknown key; did you mean "read"'),
        ("{sandbox: off, memory: 1GiB}", 'memory: it means nothing with "sandbox: off"'),
        ("{sandbox: on}", "true does not say how far"),
    ],
)
def test_what_is_wrong_is_told(own, problem):
    with pytest.raises(ConfigError) as caught:
        parsed(own)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("plugin", "problem"),
    [
        ("plugin: {type: in_process, module: 'a:B'}", "runs in the proxy's own process"),
        ("plugin: {type: sidecar, socket: a.sock}", "who starts it confines it"),
        (
            "plugin: {type: grpc, endpoint: 'localhost:1', insecure: true}",
            "does not start it",
        ),
    ],
)
def test_there_must_be_a_process_to_confine(plugin, problem):
    with pytest.raises(ConfigError, match=problem):
        parsed("{sandbox: required}", plugin=plugin)
    text = TEXT.format(own="{}", top="{sandbox: required}", plugin=plugin)
    assert parse_config(text.replace(", isolation: {}", ""), "prism.yaml").config


@pytest.mark.parametrize("word", ["off", "'off'", "false"])
def test_off_is_a_word_of_yamls_own(word):
    loaded = parsed(f"{{sandbox: {word}}}")
    assert not loaded.warnings
    (spec,) = instance_specs(loaded.config, Secrets())
    assert spec.isolation.settings.sandbox == "off"
    (spec,) = instance_specs(parsed(top=f"{{sandbox: {word}}}").config, Secrets())
    assert spec.isolation.settings.sandbox == "off"


def test_paths_start_at_the_file():
    (namespace,) = parsed("{read: [data], write: [/w]}").config.namespaces
    assert namespace.isolation.read == ["/etc/prism/data"]
    assert namespace.isolation.write == ["/w"]


@pytest.mark.parametrize(
    ("own", "top", "same"),
    [("{}", "{}", True), ("{memory: 1GiB}", "{}", False), ("{}", "{network: none}", False)],
)
def test_a_change_is_a_reload(own, top, same):
    from prism.supervision.supervisor import Supervisor

    supervisor = Supervisor(instance_specs(parsed().config, Secrets()))
    (change,) = supervisor.plan(instance_specs(parsed(own, top).config, Secrets()))
    assert change == Change("a", "stay" if same else "reload")


def test_the_list_for_production_finds_what_is_not_confined(tmp_path):
    file = tmp_path / "prism.yaml"
    (tmp_path / "a").write_text("#!/bin/sh\n")
    for sandbox, found in (("auto", False), ("off", True)):
        file.write_text(TEXT.format(own=f"{{sandbox: {sandbox}}}", top="{}", plugin=SIDECAR))
        result = CliRunner().invoke(prism, ["config", "check", "--strict", str(file)])
        assert ("remove sandbox: off" in result.output) is found, result.output


def test_the_schema_has_it():
    from prism.config import schema_json

    schema = json.loads(schema_json())
    assert "IsolationConfig" in json.dumps(schema)

"""What others count, as Prometheus sees it."""

import json
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from prism.calls.router import Router
from prism.config.types import PluginConfig
from prism.contract.messages import PluginMetrics
from prism.observability.collectors import (
    MAX_CUSTOM_METRICS,
    config_metrics,
    custom_metrics,
    server_metrics,
)
from prism.observability.metrics import Metrics
from prism.server.statistics import ServerStatistics
from prism.streams.tls import Certificate
from prism.supervision.instance import InstanceSpec
from prism.supervision.lifecycle import State
from prism.supervision.supervisor import Supervisor


def samples(metrics):
    text, _ = metrics.exposition("")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_states_transitions_and_retries():
    spec = InstanceSpec("kv", "memory", "kv", PluginConfig(), "{}", dict)
    supervisor = Supervisor([spec])
    journal, slot = supervisor.journals["kv"], supervisor.slots["kv"]
    journal.transition("kv/1", "1.0", None, State.STARTING, "")
    journal.restarts = 3
    journal.reloads["swapped"] = 2
    slot.retried["idempotent"] = 5
    found = samples(Metrics(Router(), supervisor))
    assert found["prism_plugin_state", "kv", "starting"] == 1
    assert found["prism_plugin_state", "kv", "ready"] == 0
    assert found["prism_plugin_transitions_total", "kv", "starting"] == 1
    assert found["prism_plugin_restarts_total", "kv"] == 3
    assert found["prism_plugin_reloads_total", "kv", "swapped"] == 2
    assert found["prism_requests_waiting", "kv"] == 0
    assert found["prism_request_retries_total", "kv", "idempotent"] == 5


def test_connections_and_the_certificate():
    statistics = ServerStatistics(connections=3, accepted=9, shed=2, handshakes_failed=1)
    metrics = Metrics(Router())
    metrics.register(lambda: server_metrics(statistics, None))
    found = samples(metrics)
    assert found["prism_connections",] == 3
    assert found["prism_connections_accepted_total",] == 9
    assert found["prism_connections_shed_total",] == 2
    assert not any(name.startswith("prism_tls") for name, *_ in found)
    tls = SimpleNamespace(reloads=4, failed_reloads=1, certificate=Certificate("01", 1234.0))
    metrics.register(lambda: server_metrics(statistics, tls))
    found = samples(metrics)
    assert found["prism_tls_handshakes_failed_total",] == 1
    assert found["prism_tls_reloads_total",] == 4
    assert found["prism_tls_reloads_failed_total",] == 1
    assert found["prism_tls_certificate_expiry_timestamp_seconds",] == 1234


def test_changes_of_the_configuration():
    metrics = Metrics(Router())
    live = SimpleNamespace(generation=2, settled=False, changed_at=5.5)
    metrics.register(lambda: config_metrics(live))
    live.generation = 3
    found = samples(metrics)
    assert found["prism_config_generation",] == 3
    assert found["prism_config_last_reload_successful",] == 0
    assert found["prism_config_last_reload_success_timestamp_seconds",] == 5.5


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("", {}),
        ("[]", {}),
        ("{", {}),
        ("\ud800", {}),
        ("{" * 5000, {}),
        ('{"a":' + "[" * 5000, {}),
        ('{"a":1e999}', {}),
        ('{"a":%s}' % ("9" * 400), {}),
        ('{"a":1,"b":[1],"c d":1,"e":null}', {"a": 1.0}),
    ],
)
def test_custom_metrics_forgive_everything(text, usable):
    assert custom_metrics(PluginMetrics(custom_metrics_json=text)) == usable


def test_custom_metrics_are_bounded():
    text = json.dumps({f"m{number}": number for number in range(1000)})
    assert len(custom_metrics(PluginMetrics(custom_metrics_json=text))) == MAX_CUSTOM_METRICS

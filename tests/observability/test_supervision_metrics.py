"""What the supervision counts, as Prometheus sees it."""

from prometheus_client.parser import text_string_to_metric_families

from prism.calls.router import Router
from prism.config.types import PluginConfig
from prism.observability.metrics import Metrics
from prism.supervision.instance import InstanceSpec
from prism.supervision.lifecycle import State
from prism.supervision.supervisor import Supervisor


def test_states_transitions_and_retries():
    spec = InstanceSpec("kv", "memory", "kv", PluginConfig(), "{}", dict)
    supervisor = Supervisor([spec])
    journal, slot = supervisor.journals["kv"], supervisor.slots["kv"]
    journal.transition("kv/1", "1.0", None, State.STARTING, "")
    journal.restarts = 3
    journal.reloads["swapped"] = 2
    slot.retried["idempotent"] = 5
    text, _ = Metrics(Router(), supervisor).exposition("")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    assert found["prism_plugin_state", "kv", "starting"] == 1
    assert found["prism_plugin_state", "kv", "ready"] == 0
    assert found["prism_plugin_transitions_total", "kv", "starting"] == 1
    assert found["prism_plugin_restarts_total", "kv"] == 3
    assert found["prism_plugin_reloads_total", "kv", "swapped"] == 2
    assert found["prism_requests_waiting", "kv"] == 0
    assert found["prism_request_retries_total", "kv", "idempotent"] == 5

import json
from dataclasses import replace

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

from prism.calls.router import Router
from prism.contract.messages import PluginMetrics
from prism.contract.status import StatusCode
from prism.observability.metrics import BOUNDS, Histogram, Metrics


@pytest.fixture
def record(make_record):
    def record(target=None, operation="get", status=StatusCode.OK, plugin_seconds=None):
        return make_record(
            target=target,
            namespace=target.name if target else "made-up",
            operation=operation,
            status=status,
            plugin_seconds=plugin_seconds,
        )

    return record


def samples(metrics, accept=""):
    text, content_type = metrics.exposition(accept)
    parser = parse_openmetrics if "openmetrics" in content_type else parse
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parser(text.decode())
        for sample in family.samples
    }


def test_lost_log_lines(monkeypatch):
    monkeypatch.setattr("prism.observability.metrics.dropped_lines", lambda: 3)
    assert samples(Metrics(Router()))["prism_log_lines_dropped_total",] == 3


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_calls(make_namespace, accept, record):
    namespace = make_namespace()
    metrics = Metrics(Router([namespace]))
    metrics.observe(record(namespace, plugin_seconds=0.0002), 0.003)
    metrics.observe(record(namespace, plugin_seconds=0.2), 60)
    metrics.observe(record(namespace, status=StatusCode.RESOURCE_EXHAUSTED), 0)
    found = samples(metrics, accept)
    labels = (("namespace", "kv"), ("operation", "get"))
    assert found["prism_requests_total", *labels, ("status", "OK")] == 2
    assert found["prism_requests_total", *labels, ("status", "RESOURCE_EXHAUSTED")] == 1
    assert found["prism_request_duration_seconds_count", *labels] == 3
    assert found["prism_request_duration_seconds_sum", *labels] == pytest.approx(60.003)
    assert found["prism_request_duration_seconds_bucket", ("le", "0.0025"), *labels] == 1
    assert found["prism_request_duration_seconds_bucket", ("le", "0.005"), *labels] == 2
    assert found["prism_request_duration_seconds_bucket", ("le", "30.0"), *labels] == 2
    assert found["prism_request_duration_seconds_bucket", ("le", "+Inf"), *labels] == 3
    assert found["prism_plugin_duration_seconds_count", *labels] == 2
    assert any(name == "prism_build_info" for name, *_ in found)
    assert any(name == "process_open_fds" for name, *_ in found)


def test_refused_calls_have_no_plugin_duration(make_namespace, record):
    namespace = make_namespace()
    metrics = Metrics(Router([namespace]))
    metrics.observe(record(namespace, status=StatusCode.RESOURCE_EXHAUSTED), 0.001)
    names = {name for name, *_ in samples(metrics)}
    assert "prism_request_duration_seconds_count" in names
    assert "prism_plugin_duration_seconds_count" not in names


def test_a_call_that_ends_while_its_plugin_restarts_is_counted_by_its_name(make_namespace, record):
    namespace = make_namespace()
    namespace.slot.clear(namespace.slot.current, "it restarts")
    metrics = Metrics(Router([namespace]))
    metrics.observe(record(namespace, "get", status=StatusCode.UNAVAILABLE), 0.001)
    labels = (("namespace", "kv"), ("operation", "get"), ("status", "UNAVAILABLE"))
    assert samples(metrics)["prism_requests_total", *labels] == 1


def test_clients_cannot_make_up_series(make_namespace, record):
    namespace = make_namespace()
    metrics = Metrics(Router([namespace]))
    for number in range(10_000):
        metrics.observe(record(namespace, f"op_{number}"), 0.001)
        metrics.observe(record(None, f"op_{number}"), 0.001)
    found = samples(metrics)
    names = [labels for name, *labels in found if name == "prism_requests_total"]
    assert len(names) == 2
    unknown = (("namespace", "kv"), ("operation", "_unknown"), ("status", "OK"))
    assert found["prism_requests_total", *unknown] == 10_000


def test_namespaces_and_plugins(make_namespace):
    namespace, empty = make_namespace(), make_namespace(name="empty")
    empty.slot.clear(empty.slot.current, "gone")
    namespace.in_flight = 3
    namespace.streams_by_client.update({"10.0.0.1": 2, "10.0.0.2": 3})
    instance = namespace.slot.current
    custom = {"pool_waits": 4, "ratio": 0.5, "bad-name": 1, "text": "x", "yes": True}
    instance.metrics = PluginMetrics(
        requests_total=7, connections_idle=2, custom_metrics_json=json.dumps(custom)
    )
    found = samples(metrics := Metrics(Router([namespace, empty])))
    labels = (("instance", "kv/1"), ("namespace", "kv"), ("plugin", "function"), ("version", "1.0"))
    assert found["prism_requests_in_flight", ("namespace", "kv")] == 3
    assert found["prism_streams_open", ("namespace", "kv")] == 5
    assert found["prism_namespace_ready", ("namespace", "kv")] == 1
    assert found["prism_namespace_ready", ("namespace", "empty")] == 0
    assert found["prism_plugin_requests_total", *labels] == 7
    assert found["prism_plugin_connections_idle", *labels] == 2
    with_name = (labels[0], ("name", "pool_waits"), *labels[1:])
    assert found["prism_plugin_custom", *with_name] == 4

    # A new generation counts from zero, in a series of its own.
    successor = replace(instance, generation=2)
    successor.metrics = PluginMetrics(requests_total=1)
    namespace.slot.fill(successor)
    found = samples(metrics)
    assert found["prism_plugin_requests_total", ("instance", "kv/2"), *labels[1:]] == 1
    assert ("prism_plugin_requests_total", *labels) not in found


def test_histogram_bounds_are_inclusive():
    histogram = Histogram()
    for bound in BOUNDS:
        histogram.observe(bound)
    histogram.observe(BOUNDS[-1] + 1)
    assert [count for _, count in histogram.buckets()] == list(range(1, len(BOUNDS) + 2))

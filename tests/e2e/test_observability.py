"""What an operator sees of calls: log lines, metrics, traces, and the plugins' own logs."""

import fcntl
import os

import pytest
from prism_process import CHAOS, WAITING, eventually

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def proxy(start_shared_prism):
    chaos = {"type": "sidecar", "command": CHAOS, "health": {"interval_seconds": 0.2}}
    waiting = {"type": "sidecar", "command": WAITING}
    return start_shared_prism(
        {
            "namespaces": [
                {"name": "chaos", "backend": "chaos", "plugin": chaos},
                {"name": "waiting", "backend": "waiting", "plugin": waiting},
            ]
        }
    )


def access_line(proxy, request_id):
    """The one line of a request."""

    def lines():
        return [record for record in proxy.records if record.get("request_id") == request_id]

    (line,) = eventually(lines)
    return line


def test_a_call_has_one_line_with_everything(proxy):
    answer = proxy.call("chaos", "echo", {"a": 1}, x_request_id="mine-1", traceparent=PARENT)
    assert answer.headers["x-request-id"] == "mine-1"
    line = access_line(proxy, "mine-1")
    duration, plugin = line.pop("duration_ms"), line.pop("plugin_ms")
    assert 0 < plugin <= duration
    assert line.pop("time").endswith("Z")
    assert line.pop("client").startswith("127.0.0.1:")
    assert line.pop("user_agent").startswith("python-httpx/")
    assert line == {
        "level": "info",
        "logger": "prism.access",
        "message": "request",
        "pid": proxy.pid,
        "namespace": "chaos",
        "operation": "echo",
        "status": "OK",
        "http_status": 200,
        "principal": "anonymous",
        "request_id": "mine-1",
        "trace_id": TRACE,
        "instance": "chaos/1",
        "bytes_in": 8,
        "bytes_out": 8,
        "method": "POST",
        "path": "/v1/chaos/echo",
        "protocol": "HTTP/1.1",
    }


def test_a_refused_call_has_its_line_too(proxy):
    answer = proxy.call("chaos", "nosuch")
    line = access_line(proxy, answer.json()["request_id"])
    assert (line["status"], line["http_status"]) == ("UNIMPLEMENTED", 404)
    assert line["reason"] == "unknown_operation"
    assert line["detail"] == answer.json()["detail"]


def test_the_trace_reaches_the_plugin(proxy):
    metadata = proxy.call(
        "chaos", "metadata", {}, x_request_id="mine-2", traceparent=PARENT, tracestate="v=1"
    ).json()
    assert metadata == {
        "prism-namespace": "chaos",
        "prism-principal": "anonymous",
        "prism-request-id": "mine-2",
        "traceparent": PARENT,
        "tracestate": "v=1",
    }


def test_a_call_without_a_trace_begins_one(proxy):
    metadata = proxy.call("waiting", "metadata", {}, traceparent="nonsense").json()
    line = access_line(proxy, metadata["prism-request-id"])
    assert metadata["traceparent"].split("-")[1] == line["trace_id"]


def test_metrics_of_calls(proxy):
    labels = {"namespace": "waiting", "operation": "echo"}
    count = proxy.metric("prism_requests_total", **labels, status="OK")
    for _ in range(3):
        proxy.call("waiting", "echo")

    def counted():
        return proxy.metric("prism_requests_total", **labels, status="OK") == count + 3

    eventually(counted)
    for histogram in ("prism_request_duration_seconds", "prism_plugin_duration_seconds"):
        assert proxy.metric(f"{histogram}_count", **labels) >= 3
        assert proxy.metric(f"{histogram}_bucket", **labels, le="+Inf") >= 3
        assert proxy.metric(f"{histogram}_sum", **labels) > 0
    assert proxy.metric("prism_namespace_ready", namespace="waiting") == 1


def test_names_that_clients_make_up_are_no_labels(proxy):
    for number in range(20):
        proxy.call(f"unheard-of-{number}", "echo")
        proxy.call("chaos", f"unheard_of_{number}")
    exposition = proxy.client.get(f"{proxy.admin}/metrics").text
    assert "unheard" not in exposition
    assert 'operation="_unknown"' in exposition


def test_metrics_of_plugins_carry_namespace_and_instance(proxy):
    labels = {"namespace": "chaos", "plugin": "chaos", "instance": "chaos/1"}
    eventually(lambda: proxy.metric("prism_plugin_requests_total", **labels) == 7)


def test_log_records_of_a_sidecar_carry_its_name(proxy):
    proxy.call("chaos", "do", {"fault": "log", "message": "the backend is slow"})
    (record,) = eventually(lambda: proxy.logged("the backend is slow"))
    assert record["logger"] == "prism.plugin.chaos"
    assert record["level"] == "warning"
    assert record["namespace"] == "chaos"


def test_probes_and_unknown_paths(proxy):
    assert proxy.client.get(f"{proxy.admin}/healthz").json() == {"status": "alive"}
    assert proxy.client.get(f"{proxy.url}/readyz").status_code == 200
    assert proxy.client.get(f"{proxy.admin}/nosuch").status_code == 404
    assert proxy.client.post(f"{proxy.admin}/metrics").status_code == 405


def test_a_log_that_nobody_reads_holds_nobody_up(start_prism):
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)  # a dozen lines fill it
        proxy = start_prism(preexec=lambda: os.dup2(writing, 2))
        for _ in range(50):
            assert proxy.call("demo", "get", {"key": "a"}).status_code == 200
        assert proxy.metric("prism_log_lines_dropped_total") == 0
        assert proxy.stop() == 0
    finally:
        os.close(reading)
        os.close(writing)

import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from prism.core.observability.metrics import Metrics
from prism.core.router import Router
from prism.frontends.admin import AdminApp


@pytest.fixture
def admin(make_namespace, make_client):
    client = make_client()
    router = Router([make_namespace()])
    client.app = AdminApp(router, Metrics(router))
    return client


async def test_metrics(admin):
    answer = await admin.request("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name for family in text_string_to_metric_families(answer.body.decode())}
    assert {"prism_requests", "prism_requests_in_flight", "prism_build_info"} <= families
    accept = {"accept": "application/openmetrics-text;version=1.0.0"}
    openmetrics = await admin.request("GET", "/metrics", headers=accept)
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")


async def test_probes(admin):
    assert (await admin.request("GET", "/healthz")).status == 200
    assert (await admin.request("HEAD", "/readyz")).status == 200
    admin.app.draining = True
    assert (await admin.request("GET", "/readyz")).json["status"] == "draining"


async def test_operators_read_why_a_namespace_is_not_ready(make_namespace, make_client):
    namespace = make_namespace()
    namespace.slot.clear(namespace.slot.current, "it is restarting")
    router = Router([namespace])
    client = make_client()
    client.app = AdminApp(router, Metrics(router))
    answer = await client.request("GET", "/readyz")
    assert answer.status == 503
    assert answer.json == {"status": "not ready", "namespaces": {"kv": "it is restarting"}}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/metrics", 405), ("POST", "/readyz", 405), ("GET", "/v1", 404), ("GET", "/", 404)],
)
async def test_refused(admin, method, path, status):
    answer = await admin.request(method, path)
    assert answer.status == status == answer.json["status"]


async def test_a_bug_is_logged_and_not_shown(admin, caplog, monkeypatch):
    def broken(accept):
        raise RuntimeError("hunter2")

    monkeypatch.setattr(admin.app._metrics, "exposition", broken)
    answer = await admin.request("GET", "/metrics")
    assert answer.status == 500
    assert b"hunter2" not in answer.body
    (line,) = [line for line in caplog.records if line.levelno == logging.ERROR]
    assert answer.json["request_id"] in line.getMessage()

import logging

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from prism.frontends.admin import Access, AdminToken, Right

JSON = {"content-type": "application/json"}


async def test_metrics(admin):
    answer = await admin.ask("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name for family in text_string_to_metric_families(answer.body.decode())}
    assert {"prism_requests", "prism_requests_in_flight", "prism_build_info"} <= families
    accept = {"accept": "application/openmetrics-text;version=1.0.0"}
    openmetrics = await admin.ask("GET", "/metrics", headers=accept)
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")


async def test_probes(admin):
    assert (await admin.ask("GET", "/healthz")).status == 200
    assert (await admin.ask("HEAD", "/readyz")).status == 200
    admin.proxy.draining = True
    assert (await admin.ask("GET", "/readyz")).json["status"] == "draining"


async def test_operators_read_why_a_namespace_is_not_ready(admin):
    slot = admin.proxy.router.find("kv").slot
    slot.clear(slot.current, "it is restarting")
    answer = await admin.ask("GET", "/readyz")
    assert answer.status == 503
    namespaces = {"kv": "it is restarting", "other": "ready"}
    assert answer.json == {"status": "not ready", "namespaces": namespaces}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/metrics", 405),
        ("POST", "/readyz", 405),
        ("GET", "/v1", 404),
        ("GET", "/", 404),
        ("GET", "/admin/plugin/reload", 405),
        ("DELETE", "/admin/plugins/kv", 405),
        ("GET", "/admin/plugins/none", 404),
        ("GET", "/admin/plugins/No-Name", 400),
        ("GET", "/admin/plugins/kv/", 404),
        ("GET", "/admin/plugins?page=2", 400),
        ("GET", "/admin/plugins/kv/logs?tail=many", 400),
        ("GET", "/admin/plugins/kv/logs?tail=-1", 400),
        ("GET", "/admin/plugins/kv/logs?tail=1&tail=2", 400),
        ("GET", "/admin/plugins/kv/logs?tail", 400),
        ("GET", "/admin/events?namespace=none", 404),
        ("POST", "/admin/openapi.json", 405),
    ],
)
async def test_refused(admin, method, path, status):
    answer = await admin.ask(method, path)
    assert answer.status == status == answer.json["status"]


async def test_a_bug_is_logged_and_not_shown(admin, caplog, monkeypatch):
    def broken(accept):
        raise RuntimeError("hunter2")

    monkeypatch.setattr(admin.proxy.metrics, "exposition", broken)
    answer = await admin.ask("GET", "/metrics")
    assert answer.status == 500
    assert b"hunter2" not in answer.body
    (line,) = [line for line in caplog.records if line.levelno == logging.ERROR]
    assert answer.json["request_id"] in line.getMessage()


BAD_BODIES = [
    (b"", "missing required field `namespace`"),
    (b"{", "not JSON"),
    (b"\xff", "not JSON"),
    (b"[]", "Expected an object"),
    (b'{"namespace": 1}', "Expected text"),
    (b'{"namespace": "kv", "versoin": "v1"}', "unknown field `versoin`"),
]


@pytest.mark.parametrize(("body", "why"), BAD_BODIES)
@pytest.mark.parametrize("operation", ["reload", "restart", "drain", "reset"])
async def test_a_body_that_does_not_fit(admin, operation, body, why):
    answer = await admin.ask("POST", f"/admin/plugin/{operation}", body)
    assert answer.status == 400
    assert why in answer.json["detail"]
    assert admin.proxy.supervisor.events.recent()[-1].kind == "state"  # nothing was begun


async def test_a_body_that_is_too_large(admin):
    answer = await admin.ask("POST", "/admin/plugin/reload", b'"' + b"x" * 70_000)
    assert answer.status == 413


@pytest.mark.parametrize("operation", ["reload", "restart", "drain", "reset"])
async def test_an_unknown_namespace_is_told_with_those_that_exist(admin, operation):
    answer = await admin.ask("POST", f"/admin/plugin/{operation}", {"namespace": "none"})
    assert answer.status == 404
    assert answer.json["reason"] == "unknown_namespace"
    assert answer.json["detail"] == "there is no namespace 'none'; there is kv, other"


async def test_changes_and_refusals_are_noted_with_who_asked(admin, caplog):
    caplog.set_level("INFO", "prism.admin")
    await admin.ask("POST", "/admin/plugin/reset", {"namespace": "kv"})
    await admin.ask("POST", "/admin/plugin/reset", {"namespace": "none"})
    lines = [record.getMessage() for record in caplog.records if record.name == "prism.admin"]
    assert lines[0] == "/admin/plugin/reset of namespace kv is asked for by anonymous"
    assert lines[1] == "/admin/plugin/reset of namespace none is asked for by anonymous"
    assert lines[2].startswith("POST /admin/plugin/reset is refused: there is no namespace")


async def test_who_asked_by_which_token_and_from_where(admin, tmp_path, caplog):
    caplog.set_level("INFO", "prism.admin")
    tokens = []
    for name, right in (("ann", Right.CHANGE), ("prometheus", Right.READ)):
        file = tmp_path / name
        file.touch(0o600)
        file.write_text(f"a-token-of-{name:-<16}")
        tokens.append(AdminToken(file, name, right))
    admin.front.access = Access(tokens, Right.PROBE)

    async def ask(name: str, method: str, path: str, body=None) -> int:
        headers = {"authorization": f"Bearer a-token-of-{name:-<16}"}
        return (await admin.ask(method, path, body, headers)).status

    reset = {"namespace": "kv"}
    assert await ask("prometheus", "GET", "/metrics") == 200
    assert await ask("prometheus", "POST", "/admin/plugin/reset", reset) == 403
    assert await ask("ann", "POST", "/admin/plugin/reset", reset) == 200
    assert await ask("bob", "GET", "/metrics") == 401
    refused, changed, unknown = [r for r in caplog.records if r.name == "prism.admin"]
    assert "token 'prometheus' may read and not operate" in refused.getMessage()
    assert changed.getMessage() == (
        "/admin/plugin/reset of namespace kv is asked for by token 'ann'"
    )
    assert [r.fields["principal"] for r in (refused, changed, unknown)] == [
        "token 'prometheus'",
        "token 'ann'",
        "anonymous",
    ]
    assert {r.fields["peer"] for r in (refused, changed, unknown)} == {"192.0.2.7:4711"}
    assert "a-token-of" not in caplog.text


async def test_who_asked_is_noted_though_they_leave_before_it_is_done(admin, caplog):
    caplog.set_level("INFO", "prism.admin")
    with admin.proxy.supervisor.events.follow() as events, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(admin.ask, "POST", "/admin/plugin/restart", {"namespace": "kv"})
            await events.__anext__()
            nursery.cancel_scope.cancel()
        while (await events.__anext__()).state != "ready":
            pass
    assert "/admin/plugin/restart of namespace kv is asked for by anonymous" in caplog.text

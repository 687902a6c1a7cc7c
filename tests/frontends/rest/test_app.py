import gc

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from prism.calls.router import Router
from prism.config.types import NamespaceLimits
from prism.contract.errors import Overloaded, PluginCrashed, PluginMisbehaved
from prism.contract.messages import ExecuteResponse
from prism.frontends.answering import Observer
from prism.frontends.rest import RestApp
from prism.frontends.rest.app import RestCall
from prism.observability.access_log import AccessLog
from prism.observability.metrics import Metrics


async def test_result_is_the_plugins_bytes(make_namespace, make_client, access_lines):
    text = b' {"key" : "\xc3\xa9",\n "n": 1.0e2, "big": 12345678901234567890123}\t'
    answer = await make_client(make_namespace()).request("POST", "/v1/kv/get", text)
    assert answer.status == 200
    assert answer.body == text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(text))
    assert access_lines[0]["bytes_in"] == access_lines[0]["bytes_out"] == len(text)
    assert access_lines[0]["request_id"] == answer.headers["x-request-id"]
    assert access_lines[0]["instance"] == "kv/1"


async def test_a_call_leaves_no_work_to_the_garbage_collector(make_namespace, make_client):
    client = make_client(make_namespace())
    gc.disable()
    gc.freeze()  # what other tests have left is not looked at
    try:
        answers = [await client.request("POST", path) for path in ("/v1/kv/get", "/v1/no/get")]
        left = [each for each in gc.get_objects() if isinstance(each, RestCall)]
    finally:
        gc.unfreeze()
        gc.enable()
    assert [answer.status for answer in answers] == [200, 404]
    assert left == []


async def test_body_in_chunks(make_namespace, make_client):
    chunks = [b'{"a"', b"", b":", b'"\xc3', b'\xa9"}', b""]
    answer = await make_client(make_namespace()).request("POST", "/v1/kv/get", chunks)
    assert answer.body == b"".join(chunks)


async def test_metadata_is_the_proxys_own(make_namespace, make_client):
    namespace = make_namespace()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await make_client(namespace).request(
        "POST",
        "/v1/kv/get",
        headers={
            "traceparent": trace,
            "tracestate": "vendor=1",
            "x-request-id": "my-id.1",
            "prism-principal": "admin",
            "prism-namespace": "other",
            "x-prism-principal": "admin",
            "x-forwarded-user": "admin",
        },
    )
    (request,) = namespace.slot.current.channel.requests
    assert request.metadata == {
        "prism-namespace": "kv",
        "prism-principal": "anonymous",
        "prism-request-id": "my-id.1",
        "traceparent": trace,
        "tracestate": "vendor=1",
    }
    assert request.params_json == "{}"


SMALL = NamespaceLimits(max_payload_bytes=1024)

REFUSED = [
    # method, target, body, headers, then status, code, reason
    ("POST", "/v1/nope/get", b"", {}, 404, "NOT_FOUND", "unknown_namespace"),
    ("POST", "/v1/kv/nope", b"", {}, 404, "UNIMPLEMENTED", "unknown_operation"),
    (
        "POST",
        "/v1/kv/watch",
        b"",
        {"accept": "application/json"},
        400,
        "INVALID_ARGUMENT",
        "invalid_request",
    ),
    ("POST", "/v1/KV/get", b"", {}, 400, "INVALID_ARGUMENT", "invalid_request"),
    ("POST", "/v1/kv/Get", b"", {}, 400, "INVALID_ARGUMENT", "invalid_request"),
    ("POST", "/v1/kv/", b"", {}, 404, "NOT_FOUND", "not_found"),
    ("POST", "/v1//get", b"", {}, 400, "INVALID_ARGUMENT", "invalid_request"),
    ("POST", "/v1/k%76/get", b"", {}, 400, "INVALID_ARGUMENT", "invalid_request"),
    ("POST", "/v1/../kv", b"", {}, 400, "INVALID_ARGUMENT", "invalid_request"),
    ("POST", "/v1/kv/get?key=1", b"", {}, 400, "INVALID_ARGUMENT", "invalid_request"),
    ("POST", "/v1/kv/get/", b"", {}, 404, "NOT_FOUND", "not_found"),
    ("POST", "/v1/kv/get/x", b"", {}, 404, "NOT_FOUND", "not_found"),
    ("POST", "//v1/kv/get", b"", {}, 404, "NOT_FOUND", "not_found"),
    ("GET", "/", b"", {}, 404, "NOT_FOUND", "not_found"),
    ("GET", "/v1/kv/get", b"", {}, 405, "UNIMPLEMENTED", "method_not_allowed"),
    ("OPTIONS", "/v1/kv/get", b"", {}, 405, "UNIMPLEMENTED", "method_not_allowed"),
    ("POST", "/v1/kv", b"", {}, 405, "UNIMPLEMENTED", "method_not_allowed"),
    ("DELETE", "/v1", b"", {}, 405, "UNIMPLEMENTED", "method_not_allowed"),
    ("POST", "/healthz", b"", {}, 405, "UNIMPLEMENTED", "method_not_allowed"),
    ("POST", "/v1/kv/get", b"[]", {}, 400, "INVALID_ARGUMENT", "invalid_request"),
    ("POST", "/v1/kv/get", b"{", {}, 400, "INVALID_ARGUMENT", "invalid_request"),
    ("POST", "/v1/kv/get", b'{"a":"\xff"}', {}, 400, "INVALID_ARGUMENT", "invalid_request"),
    ("POST", "/v1/kv/get", b'{"a":1,"a":2}', {}, 400, "INVALID_ARGUMENT", "invalid_request"),
    ("POST", "/v1/kv/get", b"x" * 1025, {}, 413, "RESOURCE_EXHAUSTED", "payload_too_large"),
    (
        "POST",
        "/v1/kv/get",
        b"",
        {"content-length": "99999999999"},
        413,
        "RESOURCE_EXHAUSTED",
        "payload_too_large",
    ),
    (
        "POST",
        "/v1/kv/get",
        b"",
        {"prism-timeout": "5"},
        400,
        "INVALID_ARGUMENT",
        "invalid_request",
    ),
    (
        "POST",
        "/v1/kv/get",
        b"",
        {"content-encoding": "gzip"},
        400,
        "INVALID_ARGUMENT",
        "invalid_request",
    ),
    (
        "POST",
        "/v1/kv/get",
        b"",
        {"accept": "text/event-stream"},
        400,
        "INVALID_ARGUMENT",
        "invalid_request",
    ),
]


@pytest.mark.parametrize("direct", [True, False], ids=["own", "asgi"])
@pytest.mark.parametrize(
    ("method", "target", "body", "headers", "status", "code", "reason"), REFUSED
)
async def test_refused(
    make_namespace,
    make_client,
    access_lines,
    method,
    target,
    body,
    headers,
    status,
    code,
    reason,
    direct,
):
    namespace = make_namespace(limits=SMALL)
    answer = await make_client(namespace).request(method, target, body, headers, direct=direct)
    assert (answer.status, answer.json["code"], answer.json["reason"]) == (status, code, reason)
    assert answer.json["status"] == status
    assert answer.json["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert ("allow" in answer.headers) == (status == 405)
    assert namespace.in_flight == 0
    assert namespace.slot.current.channel.requests == []
    if target != "/healthz":
        (line,) = access_lines
        assert (line["status"], line["http_status"], line["reason"]) == (code, status, reason)


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("/v1/nope/get", "there is no namespace 'nope'; GET /v1 lists the namespaces"),
        ("/v1/kvv/get", "no namespace 'kvv'; did you mean 'kv'? GET /v1 lists the namespaces"),
        ("/v1/kv/gett", "has no operation 'gett'; did you mean 'get'? it offers: "),
        ("/metrics", "are on a port of their own (admin.port)"),
        ("/admin/plugins", "are on a port of their own (admin.port)"),
        ("/nope", "GET /v1 lists the namespaces"),
    ],
)
async def test_where_else_to_go(make_namespace, make_client, target, hint):
    answer = await make_client(make_namespace()).request("POST", target)
    assert answer.status == 404
    assert hint in answer.json["detail"]


def fails_with(error):
    async def answer(request):
        raise error

    return answer


def responds(**fields):
    async def answer(request):
        return ExecuteResponse(**fields)

    return answer


OUTCOMES = [
    (responds(success=True), 200, "OK", None),
    (responds(success=True, result_raw=b"\x80"), 200, "OK", None),
    (responds(error="no", error_code=5), 404, "NOT_FOUND", "plugin_error"),
    (responds(error="no", error_code=0), 500, "UNKNOWN", "plugin_error"),
    (responds(error="no", error_code=99), 500, "UNKNOWN", "plugin_error"),
    (responds(error="\ud800\n", error_code=14), 503, "UNAVAILABLE", "plugin_error"),
    (responds(success=True, result_json="\ud800"), 502, "UNAVAILABLE", "protocol_error"),
    (fails_with(PluginCrashed("gone")), 502, "UNAVAILABLE", "plugin_crashed"),
    (fails_with(PluginMisbehaved("bad")), 502, "UNAVAILABLE", "protocol_error"),
    (fails_with(Overloaded("full")), 503, "UNAVAILABLE", "overloaded"),
    (fails_with(RuntimeError("hunter2")), 500, "INTERNAL", "internal"),
]


@pytest.mark.parametrize("direct", [True, False], ids=["own", "asgi"])
@pytest.mark.parametrize(("answer", "status", "code", "reason"), OUTCOMES)
async def test_outcomes(
    make_namespace, make_client, access_lines, caplog, answer, status, code, reason, direct
):
    namespace = make_namespace(answer)
    response = await make_client(namespace).request("POST", "/v1/kv/get", direct=direct)
    assert response.status == status
    assert b"hunter2" not in response.body
    assert ("retry-after" in response.headers) == (status == 503)
    (line,) = access_lines
    assert (line["status"], line["http_status"], line.get("reason")) == (code, status, reason)
    assert (namespace.in_flight, namespace.slot.current.leases) == (0, 0)
    if code == "INTERNAL":
        (logged,) = [record for record in caplog.records if record.name != "prism.access"]
        assert line["request_id"] in logged.getMessage()
        assert "hunter2" in caplog.text


async def test_empty_and_raw_results(make_namespace, make_client):
    empty = await make_client(make_namespace(responds(success=True))).request("POST", "/v1/kv/get")
    assert empty.body == b"{}"
    raw = await make_client(make_namespace(responds(success=True, result_raw=b"\x80"))).request(
        "POST", "/v1/kv/get"
    )
    assert (raw.body, raw.headers["content-type"]) == (b"\x80", "application/msgpack")


async def hang(request):
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("asked", "seconds"), [(None, 30), ("250ms", 0.25), ("1min", 60), ("9min", 300)]
)
async def test_deadline(make_namespace, make_client, access_lines, autojump_clock, asked, seconds):
    headers = {"prism-timeout": asked} if asked else {}
    namespace = make_namespace(hang)
    began = trio.current_time()
    answer = await make_client(namespace).request("POST", "/v1/kv/get", headers=headers)
    assert trio.current_time() - began == pytest.approx(seconds)
    assert (answer.status, answer.json["reason"]) == (504, "deadline_exceeded")
    assert access_lines[0]["plugin_ms"] == pytest.approx(seconds * 1000)
    assert (namespace.in_flight, namespace.slot.current.channel.open_calls) == (0, 0)


@pytest.mark.parametrize("direct", [True, False], ids=["own", "asgi"])
@pytest.mark.parametrize(("asked", "seconds"), [("2s", 2), ("1min", 30)])
async def test_body_that_stops(
    make_namespace, make_client, access_lines, autojump_clock, asked, seconds, direct
):
    client = make_client(make_namespace())
    headers = {"prism-timeout": asked}
    answer = await client.request("POST", "/v1/kv/get", [b"{", ...], headers, direct=direct)
    assert trio.current_time() == pytest.approx(seconds)
    assert (answer.status, answer.json["reason"]) == (408, "request_timeout")
    assert [line["status"] for line in access_lines] == ["DEADLINE_EXCEEDED"]


LINES = {"accept": "application/x-ndjson", "content-type": "application/x-ndjson"}


@pytest.mark.parametrize(("asked", "seconds"), [("60s", 30), ("5s", 5)])
async def test_a_first_line_must_come(
    make_namespace,
    make_client,
    make_exchange,
    access_lines,
    autojump_clock,
    nursery,
    asked,
    seconds,
):
    client = make_client(make_namespace())
    headers = [(name.encode(), value.encode()) for name, value in LINES.items()]
    headers.append((b"prism-timeout", asked.encode()))
    exchange = make_exchange("POST", "/v1/kv/watch", headers)
    client.front.begin(exchange)

    async def trickle():
        while True:
            exchange.feed(b" ")
            await trio.sleep(20)

    nursery.start_soon(trickle)
    await exchange.over.wait()
    assert trio.current_time() == pytest.approx(seconds)
    assert exchange.status == 408
    [line] = access_lines
    assert (line["status"], line["reason"]) == ("DEADLINE_EXCEEDED", "request_timeout")
    nursery.cancel_scope.cancel()


async def test_too_large_is_refused_before_the_rest_is_read(make_namespace, make_client):
    client = make_client(make_namespace(limits=SMALL))
    sent, read = [], 0

    async def receive():
        nonlocal read
        await trio.lowlevel.checkpoint()
        read += 512
        return {"type": "http.request", "body": b"x" * 512, "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/kv/get", "headers": []}
    await client.app(scope, receive, send)
    assert sent[0]["status"] == 413
    assert read <= 2048  # what was on its way


async def test_in_flight_limit(make_namespace, make_client, autojump_clock, nursery):
    namespace = make_namespace(hang, limits=NamespaceLimits(max_in_flight=2))
    client = make_client(namespace)
    for _ in range(2):
        nursery.start_soon(client.request, "POST", "/v1/kv/get")
    await trio.testing.wait_all_tasks_blocked()
    assert namespace.in_flight == 2
    answer = await client.request("POST", "/v1/kv/get")
    assert (answer.status, answer.json["reason"]) == (429, "too_many_in_flight")
    assert answer.json["retryable"] is True
    assert answer.headers["retry-after"] == "1"
    assert namespace.in_flight == 2
    nursery.cancel_scope.cancel()


ENDED_OTHERWISE = {
    "client_gone": ("CANCELLED", 499, "client_gone"),
    "draining": ("UNAVAILABLE", 503, "draining"),
}


@pytest.mark.parametrize("direct", [True, False], ids=["own", "asgi"])
@pytest.mark.parametrize("body", [b"{}", [b"{", ...]], ids=["in the call", "in the body"])
@pytest.mark.parametrize("reason", ENDED_OTHERWISE)
async def test_a_call_that_nobody_waits_for(
    make_namespace, make_client, access_lines, reason, body, direct
):
    namespace = make_namespace(hang)
    client = make_client(namespace)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: client.request("POST", "/v1/kv/get", body, direct=direct))
        await trio.testing.wait_all_tasks_blocked()
        assert namespace.in_flight == (body == b"{}")  # none while the body is awaited
        if reason == "client_gone":
            client.gone.set()
        else:
            nursery.cancel_scope.cancel()
    assert (namespace.in_flight, namespace.slot.current.leases) == (0, 0)
    (line,) = access_lines
    assert (line["status"], line["http_status"], line["reason"]) == ENDED_OTHERWISE[reason]


async def test_no_instance(make_namespace, make_client):
    namespace = make_namespace()
    namespace.slot.clear(namespace.slot.current, "it is restarting")
    client = make_client(namespace)
    answer = await client.request("POST", "/v1/kv/get")
    assert (answer.status, answer.json["reason"]) == (503, "plugin_unavailable")
    assert answer.json["detail"] == "namespace 'kv' has no plugin now"
    assert answer.json["retryable"] is True
    ready = await client.request("GET", "/readyz")
    assert ready.status == 503
    assert ready.json == {"status": "not ready"}
    assert (await client.request("GET", "/healthz")).status == 200
    described = (await client.request("GET", "/v1/kv")).json
    assert described["plugin"] is None
    assert "it is restarting" not in str(described)


async def test_a_namespace_that_is_not_required_keeps_nobody_from_being_ready(
    make_namespace, make_client, autojump_clock
):
    broken = make_namespace(name="broken")
    broken.slot.clear(broken.slot.current)
    client = make_client(make_namespace(), broken)
    assert (await client.request("GET", "/readyz")).status == 503
    broken.config = replace(broken.config, required=False)
    assert (await client.request("GET", "/readyz")).status == 200
    assert (await client.request("POST", "/v1/broken/get")).status == 503


async def test_probes_while_draining(make_namespace, make_client, access_lines):
    client = make_client(make_namespace())
    assert (await client.request("GET", "/readyz")).json["status"] == "ready"
    client.front.draining = True
    assert (await client.request("GET", "/readyz")).status == 503
    assert access_lines == []
    assert (await client.request("POST", "/v1/kv/get")).status == 200


async def test_listing_and_description(make_namespace, make_client):
    client = make_client(make_namespace(name="b"), make_namespace(name="a"))
    listed = (await client.request("GET", "/v1")).json["namespaces"]
    assert [entry["namespace"] for entry in listed] == ["a", "b"]
    answer = await client.request("GET", "/v1/a")
    assert answer.json["plugin"] == {"name": "function", "version": "1.0"}
    assert answer.json["operations"]["get"] == {
        "idempotent": True,
        "streaming": False,
        "also_streaming": False,
        "access": "write",
    }
    assert answer.json["health"] == {"status": "HEALTHY", "message": "fine"}
    assert answer.json["limits"]["max_in_flight"] == 1024
    head = await client.request("HEAD", "/v1/a")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == answer.headers["content-length"]


awkward = st.sampled_from(
    ["/", "//", "v1", "kv", "get", "KV", "..", ".", "%2f", "%6bv", "%00", "?", ";", "\\", "é"]
).map(str.encode) | st.binary(max_size=8)
paths = st.lists(awkward).map(b"".join) | st.lists(awkward).map(
    lambda pieces: b"/" + b"/".join(pieces)
)


@example(path=b"/v1/kv/get", method="POST")
@settings(suppress_health_check=list(HealthCheck))  # they are factories
@given(path=paths, method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "OPTIONS", "x"]))
def test_only_the_exact_path_reaches_the_plugin(path, method, make_namespace, client_of):
    namespace = make_namespace()
    router = Router([namespace])
    client = client_of(RestApp(router, Observer(Metrics(router), AccessLog())))

    async def main():
        return await client.request(method, path or b"/", direct=True)

    answer = trio.run(main)
    called = namespace.slot.current.channel.requests
    exact = path.removesuffix(b"?") == b"/v1/kv/get"
    assert bool(called) == (method == "POST" and exact)
    assert answer.status in ({200} if called else {200, 400, 404, 405})
    if not called and answer.status == 200:
        assert method in {"GET", "HEAD"}


async def test_an_event_source_that_comes_back_to_a_finished_stream_is_told_to_stay_away(
    make_namespace, make_client
):
    client = make_client(make_namespace())
    headers = {"accept": "text/event-stream", "last-event-id": "#end"}
    answer = await client.request("GET", "/v1/kv/count", headers=headers)
    assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize("path", ["/v1", "/v1/kv", "/v1/kv/get", "/healthz"])
async def test_a_slash_at_the_end_is_named(make_namespace, make_client, path):
    answer = await make_client(make_namespace()).request("POST", f"{path}/", b"{}")
    assert (answer.status, answer.json["reason"]) == (404, "not_found")
    assert answer.json["detail"].endswith(f"without the slash at its end: {path}")


async def test_a_name_that_is_none_is_quoted(make_namespace, make_client):
    client = make_client(make_namespace())
    answer = await client.request("POST", "/v1/Demo/get", b"{}")
    assert answer.json["detail"].endswith('no hyphen first; found "Demo"')
    answer = await client.request("POST", "/v1/kv/GET", b"{}")
    assert answer.json["detail"].endswith('a letter first; found "GET"')

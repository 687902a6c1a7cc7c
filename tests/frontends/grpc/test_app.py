"""The gRPC application, driven as a server would: what no stock client sends."""

import gzip

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from prism.calls.router import Router
from prism.config.types import NamespaceLimits
from prism.contract.messages import ExecuteRequest, ExecuteResponse, StreamRequest
from prism.contract.status import StatusCode
from prism.frontends.grpc import GrpcApp, is_grpc
from prism.grpc.framing import pack
from prism.grpc.protobuf import decode, encode
from prism.observability.metrics import Metrics

EXECUTE = "/prism.plugin.BackendPlugin/Execute"
STREAM = "/prism.plugin.BackendPlugin/ExecuteStream"
GET = pack(encode(ExecuteRequest(operation="get", params_json='{"a":1}')))
HEADERS = {"content-type": "application/grpc", "te": "trailers", "prism-namespace": "kv"}


def scope_of(path, headers, **changes):
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "extensions": {"http.response.trailers": {}, "prism.cancels_on_disconnect": {}},
        **changes,
    }


class Answered:
    def __init__(self, sent):
        start, *body, trailers = sent
        assert (start["type"], start["status"], start["trailers"]) == (
            "http.response.start",
            200,
            True,
        )
        assert not body[-1]["more_body"]
        self.headers = dict(start["headers"])
        self.body = b"".join(message["body"] for message in body)
        self.trailers = dict(trailers["headers"])
        self.status = StatusCode(int(self.trailers[b"grpc-status"])).name
        self.detail = self.trailers.get(b"grpc-message", b"").decode()


@pytest.fixture
def call(make_namespace):
    limits = NamespaceLimits(max_payload_bytes=1000)
    router = Router([make_namespace(limits=limits)])
    app = GrpcApp(router, Metrics(router))

    async def call(path, *chunks, whole=True, **headers):
        pending, sent = list(chunks), []

        async def receive():
            await trio.lowlevel.checkpoint()
            if pending:
                return {"type": "http.request", "body": pending.pop(0), "more_body": True}
            return {"type": "http.request"} if whole else {"type": "http.disconnect"}

        async def send(message):
            await trio.lowlevel.checkpoint()
            sent.append(message)

        merged = {**HEADERS, **{name.replace("_", "-"): text for name, text in headers.items()}}
        await app(scope_of(path, merged), receive, send)
        return Answered(sent)

    return call


@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_a_call_however_it_is_cut(call, step):
    answer = await call(EXECUTE, *(GET[i : i + step] for i in range(0, len(GET), step)))
    assert answer.status == "OK"
    assert answer.headers[b"content-type"] == b"application/grpc"
    assert decode(ExecuteResponse, answer.body[5:]) == ExecuteResponse(
        success=True, result_json='{"a":1}'
    )


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "why"),
    [
        (EXECUTE, b"", {}, "INVALID_ARGUMENT", "no message"),
        (EXECUTE, GET[:-1], {}, "INVALID_ARGUMENT", "middle of a gRPC message"),
        (EXECUTE, GET + GET, {}, "INVALID_ARGUMENT", "more came"),
        (EXECUTE, b"\x00\xff\xff\xff\xff", {}, "RESOURCE_EXHAUSTED", "larger than"),
        (EXECUTE, b"\x07" + GET[1:], {}, "INVALID_ARGUMENT", "begins with 7"),
        (EXECUTE, b"\x01" + GET[1:], {}, "INVALID_ARGUMENT", "no grpc-encoding"),
        (EXECUTE, b"\x01" + GET[1:], {"grpc_encoding": "gzip"}, "INVALID_ARGUMENT", "not gzip"),
        (EXECUTE, GET, {"grpc_encoding": "br"}, "UNIMPLEMENTED", "use identity or gzip"),
        (EXECUTE, pack(b"\xff\xff"), {}, "INVALID_ARGUMENT", "ExecuteRequest"),
        (EXECUTE, GET, {"grpc_timeout": "soon"}, "INVALID_ARGUMENT", "grpc-timeout"),
        (EXECUTE, GET, {"prism_namespace": "no"}, "NOT_FOUND", "'no'"),
        (EXECUTE, GET, {"prism_namespace": "../kv"}, "INVALID_ARGUMENT", "namespace"),
        (STREAM, b"", {}, "INVALID_ARGUMENT", "no first message"),
        (
            STREAM,
            pack(encode(StreamRequest(operation="get"))),
            {},
            "INVALID_ARGUMENT",
            "one result",
        ),
        (EXECUTE + "/x", GET, {}, "UNIMPLEMENTED", "no method"),
        (
            "/grpc.reflection.v1x.ServerReflection/ServerReflectionInfo",
            b"",
            {},
            "UNIMPLEMENTED",
            "",
        ),
        ("/grpc.health.v1.Health/Check", pack(b"\xff"), {}, "INVALID_ARGUMENT", "HealthCheck"),
        ("/prism.plugin.BackendPlugin/Shutdown", GET, {}, "PERMISSION_DENIED", "proxy's"),
    ],
)
async def test_what_is_wrong_is_said(call, path, body, headers, status, why):
    answer = await call(path, body, **headers)
    assert (answer.status, answer.body) == (status, b"")
    assert why in answer.detail


async def test_a_bomb_is_not_inflated(call):
    bomb = gzip.compress(bytes(10_000_000))
    framed = b"\x01" + len(bomb).to_bytes(4, "big") + bomb
    answer = await call(EXECUTE, framed, grpc_encoding="gzip")
    assert answer.status == "RESOURCE_EXHAUSTED"


async def test_params_over_the_limit_are_refused_beside_much_metadata(call):
    request = ExecuteRequest(
        operation="get", params_json='{"a":"' + "x" * 1000 + '"}', metadata={"b": "y" * 1000}
    )
    assert (await call(EXECUTE, pack(encode(request)))).status == "RESOURCE_EXHAUSTED"


async def test_a_client_that_goes_away_before_its_message_is_whole(call, access_lines):
    assert (await call(EXECUTE, GET[:9], whole=False)).status == "CANCELLED"
    (line,) = access_lines
    assert (line["namespace"], line["status"], line["reason"]) == ("kv", "CANCELLED", "client_gone")


async def test_a_client_that_sends_nothing_is_given_up(make_namespace, autojump_clock):
    router = Router([make_namespace(limits=NamespaceLimits(timeout_seconds=200))])
    sent = []

    async def send(message):
        sent.append(message)

    app = GrpcApp(router, Metrics(router))
    await app(scope_of(EXECUTE, HEADERS), trio.sleep_forever, send)
    assert Answered(sent).status == "DEADLINE_EXCEEDED"
    assert trio.current_time() == 30


async def test_a_cancelled_call_is_logged_as_such(make_namespace, access_lines):
    async def hang(request):
        await trio.sleep_forever()

    router = Router([make_namespace(hang)])
    pending = [{"type": "http.request", "body": GET}]

    async def receive():
        return pending.pop()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            GrpcApp(router, Metrics(router)), scope_of(EXECUTE, HEADERS), receive, trio.sleep
        )
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert access_lines[0]["reason"] == "client_gone"


@pytest.mark.parametrize(
    ("content_type", "changes", "expected"),
    [
        ("application/grpc", {}, True),
        ("application/grpc+proto", {}, True),
        ("Application/gRPC; charset=x", {}, True),
        ("application/grpc+json", {}, False),
        ("application/grpc-web", {}, False),
        ("application/json", {}, False),
        ("application/grpc", {"extensions": {}}, False),
        ("application/grpc", {"type": "websocket"}, False),
    ],
)
def test_what_is_grpc(content_type, changes, expected):
    assert is_grpc(scope_of(EXECUTE, {"content-type": content_type}, **changes)) is expected

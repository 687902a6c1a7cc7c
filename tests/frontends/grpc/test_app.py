"""The gRPC front end on an exchange without a connection: what no stock client sends."""

import gzip

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from prism.calls.memory import Memory
from prism.calls.router import Router
from prism.config.types import NamespaceLimits
from prism.contract.messages import ExecuteRequest, ExecuteResponse, StreamRequest
from prism.contract.status import StatusCode
from prism.frontends.answering import Observer
from prism.frontends.grpc import GrpcApp, health, is_grpc
from prism.frontends.grpc.call import COMPRESS_FROM
from prism.frontends.headers import read_headers
from prism.grpc.framing import pack
from prism.grpc.protobuf import decode, encode
from prism.observability.access_log import AccessLog
from prism.observability.metrics import Metrics
from prism.server.exchange import Cancelled

EXECUTE = "/prism.plugin.BackendPlugin/Execute"
STREAM = "/prism.plugin.BackendPlugin/ExecuteStream"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
GET = pack(encode(ExecuteRequest(operation="get", params_json='{"a":1}')))
TRAILERS = {"http.response.trailers": {}}
HEADERS = {"content-type": "application/grpc", "te": "trailers", "prism-namespace": "kv"}


class Answered:
    """The answer that is in an exchange."""

    def __init__(self, exchange):
        assert exchange.status == 200
        self.headers = dict(exchange.response_headers)
        self.body = b"".join(exchange.written)
        self.trailers = dict(exchange.trailers)
        self.status = StatusCode(int(self.trailers[b"grpc-status"])).name
        self.detail = self.trailers.get(b"grpc-message", b"").decode()


@pytest.fixture
def make_front(nursery):
    """A front end before one namespace, whose deadlines are watched."""

    def make(namespace):
        router = Router([namespace])
        nursery.start_soon(router.deadlines.run)
        return GrpcApp(router, Observer(Metrics(router), AccessLog()))

    return make


@pytest.fixture
def begin(make_exchange):
    """Begin a call, whose body has not come yet."""

    def begin(front, path, **headers):
        merged = {**HEADERS, **{name.replace("_", "-"): text for name, text in headers.items()}}
        pairs = [(name.encode(), value.encode()) for name, value in merged.items()]
        exchange = make_exchange("POST", path, pairs)
        front.begin(exchange)
        return exchange

    return begin


@pytest.fixture
def call(make_namespace, make_front, begin):
    """Make a whole call; its answer."""
    front = make_front(make_namespace(limits=NamespaceLimits(max_payload_bytes=1000)))

    async def call(path, *chunks, **headers):
        exchange = begin(front, path, **headers)
        for chunk in chunks:
            exchange.feed(chunk)
            await trio.lowlevel.checkpoint()
        exchange.feed(b"", ended=True)
        await exchange.over.wait()
        return Answered(exchange)

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
        (EXECUTE, b"", {}, "UNIMPLEMENTED", "no message"),
        (EXECUTE, GET[:-1], {}, "INTERNAL", "middle of a gRPC message"),
        (EXECUTE, GET + GET, {}, "UNIMPLEMENTED", "more came"),
        (EXECUTE, b"\x00\xff\xff\xff\xff", {}, "RESOURCE_EXHAUSTED", "larger than"),
        (EXECUTE, b"\x07" + GET[1:], {}, "INTERNAL", "begins with 7"),
        (EXECUTE, b"\x01" + GET[1:], {}, "INTERNAL", "no grpc-encoding"),
        (EXECUTE, b"\x01" + GET[1:], {"grpc_encoding": "gzip"}, "INTERNAL", "not gzip"),
        (EXECUTE, GET, {"grpc_encoding": "br"}, "UNIMPLEMENTED", "use identity or gzip"),
        (EXECUTE, pack(b"\xff\xff"), {}, "INTERNAL", "ExecuteRequest"),
        (EXECUTE, GET, {"grpc_timeout": "soon"}, "INVALID_ARGUMENT", "grpc-timeout"),
        (STREAM, GET, {"prism_priority": "soon"}, "INVALID_ARGUMENT", "prism-priority must be"),
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
        ("/grpc.health.v1.Health/Check", pack(b"\xff"), {}, "INTERNAL", "HealthCheck"),
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


@pytest.mark.parametrize("path", [EXECUTE, STREAM])
async def test_a_client_that_goes_away_before_its_message_is_whole(
    make_namespace, make_front, begin, access_lines, path
):
    namespace = make_namespace()
    exchange = begin(make_front(namespace), path)
    exchange.feed(GET[:9])
    await wait_all_tasks_blocked()
    exchange.cancel(Cancelled.CLIENT_LEFT)
    await wait_all_tasks_blocked()
    (line,) = access_lines
    assert (line["namespace"], line["status"], line["reason"]) == ("kv", "CANCELLED", "client_gone")
    assert line["http_status"] == 499
    assert (namespace.in_flight, namespace.streams_by_client.total()) == (0, 0)


@pytest.mark.parametrize("asked", ["", "20S"])
async def test_a_client_that_sends_nothing_is_given_up(
    make_namespace, make_front, begin, autojump_clock, asked
):
    namespace = make_namespace(limits=NamespaceLimits(timeout_seconds=200))
    exchange = begin(make_front(namespace), EXECUTE, **({"grpc_timeout": asked} if asked else {}))
    await exchange.over.wait()
    answer = Answered(exchange)
    assert (answer.status, answer.trailers[b"prism-reason"]) == (
        "DEADLINE_EXCEEDED",
        b"request_timeout",
    )
    assert trio.current_time() == (20 if asked else 30)


async def test_a_stream_without_a_first_message_ends_with_its_deadline(
    make_namespace, make_front, begin, autojump_clock
):
    exchange = begin(make_front(make_namespace()), STREAM, grpc_timeout="3S")
    await exchange.over.wait()
    answer = Answered(exchange)
    assert (answer.status, answer.trailers[b"prism-reason"]) == (
        "DEADLINE_EXCEEDED",
        b"request_timeout",
    )
    assert trio.current_time() == 3


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        (Cancelled.CLIENT_LEFT, ("CANCELLED", 499, "client_gone")),
        (Cancelled.STOPPED, ("UNAVAILABLE", 200, "draining")),
    ],
)
async def test_a_cancelled_call_is_logged_as_such(
    make_namespace, make_front, begin, access_lines, why, expected
):
    async def hang(request):
        await trio.sleep_forever()

    namespace = make_namespace(hang)
    exchange = begin(make_front(namespace), EXECUTE)
    exchange.feed(GET, ended=True)
    await wait_all_tasks_blocked()
    exchange.cancel(why)
    (line,) = access_lines
    assert (line["status"], line["http_status"], line["reason"]) == expected
    assert (namespace.in_flight, namespace.slot.current.leases) == (0, 0)
    if why is Cancelled.STOPPED:
        assert Answered(exchange).trailers[b"grpc-status"] == b"14"


def service_request(service=""):
    """A HealthCheckRequest."""
    return pack(b"\x0a%c%s" % (len(service), service.encode()) if service else b"")


@pytest.mark.parametrize(
    ("service", "ready", "stopped", "answer"),
    [
        ("", True, False, b"\x08\x01"),
        ("kv", True, False, b"\x08\x01"),
        ("kv", False, False, b"\x08\x02"),
        ("kv", True, True, b"\x08\x02"),
        ("none", True, False, None),
    ],
)
async def test_a_health_check(
    make_namespace, make_front, begin, access_lines, service, ready, stopped, answer
):
    namespace = make_namespace()
    if not ready:
        namespace.slot.clear(namespace.slot.current, "it crashed")
    front = make_front(namespace)
    if stopped:
        front.stop()
    exchange = begin(front, CHECK)
    exchange.feed(service_request(service), ended=True)
    await exchange.over.wait()
    if answer is None:
        assert Answered(exchange).status == "NOT_FOUND"
    else:
        assert Answered(exchange).body == pack(answer)
    assert access_lines == []  # probes would drown the rest


async def test_a_watch_tells_each_change_and_ends_with_the_proxy(
    make_namespace, make_front, begin, autojump_clock
):
    namespace = make_namespace()
    front = make_front(namespace)
    exchange = begin(front, WATCH)
    exchange.feed(service_request("kv"), ended=True)
    await trio.sleep(5)
    instance = namespace.slot.current
    namespace.slot.clear(instance, "it crashed")
    await trio.sleep(5)
    namespace.slot.fill(instance)
    await trio.sleep(5)
    front.stop()
    await exchange.over.wait()
    states = [pack(b"\x08%c" % state) for state in (1, 2, 1, 2)]
    assert exchange.written == states
    answer = Answered(exchange)
    assert (answer.status, answer.trailers[b"prism-reason"]) == ("UNAVAILABLE", b"draining")


async def test_a_watch_is_told_and_does_not_look(make_namespace, make_front, begin):
    """By events: in no time at all."""
    namespace = make_namespace()
    exchange = begin(make_front(namespace), WATCH)
    exchange.feed(service_request("kv"), ended=True)
    await wait_all_tasks_blocked()
    instance = namespace.slot.current
    namespace.slot.clear(instance, "it crashed")
    await wait_all_tasks_blocked()
    assert exchange.written == [pack(b"\x08\x01"), pack(b"\x08\x02")]
    namespace.slot.fill(instance)
    await wait_all_tasks_blocked()
    assert len(exchange.written) == 3


async def test_a_watch_ends_with_its_credential(make_namespace, begin, autojump_clock):
    router = Router([make_namespace()], is_good=lambda _: good[0])
    good = [True]
    exchange = begin(GrpcApp(router, Observer(Metrics(router), AccessLog())), WATCH)
    exchange.feed(service_request("kv"), ended=True)
    await wait_all_tasks_blocked()
    assert exchange.written == [pack(b"\x08\x01")]
    good[0] = False
    await exchange.over.wait()
    assert Answered(exchange).status == "UNAUTHENTICATED"


async def test_the_watches_of_a_connection_are_bounded(make_namespace, make_front, make_exchange):
    front = make_front(make_namespace())
    memory = Memory().for_connection()
    exchanges = []
    for _ in range(health.MAX_WATCHES + 1):
        exchange = make_exchange(target=WATCH, headers=[(b"content-type", b"application/grpc")])
        exchange.peer = exchange.peer._replace(memory=memory)
        exchange.feed(service_request("kv"), ended=True)
        front.begin(exchange)
        exchanges.append(exchange)
    await wait_all_tasks_blocked()
    refused = [each for each in exchanges if each.over.is_set()]
    assert [Answered(each).status for each in refused] == ["RESOURCE_EXHAUSTED"]
    exchanges[0].cancel(Cancelled.CLIENT_LEFT)
    await wait_all_tasks_blocked()
    assert memory.watches == health.MAX_WATCHES - 1


@pytest.mark.parametrize("why", Cancelled)
async def test_a_watch_ends_with_its_client_and_is_broken_off_by_a_stop(
    make_namespace, make_front, begin, nursery, why
):
    exchange = begin(make_front(make_namespace()), WATCH)
    exchange.feed(service_request("kv"), ended=True)
    await wait_all_tasks_blocked()
    exchange.cancel(why)
    await exchange.over.wait()
    assert exchange.aborted == (why is Cancelled.STOPPED)


async def test_reflection_answers_each_question_of_a_stream(make_namespace, make_front, begin):
    exchange = begin(make_front(make_namespace()), REFLECTION)
    for number in (1, 2):
        exchange.feed(pack(b"\x3a\x00"))  # list_services
        await wait_all_tasks_blocked()
        assert len(exchange.written) == number
        assert b"prism.plugin.BackendPlugin" in exchange.written[-1]
    exchange.feed(b"", ended=True)
    await exchange.over.wait()
    assert Answered(exchange).status == "OK"


@pytest.mark.parametrize("size", [10, 5000])
@pytest.mark.parametrize("accepted", ["identity, gzip", "identity"])
async def test_answers_are_compressed_where_it_pays_for_clients_that_do_it_too(
    make_namespace, make_front, begin, size, accepted
):
    params = '{"a":"' + "x" * size + '"}'
    zipped = gzip.compress(encode(ExecuteRequest(operation="get", params_json=params)))
    headers = {"grpc_encoding": "gzip", "grpc_accept_encoding": accepted}
    exchange = begin(make_front(make_namespace()), EXECUTE, **headers)
    exchange.feed(b"\x01" + len(zipped).to_bytes(4, "big") + zipped, ended=True)
    await exchange.over.wait()
    answer = Answered(exchange)
    assert answer.headers.get(b"grpc-encoding") == (b"gzip" if "gzip" in accepted else None)
    message = answer.body[5:]
    if answer.body[0]:
        message = gzip.decompress(message)
    assert decode(ExecuteResponse, message).result_json == params
    assert answer.body[0] == ("gzip" in accepted and size > COMPRESS_FROM)


async def test_names_that_the_client_gave_are_used(call):
    answer = await call(EXECUTE, GET, x_request_id="mine")
    assert answer.headers[b"x-request-id"] == b"mine"


@pytest.mark.parametrize(
    ("content_type", "takes_trailers", "expected"),
    [
        ("application/grpc", True, True),
        ("application/grpc+proto", True, True),
        ("Application/gRPC; charset=x", True, True),
        ("application/grpc+json", True, False),
        ("application/grpc-web", True, False),
        ("application/json", True, False),
        ("application/grpc", False, False),
    ],
)
async def test_what_is_grpc(make_exchange, content_type, takes_trailers, expected):
    exchange = make_exchange("POST", EXECUTE, [(b"content-type", content_type.encode())])
    exchange.takes_trailers = takes_trailers
    assert is_grpc(exchange, read_headers(exchange.headers)) is expected

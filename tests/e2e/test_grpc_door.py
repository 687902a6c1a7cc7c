"""Stock grpcio clients at the front door, over every kind of call that gRPC has. On stock hypercorn
all that it outlives."""

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from prism_process import SUPPORT, eventually, settled
from stream_doors import grpc_stubs

import grpc

MIB = 1024 * 1024


@pytest.fixture(scope="session")
def proto():
    """The messages and stubs that protoc makes of the schemas."""
    return grpc_stubs()


@pytest.fixture(scope="module", params=["prism", "hypercorn"])
def server(request):
    return request.param


@pytest.fixture
def own_server(server):
    """For tests that hypercorn may not outlive, or that fill its memory."""
    if server == "hypercorn":
        pytest.skip("see tests/server/regressions/README.md")


@pytest.fixture(scope="module")
def proxy(start_shared_prism, server):
    plugin = {"type": "sidecar", "command": [sys.executable, str(SUPPORT / "stream_plugin.py")]}
    limits = {"max_payload_bytes": 5 * MIB}
    gone = {"type": "sidecar", "command": ["/no/such/program"]}
    return start_shared_prism(
        {
            "listen": {"server": server},
            "namespaces": [
                {"name": "kv", "backend": "streams", "plugin": plugin, "limits": limits},
                {"name": "gone", "backend": "streams", "plugin": gone},
            ],
        }
    )


@pytest.fixture
def channel(proxy):
    options = [("grpc.max_receive_message_length", 16 * MIB)]
    with grpc.insecure_channel(f"127.0.0.1:{proxy.port}", options) as channel:
        yield channel


@pytest.fixture
def stub(channel, proto):
    return proto[1].BackendPluginStub(channel)


KV = [("prism-namespace", "kv")]


@pytest.fixture
def call(stub, proto):
    """Execute an operation; the decoded result."""

    def call(operation, metadata=KV, timeout=60, compression=None, **params):
        request = proto[0].ExecuteRequest(operation=operation, params_json=json.dumps(params))
        answer = stub.Execute(request, metadata=metadata, timeout=timeout, compression=compression)
        assert answer.success
        return json.loads(answer.result_json)

    return call


@pytest.fixture
def stream(stub, proto):
    """Open a stream; yields nothing, returns the call, whose results are pb messages."""

    def stream(operation, *more, metadata=KV, timeout=60, **params):
        def requests():
            yield proto[0].StreamRequest(operation=operation, params_json=json.dumps(params))
            for message in more:
                yield proto[0].StreamRequest(params_json=json.dumps(message))

        return stub.ExecuteStream(requests(), metadata=metadata, timeout=timeout)

    return stream


def values(call):
    return [json.loads(message.result_json) for message in call]


def test_a_call(call):
    assert call("echo", text="Grüße ☃") == {"text": "Grüße ☃"}


def test_what_the_plugin_is_told(stub, proto):
    request = proto[0].ExecuteRequest(
        operation="metadata",
        metadata={"colour": "red", "prism-principal": "root", "Prism-Namespace": "other"},
    )
    metadata = [*KV, ("x-request-id", "mine"), ("prism-principal", "root")]
    answer, used = stub.Execute.with_call(request, metadata=metadata, timeout=60)
    told = json.loads(answer.result_json)
    assert (told["colour"], told["prism-namespace"]) == ("red", "kv")
    assert (told["prism-principal"], told["prism-request-id"]) == ("anonymous", "mine")
    assert "Prism-Namespace" not in told
    assert 20 < told["time_left"] <= 61  # grpcio rounds a little up
    assert dict(used.initial_metadata())["x-request-id"] == "mine"


def refused(action):
    with pytest.raises(grpc.RpcError) as caught:
        action()
    return caught.value.code().name, caught.value.details()


def test_errors_are_statuses(call, stub, proto, stream):
    assert refused(lambda: call("refuse", text="no: ü%\n")) == (
        "FAILED_PRECONDITION",
        "no: ü%\n",
    )
    assert refused(lambda: call("nothing"))[0] == "UNIMPLEMENTED"
    assert refused(lambda: call("echo", metadata=[]))[0] == "INVALID_ARGUMENT"
    assert "prism-namespace" in refused(lambda: call("echo", metadata=[]))[1]
    nowhere = [("prism-namespace", "nowhere")]
    assert refused(lambda: call("echo", metadata=nowhere))[0] == "NOT_FOUND"
    assert refused(lambda: call("echo", metadata=[("prism-namespace", "No")]))[0] == (
        "INVALID_ARGUMENT"
    )
    assert refused(lambda: call("echo", metadata=[("prism-namespace", "gone")]))[0] == "UNAVAILABLE"
    assert refused(lambda: call("count"))[0] == "INVALID_ARGUMENT"
    assert refused(lambda: list(stream("echo")))[0] == "INVALID_ARGUMENT"
    bad = proto[0].ExecuteRequest(operation="echo", params_json="nonsense")
    assert refused(lambda: stub.Execute(bad, metadata=KV))[0] == "INVALID_ARGUMENT"
    nameless = proto[0].ExecuteRequest()
    assert refused(lambda: stub.Execute(nameless, metadata=KV))[0] == "INVALID_ARGUMENT"


def test_what_is_not_for_clients(stub, proto, channel):
    start, stop = proto[0].InitializeRequest(), proto[0].ShutdownRequest()
    assert refused(lambda: stub.Initialize(start, metadata=KV))[0] == "PERMISSION_DENIED"
    assert refused(lambda: stub.Shutdown(stop, metadata=KV))[0] == "PERMISSION_DENIED"
    unknown = channel.unary_unary("/a.b/C")
    assert refused(lambda: unknown(b"x"))[0] == "UNIMPLEMENTED"


def test_streams(stream):
    assert values(stream("count", n=4)) == [0, 1, 2, 3]
    assert [message.position for message in stream("count", n=2)] == ["1", "2"]
    assert values(stream("count", n=4, metadata=[*KV, ("prism-last-event-id", "2")])) == [2, 3]
    assert values(stream("total", {"n": 2}, {"n": 3}, n=1)) == [6]
    assert values(stream("chat", {"text": "a"}, {"text": "b"}, text="hi")) == [
        "hi", "A", "B", "bye",
    ]  # fmt: skip
    assert values(stream("count", n=20_000)) == list(range(20_000))


def test_both_directions_in_turn(stub, proto):
    answered = threading.Semaphore(0)

    def requests():
        yield proto[0].StreamRequest(operation="chat", params_json='{"text": "0"}')
        for n in range(1, 100):
            answered.acquire()
            yield proto[0].StreamRequest(params_json=json.dumps({"text": f"m{n}"}))

    seen = []
    for message in stub.ExecuteStream(requests(), metadata=KV, timeout=60):
        seen.append(json.loads(message.result_json))
        answered.release()
    assert seen == ["0", *(f"M{n}" for n in range(1, 100)), "bye"]


def test_a_stream_that_fails_gives_its_messages_first(stream):
    call, seen = stream("fail", n=2), []
    assert refused(lambda: [seen.append(message.result_json) for message in call]) == (
        "DATA_LOSS",
        "broken off",
    )
    assert seen == ["0", "1"]


@pytest.mark.usefixtures("own_server")
def test_bad_messages_end_their_stream_only(stub, proto, call):
    def requests():
        yield proto[0].StreamRequest(operation="chat", params_json='{"text": "a"}')
        yield proto[0].StreamRequest(params_json="nonsense")

    stream = stub.ExecuteStream(requests(), metadata=KV, timeout=60)
    assert refused(lambda: list(stream))[0] == "INVALID_ARGUMENT"
    assert call("echo", a=1) == {"a": 1}


@pytest.mark.usefixtures("own_server")
def test_deadlines(call, stream):
    assert refused(lambda: call("wait", timeout=0.3))[0] == "DEADLINE_EXCEEDED"
    assert refused(lambda: list(stream("quiet", timeout=0.3)))[0] == "DEADLINE_EXCEEDED"


@pytest.mark.usefixtures("own_server")
def test_cancelled_calls_are_cancelled_in_the_plugin(call, stub, proto, stream):
    before = call("seen")["cancelled"]
    unary = stub.Execute.future(proto[0].ExecuteRequest(operation="wait"), metadata=KV)
    flood, quiet = stream("flood", size=10), stream("quiet")
    assert next(flood)
    eventually(lambda: len(quiet.initial_metadata()) > 0)
    for one in (unary, flood, quiet):
        one.cancel()
    eventually(lambda: call("seen")["cancelled"] == before + 3)


@pytest.mark.usefixtures("own_server")
def test_large_messages_and_small_limits(call, stub, proto):
    text = "x" * (4 * MIB)
    assert call("echo", text=text) == {"text": text}
    too_large = {"text": "x" * (5 * MIB)}
    assert refused(lambda: call("echo", **too_large))[0] == "RESOURCE_EXHAUSTED"
    assert call("echo", a=1) == {"a": 1}


def test_bytes(stub, proto):
    raw = b"\x81\xa4text\xc4\x02\x00\xff"  # {"text": bytes} in MessagePack
    answer = stub.Execute(
        proto[0].ExecuteRequest(operation="echo", params_raw=raw), metadata=KV, timeout=60
    )
    assert (answer.result_raw, answer.result_json) == (raw, "")


def test_compressed_messages(call, stub):
    text = "x" * 100_000
    assert call("echo", compression=grpc.Compression.Gzip, text=text) == {"text": text}
    assert refused(lambda: call("echo", compression=grpc.Compression.Deflate, text="x"))[0] == (
        "UNIMPLEMENTED"
    )


@pytest.mark.usefixtures("own_server")
def test_a_thousand_calls_at_once(call):
    with ThreadPoolExecutor(64) as threads:
        answers = list(threads.map(lambda n: call("echo", n=n)["n"], range(1000)))
    assert answers == list(range(1000))


@pytest.mark.usefixtures("own_server")
def test_a_slow_reader_stops_its_own_stream_only(call, stream, proxy):
    before = proxy.resident()
    flood = stream("flood", size=1000, timeout=60)
    assert next(flood)

    def sent_so_far():
        assert call("echo", a=1) == {"a": 1}
        return call("seen")["sent"]

    settled(sent_so_far)
    assert proxy.resident() - before < 20 * MIB
    flood.cancel()


def test_health(channel):
    stub = health_pb2_grpc.HealthStub(channel)

    def check(service):
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status

    status = health_pb2.HealthCheckResponse
    assert check("kv") == status.SERVING
    assert check("gone") == check("") == status.NOT_SERVING
    assert refused(lambda: check("nowhere"))[0] == "NOT_FOUND"
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="kv"), timeout=60)
    assert next(watch).status == status.SERVING
    unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nowhere"), timeout=60)
    assert next(unknown).status == status.SERVICE_UNKNOWN
    watch.cancel()
    unknown.cancel()


def test_a_watch_sees_the_stop(start_prism, server):
    proxy = start_prism({"listen": {"server": server}})
    with grpc.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert proxy.stop() == 0
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert refused(lambda: next(watch))[0] == "UNAVAILABLE"


def test_reflection_tells_a_stranger_what_can_be_called(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert "prism.plugin.BackendPlugin" in database.get_services()
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("prism.plugin.BackendPlugin")
    request = service.methods_by_name["Execute"].input_type
    assert request.fields_by_name["params_json"].number == 2
    message = GetMessageClass(request)(operation="echo", params_json='{"a": 1}')
    execute = channel.unary_unary("/prism.plugin.BackendPlugin/Execute")
    assert b'{"a":1}' in execute(message.SerializeToString(), metadata=KV, timeout=60).replace(
        b" ", b""
    )
    with pytest.raises(KeyError):
        database.FindFileContainingSymbol("no.such.Thing")


def test_other_content_types_are_no_grpc(proxy):
    with httpx.Client(http1=False, http2=True, base_url=proxy.url) as client:
        answer = client.post(
            "/prism.plugin.BackendPlugin/Execute", headers={"content-type": "application/grpc+json"}
        )
        assert answer.status_code == 404

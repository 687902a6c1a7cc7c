"""Who calls, and what they may do, at every door: what must be let in, and every way around."""

import json
import signal
import socket
import subprocess
import sys
import threading
from itertools import product

import httpx
import pytest
import trio
from prism_process import SUPPORT, eventually
from stream_doors import grpc_stubs
from trio_websocket import ConnectionClosed, wrap_client_stream

import grpc
from prism.access.api_keys import create_key, revoke_key

STREAMS = {"type": "sidecar", "command": [sys.executable, str(SUPPORT / "stream_plugin.py")]}


def config(file, *, allow=(), **more):
    kv = {"name": "kv", "backend": "streams", "plugin": STREAMS, "access": {"allow": list(allow)}}
    closed = {"name": "closed", "backend": "sqlite", "config": {"path": ":memory:"}}
    closed["access"] = {"owners": ["somebody-else"]}
    return {
        "authentication": {"api_keys": {"file": str(file)}},
        "namespaces": [kv, closed],
        **more,
    }


RULES = [
    {"who": ["writer"], "permissions": ["write"]},
    {"who": ["group:readers"], "permissions": ["read"]},
]


class Keys:
    def __init__(self, file):
        self.file = file
        self.writer, self.writers_entry = create_key(file, "writer", [])
        self.reader, _ = create_key(file, "reader", ["readers"])
        self.nobody, _ = create_key(file, "nobody", [])


@pytest.fixture
def keys(tmp_path):
    return Keys(tmp_path / "keys.yaml")


@pytest.fixture
def proxy(start_prism, keys):
    return start_prism(config(keys.file, allow=RULES))


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def test_http(proxy, keys):
    told = proxy.call("kv", "metadata", **bearer(keys.writer)).json()
    assert told["prism-principal"] == "writer"
    for key, namespace, operation, status in [
        (keys.writer, "kv", "echo", 200),
        (keys.reader, "kv", "echo", 403),
        (keys.nobody, "kv", "echo", 403),
        (keys.writer, "closed", "get", 403),
        (keys.writer, "nowhere", "get", 403),
        ("prism_000000000000_" + "0" * 64, "kv", "echo", 401),
    ]:
        answer = proxy.call(namespace, operation, **bearer(key))
        assert answer.status_code == status, (key[:20], namespace, operation, answer.text)
    # a namespace that is closed, and one that there is not, look alike
    one, other = (
        proxy.call(name, "get", **bearer(keys.writer)).json() for name in ("closed", "nowhere")
    )
    assert one["detail"].replace("closed", "nowhere") == other["detail"]
    anonymous = proxy.call("kv", "echo")
    assert anonymous.status_code == 401
    assert anonymous.headers["www-authenticate"] == 'Bearer realm="prism"'
    bad = proxy.call("kv", "echo", authorization="Bearer prism_x")
    assert bad.headers["www-authenticate"] == 'Bearer realm="prism", error="invalid_token"'
    for namespace in ("kv", "closed", "nowhere"):
        short = proxy.call(namespace, "echo", **bearer(keys.reader))
        assert (
            short.headers["www-authenticate"] == 'Bearer realm="prism", error="insufficient_scope"'
        )
    told = {"writer", "reader", "nobody", "anonymous"}
    eventually(lambda: {record.get("principal") for record in proxy.records} >= told)
    refused = {"namespace": "_unknown", "status": "UNAUTHENTICATED"}
    assert proxy.metric("prism_requests_total", **refused) == 3
    for secret in (keys.writer, keys.reader):
        assert secret[-64:] not in proxy.log


def test_what_is_listed(proxy, keys):
    def listed(key):
        return proxy.client.get(f"{proxy.url}/v1", headers=bearer(key)).json()["namespaces"]

    assert [entry["namespace"] for entry in listed(keys.writer)] == ["kv"]
    assert "echo" in listed(keys.writer)[0]["operations"]
    assert listed(keys.reader)[0]["operations"] == []
    assert listed(keys.nobody) == []
    for path, status in [
        ("/v1", 401), ("/v1/kv", 401), ("/nothing", 401), ("/healthz", 200), ("/readyz", 200),
        ("/readyz?x=1", 200), ("/readyz/../v1", 401), ("/healthz/", 401),
    ]:  # fmt: skip
        assert raw(proxy, f"GET {path} HTTP/1.1\nhost: a\n") == status, path
    closed = proxy.client.get(f"{proxy.url}/v1/closed", headers=bearer(keys.writer))
    assert closed.status_code == 403


def test_the_command_line_shows_a_key(proxy, keys, tmp_path):
    (tmp_path / "key").write_text(keys.writer + "\n")

    def prism(*words):
        command = [sys.executable, "-m", "prism", *words, "--url", proxy.url]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, input="")

    assert prism("call", "kv", "echo").returncode == 1
    with_key = ("--key-file", str(tmp_path / "key"))
    assert prism("call", "kv", "echo", '{"a":1}', *with_key).stdout == '{"a":1}\n'
    assert prism("call", "kv", "count", '{"n":2}', "--stream", *with_key).stdout == "0\n1\n"
    assert prism("tail", "kv", "count", '{"n":2}', *with_key).stdout == "0\n1\n"
    assert prism("tail", "kv", "count", '{"n":2}').returncode == 1


def raw(proxy, head):
    """The status that a head of HTTP/1.1, as it is, is answered with."""
    with socket.create_connection(("127.0.0.1", proxy.port), 60) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n")
        return int(connection.makefile("rb").readline().split()[1])


@pytest.mark.parametrize("shown", [False, True])
def test_an_operators_command_knows_the_data_port(proxy, tmp_path, shown):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    option = ["--token-file", str(token)] if shown else []
    done = subprocess.run(
        [sys.executable, "-m", "prism", "restart", "--url", proxy.url, *option],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"{proxy.url} is the data port; the admin port is on another" in done.stderr
    assert "--token-file" not in done.stderr


TRICKS = ("KV", "k%76", "%6bv", "kv/..//kv", "./kv", "closed/../kv", "kv%00", "kv;", "kv\\")
"""Spellings that could be judged as one namespace, and used as another."""


def test_tricks_with_headers_and_names(proxy, keys):
    good = f"authorization: Bearer {keys.writer}\n"
    head = "POST /v1/{}/echo HTTP/1.1\nhost: a\ncontent-length: 0\n{}"
    assert raw(proxy, head.format("kv", good)) == 200
    assert raw(proxy, head.format("kv", good + good)) == 400
    assert raw(proxy, head.format("kv", good + "Authorization: Bearer x\n")) == 400
    assert raw(proxy, head.format("kv", good.replace("Bearer", "Basic"))) == 401
    assert raw(proxy, head.format("kv", good.replace("Bearer ", "Bearer\t"))) == 401
    assert raw(proxy, head.format("kv", "authorization: Bearer " + "x" * 9000 + "\n")) == 401
    assert (
        raw(proxy, head.format("kv", "prism-principal: writer\nx-prism-principal: writer\n")) == 401
    )
    assert raw(proxy, head.format("kv", f"x-authorization: Bearer {keys.writer}\n")) == 401
    for name in TRICKS:
        assert raw(proxy, head.format(name, "")) == 401, name
        assert raw(proxy, head.format(name, good)) in (400, 404), name
    forged = {"prism-principal": "root", "prism_principal": "root", "Prism-Namespace": "closed"}
    told = proxy.client.post(
        f"{proxy.url}/v1/kv/metadata", headers={**forged, **bearer(keys.writer)}
    )
    assert (told.json()["prism-principal"], told.json()["prism-namespace"]) == ("writer", "kv")


def test_grpc(proxy, keys):
    messages, services = grpc_stubs()
    with grpc.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
        stub = services.BackendPluginStub(channel)

        def execute(operation, namespace="kv", *more):
            request = messages.ExecuteRequest(
                operation=operation, params_json="{}", metadata={"prism-principal": "root"}
            )
            metadata = [("prism-namespace", namespace), *more]
            answer = stub.Execute(request, metadata=metadata, timeout=60)
            return json.loads(answer.result_json)

        def refused(*arguments):
            with pytest.raises(grpc.RpcError) as caught:
                execute(*arguments)
            return caught.value.code()

        writer = ("authorization", f"Bearer {keys.writer}")
        reader = ("authorization", f"Bearer {keys.reader}")
        assert execute("metadata", "kv", writer)["prism-principal"] == "writer"
        assert refused("echo") is grpc.StatusCode.UNAUTHENTICATED
        assert (
            refused("echo", "kv", ("authorization", "Bearer x")) is grpc.StatusCode.UNAUTHENTICATED
        )
        assert (
            refused("echo", "kv", ("prism-principal", "writer")) is grpc.StatusCode.UNAUTHENTICATED
        )
        assert refused("echo", "kv", reader) is grpc.StatusCode.PERMISSION_DENIED
        assert refused("echo", "closed", writer) is grpc.StatusCode.PERMISSION_DENIED
        assert refused("echo", "kv", writer, reader) is grpc.StatusCode.INVALID_ARGUMENT
        for name in TRICKS:
            assert refused("echo", name, writer) is grpc.StatusCode.INVALID_ARGUMENT, name
        first = messages.StreamRequest(operation="count", params_json='{"n":2}')
        metadata = [("prism-namespace", "kv"), reader]
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ExecuteStream(iter([first]), metadata=metadata, timeout=60))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_grpc_health_tells_no_names(proxy, keys):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def check(service, key=None):
            metadata = [("authorization", f"Bearer {key}")] if key else None
            request = health_pb2.HealthCheckRequest(service=service)
            try:
                return stub.Check(request, metadata=metadata, timeout=60).status
            except grpc.RpcError as error:
                return error.code()

        eventually(lambda: check("") == health_pb2.HealthCheckResponse.SERVING)
        assert check("kv") is grpc.StatusCode.NOT_FOUND
        assert check("kv", keys.writer) == health_pb2.HealthCheckResponse.SERVING
        assert check("closed", keys.writer) is grpc.StatusCode.NOT_FOUND
        assert check("kv", "bad") is grpc.StatusCode.UNAUTHENTICATED


def handshake(proxy, *headers, namespace="kv"):
    head = (
        f"GET /v1/{namespace}/count?n=1 HTTP/1.1\nhost: a\n"
        "upgrade: websocket\nconnection: upgrade\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nsec-websocket-version: 13\n"
    )
    return raw(proxy, head + "".join(f"{line}\n" for line in headers))


def test_websocket(proxy, keys):
    assert handshake(proxy) == 401
    assert handshake(proxy, f"authorization: Bearer {keys.reader}") in (101, 403)
    assert handshake(proxy, "authorization: Bearer x") == 401
    writer = f"authorization: Bearer {keys.writer}"
    assert handshake(proxy, writer) == 101
    for name in TRICKS:
        assert handshake(proxy, namespace=name) == 401, name
        assert handshake(proxy, writer, namespace=name) in (400, 404), name


async def test_headers_of_a_websocket_do_not_say_whose_it_is(proxy, keys):
    imitations = [b"prism-principal", b"x-prism-principal", b"prism_principal"]
    fields = [(name, b"root") for name in imitations]
    fields.append((b"authorization", f"Bearer {keys.writer}".encode()))
    with trio.fail_after(60):
        async with (
            await trio.open_tcp_stream("127.0.0.1", proxy.port) as connection,
            trio.open_nursery() as nursery,
        ):
            websocket = await wrap_client_stream(
                nursery, connection, "127.0.0.1", "/v1/kv/told?params=%7B%7D", extra_headers=fields
            )
            told = json.loads(await websocket.get_message())
            await websocket.aclose()
    assert told["prism-principal"] == "writer"
    assert "root" not in told.values()


class Stream:
    """An event stream, read by a thread; ``text`` is what has come, ``over`` set at its end."""

    def __init__(self, proxy, key):
        self.text, self.over, self.status = "", threading.Event(), 0
        self._proxy, self._key = proxy, key
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        accept = {"accept": "text/event-stream", **bearer(self._key)}
        target = f"{self._proxy.url}/v1/kv/deaf"
        with (
            httpx.Client(trust_env=False, timeout=60) as client,
            client.stream("POST", target, headers=accept, content=b"{}") as answer,
        ):
            self.status = answer.status_code
            for part in answer.iter_text():
                self.text += part
        self.over.set()

    def wait(self):
        assert self.over.wait(60)
        self._thread.join()


@pytest.mark.parametrize("server", ["h2", "nghttp2", "hypercorn"])
def test_no_key_is_in_the_log_whatever_its_level(start_prism, keys, server):
    settings = {"log": {"level": "debug"}}
    if server == "hypercorn":
        proxy = start_prism(config(keys.file, allow=RULES, listen={"server": server}, **settings))
    else:
        environment = {"PRISM_HTTP2_CODEC": server}
        plain = config(keys.file, allow=RULES, **settings)
        proxy = start_prism(plain, environment=environment)
    shown = [bearer(keys.writer), bearer(keys.reader), {"authorization": f"Basic {keys.nobody}"}]
    target = f"{proxy.url}/v1/kv/echo"
    for http2, (headers, status) in product(
        (True, False), zip(shown, (200, 403, 401), strict=True)
    ):
        # No body, and connections of their own: hypercorn closes one whose body was not needed,
        # whether or not the client has sent it.
        with httpx.Client(http1=not http2, http2=http2, trust_env=False, timeout=60) as client:
            assert client.post(target, headers=headers).status_code == status
    assert proxy.stop() == 0
    for key in (keys.writer, keys.reader, keys.nobody):
        assert key[-64:] not in proxy.log


def test_a_revoked_key_is_refused_and_its_streams_end(proxy, keys):
    stream = Stream(proxy, keys.writer)
    eventually(lambda: stream.text)
    assert proxy.call("kv", "echo", **bearer(keys.writer)).status_code == 200
    revoke_key(keys.file, keys.writers_entry.id)
    eventually(lambda: proxy.call("kv", "echo", **bearer(keys.writer)).status_code == 401)
    stream.wait()
    assert "not good any more" in stream.text
    assert proxy.call("kv", "echo", **bearer(keys.reader)).status_code == 403  # as before


async def test_a_revoked_key_ends_streams_at_every_door(proxy, keys):
    """Over gRPC, and over WebSocket."""
    messages, services = grpc_stubs()
    writer = bearer(keys.writer)
    path = "/v1/kv/deaf?params=%7B%7D"
    with grpc.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
        first = messages.StreamRequest(operation="deaf", params_json="{}")
        metadata = [("prism-namespace", "kv"), *writer.items()]
        stub = services.BackendPluginStub(channel)
        stream = stub.ExecuteStream(iter([first]), metadata=metadata, timeout=60)
        assert await trio.to_thread.run_sync(next, stream)
        fields = [(name.encode(), value.encode()) for name, value in writer.items()]
        async with (
            await trio.open_tcp_stream("127.0.0.1", proxy.port) as connection,
            trio.open_nursery() as nursery,
        ):
            websocket = await wrap_client_stream(
                nursery, connection, "127.0.0.1", path, extra_headers=fields
            )
            assert await websocket.get_message()
            revoke_key(keys.file, keys.writers_entry.id)
            with trio.fail_after(60):
                told = json.loads(await websocket.get_message())["$error"]
                assert told["reason"] == "unauthenticated"
                with pytest.raises(ConnectionClosed) as closed:
                    await websocket.get_message()
        assert closed.value.reason.code == 4016
        with pytest.raises(grpc.RpcError) as caught:
            await trio.to_thread.run_sync(next, stream)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_revoked_key_begins_no_stream_that_it_had_asked_for(proxy, keys):
    head = (
        "POST /v1/kv/deaf HTTP/1.1\r\nhost: a\r\naccept: application/x-ndjson\r\n"
        "content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n"
        f"authorization: Bearer {keys.writer}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        connection.sendall(head.encode())
        eventually(lambda: proxy.call("kv", "echo", **bearer(keys.writer)).status_code == 200)
        revoke_key(keys.file, keys.writers_entry.id)
        eventually(lambda: proxy.call("kv", "echo", **bearer(keys.writer)).status_code == 401)
        connection.sendall(b"3\r\n{}\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_a_permission_that_is_taken_away_ends_streams(start_prism, keys, tmp_path):
    proxy = start_prism(config(keys.file, allow=RULES))
    stream = Stream(proxy, keys.writer)
    eventually(lambda: stream.text)
    pids = proxy.plugin_pids
    (tmp_path / "prism.yaml").write_text(json.dumps(config(keys.file, allow=RULES[1:])))
    proxy.process.send_signal(signal.SIGHUP)
    stream.wait()
    assert "no namespace 'kv' is open to 'writer'" in stream.text
    assert proxy.call("kv", "echo", **bearer(keys.writer)).status_code == 403
    assert proxy.plugin_pids == pids  # the plugin goes on


def test_rules_stay_until_a_process_without_authentication_comes(proxy, keys, tmp_path):
    plain = config(keys.file, allow=RULES)
    del plain["authentication"]
    plain["namespaces"].append({"name": "new", "backend": "sqlite"})
    for namespace in plain["namespaces"]:
        namespace.pop("access", None)
    (tmp_path / "prism.yaml").write_text(json.dumps(plain))
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: proxy.logged("authentication changed in"))
    for name, key, status in [
        ("kv", keys.writer, 200), ("kv", keys.reader, 403), ("new", keys.writer, 403),
    ]:  # fmt: skip
        assert proxy.call(name, "echo", **bearer(key)).status_code == status
    assert proxy.call("kv", "echo").status_code == 401


def test_a_dry_run_refuses_nothing(start_prism, keys):
    plain = config(keys.file, allow=RULES)
    plain["namespaces"][0]["access"]["mode"] = "dry_run"
    proxy = start_prism(plain)
    for _ in range(3):
        assert proxy.call("kv", "echo", **bearer(keys.reader)).status_code == 200
    assert proxy.call("kv", "echo").status_code == 401
    eventually(lambda: len(proxy.logged("dry run: 'reader' would not be allowed")) == 1)


@pytest.mark.parametrize("how", ["configured", "inherited"])
def test_beyond_loopback_no_proxy_starts_without_authentication(tmp_path, how):
    file = tmp_path / "prism.yaml"
    database = {"name": "kv", "backend": "sqlite", "config": {"path": ":memory:"}}
    listen = {"address": "0.0.0.0"} if how == "configured" else {}
    file.write_text(json.dumps({"listen": listen, "namespaces": [database]}))
    command = [sys.executable, "-m", "prism", "serve", "-c", str(file), "--admin-port", "0"]
    with socket.create_server(("0.0.0.0", 0)) as given:
        where = ["--port", "0"] if how == "configured" else ["--fd", str(given.fileno())]
        done = subprocess.run(
            [*command, *where], capture_output=True, text=True, timeout=60,
            pass_fds=[given.fileno()],
        )  # fmt: skip
    assert done.returncode == 1
    assert "can be reached from other machines" in done.stderr
    assert "insecure: true" in done.stderr
    assert done.stdout == ""


def test_without_its_file_of_keys_no_proxy_starts(tmp_path):
    file = tmp_path / "prism.yaml"
    file.write_text(json.dumps(config(tmp_path / "none.yaml")))
    command = [sys.executable, "-m", "prism", "serve", "-c", str(file), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "none.yaml: the file is not there; `prism key create` makes one" in done.stderr

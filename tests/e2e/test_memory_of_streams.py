"""The worst that clients of streams, and of the gRPC door, can do to the memory of a real process:
they read nothing, or never end what they send.

Compared are the bytes that the process has grown by at most, and the sum of its limits.
"""

import json
import re
import socket
import sys
from pathlib import Path

import pytest
from http2_client import Http2Client
from prism_process import eventually, settled
from stream_doors import grpc_stubs

MIB = 1024 * 1024
LIMIT = 32 * MIB
LIMITS = {"answer_memory_bytes": LIMIT, "request_memory_bytes": LIMIT}
NAMESPACE = {"answer_memory_bytes": LIMIT, "request_memory_bytes": LIMIT}
"""One namespace may have all of it, so that one limit is to be compared with."""
BESIDE = 40 * MIB
"""For what is not counted: the connections, each with what its kernel buffers do not take, pages
that SQLite reads while room for them is counted, and what the allocator keeps."""
VALUE = 400_000
KEYS = [f"k{number}" for number in range(8)]
SQLITE = [sys.executable, "-m", "prism_plugins.sqlite"]
CONNECTIONS, STREAMS = 2, 60
WINDOW = 256 * 1024
"""What a stream of a plugin in a process of its own may have sent that nobody has taken."""
HEAD = [(":method", "POST"), (":scheme", "http"), (":authority", "a")]


@pytest.fixture
def start_store(start_prism):
    """Starts a proxy whose store has eight large values; ``command`` is a process for it."""

    def start(command=None, names=("demo",), limits=LIMITS, namespace=NAMESPACE):
        process = {} if command is None else {"plugin": {"type": "sidecar", "command": command}}
        namespaces = [
            {
                "name": name,
                "backend": "sqlite",
                "config": {"path": f"{name}.db"},
                "limits": namespace,
                **process,
            }
            for name in names
        ]
        proxy = start_prism({"listen": {"limits": limits}, "namespaces": namespaces})
        for name in names:
            for key in KEYS:
                value = {"key": key, "value": "x" * VALUE}
                assert proxy.call(name, "set", value).status_code == 200
        return proxy

    return start


def peak(proxy):
    """Most bytes of memory that were in use at a time."""
    status = Path(f"/proc/{proxy.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def used(proxy, kind="answer"):
    return proxy.metric(f"prism_{kind}_memory_bytes")


def scan_http2(proxy, number):
    """60 streams of a connection whose windows stay shut."""
    client = Http2Client(proxy.port)
    client.h2.update_settings({4: 0})  # INITIAL_WINDOW_SIZE
    for _ in range(STREAMS):
        stream = client.h2.get_next_available_stream_id()
        head = [*HEAD, (":path", "/v1/demo/scan"), ("accept", "application/x-ndjson")]
        client.h2.send_headers(stream, head)
        client.h2.send_data(stream, b"{}", end_stream=True)
    client.flush()
    return [client]


def grpc_request(kind, **fields):
    """A message of the contract, as it travels."""
    message = getattr(grpc_stubs()[0], kind)(**fields).SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


def open_grpc(client, method, namespace="demo"):
    """Begin a call; returns its stream."""
    stream = client.h2.get_next_available_stream_id()
    head = [
        *HEAD,
        (":path", f"/prism.plugin.BackendPlugin/{method}"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("prism-namespace", namespace),
        ("grpc-timeout", "300S"),
    ]
    client.h2.send_headers(stream, head)
    return stream


def scan_grpc(proxy, number):
    """As many, of the gRPC door."""
    client = Http2Client(proxy.port)
    client.h2.update_settings({4: 0})  # INITIAL_WINDOW_SIZE
    request = grpc_request("StreamRequest", operation="scan", params_json="{}")
    for _ in range(STREAMS):
        client.h2.send_data(open_grpc(client, "ExecuteStream"), request)
    client.flush()
    return [client]


def unread(proxy, request):
    """A connection that sends ``request`` and takes next to nothing of what comes."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", proxy.port))
    client.sendall(request)
    return client


def scan_http1(proxy, number):
    """60 connections, each with a stream."""
    request = (
        b"POST /v1/demo/scan HTTP/1.1\r\nhost: a\r\naccept: application/x-ndjson\r\n"
        b"content-length: 2\r\n\r\n{}"
    )
    return [unread(proxy, request) for _ in range(STREAMS)]


def scan_websocket(proxy, number):
    """60 WebSockets."""
    request = (
        b"GET /v1/demo/scan HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        b"\x81\x82\x00\x00\x00\x00{}"
    )
    return [unread(proxy, request) for _ in range(STREAMS)]


DOORS = [scan_http2, scan_grpc, scan_http1, scan_websocket]


@pytest.mark.parametrize("scan", DOORS)
def test_streams_of_a_plugin_in_this_process_that_nobody_reads(start_store, scan):
    proxy = start_store()
    before = proxy.resident()
    clients = [client for number in range(CONNECTIONS) for client in scan(proxy, number)]
    eventually(lambda: used(proxy) > LIMIT / 2)
    settled(lambda: (used(proxy), proxy.metric("prism_streams_open", namespace="demo")))
    assert used(proxy) <= LIMIT
    assert peak(proxy) - before < LIMIT + BESIDE
    assert proxy.call("demo", "get", {"key": "none"}).json() == {"found": False}
    for client in clients:
        client.close()
    eventually(lambda: not used(proxy))


@pytest.mark.parametrize("scan", [scan_http2, scan_http1])
def test_streams_of_a_plugin_beside_that_nobody_reads(start_store, scan):
    """What their windows hold is beside the limits; a large message, which is more, is not."""
    proxy = start_store(SQLITE)
    before = proxy.resident()
    clients = [client for number in range(CONNECTIONS) for client in scan(proxy, number)]
    eventually(lambda: used(proxy) > LIMIT / 2)
    settled(lambda: (used(proxy), proxy.metric("prism_streams_open", namespace="demo")))
    assert used(proxy) <= LIMIT
    windows = CONNECTIONS * STREAMS * WINDOW
    assert peak(proxy) - before < LIMIT + BESIDE + windows
    for client in clients:
        client.close()
    eventually(lambda: not used(proxy))


def test_answers_over_grpc_that_nobody_takes(start_store):
    proxy = start_store(SQLITE)
    before = proxy.resident()
    params = json.dumps({"keys": KEYS})
    request = grpc_request("ExecuteRequest", operation="mget", params_json=params)
    clients = [Http2Client(proxy.port) for _ in range(CONNECTIONS)]
    for client in clients:
        client.h2.update_settings({4: 0})  # INITIAL_WINDOW_SIZE
        for _ in range(STREAMS):
            client.h2.send_data(open_grpc(client, "Execute"), request, end_stream=True)
        client.flush()
    eventually(lambda: used(proxy) > LIMIT / 4)
    eventually(lambda: not proxy.metric("prism_requests_in_flight", namespace="demo"))
    assert used(proxy) <= LIMIT
    assert peak(proxy) - before < LIMIT + BESIDE
    for client in clients:
        client.close()
    eventually(lambda: not used(proxy))


@pytest.mark.parametrize("method", ["Execute", "ExecuteStream"])
def test_messages_over_grpc_that_do_not_end(start_store, method):
    proxy = start_store()
    before = proxy.resident()
    message = b"\0" + (1_000_000).to_bytes(4, "big") + bytes(900_000)
    clients = []
    for _ in range(20):
        client = Http2Client(proxy.port)
        clients.append(client)
        for _ in range(4):  # where there is no room, it is answered
            client.data(open_grpc(client, method), message)
    eventually(lambda: used(proxy, "request") > LIMIT / 2)
    assert used(proxy, "request") <= LIMIT
    assert peak(proxy) - before < LIMIT + BESIDE
    assert proxy.call("demo", "get", {"key": "none"}).json() == {"found": False}
    for client in clients:
        client.close()
    eventually(lambda: not used(proxy, "request"))


def test_many_namespaces_have_no_more_than_the_proxy(start_store):
    """Each may have half of it. Beside it, each plugin has the frame that is read from it, in the
    three forms that it goes through."""
    names = [f"n{number}" for number in range(4)]
    half = {kind: limit // 2 for kind, limit in NAMESPACE.items()}
    proxy = start_store(SQLITE, names, namespace=half)
    before = proxy.resident()
    params = json.dumps({"keys": KEYS})
    request = grpc_request("ExecuteRequest", operation="mget", params_json=params)
    clients = []
    for name in names:
        client = Http2Client(proxy.port)
        clients.append(client)
        client.h2.update_settings({4: 0})  # INITIAL_WINDOW_SIZE
        for _ in range(20):
            client.h2.send_data(open_grpc(client, "Execute", name), request, end_stream=True)
        client.flush()
    for name in names:
        eventually(lambda name=name: proxy.metric("prism_requests_total", namespace=name))
        eventually(lambda name=name: not proxy.metric("prism_requests_in_flight", namespace=name))
    assert LIMIT / 2 < used(proxy) <= LIMIT
    frames = len(names) * 3 * len(KEYS) * VALUE
    assert peak(proxy) - before < LIMIT + BESIDE + frames
    for client in clients:
        client.close()
    eventually(lambda: not used(proxy))

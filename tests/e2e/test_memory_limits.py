"""The worst that clients can do to the memory of a real process, and the sum of its limits."""

import json
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from doors import CODECS
from http2_client import Http2Client
from prism_process import eventually

MIB = 1024 * 1024
LIMIT = 24 * MIB
"""Of requests, and of answers; a connection may have half of it."""
SMALL_LIMITS = {
    "request_memory_bytes": LIMIT,
    "request_memory_bytes_per_connection": LIMIT // 2,
    "answer_memory_bytes": LIMIT,
    "answer_memory_bytes_per_connection": LIMIT // 2,
}
BODY = 6 * MIB
ANSWER = 3 * MIB
KEYS = [f"k{number}" for number in range(8)]
BESIDE = 32 * MIB
"""For what is not counted: one frame of a plugin on its way in and out, and the connections."""

LARGE = 500_000
LARGE_KEYS = [f"large{number}" for number in range(16)]
IN_PROCESS = 64 * MIB
"""For two batches of results, each of which has 8 MiB and its last call as much again, and one
more result on its way to JSON."""
MGET = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/v1/demo/mget")]

HANDSHAKE = (
    b"GET /v1/demo/watch HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture(params=CODECS)
def proxy(request, start_prism):
    """A proxy with small limits, and a store in a process of its own."""
    command = [sys.executable, "-m", "prism_plugins.sqlite"]
    demo = {
        "name": "demo",
        "backend": "sqlite",
        "plugin": {"type": "sidecar", "command": command},
        "limits": {"max_payload_bytes": BODY, "max_timeout_seconds": 300},
    }
    proxy = start_prism(
        {"listen": {"limits": SMALL_LIMITS}, "namespaces": [demo]},
        environment={"PRISM_HTTP2_CODEC": request.param},
    )
    for key in KEYS:
        value = {"key": key, "value": "x" * (ANSWER // len(KEYS))}
        assert proxy.call("demo", "set", value).status_code == 200
    return proxy


@pytest.fixture
def start_store(start_prism):
    """Starts a proxy with a store in its own process, which has 8 MB of values, and a small one."""

    def start(limits, path="prism.db"):
        demo = {
            "name": "demo",
            "backend": "sqlite",
            "config": {"path": path},
            "limits": {"max_timeout_seconds": 300},
        }
        proxy = start_prism({"listen": {"limits": limits}, "namespaces": [demo]})
        for key in LARGE_KEYS:
            assert proxy.call("demo", "set", {"key": key, "value": "x" * LARGE}).status_code == 200
        assert proxy.call("demo", "set", {"key": "small", "value": 1}).status_code == 200
        return proxy

    return start


def peak(proxy):
    """Most bytes of memory that were in use at a time."""
    status = Path(f"/proc/{proxy.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def in_flight(proxy):
    return proxy.metric("prism_requests_in_flight", namespace="demo")


def ended(proxy, operation):
    return proxy.metric("prism_requests_total", namespace="demo", operation=operation)


def used(proxy, kind):
    return proxy.metric(f"prism_{kind}_memory_bytes")


def test_many_streams_that_take_no_answers(proxy):
    """Some 20 KB of requests ask for 600 MB of answers."""
    before = proxy.resident()
    clients = [Http2Client(proxy.port) for _ in range(2)]
    ask = json.dumps({"keys": KEYS}).encode()
    for client in clients:
        client.h2.update_settings({4: 0})  # INITIAL_WINDOW_SIZE
        client.flush()
        for _ in range(100):
            client.data(client.open("/v1/demo/mget"), ask, end=True)
    eventually(lambda: used(proxy, "answer") > LIMIT // 3)
    eventually(lambda: not proxy.metric("prism_requests_in_flight", namespace="demo"))
    assert used(proxy, "answer") <= LIMIT
    assert proxy.resident() - before < LIMIT + BESIDE
    assert proxy.call("demo", "get", {"key": "k0"}).status_code == 200
    for client in clients:
        client.close()
    eventually(lambda: not used(proxy, "answer"))
    eventually(lambda: proxy.resident() - before < BESIDE / 2)


@pytest.mark.parametrize(
    ("limits", "limit", "connections", "path", "times"),
    [
        pytest.param({}, 64 * MIB, 1, "prism.db", 1, id="default limits"),
        pytest.param({}, 64 * MIB, 5, "prism.db", 1, id="default limits, five connections"),
        pytest.param(SMALL_LIMITS, LIMIT, 1, "prism.db", 1, id="small limits"),
        pytest.param(SMALL_LIMITS, LIMIT, 5, "prism.db", 1, id="small limits, five connections"),
        pytest.param(SMALL_LIMITS, LIMIT, 1, ":memory:", 1, id="in memory"),
        pytest.param(SMALL_LIMITS, LIMIT, 1, "prism.db", 2, id="too large"),
    ],
)
def test_many_large_answers_of_a_plugin_in_this_process(
    start_store, limits, limit, connections, path, times
):
    """They take the proxy's own memory from the moment in which the store has read them."""
    proxy = start_store(limits, path)
    before = proxy.resident()
    ask = json.dumps({"keys": LARGE_KEYS * times}).encode()
    clients = [Http2Client(proxy.port) for _ in range(connections)]
    for client in clients:
        client.h2.update_settings({4: 0})  # INITIAL_WINDOW_SIZE
        for _ in range(60 if connections == 1 else 24):
            stream = client.h2.get_next_available_stream_id()
            client.h2.send_headers(stream, [*MGET, ("prism-timeout", "240s")])
            client.h2.send_data(stream, ask, end_stream=True)
        client.flush()  # all of them at once: none is begun while answers wait for the client
        proxy.client.timeout = 240
        small = proxy.call("demo", "get", {"key": "small"}, prism_timeout="240s")
        assert small.json()["value"] == 1
    eventually(lambda: ended(proxy, "mget") and not in_flight(proxy))
    assert peak(proxy) - before < limit + IN_PROCESS
    assert used(proxy, "answer") <= limit
    assert proxy.call("demo", "get", {"key": "small"}).status_code == 200
    for client in clients:
        client.close()


def test_many_large_bodies_at_a_time(proxy):
    before = proxy.resident()
    body = b'{"key":"a"%b}' % (b" " * (BODY - 100))

    def upload(_):
        with httpx.Client(timeout=240) as client:
            answer = client.post(f"http://127.0.0.1:{proxy.port}/v1/demo/get", content=body)
        peak = proxy.resident()
        return answer, peak

    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(upload, range(48)))
    answers = [answer for answer, _ in results]
    assert max(peak for _, peak in results) - before < LIMIT + BESIDE
    # 408: on a busy machine some of them come slower than they may.
    assert {answer.status_code for answer in answers} <= {200, 408, 503}
    assert any(answer.status_code == 200 for answer in answers)
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json()["reason"] == "memory_full"
            assert answer.headers["retry-after"]
    assert used(proxy, "request") == 0
    eventually(lambda: proxy.resident() - before < BESIDE / 2)


def test_connections_that_never_send_their_bodies_hold_nobody_up(proxy):
    before = proxy.resident()
    clients = [Http2Client(proxy.port) for _ in range(11)]
    head = (("content-length", "1000000"), ("prism-timeout", "300s"))
    for client in clients:
        for _ in range(100):
            client.data(client.open("/v1/demo/get", headers=head), b'{"key":')
    plain = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(20)]
    for client in plain:
        client.sendall(b"POST /v1/demo/get HTTP/1.1\r\nhost: a\r\ncontent-length: 9999\r\n\r\n{")
    eventually(lambda: used(proxy, "request") > 1100 * 4096)
    assert proxy.metric("prism_requests_in_flight", namespace="demo") == 0
    assert proxy.call("demo", "get", {"key": "k0"}).status_code == 200
    assert proxy.resident() - before < LIMIT + BESIDE
    for client in (*clients, *plain):
        client.close()
    eventually(lambda: not used(proxy, "request"))


def test_websockets_whose_messages_do_not_end(proxy):
    before = proxy.resident()
    streams = []
    for _ in range(40):
        client = socket.create_connection(("127.0.0.1", proxy.port))
        client.sendall(HANDSHAKE)
        assert client.recv(4096).startswith(b"HTTP/1.1 101")
        # A text frame of 1,000,000 bytes, masked with zeros, of which the last one never comes.
        size = 1_000_000
        client.settimeout(20)
        with suppress(OSError):  # where there is no room, it is closed
            client.sendall(b"\x81\xff" + size.to_bytes(8, "big") + bytes(4) + b" " * (size - 1))
        streams.append(client)
    eventually(lambda: used(proxy, "request") > LIMIT - 2 * MIB)
    assert proxy.resident() - before < LIMIT + BESIDE
    for client in streams:
        client.close()
    eventually(lambda: not used(proxy, "request"))

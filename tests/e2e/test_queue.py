"""Calls that wait for a place: a real proxy, a plugin that is slow on purpose, real clients."""

import http.client
import json
import os
import signal
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from http2_client import Http2Client
from prism_process import WAITING, Proxy, eventually

LIMITS = {"max_in_flight": 1, "max_queued": 10}
PLUGIN = {"type": "sidecar", "command": WAITING}


def queue_of(proxy: Proxy, name: str = "w") -> int:
    return int(proxy.metric("prism_queue_calls", namespace=name))


def left(proxy: Proxy, outcome: str) -> int:
    return int(proxy.metric("prism_queue_left_total", namespace="w", outcome=outcome))


class Clients:
    """Calls of ``wait_until``, each with a file of its own that lets it end."""

    def __init__(self, proxy: Proxy, directory: Path, pool: ThreadPoolExecutor) -> None:
        self.proxy = proxy
        self.directory = directory
        self.pool = pool
        self.calls: dict[str, Future] = {}

    def begin(self, name: str, within: str = "60s") -> None:
        """Make the call ``name``; returns once it has a place, or is in the queue."""
        waiting = queue_of(self.proxy)
        params = {"file": str(self.directory / name)}
        self.calls[name] = self.pool.submit(
            self.proxy.call, "w", "wait_until", params, prism_timeout=within
        )
        if len(self.calls) > 1:
            eventually(lambda: queue_of(self.proxy) == waiting + 1 or self.calls[name].done())
        else:
            eventually(lambda: self.proxy.metric("prism_requests_in_flight", namespace="w") == 1)

    def let_end(self, name: str) -> tuple[int, str]:
        """The only call that this lets end is ``name``: its answer comes if it has the place."""
        (self.directory / name).touch()
        return self.ended(name)

    def ended(self, name: str) -> tuple[int, str]:
        answer = self.calls[name].result(60)
        return answer.status_code, answer.json().get("reason", "")


@pytest.fixture
def pool():
    with ThreadPoolExecutor(20) as pool:
        yield pool


@pytest.fixture
def start(start_prism, tmp_path, pool):
    """A proxy whose namespace ``w`` has one place, and its clients."""

    def start(**limits):
        namespace = {"name": "w", "backend": "w", "plugin": PLUGIN, "limits": LIMITS | limits}
        proxy = start_prism({"admin": {"without_token": "change"}, "namespaces": [namespace]})
        return proxy, Clients(proxy, tmp_path, pool)

    return start


def test_the_queue_drains_in_the_order_of_deadlines(start):
    proxy, clients = start(max_queued=4)
    clients.begin("first")
    for name, within in (("last", "50s"), ("third", "40s"), ("second", "30s"), ("hasty", "1s")):
        clients.begin(name, within)
    assert clients.ended("hasty") == (429, "queue_too_long")
    for name in ("first", "second", "third", "last"):
        assert clients.let_end(name) == (200, ""), name
    assert (queue_of(proxy), left(proxy, "admitted"), left(proxy, "expired")) == (0, 3, 1)
    assert proxy.metric("prism_requests_in_flight", namespace="w") == 0


def test_a_full_queue_is_told_and_changes_under_calls(start):
    proxy, clients = start(max_queued=1)
    clients.begin("first")
    clients.begin("second")
    refused = proxy.call("w", "count")
    assert (refused.status_code, refused.json()["reason"]) == (429, "too_many_in_flight")
    assert "1 calls in flight, its limit, and 1 in its queue" in refused.json()["detail"]
    assert refused.headers["retry-after"]
    config = json.loads((proxy.directory / "prism.yaml").read_text())
    config["namespaces"][0]["limits"] = {"max_in_flight": 3}
    (proxy.directory / "prism.yaml").write_text(json.dumps(config))
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: left(proxy, "admitted") == 1)
    assert proxy.call("w", "count").json()["open"] == 2
    assert clients.let_end("second") == clients.let_end("first") == (200, "")


def test_clients_that_leave_the_queue_free_their_places(start):
    proxy, clients = start(max_queued=3)
    clients.begin("first")
    body = json.dumps({"file": str(clients.directory / "left")}).encode()
    head = b"POST /v1/w/wait_until HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
    old = socket.create_connection(("127.0.0.1", proxy.port), 20)
    old.sendall(head + body)
    eventually(lambda: queue_of(proxy) == 1)
    new = Http2Client(proxy.port)
    stream = new.open("/v1/w/wait_until")
    new.data(stream, body, end=True)
    eventually(lambda: queue_of(proxy) == 2)
    clients.begin("second")
    old.close()
    new.reset(stream)
    eventually(lambda: queue_of(proxy) == 1)
    assert left(proxy, "left") == 2
    assert clients.let_end("first") == clients.let_end("second") == (200, "")
    new.close()
    assert proxy.call("w", "count").json() == {"open": 0, "begun": 0}


def test_a_reload_loses_no_call_in_the_queue(start, pool):
    proxy, clients = start()
    clients.begin("first")
    clients.begin("second", "30s")
    clients.begin("third", "40s")
    reload = pool.submit(
        proxy.client.post, f"{proxy.admin}/admin/plugin/reload", json={"namespace": "w"}, timeout=60
    )
    eventually(lambda: len(set(proxy.plugin_pids)) == 2)
    for name in ("first", "second", "third"):
        assert clients.let_end(name) == (200, "")
    receipt = reload.result(60)
    assert receipt.status_code == 200, receipt.text
    assert (queue_of(proxy), left(proxy, "admitted")) == (0, 2)


def test_a_crash_loses_no_call_in_the_queue(start):
    """The one that had the place may have run; those that waited did not."""
    proxy, clients = start()
    clients.begin("first")
    clients.begin("second")
    os.kill(proxy.plugin_pids[0], signal.SIGKILL)
    assert clients.ended("first") == (502, "plugin_crashed")
    assert clients.let_end("second") == (200, "")


def test_a_stop_waits_for_the_queue(start):
    proxy, clients = start()
    clients.begin("first")
    clients.begin("second", "30s")
    clients.begin("third", "40s")
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
    body = json.dumps({"file": str(clients.directory / "fourth")}).encode()
    connection.request("POST", "/v1/w/wait_until", body, {"prism-timeout": "55s"})
    eventually(lambda: queue_of(proxy) == 3)
    proxy.process.send_signal(signal.SIGTERM)
    eventually(lambda: proxy.logged("stopping on SIGTERM"))
    for name in ("first", "second", "third"):
        assert clients.let_end(name) == (200, "")
    (clients.directory / "fourth").touch()
    assert connection.getresponse().status == 200
    connection.close()
    assert proxy.process.wait(60) == 0


def test_a_flood_in_one_namespace_takes_no_place_of_another(start_prism, tmp_path):
    """While its calls are in flight, in the queue and refused, others' are answered at once."""
    flooded = {"name": "w", "backend": "w", "plugin": PLUGIN, "limits": LIMITS}
    proxy = start_prism(
        {
            "namespaces": [
                flooded,
                {"name": "other", "backend": "w", "plugin": PLUGIN, "limits": {"max_in_flight": 1}},
                {"name": "inside", "backend": "sqlite", "config": {"path": ":memory:"}},
            ]
        }
    )
    client = Http2Client(proxy.port)
    body = json.dumps({"file": str(tmp_path / "end")}).encode()
    streams = [client.open("/v1/w/wait_until") for _ in range(100)]
    for stream in streams:
        client.data(stream, body, end=True)
    refused = "prism_in_flight_refused_total"
    eventually(lambda: proxy.metric(refused, namespace="w", cause="queue_full") == 89)
    assert queue_of(proxy) == 10
    for _ in range(20):
        assert proxy.call("other", "echo", {"a": 1}).json() == {"a": 1}
        assert proxy.call("inside", "get", {"key": "a"}).json() == {"found": False}
    assert queue_of(proxy) == 10
    (tmp_path / "end").touch()
    answers = [client.wait(stream).status for stream in streams]
    assert (answers.count(200), answers.count(429)) == (11, 89)
    client.close()

"""Stopping loses nothing that was accepted, and nobody can hold it up for ever."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import trio
from http2_client import Http2Client
from prism_process import WAITING, eventually, group_members, settled

SQLITE = {"name": "db", "backend": "sqlite"}


class Load:
    """Clients that increment a counter until the proxy is gone, and count the answers."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered = 0
        self.refused = 0
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in [self.http1] * 8
        ]
        for thread in self._threads:
            thread.start()

    def count(self, *, answered: int = 0, refused: int = 0) -> None:
        with self._lock:
            self.answered += answered
            self.refused += refused

    def http1(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while True:
            begun = False
            try:
                connection.connect() if connection.sock is None else None
                connection.request("POST", "/v1/db/increment", b'{"key":"n"}')
                begun = True
                response = connection.getresponse()
                body = response.read()
            except (ConnectionError, http.client.RemoteDisconnected, OSError) as error:
                connection.close()
                self.count(refused=1)
                # Closed before any byte of an answer: a client may ask again. Whether the
                # call ran all the same is settled by the counter, below.
                if isinstance(error, ConnectionRefusedError) or not begun:
                    return
                continue
            assert response.status == 200, body
            self.count(answered=1)

    def wait(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def test_sigterm_under_load_loses_nothing(start_prism, tmp_path: Path) -> None:
    proxy = start_prism({"namespaces": [SQLITE | {"config": {"path": str(tmp_path / "n.db")}}]})
    load = Load(proxy.port)
    eventually(lambda: load.answered > 300)
    assert proxy.stop() == 0
    load.wait()

    again = start_prism({"namespaces": [SQLITE | {"config": {"path": str(tmp_path / "n.db")}}]})
    stored = json.loads(again.call("db", "get", {"key": "n"}).content)["value"]
    assert stored == load.answered


def test_calls_in_flight_end_before_the_proxy_does(start_prism, tmp_path: Path) -> None:
    plugin = {"type": "sidecar", "command": WAITING}
    proxy = start_prism({"namespaces": [{"name": "w", "backend": "w", "plugin": plugin}]})
    client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
    end = tmp_path / "end"
    client.request("POST", "/v1/w/wait_until", json.dumps({"file": str(end)}).encode())
    eventually(lambda: proxy.call("w", "count").json()["open"] == 1)
    proxy.process.send_signal(signal.SIGTERM)
    eventually(lambda: proxy.logged("stopping on SIGTERM"))
    end.touch()
    response = client.getresponse()
    assert (response.status, json.loads(response.read())) == (200, {"found": str(end)})
    client.close()
    assert proxy.process.wait(60) == 0


@pytest.mark.parametrize("calls", [1, 20])
def test_http2_calls_in_flight_of_httpx_end_before_the_proxy_does(
    start_prism, tmp_path: Path, calls: int
) -> None:
    plugin = {"type": "sidecar", "command": WAITING}
    proxy = start_prism({"namespaces": [{"name": "w", "backend": "w", "plugin": plugin}]})
    end = tmp_path / "end"
    statuses: list[int] = []

    async def post(client: httpx.AsyncClient) -> None:
        answer = await client.post(f"{proxy.url}/v1/w/wait_until", json={"file": str(end)})
        statuses.append(answer.status_code)

    async def post_all() -> None:
        # Tasks, not threads: two of those can take the same stream's id.
        async with (
            httpx.AsyncClient(http1=False, http2=True, timeout=60, trust_env=False) as client,
            trio.open_nursery() as nursery,
        ):
            for _ in range(calls):
                nursery.start_soon(post, client)

    with ThreadPoolExecutor(1) as pool:
        posted = pool.submit(trio.run, post_all)
        eventually(lambda: proxy.call("w", "count").json()["open"] == calls)
        proxy.process.send_signal(signal.SIGTERM)
        eventually(lambda: proxy.logged("stopping on SIGTERM"))
        end.touch()
        posted.result()
    assert statuses == [200] * calls
    assert proxy.process.wait(60) == 0


def test_the_call_of_prism_call_ends_before_the_proxy_does(start_prism, tmp_path: Path) -> None:
    plugin = {"type": "sidecar", "command": WAITING}
    proxy = start_prism({"namespaces": [{"name": "w", "backend": "w", "plugin": plugin}]})
    end = tmp_path / "end"
    params = json.dumps({"file": str(end)})
    command = [sys.executable, "-m", "prism", "call", "w", "wait_until", params]
    with subprocess.Popen(
        [*command, "--url", proxy.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as call:
        eventually(lambda: proxy.call("w", "count").json()["open"] == 1)
        proxy.process.send_signal(signal.SIGINT)
        eventually(lambda: proxy.logged("stopping on SIGINT"))
        end.touch()
        said, complaint = call.communicate(timeout=60)
        assert (json.loads(said), complaint) == ({"found": str(end)}, "")
    assert proxy.process.wait(60) == 0


def test_a_call_whose_client_leaves_a_stopping_proxy_is_logged_as_such(start_prism) -> None:
    plugin = {"type": "sidecar", "command": WAITING}
    proxy = start_prism({"namespaces": [{"name": "w", "backend": "w", "plugin": plugin}]})
    client = Http2Client(proxy.port)
    client.data(client.open("/v1/w/wait"), b'{"seconds": 60}', end=True)
    eventually(lambda: proxy.call("w", "count").json()["open"] == 1)
    proxy.process.send_signal(signal.SIGTERM)
    eventually(lambda: proxy.logged("stopping on SIGTERM"))
    client.break_off()
    assert proxy.process.wait(60) == 0
    (line,) = [record for record in proxy.records if record.get("operation") == "wait"]
    assert (line["status"], line["reason"]) == ("CANCELLED", "client_gone")


def test_a_call_beyond_the_grace_is_answered_503(start_prism) -> None:
    plugin = {"type": "sidecar", "command": WAITING}
    config = {
        "drain_timeout_seconds": 0.5,
        "namespaces": [{"name": "w", "backend": "w", "plugin": plugin}],
    }
    proxy = start_prism(config)
    client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
    client.request("POST", "/v1/w/wait", b'{"seconds": 20}')
    eventually(lambda: proxy.call("w", "count").json()["open"] == 1)
    proxy.process.send_signal(signal.SIGTERM)
    response = client.getresponse()
    assert response.status == 503
    problem = json.loads(response.read())
    assert (problem["code"], problem["reason"]) == ("UNAVAILABLE", "draining")
    assert problem["retryable"] is False
    assert response.headers["x-request-id"] == problem["request_id"]
    client.close()
    assert proxy.process.wait(60) == 0
    (line,) = [record for record in proxy.records if record.get("operation") == "wait"]
    assert (line["request_id"], line["reason"]) == (problem["request_id"], "draining")


def test_a_client_that_never_reads_does_not_hold_up_the_end(start_prism, tmp_path: Path) -> None:
    config = {
        "drain_timeout_seconds": 0.5,
        "namespaces": [SQLITE | {"config": {"path": str(tmp_path / "n.db")}}],
    }
    proxy = start_prism(config)
    proxy.call("db", "set", {"key": "big", "value": "x" * 400_000})
    deaf = socket.create_connection(("127.0.0.1", proxy.port))
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    body = b'{"key":"big"}'
    request = b"POST /v1/db/get HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
    for _ in range(40):
        deaf.sendall(request + body)
    labels = {"namespace": "db", "operation": "get", "status": "OK"}
    eventually(lambda: proxy.metric("prism_requests_total", **labels))
    settled(lambda: proxy.metric("prism_requests_total", **labels))
    assert proxy.stop() == 0
    deaf.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_idle_proxy_stops_at_once(start_prism, number: signal.Signals) -> None:
    proxy = start_prism()
    assert proxy.stop(number) == 0
    assert proxy.logged("stopped")


def test_a_second_signal_ends_at_once(start_prism) -> None:
    plugin = {"type": "sidecar", "command": WAITING}
    proxy = start_prism({"namespaces": [{"name": "w", "backend": "w", "plugin": plugin}]})
    client = Http2Client(proxy.port)
    stream = client.open("/v1/w/wait")
    client.data(stream, b'{"seconds": 60}', end=True)
    eventually(lambda: proxy.call("w", "count").json()["open"] == 1)
    proxy.process.send_signal(signal.SIGTERM)
    eventually(lambda: proxy.logged("stopping on SIGTERM"))
    assert proxy.stop(signal.SIGTERM) == 3
    client.close()


def test_kill_9_of_the_proxy_leaves_no_plugin(start_prism) -> None:
    plugin = {"type": "sidecar", "command": WAITING}
    proxy = start_prism({"namespaces": [{"name": "w", "backend": "w", "plugin": plugin}]})
    (pid,) = proxy.plugin_pids
    assert group_members(os.getpgid(pid))
    proxy.process.kill()
    proxy.process.wait()
    eventually(lambda: not group_members(pid))

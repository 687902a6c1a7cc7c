"""Clients of HTTP/2 that vanish, and a proxy that stops under their load."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from h2.errors import ErrorCodes
from http2_client import Http2Client
from prism_process import WAITING, eventually

THREADS = 6
CONNECTIONS = 40
"""Of each thread, one after the other."""
STREAMS = 10
"""At a time, on each connection."""


@pytest.mark.slow
def test_streams_given_up_at_random_leave_nothing_behind(start_prism):
    inside = {"type": "in_process", "module": "waiting_plugin:Waiting"}
    spawned = {"type": "sidecar", "command": WAITING}
    proxy = start_prism(
        {
            "namespaces": [
                {"name": "inside", "backend": "waiting", "plugin": inside},
                {"name": "spawned", "backend": "waiting", "plugin": spawned},
            ]
        }
    )

    def cancel_at_random(seed):
        dice = random.Random(seed)
        for _ in range(CONNECTIONS):
            client = Http2Client(proxy.port)
            streams = []
            for _ in range(STREAMS):
                stream = client.open(f"/v1/{dice.choice(('inside', 'spawned'))}/wait")
                streams.append(stream)
                if dice.random() < 0.9:  # else the body never comes
                    client.data(stream, b'{"seconds":%.3f}' % (dice.random() / 50), end=True)
                    if dice.random() < 0.5:
                        client.wait(stream)
                if dice.random() < 0.3 and not client.responses[stream].over:
                    client.reset(stream)
            answered = [client.responses[stream].status for stream in streams]
            assert set(answered) <= {0, 200}
            client.break_off() if dice.random() < 0.5 else client.close()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(cancel_at_random, range(THREADS)))
    for name in ("inside", "spawned"):
        eventually(lambda name=name: not proxy.metric("prism_requests_in_flight", namespace=name))
        eventually(lambda name=name: proxy.call(name, "count").json()["open"] == 0)
        statuses = {
            status: proxy.metric(
                "prism_requests_total", namespace=name, operation="wait", status=status
            )
            for status in ("OK", "CANCELLED", "INTERNAL", "UNAVAILABLE")
        }
        assert statuses["OK"]
        assert statuses["CANCELLED"]
        assert not statuses["INTERNAL"] + statuses["UNAVAILABLE"]


def increment_until_refused(port):
    """Keep a few increments open at a time; returns how many were answered.

    Every one that was not must have been refused in a way that allows a retry.
    """
    client = Http2Client(port)
    pending, answered = [], 0
    while not client.closed:
        while len(pending) < 4 and not client.goaways:
            stream = client.open("/v1/db/increment")
            client.data(stream, b'{"key":"n"}', end=True)
            pending.append(stream)
        if not pending:
            break
        response = client.wait(pending[0])
        if response.ended:
            assert response.status == 200, response.body
            answered += 1
        else:
            beyond = bool(client.goaways) and pending[0] > client.goaways[-1]
            assert beyond or response.reset == ErrorCodes.REFUSED_STREAM
        pending.pop(0)
    for stream in pending:
        assert client.responses[stream].reset == ErrorCodes.REFUSED_STREAM or (
            client.goaways and stream > client.goaways[-1]
        ), "accepted, and never answered"
    assert client.goaways
    client.close()
    return answered


def test_sigterm_under_load_loses_no_stream(start_prism, tmp_path):
    namespace = {"name": "db", "backend": "sqlite", "config": {"path": str(tmp_path / "n.db")}}
    proxy = start_prism({"namespaces": [namespace]})
    with ThreadPoolExecutor(THREADS) as pool:
        clients = [pool.submit(increment_until_refused, proxy.port) for _ in range(THREADS)]
        labels = {"namespace": "db", "operation": "increment", "status": "OK"}
        eventually(lambda: proxy.metric("prism_requests_total", **labels) > 200)
        assert proxy.stop() == 0
        answered = sum(client.result() for client in clients)
    again = start_prism({"namespaces": [namespace]})
    assert again.call("db", "get", {"key": "n"}).json()["value"] == answered

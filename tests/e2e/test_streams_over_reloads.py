"""A live stream meets the reload of its plugin: it is told, and goes on where it was."""

import json
from contextlib import contextmanager

import pytest


@pytest.fixture
def proxy(start_prism):
    namespace = {
        "name": "kv",
        "backend": "sqlite",
        "config": {"path": "kv.db"},
        "plugin": {"drain_timeout_seconds": 0.5},
    }
    return start_prism({"namespaces": [namespace], "admin": {"without_token": "change"}})


def messages(lines):
    """(event, id, data) of each server-sent event; comments are left out."""
    fields = {}
    for line in lines:
        if not line:
            if fields:
                yield fields.get("event", "message"), fields.get("id"), json.loads(fields["data"])
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


@contextmanager
def watching(proxy, params="", **headers):
    url = f"{proxy.url}/v1/kv/watch{params}"
    accept = {"accept": "text/event-stream", **headers}
    with proxy.client.stream("GET", url, headers=accept) as response:
        assert response.status_code == 200
        yield messages(response.iter_lines())


def put(proxy, key):
    assert proxy.call("kv", "set", {"key": key, "value": 1}).json() == {"stored": True}


def test_it_is_told_counted_and_resumed_without_a_gap(proxy):
    with watching(proxy, '?params={"existing":true}') as stream:
        assert next(stream)[2] == {"event": "ready"}
        put(proxy, "a")
        _, seen, change = next(stream)
        assert change["key"] == "a"
        answer = proxy.client.post(f"{proxy.admin}/admin/plugin/reload", json={"namespace": "kv"})
        receipt = answer.json()
        assert receipt["outcome"] == "swapped"
        assert receipt["calls"]["cancelled"] == 1
        assert receipt["calls"]["lost"] == 0
        kind, _, told = next(stream)
        assert (kind, told["reason"]) == ("error", "draining")
        assert next(stream, None) is None
    put(proxy, "b")
    with watching(proxy, **{"last-event-id": seen}) as stream:
        assert next(stream)[2]["key"] == "b"
        put(proxy, "c")
        assert next(stream)[2]["key"] == "c"

"""The Redis plugin behind a proxy, and a real server: reloads under load, an outage."""

import sys
import threading
from typing import Any

import pytest
from prism_process import Proxy, eventually

from tests.services.fixtures import StartServer
from tests.services.redis import Redis

PLUGINS = {
    "in_process": {},
    "spawned": {"type": "sidecar", "command": [sys.executable, "-m", "prism_plugins.redis"]},
}


def settings(server: Redis, plugin: dict[str, Any], name: str = "cache") -> dict[str, Any]:
    namespace = {
        "name": name,
        "backend": "redis",
        "plugin": plugin,
        "config": {"url": server.url()},
    }
    return {"namespaces": [namespace], "admin": {"without_token": "change"}}


class Writer:
    """Counts in keys of its own, and reads each count back; ``statuses`` are those of its calls."""

    def __init__(self, proxy: Proxy, number: int) -> None:
        self.counted = 0
        self.statuses: list[int] = []
        self._proxy = proxy
        self._key = f"counter-{number}"
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ending.is_set():
            answer = self._proxy.call("cache", "increment", {"key": self._key})
            self.statuses.append(answer.status_code)
            if answer.status_code != 200:
                continue
            self.counted += 1
            count = answer.json()["value"]
            answer = self._proxy.call("cache", "get", {"key": self._key})
            self.statuses.append(answer.status_code)
            if answer.status_code == 200:
                assert answer.json()["value"] == count

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("way", PLUGINS)
def test_reloads_under_load_cost_no_call(start_prism, redis_server: Redis, way: str) -> None:
    proxy = start_prism(settings(redis_server, PLUGINS[way]))
    for number in range(2):
        proxy.call("cache", "delete", {"key": f"counter-{number}"})
    with Writer(proxy, 0) as one, Writer(proxy, 1) as other:
        for _ in range(3):
            known = one.counted, other.counted
            eventually(lambda known=known: one.counted > known[0] + 20 < other.counted)
            url = f"{proxy.admin}/admin/plugin/reload"
            receipt = proxy.client.post(url, json={"namespace": "cache"}).json()
            assert receipt["outcome"] == "swapped"
    for number, writer in enumerate((one, other)):
        assert set(writer.statuses) == {200}
        found = proxy.call("cache", "get", {"key": f"counter-{number}"}).json()
        assert found["value"] == writer.counted


@pytest.mark.slow
def test_an_outage_is_over_when_the_server_is_back(start_prism, start_server: StartServer) -> None:
    """The plugin is not restarted for it: it keeps its traffic, and says 503 meanwhile."""
    server = start_server(Redis)
    proxy = start_prism(settings(server, PLUGINS["spawned"]))
    with Writer(proxy, 0) as writer:
        eventually(lambda: writer.counted > 20)
        server.kill()
        eventually(lambda: writer.statuses[-1] == 503)
        server.restart()
        known = writer.counted
        eventually(lambda: writer.counted > known + 20)
    assert set(writer.statuses) == {200, 503}
    found = proxy.call("cache", "get", {"key": "counter-0"}).json()
    assert found["value"] >= writer.counted
    status = proxy.client.get(f"{proxy.admin}/admin/plugins").json()
    assert "cache/1" in str(status)
    assert "cache/2" not in str(status)


@pytest.mark.slow
@pytest.mark.parametrize("way", PLUGINS)
def test_a_frozen_server_costs_callers_their_deadlines(
    start_prism, start_server: StartServer, way: str
) -> None:
    """Also the commonest calls, for which no task waits."""
    server = start_server(Redis)
    config = settings(server, PLUGINS[way])
    config["namespaces"][0]["config"]["silence_timeout_seconds"] = 3600  # not what ends the calls
    proxy = start_prism(config)
    assert proxy.call("cache", "set", {"key": "k", "value": 1}).status_code == 200
    server.freeze()
    try:
        for operation, params in (
            ("get", {"key": "k"}),
            ("set", {"key": "k", "value": 2}),
            ("mget", {"keys": ["k"]}),
        ):
            late = proxy.call("cache", operation, params, prism_timeout="0.5s")
            assert (late.status_code, late.json()["code"]) == (504, "DEADLINE_EXCEEDED")
    finally:
        server.thaw()
    eventually(lambda: proxy.call("cache", "get", {"key": "k"}).status_code == 200)

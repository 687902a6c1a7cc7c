"""The Kafka plugin behind a proxy, and a real broker: reloads, kills, a broker that is late."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from prism_process import LIMIT, Proxy, eventually

from tests.services.fixtures import StartServer
from tests.services.kafka import PASSWORD, USER, Kafka

ROOT = Path(__file__).parents[2]
PLUGIN = [sys.executable, "-m", "prism_plugins.kafka"]
TOPIC = "orders"


def settings(server: Kafka, prefix: str, **config: Any) -> dict[str, Any]:
    """A proxy's configuration with the namespace ``events``."""
    namespace = {
        "name": "events",
        "backend": "kafka",
        "plugin": {"drain_timeout_seconds": 1},
        "config": {
            "brokers": [f"127.0.0.1:{server.port}"],
            "topic_prefix": prefix,
            "consumer_group": prefix + "group",
            "session_timeout_seconds": 3,
            **config,
        },
    }
    return {"namespaces": [namespace], "admin": {"without_token": "change"}}


def reload(proxy: Proxy) -> dict[str, Any]:
    answer = proxy.client.post(f"{proxy.admin}/admin/plugin/reload", json={"namespace": "events"})
    receipt: dict[str, Any] = answer.json()
    return receipt


class Publisher:
    """Publishes batch after batch; ``confirmed`` are the values that have an offset."""

    def __init__(self, proxy: Proxy) -> None:
        self.confirmed: set[int] = set()
        self.statuses: list[int] = []
        self._proxy = proxy
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        while not self._ending.wait(0.01):
            batch = [{"value": value} for value in range(number, number + 10)]
            params = {"topic": TOPIC, "messages": batch}
            answer = self._proxy.call("events", "publish_batch", params)
            self.statuses.append(answer.status_code)
            if answer.status_code == 200:
                for value, result in enumerate(answer.json()["results"], start=number):
                    if "offset" in result:
                        self.confirmed.add(value)
            number += 10

    def __enter__(self) -> "Publisher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()


class Subscriber:
    """`prism call … --stream`, begun again whenever it ends; acknowledges each message."""

    def __init__(self, proxy: Proxy) -> None:
        self.seen: dict[int, int] = {}
        self.errors: queue.SimpleQueue[str] = queue.SimpleQueue()
        params = json.dumps({"topics": [TOPIC], "max_in_flight": 50})
        call = ["call", "events", "subscribe", params, "--stream", "--url", proxy.url]
        self._command = [sys.executable, "-m", "prism", *call]
        self._ending = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ending.is_set():
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            with subprocess.Popen(self._command, text=True, **pipes) as self._process:
                assert self._process.stdin is not None
                assert self._process.stdout is not None
                assert self._process.stderr is not None
                try:
                    for line in self._process.stdout:
                        message = json.loads(line)
                        if message.get("event") == "message":
                            answer = json.dumps({"acknowledge": [message["id"]]})
                            self._process.stdin.write(answer + "\n")
                            self._process.stdin.flush()
                            self.seen[message["value"]] = self.seen.get(message["value"], 0) + 1
                except BrokenPipeError:
                    pass
                self._process.kill()
                self.errors.put(self._process.stderr.read())

    def __enter__(self) -> "Subscriber":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        while self._thread.is_alive():
            if self._process is not None:
                self._process.kill()
            self._thread.join(0.1)


def make_topic(proxy: Proxy) -> None:
    answer = proxy.call("events", "create_topic", {"topic": TOPIC, "partitions": 3})
    assert answer.json() == {"created": True}


@pytest.mark.slow
def test_reloads_under_load(start_prism, kafka: Kafka, tmp_path: Path) -> None:
    """No call is lost; subscribers are told, come again, and get all that was confirmed."""
    proxy = start_prism(settings(kafka, tmp_path.name.replace("[", "_") + "."))
    make_topic(proxy)
    with Publisher(proxy) as publisher, Subscriber(proxy) as subscriber:
        for _ in range(2):
            known = len(publisher.confirmed)
            eventually(lambda known=known: len(subscriber.seen) > known + 50)
            assert reload(proxy)["outcome"] == "swapped"
        known = len(publisher.confirmed)
        eventually(lambda: len(subscriber.seen) > known + 50)
        publisher.__exit__()
        eventually(lambda: publisher.confirmed <= subscriber.seen.keys())
    assert set(publisher.statuses) == {200}
    assert max(subscriber.seen.values()) <= 3  # once more for each reload, at most
    told = subscriber.errors.get(timeout=LIMIT)
    assert "UNAVAILABLE" in told


@pytest.mark.slow
def test_a_plugin_that_is_killed_under_load(start_prism, kafka: Kafka, tmp_path: Path) -> None:
    """Its members die without a word: others get their partitions when the session is over."""
    proxy = start_prism(settings(kafka, tmp_path.name + "."))
    make_topic(proxy)
    with Publisher(proxy) as publisher, Subscriber(proxy) as subscriber:
        eventually(lambda: len(subscriber.seen) > 50)
        os.kill(proxy.plugin_pids[-1], signal.SIGKILL)
        known = len(publisher.confirmed)
        eventually(lambda: len(publisher.confirmed) > known + 50)
        publisher.__exit__()
        eventually(lambda: publisher.confirmed <= subscriber.seen.keys())
    assert set(publisher.statuses) <= {200, 502, 503}


@pytest.mark.slow
def test_a_broker_that_comes_late(start_prism, start_server: StartServer) -> None:
    """The proxy serves, says what it waits for, and goes on by itself."""
    server = start_server(Kafka)
    server.kill()
    proxy = start_prism(settings(server, "late.", connect_timeout_seconds=0.5))
    assert proxy.call("events", "topics", {}, prism_timeout="1s").status_code in (503, 504)
    eventually(lambda: "no broker can be reached" in proxy.absence("events"))
    server.restart()
    eventually(proxy.ready)
    assert proxy.call("events", "topics").json() == {"topics": []}


def test_the_namespace_of_the_rfc(start_prism, start_process, kafka: Kafka, tmp_path: Path) -> None:
    """Its configuration as it stands, but for addresses; then a password that is wrong."""
    text = (ROOT / "examples/config/namespaces.yaml").read_text()
    (namespace,) = [
        each for each in yaml.safe_load(text)["namespaces"] if each["backend"] == "kafka"
    ]
    namespace["name"] = "events"
    assert namespace["credentials"]["sasl_username"] == USER
    namespace["config"]["brokers"] = [f"127.0.0.1:{kafka.sasl_port}"]
    namespace["plugin"]["socket"] = str(tmp_path / "kafka.sock")
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700)
    secret = secrets / "kafka_password"
    secret.touch(mode=0o600)
    secret.write_text(PASSWORD)
    start_process(*PLUGIN, log=tmp_path / "plugin.log", PLUGIN_SOCKET=str(tmp_path / "kafka.sock"))
    proxy = start_prism(
        {
            "secrets": {"directory": str(secrets)},
            "namespaces": [namespace],
            "admin": {"without_token": "change"},
        }
    )
    eventually(proxy.ready)
    topic = f"rfc-{os.getpid()}"
    assert proxy.call("events", "create_topic", {"topic": topic}).status_code == 200
    answer = proxy.call("events", "publish", {"topic": topic, "value": {"a": 1}})
    assert answer.json()["offset"] == 0
    schema = proxy.client.get(f"{proxy.url}/v1/events/openapi.json").json()
    assert "/v1/events/publish_batch" in schema["paths"]
    page = proxy.call("events", "read", {"topic": topic}).json()
    assert page["messages"][0]["value"] == {"a": 1}
    assert PASSWORD not in proxy.log
    assert PASSWORD not in (tmp_path / "plugin.log").read_text()


def test_a_new_password_is_proven_before_the_old_one_goes(
    start_prism, kafka: Kafka, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700)
    secret = secrets / "kafka_password"
    secret.touch(mode=0o600)
    secret.write_text(PASSWORD)
    whole = settings(kafka, "rotation.")
    (namespace,) = whole["namespaces"]
    namespace["config"]["brokers"] = [f"127.0.0.1:{kafka.sasl_port}"]
    namespace["credentials"] = {"username": USER, "password": "{{ secret:kafka_password }}"}
    proxy = start_prism({**whole, "secrets": {"directory": str(secrets)}})
    assert proxy.call("events", "topics").status_code == 200
    secret.write_text("not-the-one")
    receipt = reload(proxy)
    assert receipt["outcome"] == "rolled_back"
    assert "refuse the credentials" in json.dumps(receipt)
    assert proxy.call("events", "topics").status_code == 200
    assert "not-the-one" not in proxy.log + json.dumps(receipt)
    secret.write_text(PASSWORD)
    assert reload(proxy)["outcome"] == "swapped"

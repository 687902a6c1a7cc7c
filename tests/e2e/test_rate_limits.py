"""Rate limits of real proxies: what clients are told, a change under calls, and a limit that two
share by a real Redis."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from prism_process import CHAOS, eventually

import grpc
from prism.grpc.descriptors import message_class
from tests.services.redis import Redis

EXECUTE = "/prism.plugin.BackendPlugin/Execute"


def limited(rate, **root):
    plugin = {"type": "sidecar", "command": CHAOS}
    namespace = {"name": "kv", "backend": "any", "plugin": plugin, "limits": {"rate": rate}}
    return {"namespaces": [namespace], "admin": {"without_token": "change"}, **root}


def test_what_clients_are_told(start_prism):
    proxy = start_prism(limited({"calls_per_second": 0.01, "burst": 3}))
    answers = [proxy.call("kv", "echo", {"a": 1}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.headers["ratelimit"] for answer in answers] == [
        '"namespace";r=2;t=100',
        '"namespace";r=1;t=200',
        '"namespace";r=0;t=300',
    ]
    refused = proxy.call("kv", "echo", {"a": 1})
    assert refused.status_code == 429
    assert refused.headers["ratelimit-policy"] == '"namespace";q=3;w=300'
    assert refused.headers["ratelimit"].startswith('"namespace";r=0;t=')
    assert 90 <= int(refused.headers["retry-after"]) <= 100
    assert refused.json()["reason"] == "rate_limited"
    assert proxy.metric("prism_rate_limited_total", namespace="kv", limit="namespace") == 1

    address = proxy.url.removeprefix("http://")
    request = message_class("prism.plugin.ExecuteRequest")(operation="echo", params_json="{}")
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(EXECUTE)(
            request.SerializeToString(), metadata=[("prism-namespace", "kv")], timeout=60
        )
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    head = dict(error.value.initial_metadata())
    assert head["ratelimit-policy"] == '"namespace";q=3;w=300'
    trailers = dict(error.value.trailing_metadata())
    assert b"google.rpc.RetryInfo" in trailers["grpc-status-details-bin"]

    described = proxy.client.get(f"{proxy.admin}/admin/namespaces/kv").json()
    assert described["policies"]["rate"]["namespace"]["refused"] == 2


def test_who_is_refused_all_the_time_is_told_so_later(start_prism):
    rate = {"calls_per_second": 0.01, "burst": 1}
    proxy = start_prism(limited(rate, listen={"limits": {"refusals_per_second": 20}}))
    assert proxy.call("kv", "echo").status_code == 200
    began = time.monotonic()
    with ThreadPoolExecutor(8) as clients:  # each asks again as soon as it has its answer
        answers = list(clients.map(lambda _: proxy.call("kv", "echo"), range(24)))
    took = time.monotonic() - began
    assert {answer.status_code for answer in answers} == {429}
    # Two are told at once; eight at a time wait, so that the last one is told in this time.
    assert took >= (24 - 2 - 1) / 20 - 0.05
    late = proxy.metric("prism_refusals_late_total")
    assert 1 <= late <= 22
    assert proxy.metric("prism_refusals_waiting") == 0
    assert proxy.metric("prism_rate_limited_total", namespace="kv", limit="namespace") == 24


def test_a_change_of_the_file_keeps_what_was_used(start_prism):
    config = limited({"calls_per_second": 0.01, "burst": 3})
    proxy = start_prism(config)
    assert [proxy.call("kv", "echo").status_code for _ in range(4)] == [200, 200, 200, 429]
    config["namespaces"][0]["limits"]["rate"]["burst"] = 5
    (proxy.directory / "prism.yaml").write_text(json.dumps(config))
    assert proxy.client.post(f"{proxy.admin}/admin/config/apply", json={}).status_code == 200
    assert [proxy.call("kv", "echo").status_code for _ in range(3)] == [200, 200, 429]


def test_two_proxies_share_a_limit_and_go_on_without_the_store(start_prism, start_server, tmp_path):
    pytest.importorskip("coredis")
    server = start_server(Redis)
    rate, burst = 60, 20  # few enough for clients to meet it on a busy machine, too
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "limits").write_text("correct-horse-battery")
    (tmp_path / "secret" / "limits").chmod(0o600)
    server.ask("CONFIG", "SET", "requirepass", "correct-horse-battery")
    config = limited(
        {"calls_per_second": rate, "burst": burst, "when_store_is_down": "deny"},
        limits_store={
            "url": server.url(),
            "password": "{{ secret:limits }}",
            "timeout_seconds": 5,
        },
        secrets={"directory": str(tmp_path / "secret")},
    )
    proxies = [start_prism(config) for _ in range(2)]
    for proxy in proxies:
        eventually(lambda proxy=proxy: proxy.metric("prism_limits_store_round_trips_total") >= 1)
    ending = threading.Event()

    def load(proxy):
        passed = refused = 0
        while not ending.is_set():
            status = proxy.call("kv", "echo", {"a": 1}).status_code
            assert status in (200, 429)
            passed += status == 200
            refused += status == 429
        return passed, refused

    with ThreadPoolExecutor(8) as threads:
        began = time.monotonic()
        loads = [threads.submit(load, proxies[number % 2]) for number in range(8)]
        time.sleep(3)
        ending.set()
        passed, refused = map(sum, zip(*(each.result() for each in loads), strict=True))
        seconds = time.monotonic() - began
    assert passed <= burst + rate * seconds
    asked = sum(proxy.metric("prism_limits_store_round_trips_total") for proxy in proxies)
    assert asked <= passed + refused

    server.kill()
    proxy = proxies[0]
    eventually(lambda: proxy.call("kv", "echo").json().get("reason") == "limits_unavailable")
    assert proxy.metric("prism_limits_store_up") == 0
    for _ in range(20):
        assert proxy.call("kv", "echo").status_code == 503
    assert len(proxy.logged("is down, so that limits go by when_store_is_down")) == 1
    assert "correct-horse" not in proxy.log
    server.restart()
    eventually(lambda: proxy.metric("prism_limits_store_up") == 1)
    eventually(lambda: proxy.call("kv", "echo").status_code == 200)


def test_a_proxy_is_ready_when_it_has_its_store(start_prism, start_server):
    pytest.importorskip("coredis")
    server = start_server(Redis)
    # Longer than the default, as the answer to a call may take longer on a busy machine.
    proxy = start_prism(
        limited(
            {"calls_per_second": 0.01, "burst": 3, "when_store_is_down": "deny"},
            limits_store={"url": server.url(), "timeout_seconds": 10},
        )
    )
    assert proxy.metric("prism_limits_store_round_trips_total") >= 1
    assert [proxy.call("kv", "echo").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert not proxy.logged("the limits store at")
    assert proxy.metric("prism_limits_store_failures_total") == 0


def test_a_proxy_starts_without_its_store_and_says_why_it_has_none(
    start_prism, start_server, tmp_path
):
    pytest.importorskip("coredis")
    server = start_server(Redis, settings={"requirepass": "correct-horse-battery"})
    config = limited(
        {"calls_per_second": 0.01, "burst": 3, "when_store_is_down": "deny"},
        limits_store={"url": server.url(), "timeout_seconds": 10},
    )
    proxy = start_prism(config)
    # It is known by the time at which it is ready, so that no call has to find out.
    assert proxy.call("kv", "echo").json()["reason"] == "limits_unavailable"
    (line,) = proxy.logged("is down, so that limits go by when_store_is_down")
    assert "it wants a password: set limits_store.password" in str(line)
    with proxy.client.stream("GET", f"{proxy.admin}/admin/events?tail=20") as events:
        assert any("set limits_store.password" in event for event in events.iter_lines())

    (tmp_path / "limits").write_text("correct-horse-battery")
    (tmp_path / "limits").chmod(0o600)
    config["limits_store"]["password"] = "{{ secret:limits }}"
    config["secrets"] = {"directory": str(tmp_path)}
    (proxy.directory / "prism.yaml").write_text(json.dumps(config))
    assert proxy.client.post(f"{proxy.admin}/admin/config/apply", json={}).status_code == 200
    eventually(lambda: proxy.logged("answers again: limits are shared"))
    assert proxy.call("kv", "echo").status_code == 200
    assert "correct-horse" not in proxy.log

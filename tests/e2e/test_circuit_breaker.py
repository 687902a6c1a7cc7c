"""Circuit breakers before real plugins: one that fails, and one whose server hangs."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from prism_process import CHAOS, FAST_CHECKS, eventually

from tests.services.redis import Redis

BREAKER = {"min_calls": 5, "window_seconds": 600, "open_seconds": 1, "probes": 2}
UNAVAILABLE = {"fault": "status", "status": 14}


def served(start_prism, plugin, **more):
    namespace = {"name": "kv", "breaker": BREAKER, "plugin": plugin, **more}
    return start_prism({"namespaces": [namespace], "admin": {"without_token": "change"}})


def breaker_of(proxy):
    return proxy.client.get(f"{proxy.admin}/admin/namespaces/kv").json()["policies"]["breaker"]


def reasons(answers):
    return {answer.json().get("reason", "") for answer in answers}


def refused(proxy, *call, **headers):
    """A call, and whether the breaker refused it."""
    answer = proxy.call("kv", *call, **headers)
    return answer.status_code == 503 and answer.json()["reason"] == "circuit_open"


def told(proxy):
    """What the log says of the breaker, without when it is tried again."""
    lines = [record["message"] for record in proxy.logged("breaker of namespace kv")]
    return [line.partition(": ")[2].partition(";")[0] for line in lines]


def test_a_plugin_that_fails_gets_no_calls_until_probes_are_good(start_prism):
    proxy = served(start_prism, {"type": "sidecar", "command": CHAOS}, backend="chaos")
    failing = [proxy.call("kv", "do", UNAVAILABLE) for _ in range(5)]
    assert reasons(failing) == {"plugin_error"}
    assert breaker_of(proxy)["state"] == "open"
    answer = proxy.call("kv", "echo")
    if answer.status_code == 503:  # else its time was over already
        assert answer.json()["retryable"]
        assert answer.json()["detail"].startswith(
            "the circuit breaker of namespace 'kv' is open: 5 of 5 calls within 600 s failed"
        )
        assert int(answer.headers["retry-after"]) in (1, 2)
    assert proxy.ready()
    eventually(lambda: proxy.call("kv", "echo").status_code == 200)
    assert breaker_of(proxy)["state"] == "half_open"
    assert proxy.call("kv", "echo").status_code == 200
    assert breaker_of(proxy)["state"] == "closed"
    eventually(lambda: told(proxy)[-1] == "closed: 2 calls in a row went well")
    assert told(proxy)[0] == "open: 5 of 5 calls within 600 s failed (100%, opens at 50%)"
    assert proxy.metric("prism_breaker_state", state="closed") == 1
    assert proxy.metric("prism_breaker_changes_total", state="closed") >= 1


def test_a_reload_has_a_new_breaker(start_prism):
    plugin = {"type": "sidecar", "command": CHAOS}
    proxy = served(start_prism, plugin, backend="chaos", breaker=BREAKER | {"open_seconds": 3600})
    for _ in range(5):
        proxy.call("kv", "do", UNAVAILABLE)
    assert refused(proxy, "echo")
    receipt = proxy.client.post(f"{proxy.admin}/admin/plugin/reload", json={"namespace": "kv"})
    assert receipt.json()["outcome"] == "swapped"
    assert proxy.call("kv", "echo").status_code == 200
    assert breaker_of(proxy)["state"] == "closed"


def test_a_storm_on_a_plugin_that_fails_reaches_it_with_one_call_at_a_time(start_prism, tmp_path):
    plugin = {"type": "sidecar", "command": CHAOS, "health": FAST_CHECKS}
    proxy = served(start_prism, plugin, backend="chaos", breaker=BREAKER | {"open_seconds": 0.5})
    for _ in range(5):
        proxy.call("kv", "do", UNAVAILABLE)
    with ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(lambda _: proxy.call("kv", "do", UNAVAILABLE), range(400)))
    found = [answer.json()["reason"] for answer in asked]
    probes = found.count("plugin_error")
    assert found.count("circuit_open") == 400 - probes
    # Each of the calls that came through was the one that opened it again.
    assert probes == proxy.metric("prism_breaker_changes_total", state="half_open")
    assert probes == proxy.metric("prism_breaker_changes_total", state="open") - 1
    assert proxy.metric("prism_breaker_refused_total") == 400 - probes


@pytest.fixture
def redis(start_server):
    return start_server(Redis)


def test_a_server_that_hangs(start_prism, redis):
    proxy = served(start_prism, {}, backend="redis", config={"url": redis.url()})
    assert proxy.call("kv", "set", {"key": "a", "value": 1}).status_code == 200
    redis.freeze()
    with ThreadPoolExecutor(5) as pool:
        answers = list(
            pool.map(
                lambda _: proxy.call("kv", "get", {"key": "a"}, prism_timeout="300ms"), range(5)
            )
        )
    assert reasons(answers) == {"deadline_exceeded"}
    assert breaker_of(proxy)["state"] == "open"
    assert proxy.ready()
    while proxy.metric("prism_breaker_changes_total", state="open") < 2:
        # It is tried again, and hangs still.
        answer = proxy.call("kv", "get", {"key": "a"}, prism_timeout="300ms")
        assert answer.json()["reason"] in ("circuit_open", "deadline_exceeded")
    redis.thaw()
    eventually(lambda: proxy.call("kv", "get", {"key": "a"}).status_code == 200)
    assert proxy.call("kv", "get", {"key": "a"}).status_code == 200
    assert breaker_of(proxy)["state"] == "closed"

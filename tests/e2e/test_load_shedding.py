"""A real proxy whose event loop is held up: what it refuses, and what it keeps."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
from prism_process import Proxy, eventually

import grpc
from prism.contract.messages import ExecuteRequest
from prism.grpc.protobuf import encode

BUSY = {"type": "in_process", "module": "busy_plugin:Busy"}


def config(**more):
    namespaces = [
        {"name": name, "backend": "busy", "plugin": BUSY, "priority": name}
        for name in ("low", "normal", "high")
    ]
    return {"namespaces": namespaces, "admin": {"without_token": "change"}} | more


@contextmanager
def held_up(proxy: Proxy):
    """Within it calls of high priority hold up the event loop, one after another."""
    over = threading.Event()
    statuses = []

    def work() -> None:
        while not over.is_set():
            answer = proxy.call("high", "work", {"seconds": 0.4})
            statuses.append(answer.status_code)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}


def refusal(proxy: Proxy, namespace: str, **headers: str) -> httpx.Response | None:
    answer = proxy.call(namespace, "work", **headers)
    shed = answer.status_code == 503 and answer.json()["reason"] == "overloaded_proxy"
    assert shed or answer.status_code == 200, answer.text
    return answer if shed else None


def shedding(proxy: Proxy) -> dict[str, object]:
    described = proxy.client.get(f"{proxy.admin}/admin/namespaces/low").json()
    return described["policies"]["shedding"]


def over_grpc(proxy: Proxy, namespace: str, priority: str) -> grpc.RpcError | None:
    with grpc.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
        execute = channel.unary_unary("/prism.plugin.BackendPlugin/Execute")
        request = encode(ExecuteRequest(operation="work"))
        metadata = [("prism-namespace", namespace), ("prism-priority", priority)]
        try:
            execute(request, timeout=60, metadata=metadata)
        except grpc.RpcError as error:
            return error
        return None


def test_the_less_important_is_refused_first(start_prism):
    proxy = start_prism(config(shedding={"loop_lag_seconds": 0.1}))
    with held_up(proxy):
        answer = eventually(lambda: refusal(proxy, "low"))
        assert answer.json()["detail"] == (
            "the proxy has more to do than it can, and refuses calls of low priority"
        )
        assert answer.json()["retryable"]
        assert 1 <= int(answer.headers["retry-after"]) <= 5
        eventually(lambda: refusal(proxy, "normal"))  # which is worse than low already
        assert refusal(proxy, "low")
        assert refusal(proxy, "high", prism_priority="low")
        assert refusal(proxy, "low", prism_priority="high")
        error = over_grpc(proxy, "high", "low")
        assert error is not None
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        trailers = dict(error.trailing_metadata())
        assert trailers["prism-reason"] == "overloaded_proxy"
        assert b"google.rpc.RetryInfo" in trailers["grpc-status-details-bin"]
        # What is important goes on, and so do those who look after it.
        assert refusal(proxy, "high") is None
        assert over_grpc(proxy, "high", "high") is None
        assert proxy.ready()
        assert proxy.client.get(f"{proxy.url}/readyz").status_code == 200
        assert proxy.client.get(f"{proxy.url}/healthz").status_code == 200
        assert str(shedding(proxy)["refusing"]).startswith("low")
    eventually(lambda: refusal(proxy, "low") is None and shedding(proxy)["refusing"] == "nothing")
    assert proxy.metric("prism_shedding_refused_total", namespace="low", priority="low") > 0
    assert proxy.metric("prism_shedding_refused_total", namespace="high", priority="high") == 0

    def told() -> list[str]:
        return [record["message"] for record in proxy.logged("are refused by priority")]

    # The log is written a moment later.
    last = "no calls are refused by priority any more: it has less to do"
    eventually(lambda: told()[-1] == last)
    said = told()
    assert said[0].startswith("calls are refused by priority (half of low): the event loop is")
    assert all(one != other for one, other in itertools.pairwise(said))


def test_memory_at_its_limit_refuses_all_calls_and_no_probe(start_prism):
    limit = 200 * 2**20
    proxy = start_prism(config(shedding={"loop_lag_seconds": None, "memory_bytes": limit}))
    assert proxy.resident() < 0.8 * limit
    enough = proxy.directory / "enough"
    params = {"size": limit, "until": str(enough)}
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(proxy.call, "high", "hold", params, prism_timeout="300s")
        eventually(lambda: refusal(proxy, "high"))
        assert refusal(proxy, "low")
        assert proxy.ready()
        assert proxy.client.get(f"{proxy.url}/readyz").status_code == 200
        assert shedding(proxy)["refusing"] == "low, normal, high"
        assert int(str(shedding(proxy)["memory_bytes"])) > limit
        enough.touch()
        assert holding.result().json() == {"held": limit}
    eventually(lambda: refusal(proxy, "low") is None)


def test_what_is_no_priority(start_prism):
    proxy = start_prism(config())
    answer = proxy.call("low", "work", prism_priority="urgent")
    assert answer.status_code == 400
    assert answer.json()["detail"] == "prism-priority must be high, normal or low, not 'urgent'"
    error = over_grpc(proxy, "low", "urgent")
    assert error is not None
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert proxy.call("low", "work", prism_priority="normal").status_code == 200


def test_it_is_configured_while_calls_run(start_prism):
    proxy = start_prism(config())
    assert (
        "shedding" not in proxy.client.get(f"{proxy.admin}/admin/namespaces/low").json()["policies"]
    )
    file = proxy.directory / "prism.yaml"
    file.write_text(
        file.read_text().replace('"admin"', '"shedding": {"loop_lag_seconds": 0.1}, "admin"')
    )
    outcome = proxy.client.post(f"{proxy.admin}/admin/config/apply", json={}).json()
    assert [(each["setting"], each["takes_effect"]) for each in outcome["settings"]] == [
        ("shedding", "now")
    ]
    with held_up(proxy):
        eventually(lambda: refusal(proxy, "low"))
    events = proxy.client.stream("GET", f"{proxy.admin}/admin/events?tail=100")
    with events as stream:
        for line in stream.iter_lines():
            if '"shedding"' in line and "calls are refused by priority (half of low)" in line:
                break

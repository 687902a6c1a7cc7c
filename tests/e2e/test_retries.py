"""Retries and hedging before a real plugin: one that crashes, one that stalls, one that refuses."""

import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from prism_process import SUPPORT, eventually
from stream_doors import grpc_stubs

import grpc

EVERY = 5
AT_ONCE = {"first_delay_seconds": 0.01, "max_delay_seconds": 0.01, "max_crashes": 0}
AFTER = 0.05


@pytest.fixture
def flaky(start_prism, tmp_path):
    """A proxy before the plugin, with ``more`` in its namespace; and what the plugin was asked."""
    file = tmp_path / "attempts"
    audit = tmp_path / "audit.jsonl"

    def start(**more):
        command = [sys.executable, str(SUPPORT / "flaky_plugin.py"), str(file), str(EVERY)]
        plugin = {"type": "sidecar", "command": command, "restart": AT_ONCE}
        namespace = {"name": "kv", "backend": "flaky", "plugin": plugin, **more}
        return start_prism({"namespaces": [namespace], "audit": {"file": str(audit)}})

    def made(name):
        """How often each id was asked for."""
        lines = [line.split() for line in file.read_text().splitlines()]
        return Counter(line[1] for line in lines if line[0] == name)

    start.made, start.audit = made, audit
    return start


def ask(proxy, operation, number):
    return proxy.call("kv", operation, {"id": f"id-{number}"})


def ask_many(proxy, operation, number, callers=1):
    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(lambda each: ask(proxy, operation, each), range(number)))


def attempts(answer):
    return int(answer.headers.get("prism-attempts", 1))


def lines(proxy, number):
    """The access log's lines for the calls; none before all of them are there."""
    found = [each for each in proxy.records if each["logger"] == "prism.access"]
    return found if len(found) == number else []


def policy(proxy, name):
    return proxy.client.get(f"{proxy.admin}/admin/namespaces/kv").json()["policies"][name]


def check_counts(proxy):
    """All is over, and nothing is held."""
    eventually(lambda: proxy.metric("prism_plugin_calls_open") == 0)
    assert proxy.metric("prism_requests_in_flight") == 0


def test_a_plugin_that_crashes_every_fifth_call(flaky):
    proxy = flaky(retries={"attempts": 10, "budget": 1.0})
    answers = ask_many(proxy, "crash", 20, callers=3)
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.json()["id"] for answer in answers] == [f"id-{number}" for number in range(20)]
    made = flaky.made("crash")
    for number, answer in enumerate(answers):
        # An attempt that a crash took away may not have come as far as to be written down.
        assert made[f"id-{number}"] <= attempts(answer)
    assert made.total() > 20
    again = sum(attempts(answer) - 1 for answer in answers)
    reasons = ("idempotent", "not_started", "refused", "unavailable")
    counted = {
        reason: proxy.metric("prism_request_retries_total", reason=reason) for reason in reasons
    }
    assert sum(counted.values()) == again
    assert counted["idempotent"] > 0
    eventually(lambda: sum(each.get("attempts", 1) - 1 for each in lines(proxy, 20)) == again)
    check_counts(proxy)


def test_a_write_that_may_have_run_is_never_repeated(flaky):
    proxy = flaky(retries={"attempts": 10, "budget": 1.0}, hedging={"after": AFTER, "budget": 1.0})
    for operation in ("crash_write", "stall_write"):
        answers = ask_many(proxy, operation, 20, callers=3)
        for number, answer in enumerate(answers):
            if answer.status_code == 200:
                assert flaky.made(operation)[f"id-{number}"] == 1
            else:
                assert answer.json()["reason"] == "plugin_crashed"
        assert set(flaky.made(operation).values()) == {1}
    assert proxy.metric("prism_hedges_total") == 0
    check_counts(proxy)


def test_a_plugin_that_stalls_at_every_fifth_call(flaky):
    proxy = flaky(hedging={"after": AFTER, "budget": 1.0})
    answers = ask_many(proxy, "stall", 30)
    assert {answer.status_code for answer in answers} == {200}
    assert {attempts(answer) for answer in answers} == {1, 2}
    made = flaky.made("stall")
    for number, answer in enumerate(answers):
        assert made[f"id-{number}"] == attempts(answer)
    sent = proxy.metric("prism_hedges_total")
    assert sent == sum(attempts(answer) - 1 for answer in answers)
    won, lost = proxy.metric("prism_hedges_won_total"), proxy.metric("prism_hedges_lost_total")
    # Of those that stalled, at least one was a first attempt; a slow machine hedges others, too.
    assert won >= 1
    assert won + lost == sent
    assert policy(proxy, "hedging")["sent"] == sent
    check_counts(proxy)  # the losers were cancelled, or they would never end
    eventually(lambda: sum(each.get("hedged", False) for each in lines(proxy, 30)) == sent)
    proxy.stop()
    records = [json.loads(line) for line in flaky.audit.read_text().splitlines()]
    audited = [record for record in records if record.get("operation") == "stall"]
    assert sum(record.get("attempts", 1) - 1 for record in audited) == sent
    assert {record.get("hedged") for record in audited} == {None, True}


def test_a_plugin_that_says_it_cannot_over_grpc(flaky):
    proxy = flaky(retries={"budget": 1.0})
    messages, services = grpc_stubs()
    with grpc.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
        stub = services.BackendPluginStub(channel)
        told = []
        for number in range(2 * EVERY):
            request = messages.ExecuteRequest(
                operation="refuse", params_json=json.dumps({"id": f"id-{number}"})
            )
            answer, call = stub.Execute.with_call(request, metadata=[("prism-namespace", "kv")])
            assert answer.success
            told.append(dict(call.trailing_metadata()).get("prism-attempts"))
    assert set(told) == {None, "2"}
    assert told.count("2") == proxy.metric("prism_request_retries_total", reason="unavailable")


def test_without_a_share_in_the_budget_few_are_repeated(flaky):
    """Whatever ``attempts`` allows, and however many call: one a second, and ten at first."""
    proxy = flaky(retries={"attempts": 10, "budget": 0.0})
    number = 30 * EVERY
    answers = ask_many(proxy, "refuse", number, callers=4)
    made = flaky.made("refuse").total()
    again = sum(attempts(answer) - 1 for answer in answers)
    assert made == number + again
    state = policy(proxy, "retries")
    failed = [answer for answer in answers if answer.status_code != 200]
    assert state["over_budget"] == len(failed) == proxy.metric("prism_retries_over_budget_total")
    assert {answer.json()["reason"] for answer in failed} <= {"plugin_error"}
    check_counts(proxy)

import os

import pytest
import trio
from msgspec.structs import replace

from prism.config.plugin_types import BalanceConfig
from prism.config.types import BreakerConfig
from prism.contract.messages import HealthCheckResponse, HealthStatus
from prism.contract.status import StatusCode
from prism.frontends.admin import Access, AdminToken, Right
from prism.frontends.admin.app import AdminRequest
from prism.frontends.admin.messages import Restarted
from prism.supervision.balance import Balance
from prism.supervision.replica_slot import ReplicaSlot, SharedSlot


async def test_plugins_are_listed_by_namespace(admin):
    plugins = (await admin.ask("GET", "/admin/plugins")).json["plugins"]
    assert [plugin["namespace"] for plugin in plugins] == ["kv", "other"]
    assert {plugin["state"] for plugin in plugins} == {"ready"}
    assert (await admin.ask("GET", "/admin/plugins/kv")).json["instance"] == "kv/1"


async def test_health(admin):
    answer = (await admin.ask("GET", "/admin/plugins/kv/health")).json
    assert answer["health"] == "HEALTHY"
    assert answer["state"] == "ready"


async def test_namespaces_are_listed_and_described(admin):
    listed = (await admin.ask("GET", "/admin/namespaces")).json["namespaces"]
    assert [namespace["namespace"] for namespace in listed] == ["kv", "other"]
    assert "get" in listed[0]["operations"]
    described = (await admin.ask("GET", "/admin/namespaces/kv")).json
    assert described["limits"]["max_in_flight"] == 1024
    assert described["plugin"]["state"] == "ready"
    operations = {item["name"]: item for item in described["operations"]}
    assert operations["get"]["idempotent"]


async def test_traffic_is_what_calls_have_come_to(admin, make_exchange):
    namespace = admin.proxy.router.find("kv")

    def count(target, name, operation, seconds, status):
        call = AdminRequest(make_exchange(), "/")
        call.target, call.namespace, call.operation, call.status = target, name, operation, status
        admin.proxy.metrics.observe(call, seconds)

    count(namespace, "kv", "get", 0.0004, StatusCode.OK)
    count(namespace, "kv", "get", 0.002, StatusCode.NOT_FOUND)
    count(namespace, "kv", "set", 31.0, StatusCode.OK)
    count(None, "nobody", "get", 0.0, StatusCode.NOT_FOUND)
    namespace.in_flight = 2
    answer = (await admin.ask("GET", "/admin/traffic")).json
    assert answer["pid"] == os.getpid()
    kv, other, unknown = answer["namespaces"]
    assert (
        kv.pop("policies")
        == other.pop("policies")
        == {"concurrency": {"limit": 1024, "refused": 0}}
    )
    assert kv == {
        "namespace": "kv",
        "ready": True,
        "calls": {"OK": 2, "NOT_FOUND": 1},
        "durations": [1, 0, 1, *[0] * 12, 1],
        "seconds": pytest.approx(31.0024),
        "in_flight": 2,
        "max_in_flight": 1024,
    }
    assert len(kv["durations"]) == len(answer["bounds"]) + 1
    assert other == {"namespace": "other", "ready": True, "max_in_flight": 1024}
    assert (unknown["namespace"], unknown["calls"]) == ("_unknown", {"NOT_FOUND": 1})


async def test_traffic_tells_how_many_replicas_take_calls(admin):
    namespace = admin.proxy.router.find("kv")
    instance = namespace.slot.current
    shared = SharedSlot("kv", Balance(BalanceConfig(), "", trio.current_time))
    for name in ("a", "b"):
        shared.join(ReplicaSlot("kv", name), "")
    shared.members[0].fill(instance)
    namespace.slot = shared
    kv = (await admin.ask("GET", "/admin/traffic")).json["namespaces"][0]
    assert (kv["ready"], kv["replicas"], kv["replicas_ready"]) == (True, 2, 1)


async def test_logs(admin):
    journal = admin.proxy.supervisor.journals["kv"]
    for number in range(3):
        journal.line("kv/1", 7, "stdout", "INFO", f"line {number}")
    answer = (await admin.ask("GET", "/admin/plugins/kv/logs?tail=2")).json
    assert [line["text"] for line in answer["lines"]] == ["line 1", "line 2"]
    assert answer["namespace"] == "kv"


async def test_strangers_learn_no_reasons_from_readyz(admin, tmp_path):
    admin.front.access.without_token = Right.PROBE
    assert (await admin.ask("GET", "/readyz")).json == {"status": "ready"}
    assert (await admin.ask("GET", "/metrics")).status == 403
    assert (await admin.ask("GET", "/admin/nowhere")).status == 403
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text("a-token-of-operators")
    admin.front.access = Access([AdminToken(file)], Right.PROBE)
    nowhere = await admin.ask("GET", "/admin/nowhere")
    assert nowhere.status == 401
    assert nowhere.headers["www-authenticate"] == 'Bearer realm="prism"'


async def test_reload_as_the_rfc_writes_it(admin):
    before = (await admin.ask("GET", "/admin/plugins/kv")).json
    asked = {"namespace": "kv", "version": "v1.3"}
    answer = await admin.ask("POST", "/admin/plugin/reload", asked)
    assert answer.status == 200
    receipt = answer.json
    assert receipt["outcome"] == "swapped"
    assert receipt["old"]["id"] == before["instance"]
    assert receipt["calls"]["lost"] == 0
    after = (await admin.ask("GET", "/admin/plugins/kv")).json
    assert after["instance"] == receipt["new"]["id"]
    assert after["configured_version"] == "v1.3"


async def test_reload_of_the_same_again(admin):
    receipt = (await admin.ask("POST", "/admin/plugin/reload", {"namespace": "kv"})).json
    assert receipt["outcome"] == "swapped"
    assert receipt["old"]["id"] != receipt["new"]["id"]


async def test_a_reload_that_comes_to_nothing_is_told_by_its_receipt(admin):
    asked = {"namespace": "kv", "version": "broken"}
    answer = await admin.ask("POST", "/admin/plugin/reload", asked)
    assert answer.status == 200
    assert answer.json["outcome"] == "rolled_back"
    assert "no_such_module" in answer.json["reason"]
    assert answer.json["new"]["configured_version"] == "broken"
    assert answer.json["new"]["version"] == "", "it never came to say one"
    assert (await admin.ask("GET", "/admin/plugins/kv")).json["state"] == "ready"


async def test_two_reloads_at_once(admin):
    answers = []

    async def reload() -> None:
        answers.append(await admin.ask("POST", "/admin/plugin/reload", {"namespace": "kv"}))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload)
        nursery.start_soon(reload)
    first, second = sorted(answers, key=lambda answer: answer.status)
    assert first.json["outcome"] == "swapped"
    assert second.status == 409
    assert second.json["reason"] == "operation_in_progress"
    assert second.json["retryable"]


@pytest.mark.parametrize(
    ("canary", "told"),
    [
        ("all", "canary: expected a share of the calls such as 10%, found 'all'"),
        ("150%", "canary: share must be above 0% and below 100%, and is 150%"),
        (0, "canary: share must be above 0% and below 100%, and is 0%"),
        ("-1%", "canary: share must be above 0% and below 100%, and is -1%"),
        (
            {"share": "10%", "max_seconds": 3},
            "canary: min_seconds (30) must be from 0 to max_seconds (3)",
        ),
        ({"share": "10%", "min_calls": 0}, "`$.canary.min_calls`"),
        ({}, "`share` - at `$.canary`"),
    ],
)
async def test_a_canary_that_makes_no_sense(admin, canary, told):
    asked = {"namespace": "kv", "canary": canary}
    answer = await admin.ask("POST", "/admin/plugin/reload", asked)
    assert answer.status == 400
    assert told in answer.json["detail"]


async def test_a_canary_is_tried_and_then_given_up_for_want_of_calls(admin):
    trial = {"share": "10%", "min_seconds": 0.1, "max_seconds": 0.1}
    asked = {"namespace": "kv", "canary": trial}
    receipt = (await admin.ask("POST", "/admin/plugin/reload", asked)).json
    assert receipt["outcome"] == "rolled_back"
    assert "only 0 of the 100 calls needed" in receipt["reason"]
    assert receipt["phases"]["canary"] > 0


async def test_readyz_names_a_plugin_that_is_degraded(admin):
    instance = admin.proxy.supervisor.slots["kv"].current
    for message, told in (("no backend", "degraded: no backend"), ("", "degraded")):
        instance.health = HealthCheckResponse(status=HealthStatus.DEGRADED, message=message)
        answer = await admin.ask("GET", "/readyz")
        assert (answer.status, answer.json["status"]) == (200, "ready")
        assert answer.json["namespaces"] == {"kv": told, "other": "ready"}


async def test_drain_then_restart(admin):
    drained = (await admin.ask("POST", "/admin/plugin/drain", {"namespace": "kv"})).json
    assert drained["outcome"] == "drained"
    assert (await admin.ask("GET", "/readyz")).json["namespaces"]["other"] == "ready"
    assert (await admin.ask("GET", "/readyz")).status == 503
    restarted = (await admin.ask("POST", "/admin/plugin/restart", {"namespace": "kv"})).json
    assert restarted["outcome"] == "swapped"
    assert (await admin.ask("GET", "/readyz")).status == 200


async def test_reset_starts_what_was_drained(admin):
    await admin.ask("POST", "/admin/plugin/drain", {"namespace": "kv"})
    with admin.proxy.supervisor.events.follow() as events, trio.fail_after(60):
        answer = await admin.ask("POST", "/admin/plugin/reset", {"namespace": "kv"})
        assert answer.status == 200
        assert answer.json["namespace"] == "kv"
        while (await events.__anext__()).state != "ready":
            pass


async def test_a_breaker_is_opened_and_closed_by_hand(admin):
    namespace = admin.proxy.router.find("kv")
    namespace.update(replace(namespace.config, breaker=BreakerConfig()))
    with admin.proxy.supervisor.events.follow() as events, trio.fail_after(60):
        for action, state in [("open", "open"), ("close", "closed"), ("auto", "closed")]:
            body = {"namespace": "kv", "action": action}
            told = (await admin.ask("POST", "/admin/breaker", body)).json
            assert (told["namespace"], told["breaker"]["state"]) == ("kv", state)
            described = (await admin.ask("GET", "/admin/namespaces/kv")).json
            assert described["policies"]["breaker"] == told["breaker"]
            event = await events.__anext__()
            assert (event.kind, event.namespace) == ("breaker", "kv")
            assert told["breaker"].get("by") == (None if action == "auto" else "anonymous")
        assert event.reason == "left to itself again, by anonymous"
        assert (await admin.ask("GET", "/readyz")).status == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            {"namespace": "other", "action": "open"},
            "namespace 'other' has no circuit breaker; `breaker: {}` in its configuration",
        ),
        ({"namespace": "kv", "action": "shut"}, "action"),
        ({"namespace": "kv"}, "action"),
    ],
)
async def test_what_no_breaker_does(admin, body, says):
    answer = await admin.ask("POST", "/admin/breaker", body)
    assert answer.status == 400
    assert says in answer.json["detail"]


async def test_a_canary_is_seen_and_stopped(admin):
    receipts = []
    trial = {"share": "10%", "min_calls": 50, "max_seconds": 500}

    async def reload():
        body = {"namespace": "kv", "canary": trial}
        receipts.append((await admin.ask("POST", "/admin/plugin/reload", body)).json)

    async with trio.open_nursery() as nursery:
        with admin.proxy.supervisor.events.follow() as events, trio.fail_after(60):
            nursery.start_soon(reload)
            while (await events.__anext__()).kind != "canary":
                pass
        stands = (await admin.ask("GET", "/admin/plugins/kv")).json["canary"]
        assert stands["calls"] == 0
        assert (stands["share"], stands["min_calls"], stands["max_seconds"]) == (0.1, 50, 500)
        stopped = await admin.ask("POST", "/admin/plugin/abort", {"namespace": "kv"})
        assert (stopped.status, stopped.json["outcome"]) == (200, "rolled_back")
    assert receipts == [stopped.json]
    again = await admin.ask("POST", "/admin/plugin/abort", {"namespace": "kv"})
    assert (again.status, again.json["code"]) == (400, "INVALID_ARGUMENT")
    assert "no reload of namespace 'kv' is under way" in again.json["detail"]


class Restart:
    """One that ``wait_over`` says the outcome of."""

    waited = False

    async def wait_over(self):
        self.waited = True
        return Restarted("kept", 7, "it exited with status 1")


async def test_a_rolling_restart_is_begun_and_waited_for(admin):
    refused = await admin.ask("POST", "/admin/restart", {})
    assert (refused.status, refused.json["code"]) == (400, "INVALID_ARGUMENT")
    restart = Restart()
    admin.proxy.restart = lambda: restart
    begun = await admin.ask("POST", "/admin/restart", {"wait": False})
    assert begun.json == {"outcome": "starting", "pid": os.getpid(), "reason": ""}
    assert not restart.waited
    over = await admin.ask("POST", "/admin/restart", {})
    assert over.json == {"outcome": "kept", "pid": 7, "reason": "it exited with status 1"}


async def test_drain_all_is_passed_on(admin):
    answer = await admin.ask("POST", "/admin/drain", {})
    assert (answer.status, answer.json) == (202, {"status": "draining"})
    assert admin.stops == [True]

"""Copies for the shadow: which calls, what is compared, and that nothing of it reaches the call."""

import json
import threading
from copy import copy
from functools import partial
from itertools import cycle

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from prism.calls.policies.shadow import Shadow
from prism.config.plugin_types import BalanceConfig
from prism.config.types import ShadowConfig
from prism.contract.errors import CallCancelled, PluginCrashed, PluginError
from prism.contract.messages import (
    ExecuteResponse,
    OperationAccess,
    OperationDeclaration,
)
from prism.contract.status import StatusCode
from prism.streams.tasks import TaskPool
from prism.supervision.balance import Balance
from prism.supervision.events import Journal
from prism.supervision.replica_slot import ReplicaSlot, SharedSlot

READ, WRITE = OperationAccess.READ, OperationAccess.WRITE
DECLARED = {
    each.name: each
    for each in (
        OperationDeclaration(
            name="get",
            idempotent=True,
            access=READ,
            result_schema='{"properties": {"a": {}, "at": {}, "secret": {}}}',
        ),
        OperationDeclaration(name="next", access=READ),
        OperationDeclaration(name="set", idempotent=True, access=WRITE),
        OperationDeclaration(name="watch", streaming=True, access=READ),
    )
}


async def answers(result, _request=None):
    await trio.lowlevel.checkpoint()
    return ExecuteResponse(success=True, result_json=json.dumps(result))


async def hangs(_request):
    await trio.sleep_forever()


async def fails(_request):
    return ExecuteResponse(error="no luck", error_code=StatusCode.INTERNAL)


async def crashes(_request):
    raise PluginCrashed("it is gone")


@pytest.fixture
async def shadowed(make_namespace):
    """A namespace with a shadow: ``shadowed(answer, shadow's answer, **config)`` gives both."""
    async with trio.open_nursery() as nursery:
        tasks = TaskPool(nursery)

        def make(answer, shadow_answer, **config):
            namespace, other = make_namespace(answer), make_namespace(shadow_answer)
            for each in (namespace, other):
                each.slot.current.operations = each.slot.operations = dict(DECLARED)
            namespace.shadow = other.slot
            other.slot.journal = Journal("kv:shadow")
            namespace.tasks = lambda: tasks
            configure(namespace, **config)
            return namespace

        yield make
        nursery.cancel_scope.cancel()


def configure(namespace, **config):
    shadow = ShadowConfig(**config) if config.pop("on", True) else None
    namespace.update(msgspec.structs.replace(namespace.config, shadow=shadow))


def shadow_of(namespace):
    return next(each for each in namespace.policies if isinstance(each, Shadow))


def outcomes(namespace):
    return {name: n for name, n in shadow_of(namespace).report().outcomes.items() if n}


def is_clean(namespace):
    policy, shadow = shadow_of(namespace), namespace.shadow.current
    return (
        not policy.open
        and not policy.account.used
        and not namespace.slot.current.leases
        and not namespace.slot.current.lost
        and (shadow is None or not (shadow.leases or shadow.lost))
    )


async def test_answers_are_compared_and_the_client_gets_the_plugins(shadowed, ask):
    namespace = shadowed(partial(answers, {"a": 1}), partial(answers, {"a": 2}))
    assert await ask(namespace) == b'{"a": 1}'
    await wait_all_tasks_blocked()
    assert outcomes(namespace) == {"different": 1}
    (group,) = shadow_of(namespace).report().differences
    assert (group.operation, group.kind, group.path) == ("get", "value", "$.a")
    assert is_clean(namespace)


async def test_the_shadow_is_told_that_it_is_one(shadowed, ask, make_call):
    namespace = shadowed(partial(answers, {}), partial(answers, {}))
    call = make_call(namespace, body=b'{"key": "a"}')
    call.principal, call.metadata = "ada", {"prism-shadow": "0", "x-tenant": "t"}
    call.proceed()
    await call.outcome()
    await wait_all_tasks_blocked()
    (real,) = namespace.slot.current.channel.requests
    (copy,) = namespace.shadow.current.channel.requests
    assert copy.metadata == real.metadata | {"prism-shadow": "1"}
    assert copy.metadata["prism-principal"] == "ada"
    assert copy.params_json == real.params_json == '{"key": "a"}'


async def test_reads_that_may_be_repeated_are_copied_and_others_if_named(shadowed, ask):
    namespace = shadowed(partial(answers, {}), partial(answers, {}))
    for operation in ("get", "next", "set"):
        await ask(namespace, operation)
    await wait_all_tasks_blocked()
    copied = namespace.shadow.current.channel.requests
    assert [each.operation for each in copied] == ["get"]
    configure(namespace, operations=["set"])
    for operation in ("get", "next", "set"):
        await ask(namespace, operation)
    await wait_all_tasks_blocked()
    assert [each.operation for each in copied] == ["get", "get", "set"]


@pytest.mark.parametrize(
    ("shadow", "outcome"),
    [(fails, "only_shadow_failed"), (crashes, "only_shadow_failed"), (hangs, None)],
)
async def test_what_a_shadow_does_is_nothing_to_the_call(shadowed, ask, shadow, outcome):
    namespace = shadowed(partial(answers, {"a": 1}), shadow)
    for _ in range(3):
        assert await ask(namespace) == b'{"a": 1}'
    await wait_all_tasks_blocked()
    assert outcomes(namespace) == ({outcome: 3} if outcome else {})
    assert namespace.slot.current.leases == 0  # the plugin can be drained, whatever hangs
    assert namespace.in_flight == 0


async def test_a_plugin_that_fails_where_its_shadow_does_not(shadowed, ask):
    namespace = shadowed(fails, partial(answers, {}))
    with pytest.raises(PluginError):
        await ask(namespace)
    await wait_all_tasks_blocked()
    assert outcomes(namespace) == {"only_plugin_failed": 1}
    assert is_clean(namespace)


async def test_a_copy_that_takes_longer_than_its_call_may_is_ended(shadowed, ask, autojump_clock):
    namespace = shadowed(partial(answers, {}), hangs)
    await ask(namespace, timeout=2.0)
    await trio.sleep(1.9)
    assert not outcomes(namespace)
    await trio.sleep(0.2)
    assert outcomes(namespace) == {"only_shadow_failed": 1}
    assert shadow_of(namespace).tally.recent[0].differences[0].new == "DEADLINE_EXCEEDED"
    assert is_clean(namespace)


async def test_a_call_that_ends_at_its_deadline_is_compared_as_that(shadowed, ask, autojump_clock):
    namespace = shadowed(hangs, partial(answers, {}))
    with pytest.raises(Exception, match="did not end"):
        await ask(namespace, timeout=2.0)
    await trio.sleep(1)
    assert outcomes(namespace) == {"only_plugin_failed": 1}
    assert is_clean(namespace)


async def test_a_call_that_is_cancelled_takes_its_copy_along(shadowed, make_call):
    namespace = shadowed(hangs, hangs)
    call = make_call(namespace)
    call.proceed()
    await wait_all_tasks_blocked()
    assert namespace.shadow.current.leases == 1
    call.end(CallCancelled("the client left"))
    assert shadow_of(namespace).dropped == {"cancelled": 1}
    await wait_all_tasks_blocked()
    assert is_clean(namespace)


async def test_copies_are_bounded_in_number(shadowed, ask):
    namespace = shadowed(partial(answers, {}), hangs, max_in_flight=2)
    for _ in range(5):
        await ask(namespace)
    await wait_all_tasks_blocked()
    assert len(namespace.shadow.current.channel.requests) == 2
    assert shadow_of(namespace).dropped == {"in_flight": 3}


async def test_copies_are_bounded_in_bytes(shadowed, ask):
    namespace = shadowed(partial(answers, {"a": "x" * 5000}), hangs, max_bytes=8192)
    body = b'{"key": "%s"}' % (b"k" * 2000)
    for _ in range(3):
        await ask(namespace, body=body)
    await wait_all_tasks_blocked()
    policy = shadow_of(namespace)
    assert policy.dropped["memory"] >= 1
    assert policy.account.used <= 8192 + 5000 + 4096  # one that is alone may be larger


async def test_without_an_instance_calls_are_counted_and_not_copied(shadowed, ask):
    namespace = shadowed(partial(answers, {}), partial(answers, {}))
    namespace.shadow.clear(namespace.shadow.current, "it has crashed")
    await ask(namespace)
    await wait_all_tasks_blocked()
    assert shadow_of(namespace).dropped == {"no_plugin": 1}
    assert is_clean(namespace)


async def test_an_operation_that_the_shadow_has_not_is_a_difference(shadowed, ask):
    namespace = shadowed(partial(answers, {}), partial(answers, {}))
    del namespace.shadow.current.operations["get"]
    await ask(namespace)
    await wait_all_tasks_blocked()
    assert outcomes(namespace) == {"only_shadow_failed": 1}
    assert is_clean(namespace)


async def test_refused_calls_are_not_copied(shadowed, ask):
    namespace = shadowed(partial(answers, {}), partial(answers, {}))
    with pytest.raises(Exception, match="no operation"):
        await ask(namespace, "nope")
    with pytest.raises(Exception, match="JSON"):
        await ask(namespace, body=b"{")
    await wait_all_tasks_blocked()
    assert not namespace.shadow.current.channel.requests
    assert not shadow_of(namespace).dropped


async def test_a_share_of_none_copies_nothing_and_keeps_what_was_seen(shadowed, ask):
    namespace = shadowed(partial(answers, {}), partial(answers, {}))
    await ask(namespace)
    await wait_all_tasks_blocked()
    configure(namespace, share=0.0)
    for _ in range(3):
        await ask(namespace)
    await wait_all_tasks_blocked()
    assert outcomes(namespace) == {"equal": 1}
    configure(namespace, share=1.0)
    await ask(namespace)
    await wait_all_tasks_blocked()
    assert outcomes(namespace) == {"equal": 2}


async def test_another_plugin_is_another_comparison(shadowed, ask):
    namespace = shadowed(partial(answers, {}), hangs)
    await ask(namespace)
    await wait_all_tasks_blocked()
    configure(namespace, config={"path": "other.db"})
    await wait_all_tasks_blocked()
    assert is_clean(namespace)
    assert shadow_of(namespace).report().copied == 0


async def test_taken_away_it_lets_go_of_its_copies(shadowed, ask):
    namespace = shadowed(partial(answers, {}), hangs)
    await ask(namespace)
    await wait_all_tasks_blocked()
    policy, instance = shadow_of(namespace), namespace.shadow.current
    configure(namespace, on=False)
    assert not any(isinstance(each, Shadow) for each in namespace.policies)
    await wait_all_tasks_blocked()
    assert not policy.open
    assert not policy._runs
    assert not instance.leases
    await ask(namespace)
    assert len(instance.channel.requests) == 1


async def test_when_its_tasks_end_so_do_the_copies(shadowed, ask):
    namespace = shadowed(partial(answers, {}), hangs)
    async with trio.open_nursery() as nursery:
        tasks = TaskPool(nursery)
        namespace.tasks = lambda: tasks
        await ask(namespace)
        await wait_all_tasks_blocked()
        assert namespace.shadow.current.leases == 1
        nursery.cancel_scope.cancel()
    assert is_clean(namespace)


async def test_ignored_parts_and_values_that_are_kept(shadowed, ask):
    ours, theirs = {"at": 1, "secret": "hunter2"}, {"at": 2, "secret": "other"}
    namespace = shadowed(partial(answers, ours), partial(answers, theirs), ignore=["at"])
    await ask(namespace)
    await wait_all_tasks_blocked()
    report = msgspec.json.encode(shadow_of(namespace).report()).decode()
    assert "$.secret" in report
    assert "hunter2" not in report
    assert "$.at" not in report
    configure(namespace, ignore=["at"], values="keep")
    await ask(namespace)
    await wait_all_tasks_blocked()
    assert "hunter2" in msgspec.json.encode(shadow_of(namespace).report()).decode()


async def test_the_first_difference_of_an_operation_is_told_once(shadowed, ask, caplog):
    namespace = shadowed(partial(answers, {"a": 1}), partial(answers, {"a": 2}))
    for _ in range(3):
        await ask(namespace)
    await wait_all_tasks_blocked()
    (event,) = namespace.shadow.journal.events.recent()
    assert (event.kind, event.namespace) == ("shadow", "kv:shadow")
    assert event.reason == "the first difference of get: value at $.a"
    assert outcomes(namespace) == {"different": 3}


async def test_each_replica_s_first_difference_is_told_once(shadowed, ask):
    namespace = shadowed(partial(answers, {"a": 1}), partial(answers, {"a": 2}))
    one = namespace.shadow.current
    two = copy(one)
    two.id = "kv:shadow/2/1"
    turns = cycle([0.0, 0.0, 0.9, 0.0])
    config = BalanceConfig(slow_start_seconds=0)
    balance = Balance(config, "", now=trio.current_time, rand=lambda: next(turns))
    slot = SharedSlot("kv:shadow", balance, namespace.shadow.journal)
    for instance in (one, two):
        member = ReplicaSlot("kv:shadow", instance.id, slot.journal)
        member.fill(instance)
        slot.join(member, "")
    namespace.shadow = slot
    for _ in range(6):
        await ask(namespace)
        await wait_all_tasks_blocked()
    told = [event.instance for event in namespace.shadow.journal.events.recent()]
    assert told == [one.id, two.id]
    assert outcomes(namespace) == {"different": 6}


@pytest.mark.parametrize(
    ("shadow", "status"),
    [
        (partial(answers, {}), StatusCode.OK),
        (fails, StatusCode.INTERNAL),
        (crashes, StatusCode.UNAVAILABLE),
        (hangs, StatusCode.DEADLINE_EXCEEDED),
    ],
)
async def test_its_instance_is_judged_by_what_became_of_the_copy(
    shadowed, ask, autojump_clock, shadow, status
):
    """For a canary of the shadow, and for its replicas."""

    async def slowly(request):
        await trio.sleep(0.5)
        return await shadow(request)

    taken = []

    class Noting:
        def take(self, seconds, status):
            taken.append((round(seconds, 3), status))

    namespace = shadowed(partial(answers, {}), slowly)
    namespace.shadow.current.sample = Noting()
    await ask(namespace, timeout=2.0)
    await trio.sleep(5)
    assert taken == [(2.0 if shadow is hangs else 0.5, status)]
    assert is_clean(namespace)


@pytest.mark.parametrize("values", ["redact", "keep"])
async def test_the_log_has_no_key_that_may_be_data(shadowed, ask, caplog, values):
    namespace = shadowed(
        partial(answers, {"a": 1, "alice": 1}), partial(answers, {"a": 1, "alice": 2}),
        values=values,
    )  # fmt: skip
    await ask(namespace)
    await wait_all_tasks_blocked()
    (event,) = namespace.shadow.journal.events.recent()
    assert event.reason == "the first difference of get: value at $.*2"
    assert "alice" not in caplog.text
    report = msgspec.json.encode(shadow_of(namespace).report()).decode()
    assert ("$.alice" in report) == (values == "keep")


async def test_copies_go_on_while_answers_are_compared(shadowed, ask, monkeypatch):
    is_asked, may_end = trio.Event(), threading.Event()
    inside = trio.lowlevel.current_trio_token()

    def slow(*_arguments, **_more):
        inside.run_sync_soon(is_asked.set)
        may_end.wait(60)
        return []

    monkeypatch.setattr("prism.calls.policies.shadow.compare", slow)
    large = {"a": "x" * 5000}
    namespace = shadowed(partial(answers, large), partial(answers, large | {"b": 1}))
    try:
        await ask(namespace)
        await is_asked.wait()
        await ask(namespace)
        await wait_all_tasks_blocked()
        assert len(namespace.shadow.current.channel.requests) == 2
        assert outcomes(namespace) == {}
    finally:
        may_end.set()


async def test_a_comparison_that_fails_keeps_nothing(shadowed, ask, monkeypatch, caplog):
    def fail(*_arguments, **_more):
        raise RuntimeError("a bug")

    monkeypatch.setattr("prism.calls.policies.shadow.compare", fail)
    namespace = shadowed(partial(answers, {"a": 1}), partial(answers, {"a": 1}))
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask, namespace)
    await wait_all_tasks_blocked()
    assert caplog.text.count("the answers to request id were not compared") == 3
    assert not outcomes(namespace)
    assert is_clean(namespace)


async def test_large_answers_are_compared_in_a_thread(shadowed, ask):
    large = {"a": ["x" * 100] * 1000}
    namespace = shadowed(partial(answers, large), partial(answers, {**large, "b": 1}))
    await ask(namespace)
    policy = shadow_of(namespace)
    with trio.fail_after(60):
        while policy.open:  # noqa: ASYNC110 - a thread tells nobody
            await trio.sleep(0.01)
    assert outcomes(namespace) == {"different": 1}


async def test_metrics_and_state(shadowed, ask):
    namespace = shadowed(partial(answers, {}), partial(answers, {}))
    await ask(namespace)
    await wait_all_tasks_blocked()
    policy = shadow_of(namespace)
    measured = {(each.name, labels): value for each, labels, value in policy.measure()}
    assert measured["prism_shadow_copies", ("equal",)] == 1
    assert measured["prism_shadow_bytes", ()] == 0
    assert policy.state()["equal"] == 1

"""Namespaces that come, go and change while others serve."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from msgspec.structs import replace as replace_struct
from supervised_plugin import eventually, leased_call, supervised

from prism.config.types import PluginConfig, TrustedKey, VerificationConfig
from prism.contract.errors import OperationInProgress, UnknownNamespace
from prism.supervision.lifecycle import State


@pytest.fixture
def named(in_process):
    def make(name, **plugin):
        return in_process(namespace=name, **plugin)

    return make


def actions(changes):
    return {change.namespace: change.action for change in changes}


async def test_the_plan_says_what_becomes_of_each(named):
    a, b, c, d = (named(name) for name in "abcd")
    async with supervised(a, b, c, d) as supervisor:
        wanted = [
            named("a"),
            named("b", drain_timeout_seconds=7),
            named("c", overlap=False),
            named("e"),
        ]
        expected = {"a": "stay", "b": "reload", "c": "restart", "d": "stop", "e": "start"}
        assert actions(supervisor.plan(wanted)) == expected


async def test_all_of_it_takes_effect_at_once(named):
    async with supervised(*(named(name) for name in "abcd")) as supervisor:
        before = {name: slot.current for name, slot in supervisor.slots.items()}
        seen = []

        def commit(added, removed):
            seen.append((sorted(added), removed))
            # The calls of this moment find the new instances already, and the old ones whole.
            assert added["e"].current is not None
            assert supervisor.slots["b"].current is not before["b"]

        wanted = [named("a"), named("b", drain_timeout_seconds=7), named("c", overlap=False)]
        applied = await supervisor.apply([*wanted, named("e")], commit)
        assert applied.applied
        assert seen == [(["e"], ["d"])]
        after = {name: slot.current for name, slot in supervisor.slots.items()}
        assert set(after) == {"a", "b", "c", "e"}
        assert after["a"] is before["a"]
        assert {after[name].generation for name in "bc"} == {2}
        assert sorted(receipt.namespace for receipt in applied.receipts) == ["b", "c"]
        assert [e.kind for e in supervisor.events.recent() if e.kind in ("added", "removed")] == [
            "removed",
            "added",
        ]
        with pytest.raises(UnknownNamespace):
            supervisor.status_of("d")


async def test_one_that_cannot_start_keeps_everything_as_it_was(named, make_spec):
    async with supervised(named("a"), named("b")) as supervisor:
        before = {name: slot.current for name, slot in supervisor.slots.items()}
        bad = make_spec(
            namespace="bad",
            command=[sys.executable, "-c", "import sys; print('no driver'); raise SystemExit(9)"],
        )
        applied = await supervisor.apply(
            [named("a", drain_timeout_seconds=7), named("new"), bad], pytest.fail
        )
        assert not applied.applied
        assert list(applied.failures) == ["bad"]
        assert applied.failures["bad"].endswith(
            "its process exited with status 9; the last that it wrote: no driver"
        )
        assert {name: slot.current for name, slot in supervisor.slots.items()} == before
        assert supervisor.status_of("a").state is State.READY
        assert supervisor.status_of("a").operation is None
        assert await leased_call(supervisor.slots["a"], "which") in (1, 2)


class Held:
    """The command of a plugin that starts once it is ``released``."""

    def __init__(self, program: str) -> None:
        self._gate = Path(program).with_name("gate")
        os.mkfifo(self._gate)
        waiting = f"read _ < {self._gate}; exec {sys.executable} {program}"
        self.command = ["/bin/sh", "-c", waiting]

    async def release(self) -> None:
        with trio.fail_after(60):
            await trio.to_thread.run_sync(self._gate.write_text, "go\n", abandon_on_cancel=True)


async def test_one_at_a_time(named, make_spec, program):
    held = Held(program)
    async with supervised(named("a")) as supervisor, trio.open_nursery() as nursery:
        slow = make_spec(namespace="slow", command=held.command)
        nursery.start_soon(supervisor.apply, [named("a", drain_timeout_seconds=7), slow])
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(OperationInProgress):
            await supervisor.apply([])
        with pytest.raises(OperationInProgress):
            await supervisor.reload("a")
        await held.release()
        await eventually(lambda: not supervisor.status_of("a").operation)


async def test_a_reload_meanwhile_of_one_that_stays_is_not_undone(named, make_spec, program):
    held = Held(program)
    a = named("a")
    a = replace(a, at_version=lambda version: replace_struct(a.plugin, version=version))
    async with supervised(a) as supervisor, trio.open_nursery() as nursery:
        slow = make_spec(namespace="slow", command=held.command)
        nursery.start_soon(supervisor.apply, [a, slow])
        await trio.testing.wait_all_tasks_blocked()
        assert (await supervisor.reload("a", "v2")).outcome == "swapped"
        await held.release()
        await eventually(lambda: "slow" in supervisor.slots)
        assert supervisor.status_of("a").configured_version == "v2"
        assert (await supervisor.restart("a")).outcome == "swapped"
        assert supervisor.status_of("a").configured_version == "v2"


async def test_what_was_begun_before_does_not_bring_an_old_policy_back(make_spec, program):
    held = Held(program)
    key = TrustedKey(name="revoked", key="A" * 43 + "=")

    def at_version(version: str) -> PluginConfig:
        return replace_struct(spec.plugin, command=held.command, version=version)

    spec = replace(
        make_spec(), verification=VerificationConfig(trusted_keys=[key]), at_version=at_version
    )
    revoked = replace(spec, verification=VerificationConfig())
    async with supervised(spec) as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.reload, "ns", "held")
        await eventually(lambda: supervisor.status_of("ns").operation)
        assert (await supervisor.apply([revoked])).applied
        await held.release()
        await eventually(lambda: not supervisor.status_of("ns").operation)
        assert supervisor.specs["ns"].plugin.version == "held"
        assert supervisor.specs["ns"].verification == revoked.verification


async def test_one_namespace_comes_and_goes(named):
    async with supervised() as supervisor:
        assert (await supervisor.apply([named("a")])).applied
        assert (await supervisor.apply([*supervisor.specs.values(), named("b")])).applied
        assert (await supervisor.apply([supervisor.specs["b"]])).applied
        assert set(supervisor.slots) == {"b"}


async def test_a_stop_while_a_configuration_is_applied(named, model, autojump_clock):
    applied = []
    async with supervised(named("a")) as supervisor:
        model.hang = "start"

        async def apply():
            applied.append(
                await supervisor.apply([named("a"), named("b", start_timeout_seconds=1000)])
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(apply)
            await trio.testing.wait_all_tasks_blocked()
            supervisor.stop()
    assert applied[0].failures == {"b": "the proxy is stopping"}
    assert trio.current_time() < 100


async def test_one_that_is_gone_again_before_the_others_are_ready(named, make_spec, model):
    async with supervised(make_spec(namespace="a"), named("b")) as supervisor:
        model.hang = "start"
        applied = []
        quick = make_spec(namespace="a", drain_timeout_seconds=7)
        slow = make_spec({"slow": True}, namespace="c", start_timeout_seconds=3)

        async def apply():
            applied.append(await supervisor.apply([quick, named("b"), slow]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(apply)
            candidate = await eventually(
                lambda: [
                    g
                    for g in supervisor.status_of("a").generations
                    if g.id == "a/2" and g.state is State.READY
                ]
            )
            os.kill(candidate[0].pid, signal.SIGKILL)
        assert set(applied[0].failures) == {"a", "c"}
        assert "SIGKILL" in applied[0].failures["a"]
        assert supervisor.slots["a"].current.id == "a/1"


async def test_no_change_waits_for_a_shadow_or_fails_with_it(named):
    """Whether it comes up is nothing to the namespaces, neither when it is new nor changed."""
    a = named("a")
    nothing = PluginConfig(type="in_process", module="a_model:Nothing")
    broken = replace(named("a:shadow"), shadow_of="a", plugin=nothing)
    async with supervised(a) as supervisor:
        wanted = [named("a", drain_timeout_seconds=7), broken]
        assert actions(supervisor.plan(wanted)) == {"a": "reload", "a:shadow": "start"}
        assert (await supervisor.apply(wanted)).applied
        assert supervisor.slots["a"].current.generation == 2
        assert supervisor.slots["a:shadow"].current is None
        good = replace(named("a:shadow"), shadow_of="a")
        assert actions(supervisor.plan([wanted[0], good])) == {"a": "stay", "a:shadow": "restart"}
        assert (await supervisor.apply([wanted[0], good])).applied
        await eventually(lambda: supervisor.slots["a:shadow"].current is not None)
        assert supervisor.slots["a"].current.generation == 2


async def test_the_proxy_does_not_wait_for_the_start_of_a_shadow(named):
    silent = replace(
        named("a:shadow"),
        shadow_of="a",
        plugin=PluginConfig(type="sidecar", command=["sleep", "600"], start_timeout_seconds=600),
    )
    async with supervised(named("a"), silent) as supervisor:
        assert supervisor.slots["a"].current is not None
        assert supervisor.slots["a:shadow"].current is None

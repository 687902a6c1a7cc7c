"""The configuration in use is changed as one, or not at all, while plugins run."""

import logging
import os
from contextlib import asynccontextmanager

import pytest
import trio
from msgspec.structs import replace

from prism.calls.namespace import Namespace
from prism.calls.router import Router
from prism.config import LoadedConfig
from prism.config.errors import ConfigError, ConfigProblem
from prism.config.types import (
    AdminConfig,
    CataloguePlugin,
    CatalogueVersion,
    Config,
    ListenConfig,
    LogConfig,
    NamespaceConfig,
    NamespaceLimits,
    PluginConfig,
    TrustedKey,
    VerificationConfig,
)
from prism.contract.errors import InvalidRequest, OperationInProgress, UnknownNamespace
from prism.control.live_config import InvalidConfig, LiveConfig
from prism.control.plan import SettingChange, instance_specs
from prism.secrets import Secrets
from prism.supervision.supervisor import Supervisor

SQLITE = "prism_plugins.sqlite:SQLitePlugin"


def namespace(name, **changes) -> NamespaceConfig:
    fields = {"name": name, "backend": "sqlite", "config": {"path": ":memory:"}}
    return NamespaceConfig(**fields | changes)


def catalogue(*versions) -> list[CataloguePlugin]:
    named = {version: CatalogueVersion() for version in versions}
    return [CataloguePlugin(name="kv", type="in_process", module=SQLITE, versions=named)]


def versioned(version) -> NamespaceConfig:
    return namespace("kv", plugin=PluginConfig(name="kv", version=version))


class File:
    """The configuration file, as ``load`` reads it."""

    def __init__(self, config) -> None:
        self.content = config
        self.warnings = ()

    def __call__(self) -> LoadedConfig:
        if isinstance(self.content, Exception):
            raise self.content
        return LoadedConfig(self.content, self.warnings, "prism.yaml")


@asynccontextmanager
async def running(config):
    """(live, file, router, supervisor) of a proxy that runs ``config``."""
    supervisor = Supervisor(instance_specs(config, Secrets()))
    router = Router(Namespace.from_config(n, supervisor.slots[n.name]) for n in config.namespaces)
    file = File(config)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        try:
            yield LiveConfig(config, router, supervisor, file), file, router, supervisor
        finally:
            supervisor.stop()


def actions(changes) -> dict[str, str]:
    return {change.namespace: change.action for change in changes}


async def test_the_plan_and_then_the_change():
    config = Config(namespaces=[namespace("a"), namespace("b"), namespace("c"), namespace("d")])
    async with running(config) as (live, file, router, supervisor):
        before = {name: slot.current for name, slot in supervisor.slots.items()}
        file.content = Config(
            namespaces=[
                namespace("a"),
                namespace("b", limits=NamespaceLimits(max_in_flight=3), description="few"),
                namespace("c", config={"path": ":memory:", "busy_timeout_ms": 2000}),
                namespace("e"),
            ]
        )
        expected = {"a": "stay", "b": "update", "c": "reload", "d": "stop", "e": "start"}
        assert actions((await live.plan()).changes) == expected
        assert live.generation == 1
        assert set(supervisor.slots) == set("abcd")

        outcome = await live.apply()
        assert outcome.applied
        assert outcome.generation == live.generation == 2
        assert actions(outcome.changes) == expected
        assert [receipt.namespace for receipt in outcome.receipts] == ["c"]
        assert [n.name for n in router.namespaces()] == list("abce")
        assert supervisor.slots["a"].current is before["a"]
        assert supervisor.slots["b"].current is before["b"]
        assert supervisor.slots["c"].current is not before["c"]
        assert router.find("b").limits.max_in_flight == 3
        assert router.find("b").config.description == "few"
        with pytest.raises(UnknownNamespace):
            router.find("d")
        assert actions((await live.plan()).changes) == dict.fromkeys("abce", "stay")


async def test_what_has_not_changed_restarts_nothing():
    async with running(Config(namespaces=[namespace("a")])) as (live, _file, router, supervisor):
        instance, entry = supervisor.slots["a"].current, router.find("a")
        outcome = await live.apply()
        assert (outcome.applied, actions(outcome.changes)) == (True, {"a": "stay"})
        assert supervisor.slots["a"].current is instance
        assert router.find("a") is entry


async def test_a_plugin_that_does_not_start_keeps_everything_as_it_was(caplog):
    async with running(Config(namespaces=[namespace("a")])) as (live, file, router, supervisor):
        instance = supervisor.slots["a"].current
        absent = PluginConfig(type="in_process", module="no_such_module:Plugin")
        file.content = Config(
            namespaces=[
                namespace("a", limits=NamespaceLimits(max_in_flight=3)),
                namespace("new"),
                namespace("bad", plugin=absent),
            ]
        )
        outcome = await live.apply()
        assert not outcome.applied
        assert list(outcome.failures) == ["bad"]
        assert "no_such_module" in outcome.failures["bad"]
        assert "nothing has changed" in caplog.text
        assert (live.generation, live.settled) == (1, False)
        assert [n.name for n in router.namespaces()] == ["a"]
        assert supervisor.slots["a"].current is instance
        assert router.find("a").limits.max_in_flight == NamespaceLimits().max_in_flight

        file.content = replace(file.content, namespaces=file.content.namespaces[:2])
        assert (await live.apply()).applied
        assert (live.generation, live.settled) == (2, True)


async def test_how_it_went_is_noted_though_who_asked_has_left(caplog, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    command = ["/bin/sh", "-c", f"read _ < {gate}; exit 9"]
    bad = namespace("bad", plugin=PluginConfig(type="sidecar", command=command))
    async with running(Config(namespaces=[namespace("a")])) as (live, file, _router, _supervisor):
        file.content = Config(namespaces=[namespace("a"), bad])
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(live.apply)
                opened = await trio.to_thread.run_sync(gate.open, "w", abandon_on_cancel=True)
                nursery.cancel_scope.cancel()
            assert live.settled
            opened.close()
            while live.settled:  # noqa: ASYNC110 - the plugin is another process
                await trio.sleep(0.01)
        assert "bad: plugin 'sqlite'" in caplog.text
        assert "nothing has changed" in caplog.text


async def test_a_file_that_is_wrong_changes_nothing_and_says_where():
    async with running(Config(namespaces=[namespace("a")])) as (live, file, _router, supervisor):
        file.content = ConfigError([ConfigProblem("prism.yaml", 3, 5, "listen.port", "no")])
        with pytest.raises(InvalidConfig, match=r"prism\.yaml:3:5: listen\.port: no"):
            await live.plan()
        assert live.settled
        with pytest.raises(InvalidConfig):
            await live.apply()
        assert not live.settled
        assert supervisor.slots["a"].current is not None


async def test_without_a_file_there_is_nothing_to_apply():
    supervisor = Supervisor()
    live = LiveConfig(Config(), Router(), supervisor)
    assert not live.has_file
    with pytest.raises(InvalidRequest, match="prism serve --config FILE"):
        await live.apply()


async def test_settings_of_the_process(caplog):
    async with running(Config()) as (live, file, _router, _supervisor):
        file.content = Config(
            listen=ListenConfig(port=1),
            admin=AdminConfig(without_token="probe"),
            log=LogConfig(level="warning", format="json"),
            handover_timeout_seconds=7,
        )
        level = logging.getLogger().level
        try:
            outcome = await live.apply()
            assert logging.getLogger().level == logging.WARNING
        finally:
            logging.getLogger().setLevel(level)
        assert outcome.settings == [
            SettingChange("listen.port", "at restart", 50051, 1),
            SettingChange("admin.without_token", "at restart", None, "probe"),
            SettingChange("log.level", "now", "info", "warning"),
            SettingChange("log.format", "at restart", "auto", "json"),
            SettingChange("handover_timeout_seconds", "now", 60.0, 7),
        ]
        assert "listen.port, admin.without_token, log.format changed" in caplog.text
        assert live.current.listen.port == ListenConfig().port
        assert live.current.handover_timeout_seconds == 7
        waiting = [change.setting for change in (await live.plan()).settings]
        assert waiting == ["listen.port", "admin.without_token", "log.format"]


async def test_a_plugin_that_may_not_run_twice_and_does_not_come_up_is_tried_again(caplog):
    alone = PluginConfig(type="in_process", module=SQLITE, overlap=False)
    config = Config(namespaces=[namespace("a", plugin=alone)])
    async with running(config) as (live, file, _router, supervisor):
        changed = namespace("a", plugin=alone, config={"path": "/no/such/directory/a.db"})
        warning = ConfigProblem("prism.yaml", 1, 2, "a", "odd")
        file.content = Config(namespaces=[changed])
        file.warnings = (warning,)
        for _ in range(2):
            assert actions((await live.plan()).changes) == {"a": "restart"}
            outcome = await live.apply()
            (receipt,) = outcome.receipts
            assert (outcome.applied, receipt.outcome) == (True, "rolled_back")
            assert supervisor.slots["a"].current is not None
        assert "namespace a runs as before the change: " in caplog.text
        assert "prism.yaml:1:2: a: odd" in caplog.text
        file.content = Config(namespaces=[namespace("a", plugin=alone)])
        assert actions((await live.apply()).changes) == {"a": "stay"}


async def test_a_version_that_a_reload_chose_stays_until_its_entry_changes():
    config = Config(namespaces=[versioned("v1")], plugins=catalogue("v1", "v2"))
    async with running(config) as (live, file, _router, supervisor):
        await supervisor.reload("kv", "v2")
        chosen = supervisor.slots["kv"].current
        (change,) = (await live.plan()).changes
        assert change.action == "stay"
        assert change.note == "runs v2, which a reload asked for; the file says v1"
        file.content = replace(config, plugins=catalogue("v1", "v2", "v3"))
        assert (await live.apply()).applied
        assert supervisor.slots["kv"].current is chosen

        # The catalogue is the new one for what comes.
        assert (await supervisor.reload("kv", "v3")).outcome == "swapped"
        file.content = replace(file.content, namespaces=[versioned("v2")])
        outcome = await live.apply()
        assert actions(outcome.changes) == {"kv": "reload"}
        assert supervisor.specs["kv"].plugin.version == "v2"


async def test_a_trusted_key_more_restarts_nothing():
    config = Config(namespaces=[namespace("a")])
    async with running(config) as (live, file, _router, supervisor):
        instance = supervisor.slots["a"].current
        key = TrustedKey(name="ci", key="A" * 43 + "=")
        file.content = replace(config, verification=VerificationConfig(trusted_keys=[key]))
        outcome = await live.apply()
        assert actions(outcome.changes) == {"a": "stay"}
        assert [change.takes_effect for change in outcome.settings] == ["now"]
        assert supervisor.slots["a"].current is instance
        assert supervisor.specs["a"].verification.trusted_keys == [key]


async def test_not_while_a_plugin_that_would_change_is_reloaded():
    config = Config(namespaces=[namespace("a")])
    async with running(config) as (live, file, _router, supervisor):
        file.content = Config()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.reload, "a")
            await trio.testing.wait_all_tasks_blocked(0)
            with pytest.raises(OperationInProgress):
                await live.apply()
        assert live.settled
        assert (await live.apply()).applied


async def test_two_at_once():
    config = Config(namespaces=[namespace("a")])
    async with running(config) as (live, file, _router, _supervisor):
        file.content = Config(namespaces=[namespace("a"), namespace("b")])
        ended = []

        async def apply():
            try:
                ended.append((await live.apply()).applied)
            except OperationInProgress:
                ended.append("in progress")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(apply)
            nursery.start_soon(apply)
        assert ended.count(True) >= 1
        assert live.generation == 1 + ended.count(True)

"""What a plugin declares, it has; what it does not declare, it has not."""

import importlib

import pytest

from prism.sdk import PluginError, StatusCode
from tests.compliance.caller import Caller, check_schema, plugin_class, refused
from tests.compliance.groups import GROUPS
from tests.compliance.subjects import SUBJECTS, Subject


async def test_the_groups_declared_are_those_tested(plugin: Caller, subject: Subject) -> None:
    assert plugin.groups == subject.groups
    assert set(subject.groups) <= set(GROUPS)


async def test_all_operations_of_a_declared_group_are_there(
    plugin: Caller, subject: Subject
) -> None:
    for group in subject.groups:
        assert GROUPS[group] <= set(plugin.operations), group


async def test_what_is_not_declared_is_absent(plugin: Caller, subject: Subject) -> None:
    declared = frozenset().union(*(GROUPS[group] for group in subject.groups))
    for group in set(GROUPS) - subject.groups - {"kv_versions"}:  # which has none of its own
        assert not GROUPS[group] <= set(plugin.operations), group
    absent = frozenset().union(*GROUPS.values()) - declared - subject.own
    for operation in sorted(absent):
        assert operation not in plugin.operations
        with refused(StatusCode.UNIMPLEMENTED):
            await plugin.call(operation)
    with refused(StatusCode.UNIMPLEMENTED):
        await plugin.call("no_such_operation")


async def test_without_versions_they_are_refused(plugin: Caller, subject: Subject) -> None:
    if "key_value" not in subject.groups or "kv_versions" in subject.groups:
        return
    await plugin.call("set", key="a", value=1)
    assert "version" not in await plugin.call("get", key="a")
    with refused(StatusCode.INVALID_ARGUMENT):
        await plugin.call("set", key="a", value=2, if_version="1")
    with refused(StatusCode.INVALID_ARGUMENT):
        await plugin.call("delete", key="a", if_version="1")
    assert (await plugin.call("get", key="a"))["value"] == 1


async def test_every_operation_says_what_it_takes_and_gives(plugin: Caller) -> None:
    for name, declared in plugin.operations.items():
        assert declared.description, name
        assert declared.access, name
        assert declared.params_schema, name
        assert declared.result_schema, name
        assert bool(declared.stream_result_schema) is declared.also_streaming, name
        for field in ("params", "result", "stream_params", "stream_result"):
            check_schema(getattr(declared, f"{field}_schema"))


async def test_a_call_of_the_wrong_kind_is_refused(plugin: Caller) -> None:
    for name, declared in plugin.operations.items():
        if declared.streaming:
            with refused(StatusCode.UNIMPLEMENTED):
                await plugin.call(name)
        elif not declared.also_streaming:
            with pytest.raises(PluginError) as raised:
                await plugin.list(name)
            assert raised.value.status is StatusCode.UNIMPLEMENTED, name


@pytest.mark.parametrize("one", SUBJECTS, ids=lambda one: one.name)
def test_deviations_are_of_tests_that_there_are(one: Subject) -> None:
    modules = [importlib.import_module(f"tests.compliance.test_{group}") for group in GROUPS]
    named = {name for module in modules for name in vars(module)}
    assert set(one.deviations) <= named
    assert plugin_class(one).groups == tuple(sorted(one.groups))

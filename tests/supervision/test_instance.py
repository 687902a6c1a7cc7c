"""An instance's leases and counters, and what makes specs equal."""

from dataclasses import replace

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from prism.contract.errors import (
    CallCancelled,
    DeadlineExceeded,
    Draining,
    Overloaded,
    PluginCrashed,
    PluginError,
    PluginMisbehaved,
    PluginUnavailable,
    UnknownVersion,
)
from prism.contract.status import StatusCode
from prism.supervision.instance import Instance


def instance(**facts):
    return Instance("ns", 7, "p", "1", channel=None, operations={}, **facts)


ENDINGS = [
    (None, "finished"),
    (PluginError(StatusCode.INTERNAL, "its own answer"), "finished"),
    (Overloaded("full"), "refused"),
    (PluginUnavailable("gone"), "refused"),
    (CallCancelled("the client left"), "cancelled"),
    (DeadlineExceeded("too late"), "cancelled"),
    (Draining("too long"), "cancelled"),
    (PluginCrashed("gone"), "failed"),
    (PluginMisbehaved("garbage"), "failed"),
]


@given(st.lists(st.sampled_from(ENDINGS), max_size=30), st.integers(0, 5))
def test_every_lease_is_accounted_for(endings, held):
    one = instance()
    for _ in range(len(endings) + held):
        one.acquire()
    for error, _ in endings:
        one.release(error)
    for counter in ("finished", "refused", "cancelled", "failed"):
        expected = sum(counted == counter for _, counted in endings)
        assert getattr(one, counter) == expected
    assert (one.opened, one.leases, one.lost) == (len(endings) + held, held, 0)


async def test_the_last_lease_wakes_those_who_wait_for_none(autojump_clock):
    one = instance()
    await one.wait_no_leases()
    one.acquire()
    one.acquire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.wait_no_leases)
        await trio.testing.wait_all_tasks_blocked()
        one.release()
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        one.release()


def test_its_id_names_the_namespace_and_the_generation():
    assert instance().id == "ns/7"
    assert replace(instance(), generation=8).id == "ns/8"
    assert replace(instance(), replica_name="10.0.0.1:80").id == "ns/10.0.0.1:80/7"


def test_specs_are_equal_when_an_instance_could_serve_for_both(make_spec):
    spec = make_spec()
    assert spec == replace(spec, at_version=lambda _version: spec.plugin)
    assert spec != make_spec({"other": "configuration"})
    assert spec != make_spec(drain_timeout_seconds=7)


@pytest.mark.parametrize(
    ("plugin", "dials_in", "may_overlap"),
    [
        ({}, False, True),
        ({"socket": "/run/a.sock"}, True, True),
        ({"socket": "/run/a.sock", "dial": True}, False, True),
        ({"overlap": False}, False, False),
    ],
)
def test_what_a_spec_says_of_its_plugin(make_spec, plugin, dials_in, may_overlap):
    spec = make_spec(**plugin)
    assert (spec.dials_in, spec.may_overlap) == (dials_in, may_overlap)
    assert spec.label == "plugin 'small'"
    with pytest.raises(UnknownVersion, match="not from the catalogue"):
        spec.at_version("v2")

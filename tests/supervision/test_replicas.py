"""Replicas as plugins in this process: several of one model, on a mock clock."""

from dataclasses import replace as replace_spec

import pytest
import trio
import trio.testing
from supervised_plugin import eventually, numbers, supervised

from prism.config.types import SecretsConfig
from prism.contract.errors import PluginUnavailable
from prism.observability.collectors import supervision_metrics
from prism.secrets import Secrets
from prism.streams.errors import LaunchError
from prism.supervision.replicas import MAX_ADDRESSES, look_up, replica_specs
from prism.supervision.status import NamespaceStatus
from prism.supervision.supervisor import Supervisor


async def test_each_replica_is_a_plugin_of_its_own(several, model, autojump_clock):
    async with supervised(several()) as supervisor:
        slot = supervisor.slots["ns"]
        assert len(await numbers(slot)) == 3
        status = supervisor.status_of("ns")
        assert [one.name for one in status.replicas] == ["1", "2", "3"]
        assert [one.instance for one in status.replicas] == ["ns/1/1", "ns/2/1", "ns/3/1"]
        assert {one.state for one in status.replicas} == {"ready"}
        assert (status.state, status.reason) == ("ready", "")
        assert status.instance == slot.current.id
        assert sum(one.share for one in status.replicas) == pytest.approx(1)


async def test_one_that_leaves_is_replaced_and_the_others_serve(several, model, autojump_clock):
    async with supervised(several()) as supervisor:
        slot = supervisor.slots["ns"]
        group = supervisor._keepers["ns"]
        first = group.members["1"].current.instance
        group.members["1"].current.retire("it is tired")
        assert slot.current is not first
        assert slot.choose() is not first
        assert not slot.still_serves(first.id)
        status = supervisor.status_of("ns")
        assert (status.state, status.reason) == ("ready", "2 of 3 replicas serve")
        assert status.replicas[0].instance is None
        await eventually(lambda: group.members["1"].current)
        assert supervisor.status_of("ns").replicas[0].instance == "ns/1/2"


async def test_ready_with_those_that_can_start(several, model, autojump_clock):
    model.failures = 1
    async with supervised(several()) as supervisor:
        status = supervisor.status_of("ns")
        assert sum(one.instance is not None for one in status.replicas) >= 2
        assert status.state == "ready"


async def test_what_is_said_when_none_is_there(several, model, autojump_clock):
    model.failures = 100
    async with supervised(several(2)) as supervisor:
        slot = supervisor.slots["ns"]
        assert not slot.is_ready
        assert "no backend" in slot.absence
        with pytest.raises(PluginUnavailable) as caught:
            slot.choose()
        assert caught.value.retry_after is not None
        status = supervisor.status_of("ns")
        assert (status.instance, len(status.replicas)) == (None, 2)
        assert status.retry_in is not None


async def test_calls_wait_for_the_first_that_comes_back(several, model, autojump_clock):
    async with supervised(several(2)) as supervisor:
        slot, group = supervisor.slots["ns"], supervisor._keepers["ns"]
        changes = []
        slot.on_change = lambda: changes.append(slot.is_ready)
        await trio.sleep(1)
        for member in group.members.values():
            member.current.retire("all at once")
        assert (slot.is_ready, slot.expected) == (False, True)
        await slot.wait_filled()
        assert slot.is_ready
        await eventually(lambda: len(slot.instances()) == 2)
        assert changes == [False, True]


async def test_reset_after_too_many_crashes(several, model, autojump_clock):
    async with supervised(several(2)) as supervisor:
        group = supervisor._keepers["ns"]
        for member in group.members.values():
            member.pause("it crashed too often")
            member.current.retire("it crashed too often")
        await eventually(lambda: not group.generations)
        assert group.paused
        assert not supervisor.slots["ns"].expected
        status = supervisor.reset("ns")
        assert isinstance(status, NamespaceStatus)
        await eventually(lambda: len(supervisor.slots["ns"].instances()) == 2)


async def test_those_that_are_to_come_are_waited_for_though_others_serve(
    several, model, autojump_clock, monkeypatch
):
    async def start(self):
        if self.number == 3:
            raise ValueError("no backend")
        await trio.sleep(5)

    async with supervised(several(2)) as supervisor:
        monkeypatch.setattr(model, "start", start)
        group = supervisor._keepers["ns"]
        specs = replica_specs(several(4))
        coming = [group.make_member(specs[name]) for name in "34"]
        for member in coming:
            group.begin(member)
        await group.wait_attempted(coming)
        # Which of the two is the third that starts, is chance.
        assert sorted(member.current is None for member in coming) == [False, True]
        for member in coming:
            member.stop()


# -- who they are ---------------------------------------------------------------


def test_the_specs_of_replicas(make_spec):
    processes = replica_specs(make_spec(processes=2))
    assert list(processes) == ["1", "2"]
    assert (processes["2"].replica, processes["2"].plugin.processes) == ("2", 1)
    endpoints = ["a:1", {"address": "[::1]:2", "zone": "x"}]
    listed = replica_specs(make_spec(type="grpc", endpoint=endpoints))
    assert [(name, one.plugin.endpoint, one.zone) for name, one in listed.items()] == [
        ("a:1", "a:1", ""),
        ("[::1]:2", "[::1]:2", "x"),
    ]
    urls = replica_specs(make_spec(type="websocket", endpoint=["wss://a/x", "b:80"]))
    assert list(urls) == ["a:443", "b:80"]
    spec = make_spec(type="remote", endpoint="a.example:1", resolve="all", resolve_seconds=7)
    assert replica_specs(spec) == {}
    found = replica_specs(spec, ["10.0.0.1", "::1"])
    assert [(name, one.address, one.plugin.endpoint) for name, one in found.items()] == [
        ("10.0.0.1:1", "10.0.0.1", "a.example:1"),
        ("[::1]:1", "::1", "a.example:1"),
    ]


class Names(trio.abc.HostnameResolver):
    def __init__(self, *addresses):
        self.addresses = addresses

    async def getaddrinfo(self, host, port, *_args, **_more):
        await trio.lowlevel.checkpoint()
        if isinstance(self.addresses[0], OSError):
            raise self.addresses[0]
        return [(0, 0, 0, "", (one, port)) for one in self.addresses]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


async def test_addresses_are_sorted_each_once_and_not_without_end():
    trio.socket.set_custom_hostname_resolver(Names("10.0.0.2", "10.0.0.1", "10.0.0.2"))
    assert await look_up("a.example", 1) == ["10.0.0.1", "10.0.0.2"]
    many = [f"10.0.{number // 256}.{number % 256}" for number in range(2 * MAX_ADDRESSES)]
    trio.socket.set_custom_hostname_resolver(Names(*many))
    assert len(await look_up("a.example", 1)) == MAX_ADDRESSES


async def test_a_name_without_addresses():
    trio.socket.set_custom_hostname_resolver(Names(OSError(2, "no such name")))
    with pytest.raises(LaunchError, match=r"no address of a\.example is known: no such name"):
        await look_up("a.example", 1)
    trio.socket.set_custom_hostname_resolver(None)
    with pytest.raises(LaunchError, match=r"no address of a\.\.b is known: .*label empty"):
        await look_up("a..b", 1)


@pytest.mark.parametrize("host", ["a..example", "a" * 64])
async def test_a_name_that_is_none(host):
    with pytest.raises(LaunchError, match=f"no address of {host} is known: .*too long"):
        await look_up(host, 1)


# -- metrics, secrets -----------------------------------------------------------


async def test_metrics_of_each_replica(several, model, autojump_clock):
    async with supervised(several(2)) as supervisor:
        supervisor._keepers["ns"].members["2"].current.retire("it is tired")
        found = {
            (family.name, sample.labels["replica"]): sample.value
            for family in supervision_metrics(supervisor)
            for sample in family.samples
            if family.name.startswith("prism_replica")
        }
        assert found["prism_replica_serving", "1"] == 1
        assert found["prism_replica_serving", "2"] == 0
        assert found["prism_replica_share", "1"] == 1
        assert found["prism_replica_ejected", "1"] == found["prism_replica_ejections", "1"] == 0


async def test_changed_secrets_are_given_to_each_replica(several, model, tmp_path):
    secret = tmp_path / "pw"
    secret.write_text("first")
    secret.chmod(0o600)
    secrets = Secrets()
    credentials = secrets.credentials(
        {"password": "{{ secret:pw }}"}, SecretsConfig(directory=str(tmp_path))
    )
    spec = replace_spec(several(2), credentials=credentials)
    supervisor = Supervisor([spec], secrets)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        secret.write_text("second")
        await eventually(lambda: supervisor.journals["ns"].rotations["swapped"])
        serving = supervisor._keepers["ns"].serving
        assert [each.credentials for each in serving] == [{"password": "second"}] * 2
        supervisor.stop()

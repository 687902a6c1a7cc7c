"""Several endpoints, each a process of its own, of which one hangs, vanishes, or fails.

The proxy runs in this process, so that the test can see what it knows; calls are made over HTTP.
"""

import json
import os
import signal
import socket
import sys
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from proxy_here import proxy_here

PROGRAM = Path(__file__).parent / "support" / "replica_plugin.py"
HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
HEALTH = {"interval_seconds": 0.5, "timeout_seconds": 0.5, "failure_threshold": 1}


def free_port():
    """A port that is free at each of ``HOSTS``."""
    while True:
        with socket.socket() as first, socket.socket() as second, socket.socket() as third:
            first.bind((HOSTS[0], 0))
            port = first.getsockname()[1]
            try:
                second.bind((HOSTS[1], port))
                third.bind((HOSTS[2], port))
            except OSError:
                continue
            return port


async def until(check):
    with trio.fail_after(60):
        while not (found := check()):  # noqa: ASYNC110 - another process makes it so
            await trio.sleep(0.005)
    return found


@asynccontextmanager
async def listening(host, port, fault="/does/not/exist"):
    """A plugin that listens there; its name is ``host``."""
    where = f"tcp:{host}:{port}"
    command = [sys.executable, str(PROGRAM), host, str(fault), "--listen", where, "--insecure"]
    process = await trio.lowlevel.open_process(command)
    try:
        with trio.fail_after(60):
            while True:
                try:
                    stream = await trio.open_tcp_stream(host, port)
                except OSError:
                    assert process.poll() is None
                    await trio.sleep(0.05)
                else:
                    await stream.aclose()
                    break
        yield process
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


@asynccontextmanager
async def proxy_with(tmp_path, endpoint, *, zone="", balance=None, **plugin):
    """A proxy whose namespace ``ns`` has these endpoints; yields it and its port. Who is new gets
    as many calls as the others, at once."""
    config = {
        "zone": zone,
        "namespaces": [
            {
                "name": "ns",
                "backend": "replica",
                "plugin": {
                    "type": "remote",
                    "insecure": True,
                    "endpoint": endpoint,
                    "health": HEALTH,
                    "balance": {"slow_start_seconds": 0, **(balance or {})},
                    **plugin,
                },
            }
        ],
    }
    async with proxy_here(tmp_path, config) as served:
        yield served


async def ask(port, seconds=0.0):
    """One call over HTTP: its status, and what was answered."""
    body = json.dumps({"seconds": seconds}).encode()
    head = (
        f"POST /v1/ns/who HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        f"content-type: application/json\r\nprism-timeout: 30s\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(head.encode() + body)
        answer = b"".join([chunk async for chunk in stream])
    status, _, rest = answer.partition(b"\r\n")
    return int(status.split()[1]), json.loads(rest.partition(b"\r\n\r\n")[2])


async def ask_many(port, calls, **how):
    """So many calls, four at a time: how often what was answered."""
    counts = Counter()
    left = iter(range(calls))

    async def some():
        for _ in left:
            status, answer = await ask(port, **how)
            counts[answer if status == 200 else status] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(some)
    return counts


def serving(proxy):
    replicas = proxy.supervisor.status_of("ns").replicas
    return {one.name.rpartition(":")[0] for one in replicas if one.instance is not None}


async def test_two_of_three_serve_when_one_is_not_there_at_the_start(tmp_path):
    port = free_port()
    endpoints = [f"{host}:{port}" for host in HOSTS]
    async with (
        listening(HOSTS[0], port),
        listening(HOSTS[1], port),
        proxy_with(tmp_path, endpoints) as (proxy, http),
    ):
        assert serving(proxy) == set(HOSTS[:2])
        assert set(await ask_many(http, 40)) == set(HOSTS[:2])
        status = proxy.supervisor.status_of("ns")
        assert (status.state, status.reason) == ("ready", "2 of 3 replicas serve")
        assert "refused" in status.replicas[2].reason
        async with listening(HOSTS[2], port):
            await until(lambda: serving(proxy) == set(HOSTS))
            assert set(await ask_many(http, 100)) == set(HOSTS)


async def test_one_that_hangs_costs_idempotent_calls_nothing(tmp_path):
    port = free_port()
    endpoints = [f"{host}:{port}" for host in HOSTS]
    async with (
        listening(HOSTS[0], port) as victim,
        listening(HOSTS[1], port),
        listening(HOSTS[2], port),
        proxy_with(tmp_path, endpoints) as (proxy, http),
    ):
        os.kill(victim.pid, signal.SIGSTOP)
        counts = await ask_many(http, 200)
        # Those that it had were given on once it was known to be gone.
        assert set(counts) == set(HOSTS[1:])
        await until(lambda: serving(proxy) == set(HOSTS[1:]))
        os.kill(victim.pid, signal.SIGCONT)
        await until(lambda: serving(proxy) == set(HOSTS))


class Relay:
    """Passes on what comes to its port, until it swallows everything, and no FIN either."""

    def __init__(self, host, port):
        self.host, self.port = host, port
        self.swallows = False
        self.listeners = []

    async def run(self, task_status=trio.TASK_STATUS_IGNORED):
        async with trio.open_nursery() as nursery:
            self.listeners = await nursery.start(trio.serve_tcp, self._relay, 0)
            task_status.started(self.listeners[0].socket.getsockname()[1])

    async def _relay(self, client):
        try:
            plugin = await trio.open_tcp_stream(self.host, self.port)
        except OSError:
            return
        async with plugin, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass, client, plugin, nursery)
            nursery.start_soon(self._pass, plugin, client, nursery)

    async def _pass(self, source, target, nursery):
        async for chunk in source:
            if not self.swallows:
                await target.send_all(chunk)
        if self.swallows:
            await trio.sleep_forever()
        nursery.cancel_scope.cancel()


async def test_one_that_vanishes_without_a_word(tmp_path):
    port = free_port()
    async with listening(HOSTS[0], port), listening(HOSTS[1], port):
        relay = Relay(HOSTS[0], port)
        async with trio.open_nursery() as nursery:
            vanishing = await nursery.start(relay.run)
            endpoints = [f"127.0.0.1:{vanishing}", f"{HOSTS[1]}:{port}"]
            async with proxy_with(tmp_path, endpoints) as (proxy, http):
                assert set(await ask_many(http, 40)) == set(HOSTS[:2])
                relay.swallows = True
                assert set(await ask_many(http, 100)) == {HOSTS[1]}
                await until(lambda: serving(proxy) == {HOSTS[1]})
            nursery.cancel_scope.cancel()


async def test_one_that_fails_at_once_does_not_attract_the_calls(tmp_path):
    port, fault = free_port(), tmp_path / "fault"
    endpoints = [f"{host}:{port}" for host in HOSTS]
    balance = {"ejection_seconds": 3600, "max_ejection_seconds": 3600}
    async with (
        listening(HOSTS[0], port, fault),
        listening(HOSTS[1], port),
        listening(HOSTS[2], port),
        proxy_with(tmp_path, endpoints, balance=balance) as (proxy, http),
    ):
        fault.touch()
        # The others take their time, so that it always is the one with the fewest calls.
        counts = await ask_many(http, 200, seconds=0.01)
        assert set(counts) == {500, *HOSTS[1:]}
        assert counts[500] < 5 + 4
        status = proxy.supervisor.status_of("ns")
        ejected = status.replicas[0]
        assert (ejected.share, ejected.ejections, ejected.state) == (0, 1, "ready")
        assert 0 < ejected.ejected_for <= 3600
        assert proxy.supervisor.slots["ns"].serving == 2
        events = [
            each.reason for each in proxy.supervisor.events.recent() if each.kind == "replica"
        ]
        assert events == ["ejected: for 3600 s: 5 calls in a row have failed"]


class Names(trio.abc.HostnameResolver):
    """Answers for ``localhost``, and notes each question."""

    def __init__(self, addresses):
        self.addresses = addresses
        self.asked = 0

    async def getaddrinfo(self, host, port, *_args, **_more):
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        kind = socket.SOCK_STREAM
        return [(socket.AF_INET, kind, 6, "", (one, port)) for one in self.addresses]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


async def test_addresses_that_come_and_go_in_the_dns(tmp_path):
    port = free_port()
    dns = Names(HOSTS[:2])
    trio.socket.set_custom_hostname_resolver(dns)
    async with listening(HOSTS[0], port), listening(HOSTS[1], port), listening(HOSTS[2], port):
        how = {"resolve": "all", "resolve_seconds": 0.1}
        async with proxy_with(tmp_path, f"localhost:{port}", **how) as (proxy, http):
            assert serving(proxy) == set(HOSTS[:2])
            first = {one.name: one.instance for one in proxy.supervisor.status_of("ns").replicas}
            # One comes; one goes, which finishes its call.
            statuses = []

            async def slow():
                statuses.append(await ask(http, seconds=3))

            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(slow)
                group = proxy.supervisor.slots["ns"]
                await until(lambda: sum(one.leases for one in group.instances()) == 4)
                dns.addresses = HOSTS[1:]
                await until(lambda: serving(proxy) == set(HOSTS[1:]))
                assert HOSTS[0] not in await ask_many(http, 40)
            assert {status for status, _ in statuses} == {200}
            second = {one.name: one.instance for one in proxy.supervisor.status_of("ns").replicas}
            name = f"{HOSTS[1]}:{port}"
            assert second[name] == first[name]
            # What cannot be looked up changes nothing.
            dns.addresses, asked = [], dns.asked
            await until(lambda: dns.asked > asked)
            assert serving(proxy) == set(HOSTS[1:])
            # A reload keeps to them.
            receipt = await proxy.supervisor.reload("ns")
            assert (receipt.outcome, len(receipt.replicas)) == ("swapped", 2)


async def test_when_all_addresses_change_the_old_serve_until_one_of_the_new_does(tmp_path):
    port = free_port()
    dns = Names(HOSTS[:1])
    trio.socket.set_custom_hostname_resolver(dns)
    how = {"resolve": "all", "resolve_seconds": 0.1}
    async with (
        listening(HOSTS[0], port),
        proxy_with(tmp_path, f"localhost:{port}", **how) as (proxy, http),
    ):
        dns.addresses, asked = HOSTS[1:2], dns.asked
        await until(lambda: dns.asked > asked + 1)
        assert await ask(http) == (200, HOSTS[0])
        async with listening(HOSTS[1], port):
            await until(lambda: serving(proxy) == {HOSTS[1]})
            assert await ask(http) == (200, HOSTS[1])


async def test_a_name_that_is_not_known_at_the_start(tmp_path):
    port = free_port()
    dns = Names([])
    trio.socket.set_custom_hostname_resolver(dns)
    async with (
        listening(HOSTS[0], port),
        proxy_with(tmp_path, f"localhost:{port}", resolve="all") as (proxy, http),
    ):
        status, answer = await ask(http)
        assert (status, answer["reason"]) == (503, "plugin_unavailable")
        status = proxy.supervisor.status_of("ns")
        assert status.reason == "no address of localhost is known: Name or service not known"
        dns.addresses = HOSTS[:1]
        await until(lambda: serving(proxy) == {HOSTS[0]})
        assert await ask(http) == (200, HOSTS[0])


async def test_calls_stay_in_the_proxy_s_zone(tmp_path):
    port = free_port()
    zones = ["here", "here", "there"]
    endpoints = [
        {"address": f"{host}:{port}", "zone": zone} for host, zone in zip(HOSTS, zones, strict=True)
    ]
    async with (
        listening(HOSTS[0], port) as first,
        listening(HOSTS[1], port) as second,
        listening(HOSTS[2], port),
        proxy_with(tmp_path, endpoints, zone="here") as (proxy, http),
    ):
        assert set(await ask_many(http, 60)) == set(HOSTS[:2])
        first.kill()
        await until(lambda: serving(proxy) == set(HOSTS[1:]))
        assert set(await ask_many(http, 200)) == set(HOSTS[1:])
        second.kill()
        await until(lambda: serving(proxy) == {HOSTS[2]})
        assert set(await ask_many(http, 20)) == {HOSTS[2]}


async def test_endpoints_that_come_and_go_with_the_configuration(tmp_path):
    port = free_port()
    async with listening(HOSTS[0], port), listening(HOSTS[1], port), listening(HOSTS[2], port):
        endpoints = [f"{host}:{port}" for host in HOSTS[:2]]
        async with proxy_with(tmp_path, endpoints) as (proxy, http):
            before = {one.name: one.instance for one in proxy.supervisor.status_of("ns").replicas}
            file = tmp_path / "prism.yaml"
            config = json.loads(file.read_text())
            config["namespaces"][0]["plugin"]["endpoint"] = [f"{host}:{port}" for host in HOSTS[1:]]
            file.write_text(json.dumps(config))
            outcome = await proxy.live.apply()
            assert outcome.applied
            assert serving(proxy) == set(HOSTS[1:])
            after = {one.name: one.instance for one in proxy.supervisor.status_of("ns").replicas}
            assert before[f"{HOSTS[1]}:{port}"] == after[f"{HOSTS[1]}:{port}"]
            assert set(await ask_many(http, 60)) == set(HOSTS[1:])


@pytest.mark.parametrize("kind", ["grpc", "websocket"])
async def test_the_other_channels_dial_each_address(tmp_path, kind):
    """That each address is dialled; what is said there is none of this test's."""
    port = free_port()
    trio.socket.set_custom_hostname_resolver(Names(HOSTS[:2]))
    dialled = []

    async def note(stream):
        dialled.append(stream.socket.getsockname()[0])

    async with trio.open_nursery() as nursery:
        for host in HOSTS[:2]:
            await nursery.start(partial(trio.serve_tcp, note, port, host=host))
        how = {"type": kind, "resolve": "all"}
        async with proxy_with(tmp_path, f"localhost:{port}", **how):
            await until(lambda: set(dialled) == set(HOSTS[:2]))
        nursery.cancel_scope.cancel()

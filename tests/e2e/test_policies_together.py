"""All of what keeps a namespace up, on at once, while plugins, servers and clients fail.

One namespace is on SQLite, the other on Redis with two processes. Both have rate limits in a store
that another Redis is, a queue with fair shares, a circuit breaker, retries, hedging, and a
recording; one has a shadow; there are shedding and an audit log. Clients with several keys call
both, some of them leave before their answer, and one fault follows another, each after the calls
have gone on. In the end

- each call had one answer, of a status that may be, in its time;
- a write that was answered 200 was done once; one that never ran, as its answer said, was not;
- no more calls passed than the rate limits let, whatever became of their store;
- each call has one record in the audit log, and each call that the plugin answered one in the
  recording;
- nothing is held: no call in flight or in a queue, no task, no descriptor.

While one namespace is broken the other is served.
"""

import http.client
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from http2_client import Http2Client
from prism_process import Proxy, eventually, group_members

from prism.access.api_keys import create_key
from tests.services.redis import Redis

NAMESPACES = ("table", "cache")
OTHER = {"table": "cache", "cache": "table"}
DEADLINES = {"table": 10.0, "cache": 2.0}
"""Seconds that clients give their calls."""
MARGIN = 60.0
"""Seconds beyond its deadline after which a call counts as hung, however busy the machine is."""
BETWEEN_FAULTS = 10
"""Calls that each namespace answers with 200 before the next fault."""
STREAMS = 6
"""Calls that the greedy client has open at a time: more than there are places."""
RATES = [{"calls_per_second": 60.0, "burst": 40}, {"calls_per_second": 90.0, "burst": 20}]
"""Of each principal, by turns: one is shared by leases, as the store is asked for several calls."""
SCARCE = {"calls_per_second": 4.0, "burst": 6}
"""Of all callers of ``exists``: the store is asked for each of them."""
AT_ONCE = {"first_delay_seconds": 0.01, "max_delay_seconds": 0.1, "max_crashes": 0}
EXPECTED = {
    (200, ""),
    (429, "rate_limited"),
    (429, "too_many_in_flight"),
    (429, "queue_too_long"),
    (502, "plugin_crashed"),
    (503, "circuit_open"),
    (503, "limits_unavailable"),
    (503, "overloaded"),
    (503, "overloaded_proxy"),
    (503, "plugin_error"),
    (503, "plugin_unavailable"),
    (504, "deadline_exceeded"),
    (504, "plugin_error"),
}
"""Statuses and reasons. The plugin's own errors are that its server does not answer; the limits are
unavailable to a call whose deadline comes before it is known that their store is down."""
REACHED_PLUGIN = {200, 502, 504}
GROWTH = 32 * 2**20
"""Bytes of memory from the end of the first round to that of the last: what is kept of past calls,
plugins and events fills up to its bounds meanwhile, ever more slowly. (Some 0.5 MB a round is the
text of 4,096 clients' addresses, of which those that leave have a new one each time.)"""
IDLE_TASKS = 24
"""Tasks that wait for work, or for a connection that was closed a moment ago."""
MORE_FILES = 4
"""The recordings, which are opened with the first call, and connections that close."""


class Asked(NamedTuple):
    """One call, as its client saw it; ``status`` is None where the client left."""

    id: str
    principal: str
    namespace: str
    operation: str
    key: str
    sent: float
    ended: float
    status: int | None
    answer: dict[str, Any]
    is_over: bool = True


class World:
    """The proxy, its servers and clients, and what is done to them."""

    def __init__(self, start_prism, start_server, directory, seed):
        self.random = random.Random(seed)
        self.directory = directory
        self.keys = {
            name: create_key(directory / "keys.yaml", name, [])[0]
            for name in ("greedy", "modest", "leaver", "operator")
        }
        self.data = start_server(Redis)
        self.limits = start_server(Redis, settings={"appendonly": "no"})  # a restart empties it
        self.rate = RATES[0]
        self.is_limited = True
        self.queue = 4
        self.asked = []
        self.faults = Counter()
        self.marks = [time.monotonic()]
        self.failures = []
        self.ending = threading.Event()
        self.proxy: Proxy = start_prism(self.config())
        eventually(lambda: self.proxy.metric("prism_limits_store_up") == 1)
        shadow = f"{self.proxy.admin}/admin/plugins/table:shadow"
        eventually(lambda: self.proxy.client.get(shadow).json()["state"] == "ready")
        self.at_rest = self.sizes()

    def config(self):
        limits = {
            "max_in_flight": 3,
            "max_queued": self.queue,
            "fair_shares": True,
            "adaptive": {"min": 2},
        }
        if self.is_limited:
            limits["rate"] = [
                {**self.rate, "per": "principal"},
                {**SCARCE, "operations": ["exists"]},
            ]
        policies = {
            "access": {"owners": list(self.keys)},
            "limits": limits,
            "breaker": {"min_calls": 2, "window_seconds": 3, "open_seconds": 0.2, "probes": 1},
            "retries": {"attempts": 3, "budget": 0.5},
            "hedging": {"after": 0.05, "budget": 0.5},
        }
        command = [sys.executable, "-m", "prism_plugins."]
        sqlite, redis = (
            {"type": "sidecar", "command": [*command[:2], command[2] + name], "restart": AT_ONCE}
            for name in ("sqlite", "redis")
        )
        return {
            "admin": {"without_token": "change"},
            "authentication": {"api_keys": {"file": "keys.yaml"}},
            "audit": {"file": "audit.jsonl"},
            "shedding": {"loop_lag_seconds": 10, "memory_bytes": 2**30},
            "limits_store": {"url": self.limits.url(), "timeout_seconds": 0.3},
            "namespaces": [
                {
                    "name": "table", "backend": "sqlite", "plugin": sqlite,
                    "config": {"path": "table.db"}, **policies,
                    "shadow": {
                        "plugin": sqlite, "config": {"path": "shadow.db"},
                        "operations": ["increment"],
                    },
                    "record": {"file": "table.jsonl"},
                },
                {
                    "name": "cache", "backend": "redis", "plugin": {**redis, "processes": 2},
                    "config": {"url": self.data.url(), "silence_timeout_seconds": 0.5}, **policies,
                    "record": {"file": "cache.jsonl"},
                },
            ],
        }  # fmt: skip

    def apply(self):
        """The configuration as it is now takes effect."""
        file = self.directory / "prism.yaml"
        new = file.with_suffix(".new")
        new.write_text(json.dumps(self.config()))
        new.rename(file)
        answer = self.proxy.client.post(f"{self.proxy.admin}/admin/config/apply", json={})
        assert answer.status_code == 200, answer.text

    # -- clients ------------------------------------------------------------------

    def headers(self, principal, namespace, name):
        return {
            "authorization": f"Bearer {self.keys[principal]}",
            "content-type": "application/json",
            "prism-timeout": f"{DEADLINES[namespace]:g}s",
            "x-request-id": name,
        }

    def calls(self, principal, namespace, seed):
        """Calls without an end: a name, an operation and its key. Writes have a key each; reads
        are of those that this client has written."""
        chance = random.Random(seed)
        written = []
        for number in itertools.count():
            name = f"{principal}-{namespace}-{number}"
            operation = chance.choice(["increment", "increment", "get", "get", "get", "exists"])
            if operation == "increment" or not written:
                yield name, "increment", name, written
            else:
                yield name, operation, chance.choice(written[-100:]), written

    def note(self, asked, written):
        self.asked.append(asked)
        if asked.status == 200 and asked.operation == "increment":
            written.append(asked.key)
        if asked.status != 200:
            self.ending.wait(0.02)

    def client(self, kind, namespace, seed):
        """Calls of this kind until the end; what keeps it from that fails the test."""
        try:
            kind(namespace, seed)
        except BaseException as error:
            self.failures.append(error)

    def modest(self, namespace, seed):
        """One call after the other, on one connection of HTTP/1.1."""
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=120)
        for name, operation, key, written in self.calls("modest", namespace, seed):
            if self.ending.is_set():
                break
            sent = time.monotonic()
            body = json.dumps({"key": key})
            connection.request(
                "POST", f"/v1/{namespace}/{operation}", body,
                self.headers("modest", namespace, name),
            )  # fmt: skip
            response = connection.getresponse()
            answer = json.loads(response.read())
            ended = time.monotonic()
            self.note(
                Asked(name, "modest", namespace, operation, key, sent, ended, response.status,
                      answer), written,
            )  # fmt: skip
        connection.close()

    def greedy(self, namespace, seed):
        """Several calls at a time, on one connection of HTTP/2."""
        client = Http2Client(self.proxy.port)
        client.socket.settimeout(120)
        calls = self.calls("greedy", namespace, seed)
        while not self.ending.is_set():
            streams = {}
            for name, operation, key, written in itertools.islice(calls, STREAMS):
                headers = tuple(self.headers("greedy", namespace, name).items())
                sent = time.monotonic()
                stream = client.open(f"/v1/{namespace}/{operation}", headers=headers)
                client.data(stream, json.dumps({"key": key}).encode(), end=True)
                streams[stream] = name, operation, key, written, sent
            refused = False
            for stream, (name, operation, key, written, sent) in streams.items():
                response = client.wait(stream)
                asked = Asked(
                    name, "greedy", namespace, operation, key, sent, time.monotonic(),
                    response.status, json.loads(response.body or b"{}"), response.ended,
                )  # fmt: skip
                self.asked.append(asked)
                if asked.status == 200 and operation == "increment":
                    written.append(key)
                refused = refused or asked.status != 200
                del client.responses[stream]
            if refused:
                self.ending.wait(0.02)
        client.close()

    def leaver(self, namespace, seed):
        """Calls whose client has gone away, by turns in either version of HTTP."""
        chance = random.Random(seed)
        for name, operation, key, _ in self.calls("leaver", namespace, seed):
            if self.ending.is_set():
                return
            headers = self.headers("leaver", namespace, name)
            body = json.dumps({"key": key}).encode()
            path = f"/v1/{namespace}/{operation}"
            sent = time.monotonic()
            if chance.random() < 0.5:
                connection = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=120)
                connection.request("POST", path, body, headers)
                self.ending.wait(chance.choice([0.0, 0.001, 0.01]))
                connection.close()
            else:
                client = Http2Client(self.proxy.port)
                stream = client.open(path, headers=tuple(headers.items()))
                client.data(stream, body, end=True)
                self.ending.wait(chance.choice([0.0, 0.001, 0.01]))
                client.reset(stream)
                client.close()
            self.asked.append(
                Asked(name, "leaver", namespace, operation, key, sent, time.monotonic(), None, {})
            )
            self.ending.wait(0.05)

    def good(self, namespace):
        return sum(one.status == 200 and one.namespace == namespace for one in self.asked[:])

    def serves(self, *namespaces):
        """Each of these goes on to answer."""
        before = {each: self.good(each) for each in namespaces}
        for each in namespaces:

            def goes_on(each=each):
                assert not self.failures, self.failures
                return self.good(each) >= before[each] + BETWEEN_FAULTS

            goes_on.__doc__ = f"{each} answers calls"
            eventually(goes_on)

    # -- what is done to them -------------------------------------------------------

    def pids(self, name):
        """Of the processes of a namespace's plugin, those that run."""
        status = self.proxy.client.get(f"{self.proxy.admin}/admin/plugins/{name}").json()
        told = [status.get("pid"), *(one.get("pid") for one in status.get("replicas", []))]
        return [pid for pid in told if pid and pid in group_members(pid)]

    def kill(self, name):
        pid = self.random.choice(eventually(lambda: self.pids(name)))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return pid

    def kill_sqlite(self):
        self.kill("table")
        self.serves("cache")

    def kill_one_redis_process(self):
        self.kill("cache")
        self.serves("cache", "table")

    def kill_shadow(self):
        self.kill("table:shadow")
        self.serves("table")

    def freeze_sqlite(self):
        """The plugin's process hangs, and its health checks have not yet ended it."""
        pid = eventually(lambda: self.pids("table"))[0]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        self.serves("cache")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def freeze_redis(self):
        before = len(self.asked)
        self.data.freeze()

        def is_felt():
            """Both processes fail so many calls that their breakers are open"""
            return any(one.answer.get("reason") == "circuit_open" for one in self.asked[before:])

        eventually(is_felt)
        self.serves("table")
        self.data.thaw()

    def freeze_limits_store(self):
        self.limits.freeze()
        eventually(lambda: self.proxy.metric("prism_limits_store_up") == 0)
        self.random.choice([self.kill_sqlite, self.kill_one_redis_process, self.reload])()
        self.change_limits()
        self.serves(*NAMESPACES)
        self.limits.thaw()
        eventually(lambda: self.proxy.metric("prism_limits_store_up") == 1)

    def empty_limits_store(self):
        self.limits.kill()
        eventually(lambda: self.proxy.metric("prism_limits_store_up") == 0)
        self.serves(*NAMESPACES)
        self.limits.restart()
        eventually(lambda: self.proxy.metric("prism_limits_store_up") == 1)

    def reload(self):
        for name in NAMESPACES:
            url = f"{self.proxy.admin}/admin/plugin/reload"
            receipt = self.proxy.client.post(url, json={"namespace": name}).json()
            assert receipt["outcome"] == "swapped", receipt
            assert receipt["calls"]["lost"] == 0, receipt

    def kill_under_reload(self):
        """A process is lost while it is replaced, or the one that replaces it."""
        name = self.random.choice(NAMESPACES)
        receipts = []

        def reload():
            url = f"{self.proxy.admin}/admin/plugin/reload"
            receipts.append(self.proxy.client.post(url, json={"namespace": name}))

        reloading = threading.Thread(target=reload)
        reloading.start()
        self.kill(name)
        reloading.join()
        # The reload may have come before the process that was killed was back.
        receipt = receipts[0].json()
        assert receipts[0].status_code in (200, 409), receipt
        if "outcome" in receipt:
            assert receipt["calls"]["lost"] == 0, receipt
        self.serves(OTHER[name])

    def change_limits(self):
        self.rate = RATES[self.rate is RATES[0]]
        self.queue = self.random.choice([0, 2, 8])
        self.apply()

    def run(self, rounds):
        """``rounds`` times all faults, each time in another order."""
        kinds = [
            self.kill_sqlite, self.kill_one_redis_process, self.kill_shadow, self.freeze_sqlite,
            self.freeze_redis, self.freeze_limits_store, self.empty_limits_store, self.reload,
            self.kill_under_reload, self.change_limits,
        ]  # fmt: skip
        self.threads = [
            threading.Thread(target=self.client, args=(client, namespace, self.random.random()))
            for client in (self.modest, self.greedy, self.leaver)
            for namespace in NAMESPACES
        ]
        for thread in self.threads:
            thread.start()
        self.resident = []
        try:
            for _ in range(rounds):
                for fault in self.random.sample(kinds, len(kinds)):
                    self.serves(*NAMESPACES)
                    self.marks.append(time.monotonic())
                    began = time.monotonic()
                    fault()
                    self.faults[fault.__name__] += 1
                    print(f"{fault.__name__}: {time.monotonic() - began:.1f} s")
                self.serves(*NAMESPACES)
                self.resident.append(self.proxy.resident())
        finally:
            self.ending.set()
            self.data.thaw()
            for thread in self.threads:
                thread.join()
        self.marks.append(time.monotonic())

    # -- what must hold -----------------------------------------------------------

    def holds_nothing(self):
        """No call is in flight, in a queue or open in a plugin"""
        gauges = ("requests_in_flight", "queue_calls", "plugin_calls_open", "replica_in_flight",
                  "shadow_in_flight", "streams_open", "request_memory_bytes")  # fmt: skip
        lines = self.proxy.client.get(f"{self.proxy.admin}/metrics").text.splitlines()
        names = tuple(f"prism_{name}" for name in gauges)
        values = [line.rpartition(" ")[2] for line in lines if line.startswith(names)]
        assert len(values) >= 2 * len(gauges) - 2
        return not any(map(float, values))

    def sizes(self):
        """(tasks, descriptors)"""
        return self.proxy.metric("prism_tasks"), self.proxy.metric("process_open_fds")

    def is_at_rest(self):
        """Tasks and descriptors are as few as before the clients came"""
        (tasks, files), (tasks_before, files_before) = self.sizes(), self.at_rest
        return tasks <= tasks_before + IDLE_TASKS and files <= files_before + MORE_FILES

    def took_part(self):
        """What the policies have counted, to be printed."""
        names = ("request_retries_total", "hedges_total", "breaker_changes_total",
                 "breaker_refused_total", "queue_left_total", "in_flight_refused_total",
                 "rate_limit_unshared_total", "shedding_refused_total")  # fmt: skip
        counts: Counter[str] = Counter()
        for line in self.proxy.client.get(f"{self.proxy.admin}/metrics").text.splitlines():
            name = line.partition("{")[0].partition(" ")[0].removeprefix("prism_")
            if name in names:
                counts[name] += int(float(line.rpartition(" ")[2]))
        return dict(counts)

    def values(self, namespace, keys):
        """What these keys have now, asked for through the proxy."""
        found = {}
        for start in range(0, len(keys), 100):
            params = {"keys": keys[start : start + 100]}

            def results(params=params):
                """Keys can be read again"""
                answer = self.proxy.call(
                    namespace, "mget", params, authorization=f"Bearer {self.keys['operator']}"
                )
                return answer.json()["results"] if answer.status_code == 200 else None

            found |= {one["key"]: one.get("value") for one in eventually(results)}
        return found


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, pytest.param(25, marks=pytest.mark.soak)])
def test_policies_together(start_prism, start_server, tmp_path, rounds):
    pytest.importorskip("coredis")
    seed = 8 if rounds == 1 else random.SystemRandom().randrange(1 << 32)
    world = World(start_prism, start_server, tmp_path, seed)
    world.run(rounds)
    proxy = world.proxy
    statuses = Counter((one.status, one.answer.get("reason", "")) for one in world.asked)
    seconds = world.marks[-1] - world.marks[0]
    print(f"seed {seed}; {seconds:.0f} s; {dict(world.faults)}; {dict(statuses)}")
    print(f"resident {world.resident}, at rest {world.at_rest}")

    print(world.took_part())
    assert not world.failures, world.failures
    each_call_had_one_answer_in_time(world)
    no_more_passed_than_may(world)
    eventually(world.holds_nothing)
    world.is_limited = False
    world.apply()
    values = what_was_answered_is_there(world)
    eventually(world.is_at_rest)
    assert world.holds_nothing()
    assert world.resident[-1] - world.resident[0] < GROWTH, world.resident
    dropped = {name: proxy.metric("prism_recorded_dropped_total", namespace=name)
               for name in NAMESPACES}  # fmt: skip
    assert proxy.stop() == 0
    each_call_is_audited_once(world, values)
    each_call_is_recorded_once(world, dropped)


def each_call_had_one_answer_in_time(world):
    assert len({one.id for one in world.asked}) == len(world.asked)
    for one in world.asked:
        if one.status is not None:
            assert one.is_over, one
            assert (one.status, one.answer.get("reason", "")) in EXPECTED, one
            assert one.ended - one.sent < DEADLINES[one.namespace] + MARGIN, one
            if one.status == 200:
                told = one.answer.get("value", one.answer.get("exists"))
                assert told == (1 if one.operation != "exists" else True), one
    for name in NAMESPACES:
        told = Counter(one.status for one in world.asked if one.namespace == name)
        assert told[200] > 10 * BETWEEN_FAULTS, told


def no_more_passed_than_may(world):
    most = max(rate["calls_per_second"] for rate in RATES), max(rate["burst"] for rate in RATES)
    limits = [(one, most, set()) for one in ("greedy", "modest")]
    limits.append(("", tuple(SCARCE.values()), {"exists"}))
    windows = [*itertools.pairwise(world.marks), (world.marks[0], world.marks[-1])]
    for namespace, (principal, (rate, burst), operations) in itertools.product(NAMESPACES, limits):
        passed = [
            one
            for one in world.asked
            if one.namespace == namespace
            and one.status in REACHED_PLUGIN
            and (not principal or one.principal == principal)
            and (not operations or one.operation in operations)
        ]
        for begin, end in windows:
            within = sum(begin <= one.sent and one.ended <= end for one in passed)
            assert within <= rate * (end - begin) + burst, (namespace, principal, begin, end)


def what_was_answered_is_there(world):
    found = {}
    for namespace in NAMESPACES:
        writes = [
            one for one in world.asked if (one.namespace, one.operation) == (namespace, "increment")
        ]
        values = world.values(namespace, [one.key for one in writes])
        for one in writes:
            if one.status == 200:
                assert values[one.key] == 1, one
            elif one.answer.get("retryable"):
                assert values[one.key] is None, one
            else:
                assert values[one.key] in (None, 1), (one, values[one.key])
        found |= values
    return found


def each_call_is_audited_once(world, values):
    lines = (world.directory / "audit.jsonl").read_text().splitlines()
    records = [one for one in map(json.loads, lines) if "decision" in one]
    times = Counter(one["request_id"] for one in records)
    known = {one["request_id"]: one for one in records}
    for one in world.asked:
        if one.status is None:
            # What was left before its head was read was no call.
            assert times[one.id] <= 1, one
        else:
            assert times[one.id] == 1, (times[one.id], one)
            assert known[one.id]["http_status"] == one.status, (one, known[one.id])
            assert known[one.id]["principal"] == one.principal, known[one.id]
        ran = known[one.id]["ran"] if one.id in known else "no"
        if one.operation == "increment":
            if ran == "no":
                assert values[one.key] is None, one
            if one.answer.get("retryable"):
                assert ran == "no", f"{one}\n{known[one.id]}"
            if one.status == 200:
                assert ran == "yes", one
    left = [one.id for one in world.asked if one.status is None]
    print(f"of {len(left)} clients that left, {sum(times[name] for name in left)} are in the audit")
    command = [sys.executable, "-m", "prism", "audit", "verify", "audit.jsonl"]
    done = subprocess.run(
        command, cwd=world.directory, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def each_call_is_recorded_once(world, dropped):
    for namespace in NAMESPACES:
        lines = (world.directory / f"{namespace}.jsonl").read_text().splitlines()
        times = Counter(json.loads(line)["id"] for line in lines)
        assert set(times.values()) == {1}
        answered = {
            one.id for one in world.asked if one.namespace == namespace and one.status == 200
        }
        assert len(answered - times.keys()) <= dropped[namespace]

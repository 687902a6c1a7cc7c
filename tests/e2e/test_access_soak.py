"""Access control and the audit log while plugins and the proxy itself are killed at random.

Clients call several namespaces under several names; meanwhile plugins are killed, the proxy is
killed and started again, and the configuration gives permissions and takes them away. Each
namespace's plugin writes down whom it has worked for. In the end

- nothing ran, and nothing was answered, that the access table in force did not allow;
- each answered call has one record in the audit log, which says what the client was told; after a
  kill of the proxy the last ones may be missing, and no others;
- the log is whole, but for what kills explain;
- no credential is in a log, an error, a metric, an answer of the admin port, or the process table.
"""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from prism_process import SUPPORT, eventually, unused_port

from prism.access.api_keys import create_key

CANARY = "canary-of-the-witness"
ACCESS = {"look": "read", "put": "write", "drop": "admin", "count": "read", "confess": "write"}
STREAMED = {"count"}
GRANTS = {
    "ledger": {"chief": {"read", "write", "admin"}, "writer": {"write"}, "reader": {"read"}},
    "shifting": {"chief": {"read", "write", "admin"}},
    "closed": {"chief": {"read", "write", "admin"}},
}
"""Who may do what; in ``trial``, a dry run, everybody may everything, and ``shifting`` has, for
``guest``, what the variant of the configuration says."""
VARIANTS = [set(), {"read"}, {"read", "write"}]
PRINCIPALS = ["chief", "writer", "reader", "guest", "nobody"]
REFUSED = {401, 403}
CALLS_BETWEEN = 15
"""Calls that are answered between two faults, however long a busy machine takes for them."""
NOTES = re.compile(r"not a whole line|are not sealed$")
"""What a kill leaves in the log."""


def config(file, port, path, variant):
    plugin = {
        "type": "sidecar",
        "command": [sys.executable, str(SUPPORT / "witness_plugin.py")],
        # Kills come often, and are none of the plugin's own faults.
        "restart": {"first_delay_seconds": 0.01, "max_delay_seconds": 0.1, "max_crashes": 0},
    }
    guests = [{"who": ["guest"], "permissions": sorted(variant)}] if variant else []
    rules = {
        "ledger": {
            "owners": ["chief"],
            "allow": [
                {"who": ["writer"], "permissions": ["write"]},
                {"who": ["group:readers"], "permissions": ["read"]},
            ],
        },
        "shifting": {"owners": ["chief"], "allow": guests},
        "closed": {"owners": ["chief"]},
        "trial": {"mode": "dry_run", "owners": ["chief"]},
    }
    return {
        "admin": {"without_token": "change"},
        "authentication": {"api_keys": {"file": str(file)}},
        "audit": {"file": "audit.jsonl", "rotate_bytes": 2**20, "sync_seconds": 0.1},
        "secrets": {"directory": "secrets"},
        "namespaces": [
            {
                "name": name, "backend": "witness", "plugin": plugin, "access": access,
                "config": {"path": str(path)},
                "credentials": {"password": "{{ secret:password }}"},
            }
            for name, access in rules.items()
        ],
    }  # fmt: skip


class Asked(NamedTuple):
    """One call, as its client saw it: ``status`` is None where no answer came. ``life`` is which
    process it was that the client spoke to."""

    id: str
    principal: str
    namespace: str
    operation: str
    life: int
    sent: float
    ended: float
    status: int | None


class World:
    """The proxy, its clients, and what is done to them."""

    def __init__(self, start_prism, directory, seed):
        self.random = random.Random(seed)
        self.directory = directory
        self.keys = {}
        for name in PRINCIPALS:
            groups = ["readers"] if name == "reader" else []
            self.keys[name], _ = create_key(directory / "keys.yaml", name, groups)
        (directory / "secrets").mkdir()
        (directory / "secrets" / "password").write_text(CANARY)
        (directory / "secrets" / "password").chmod(0o600)
        self.witness = directory / "witness"
        self.port = unused_port()
        self.variants = [(0.0, 0.0, VARIANTS[0])]
        """When each was begun to be applied, when that was confirmed, and what it gives."""
        self.life = 0
        self.lives = []
        self.killed = set()
        self.asked = []
        self.seen = []
        self.faults = Counter()
        self.ending = threading.Event()
        self.serving = threading.Event()
        self.follows_since = None
        self._start_prism = start_prism
        self.start()

    @property
    def config(self):
        return config(self.directory / "keys.yaml", self.port, self.witness, self.variants[-1][2])

    def start(self):
        options = ("--port", str(self.port), "--admin-port", "0")
        self.proxy = self._start_prism(self.config, arguments=options, tracebacks=True)
        self.lives.append(self.proxy)
        self.serving.set()

    # -- clients ------------------------------------------------------------------

    def client(self, number, seed):
        """Calls, one after the other, until the end."""
        chance = random.Random(seed)
        with httpx.Client(trust_env=False, timeout=60) as client:
            for count in itertools.count():
                if self.ending.is_set():
                    return
                self.asked.append(self.call(client, chance, f"{number}-{count}"))

    def call(self, client, chance, name):
        who = chance.choice([*PRINCIPALS, "guest", "guest", "", "forged"])
        namespace = chance.choice([*GRANTS, "trial", "shifting"])
        operation = chance.choice([*ACCESS, "look", "put"])
        headers = {"x-request-id": name, "prism-principal": "chief"}
        if who:
            key = self.keys.get(who, f"prism_{'0' * 12}_{'0' * 64}")
            headers["authorization"] = f"Bearer {key}"
        if operation in STREAMED:
            headers["accept"] = "application/x-ndjson"
        url = f"http://127.0.0.1:{self.port}/v1/{namespace}/{operation}"
        seconds = [0, 0.1, 0.3] if namespace == "shifting" else [0, 0, 0.01, 0.1]
        params = {"seconds": chance.choice(seconds)}
        # Some leave before their answer.
        leaves = namespace == "ledger" and params["seconds"] and chance.random() < 0.2
        life, sent = self.life, time.monotonic()
        try:
            answer = client.post(url, json=params, headers=headers, timeout=0.005 if leaves else 60)
            status = answer.status_code
            if status != 200:
                self.seen.append(answer.text)
        except httpx.TransportError:
            status = None
            if not leaves:
                self.serving.wait(60)
        ended = time.monotonic()
        return Asked(name, who, namespace, operation, life, sent, ended, status)

    def follow(self):
        """``guest`` keeps a stream of ``shifting`` open whenever it may."""
        headers = {
            "authorization": f"Bearer {self.keys['guest']}", "accept": "application/x-ndjson",
        }  # fmt: skip
        url = f"http://127.0.0.1:{self.port}/v1/shifting/follow"
        with httpx.Client(trust_env=False, timeout=None) as client:
            while not self.ending.is_set():
                since = time.monotonic()
                with (
                    suppress(httpx.TransportError),
                    client.stream("POST", url, json={}, headers=headers) as stream,
                ):
                    for _ in stream.iter_lines():
                        self.follows_since = since
                self.follows_since = None
                time.sleep(0.02)  # it may not follow now

    def goes_on(self):
        """Clients get answers."""
        before = sum(one.status is not None for one in self.asked[:])
        eventually(
            lambda: sum(one.status is not None for one in self.asked[:]) >= before + CALLS_BETWEEN
        )

    # -- what is done to them -------------------------------------------------------

    def kill_plugin(self):
        name = self.random.choice([*GRANTS, "trial"])
        status = self.proxy.client.get(f"{self.proxy.admin}/admin/plugins/{name}").json()
        with suppress(OSError, KeyError, TypeError):
            stat = Path(f"/proc/{status['pid']}/stat").read_text()
            if int(stat.rpartition(")")[2].split()[1]) == self.proxy.pid:
                os.kill(status["pid"], signal.SIGKILL)

    def kill_proxy(self):
        self.look_around()
        self.killed.add(self.life)
        self.serving.clear()
        self.proxy.process.kill()
        self.proxy.process.wait()
        self.life += 1
        self.start()

    def change(self):
        """Another variant takes effect."""
        before = self.variants[-1][2]
        after = self.random.choice([each for each in VARIANTS if each != before])
        begun = time.monotonic()
        self.variants.append((begun, float("inf"), after))
        file = self.directory / "prism.yaml"
        new = file.with_suffix(".new")
        new.write_text(json.dumps(self.config))
        new.rename(file)
        answer = self.proxy.client.post(f"{self.proxy.admin}/admin/config/apply", json={})
        assert answer.status_code == 200, answer.text
        confirmed = time.monotonic()
        self.variants[-1] = (begun, confirmed, after)
        if "read" not in after:
            # Streams that were open end.
            eventually(lambda: (self.follows_since or confirmed) >= confirmed)

    def look_around(self):
        """Read what operators, and other users of the machine, can see."""
        paths = ["/metrics", "/readyz", "/admin/plugins", "/admin/config"]
        paths += [f"/admin/plugins/{name}/logs" for name in GRANTS]
        self.seen += [self.proxy.client.get(self.proxy.admin + path).text for path in paths]
        for pid in (self.proxy.pid, *self.proxy.plugin_pids):
            for name in ("cmdline", "environ"):
                with suppress(OSError):
                    text = Path(f"/proc/{pid}/{name}").read_bytes()
                    self.seen.append(text.decode(errors="replace"))

    def run(self, faults):
        kinds = [self.kill_plugin, self.change, self.kill_plugin, self.change, self.kill_proxy]
        threads = [
            threading.Thread(target=self.client, args=(number, self.random.random()))
            for number in range(4)
        ]
        threads.append(threading.Thread(target=self.follow))
        for thread in threads:
            thread.start()
        try:
            for number in range(faults):
                self.goes_on()
                # Each kind at least once, and then any.
                fault = kinds[number] if number < len(kinds) else self.random.choice(kinds)
                fault()
                self.faults[fault.__name__] += 1
            self.goes_on()
            self.look_around()
        finally:
            self.ending.set()
            for thread in threads[:-1]:
                thread.join()
            stopped = self.proxy.stop()  # ends the stream that is followed, too
            threads[-1].join()
        assert stopped == 0

    # -- what must hold -----------------------------------------------------------

    def may(self, principal, namespace, operation, sent, ended):
        """Whether the call may be let in: the answers that there are, as tables came and went."""
        if principal not in self.keys:
            return {False}
        if namespace == "trial":
            return {True}
        permission = ACCESS[operation]
        if namespace != "shifting" or principal != "guest":
            return {permission in GRANTS[namespace].get(principal, ())}
        ends = [confirmed for _, confirmed, _ in self.variants[1:]] + [float("inf")]
        return {
            permission in gives
            for (begun, _, gives), end in zip(self.variants, ends, strict=True)
            if begun <= ended and end >= sent
        }


def audited(directory):
    """The records of all files of the log, by request id; and the chain of each."""
    found = defaultdict(list)
    for file in directory.glob("audit.jsonl*"):
        for line in file.read_text().splitlines():
            with suppress(ValueError):
                record = json.loads(line)
                if "decision" in record:
                    found[record["request_id"]].append(record)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("faults", [8, pytest.param(100, marks=pytest.mark.soak)])
def test_kills_and_changes(start_prism, tmp_path, faults):
    seed = 8 if faults == 8 else random.SystemRandom().randrange(1 << 32)
    world = World(start_prism, tmp_path, seed)
    world.run(faults)
    records = audited(tmp_path)
    told = Counter(one.status for one in world.asked)
    print(f"seed {seed}; {dict(world.faults)}; statuses {dict(told)}; {len(records)} records")
    assert told[200] > faults
    assert told[401]
    assert told[403]

    nothing_was_allowed_that_must_not_be(world, records)
    every_answer_has_one_record(world, records)
    the_log_is_whole(tmp_path, len(world.lives))
    texts = world.seen + [proxy.log + proxy.printed for proxy in world.lives]
    texts += [file.read_text() for file in tmp_path.glob("audit.jsonl*")]
    assert any("[redacted]" in text for text in world.seen)  # it came that far
    for secret in (CANARY, *(key[-64:] for key in world.keys.values())):
        assert not [text for text in texts if secret in text]


def nothing_was_allowed_that_must_not_be(world, records):
    asked = {one.id: one for one in world.asked}
    for one in world.asked:
        may = world.may(one.principal, one.namespace, one.operation, one.sent, one.ended)
        if may == {False}:
            assert one.status in REFUSED | {None}, one
        elif may == {True}:
            assert one.status not in REFUSED, one
        for record in records.get(one.id, ()):
            if may == {False}:
                assert (record["decision"], record["ran"]) == ("deny", "no"), record
    for line in world.witness.read_text().splitlines():
        name, principal, namespace, operation = line.split()
        if operation == "follow":
            continue
        one = asked[name]
        assert (principal, namespace, operation) == (one.principal, one.namespace, one.operation)
        end = one.ended if one.status is not None else float("inf")
        assert True in world.may(principal, namespace, operation, one.sent, end), line


def every_answer_has_one_record(world, records):
    assert {name: len(each) for name, each in records.items() if len(each) > 1} == {}
    ran = {line.split()[0] for line in world.witness.read_text().splitlines()}
    missing = Counter()
    by_client = defaultdict(list)
    for one in world.asked:
        if one.status is not None:
            by_client[one.id.partition("-")[0], one.life].append(one)
    for (_, life), calls in by_client.items():
        had = [one.id in records for one in calls]
        if life in world.killed:
            # Records are written in order: what is missing is the last that there was.
            missing[life] += had.count(False)
            had = had[: len(had) - had.count(False)]
        assert all(had), [one for one, is_there in zip(calls, had, strict=False) if not is_there]
        for one in calls:
            for record in records.get(one.id, ()):
                assert record["http_status"] == one.status, (one, record)
                assert record["principal"] == {"": "anonymous", "forged": "anonymous"}.get(
                    one.principal, one.principal
                )
                # A stream may lose its permission between its beginning and its first message.
                is_cut = record.get("streamed", False) and record["ran"] == "unknown"
                decision = "deny" if one.status in REFUSED and not is_cut else "allow"
                assert record["decision"] == decision, (one, record)
                assert bool(record.get("rule")) == (decision == "allow"), record
                if record["ran"] == "no":
                    assert one.id not in ran, record
                if record["ran"] == "yes":
                    assert one.id in ran, record
    print(f"records of the last moment before a kill that are missing: {missing.total()}")


def the_log_is_whole(directory, lives):
    command = [sys.executable, "-m", "prism", "audit", "verify", str(directory / "audit.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{lives} chain" in done.stdout
    for note in done.stderr.splitlines():
        assert NOTES.search(note), note

"""A new version is tried on a share of real calls, and taken or given up by itself."""

import subprocess
import sys
import threading
from collections import Counter

import pytest
from prism_process import SUPPORT, eventually

COMMAND = [sys.executable, str(SUPPORT / "canary_plugin.py")]
# Which of two processes a busy machine holds up says nothing of their versions.
TRIAL = {
    "share": "50%",
    "min_calls": 10,
    "min_seconds": 0.2,
    "max_seconds": 60,
    "max_latency_factor": 1000,
}


@pytest.fixture
def proxy(start_prism):
    versions = {
        "v1": {},
        "v2": {},
        "bad": {"environment": {"FAILS": "yes"}},
    }
    catalogue = {"name": "canary", "type": "sidecar", "command": COMMAND, "versions": versions}
    namespace = {"name": "kv", "backend": "canary", "plugin": {"version": "v1"}}
    return start_prism(
        {
            "plugins": [catalogue],
            "namespaces": [namespace],
            "admin": {"without_token": "change"},
        }
    )


def try_out(proxy, version):
    """(receipt, statuses of the calls beside the trial)"""
    statuses = Counter()
    over = threading.Event()

    def call():
        while not over.is_set():
            statuses[proxy.call("kv", "echo", {"a": 1}).status_code] += 1

    clients = [threading.Thread(target=call) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        eventually(lambda: statuses[200] > 5)
        answer = proxy.client.post(
            f"{proxy.admin}/admin/plugin/reload",
            json={"namespace": "kv", "version": version, "canary": TRIAL},
            timeout=120,
        )
    finally:
        over.set()
        for client in clients:
            client.join()
    assert answer.status_code == 200, answer.text
    return answer.json(), statuses


def test_one_that_is_as_good_takes_over(proxy):
    receipt, statuses = try_out(proxy, "v2")
    assert receipt["outcome"] == "swapped", receipt
    assert receipt["calls"]["lost"] == receipt["calls"]["failed"] == 0
    assert set(statuses) == {200}
    status = proxy.client.get(f"{proxy.admin}/admin/plugins/kv").json()
    assert status["configured_version"] == "v2"


def test_one_that_fails_is_given_up(proxy):
    receipt, statuses = try_out(proxy, "bad")
    assert receipt["outcome"] == "rolled_back", receipt
    assert "error" in receipt["reason"]
    assert set(statuses) == {200, 500}  # the calls that tried it out
    assert statuses[500] < statuses[200]
    status = proxy.client.get(f"{proxy.admin}/admin/plugins/kv").json()
    assert (status["configured_version"], status["state"]) == ("v1", "ready")
    assert proxy.call("kv", "echo", {"a": 1}).json() == {"a": 1}


def test_an_operator_sees_how_it_stands_and_stops_it(proxy):
    """On a namespace without calls, which would wait ten minutes for its hundred."""
    command = [sys.executable, "-m", "prism", "plugin", "reload", "kv", "--url", proxy.admin]
    options = ["--version", "v2", "--canary", "10%", "--min-calls", "50", "--max-seconds", "300"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as reload:
        assert any("canary: 0 of 50 calls, rolled back in 4m" in line for line in reload.stderr)
        done = subprocess.run([*command, "--abort"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        printed = reload.stdout.read()
        assert reload.wait() == 1
    for text in (done.stdout, printed):
        assert "rolled_back" in text
        assert "an operator stopped it" in text
    status = proxy.client.get(f"{proxy.admin}/admin/plugins/kv").json()
    assert (status["configured_version"], status["operation"]) == ("v1", None)

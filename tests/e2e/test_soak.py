"""A great many calls leave the proxy as large as it was: memory, tasks, descriptors.

They are made by h2load: half of them on four connections for the whole time, half in
batches whose connections come and go.
"""

import subprocess

import pytest
from doors import CODECS, open_door, program
from prism_process import eventually

from prism.streams.tasks import MAX_IDLE

ROUNDS = 5
"""The first is the warm-up, and is left out of the comparison."""
CALLS = [10_000, pytest.param(10_000_000, marks=pytest.mark.soak)]
"""The few show a leak of 400 bytes in each call, the many one of half a byte."""
GROWTH = 3 * 2**20
"""Bytes."""

CLOSING = 2
"""Descriptors of connections that were closed a moment ago."""

INSIDE = {"type": "in_process", "module": "waiting_plugin:Waiting"}


def load(h2load, url, body, calls, connections):
    shape = ["--requests", calls, "--clients", connections, "--max-concurrent-streams", 25]
    command = [h2load, *map(str, shape), "--data", str(body), url]
    done = subprocess.run(command, capture_output=True, text=True)
    assert f"{calls} succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout


def settled(proxy, first):
    """(resident bytes, descriptors, tasks), once there are no more of these than at ``first``.
    How many tasks a pool keeps depends on how many calls it once had at the same time."""

    def sizes():
        """Descriptors and tasks are as few as at first."""
        descriptors, tasks = proxy.metric("process_open_fds"), proxy.metric("prism_tasks")
        if first and (descriptors > first[1] + CLOSING or tasks > first[2] + MAX_IDLE):
            return None
        return proxy.resident(), descriptors, tasks

    return eventually(sizes)


@pytest.mark.slow
@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("codec", CODECS)
def test_a_soak(start_prism, tmp_path, codec, calls):
    h2load = program("h2load", "nghttp2-client")
    namespaces = [{"name": "inside", "backend": "waiting", "plugin": INSIDE}]
    proxy = open_door(start_prism, tmp_path, "cleartext", codec, namespaces, quiet=True)
    url = f"{proxy.url}/v1/inside/count"
    body = tmp_path / "body.json"
    body.write_text("{}")
    portion = calls // ROUNDS
    sizes = []
    for _ in range(ROUNDS):
        load(h2load, url, body, portion // 2, 4)
        for _ in range(4):
            load(h2load, url, body, portion // 8, 25)
        sizes.append(settled(proxy, sizes[0] if sizes else None))
    print(f"{calls} calls; resident, descriptors, tasks after each fifth: {sizes}")
    _, first, *_, last = sizes
    assert last[0] - first[0] < GROWTH, sizes

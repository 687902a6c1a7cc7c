"""The audit log of real proxies: complete over stops, kills and restarts; closed when it fails."""

import fcntl
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest
from handover import hand_over
from prism_process import CHAOS, SUPPORT, eventually
from stream_doors import STREAM_DOORS, StreamFailed


def config(file, **audit):
    return {
        "audit": {"file": str(file), **audit},
        "namespaces": [
            {"name": "chaos", "backend": "chaos", "plugin": {"type": "sidecar", "command": CHAOS}}
        ],
    }


@pytest.fixture
def file(tmp_path):
    return tmp_path / "audit.jsonl"


def records(file):
    found = []
    for line in file.read_text().splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return [record for record in found if "decision" in record]


def audit(*arguments):
    command = [sys.executable, "-m", "prism", "audit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_every_call_has_one_record(start_prism, file):
    proxy = start_prism(config(file))
    proxy.call("chaos", "echo", {"a": 1}, x_request_id="good")
    proxy.call("chaos", "no_such", x_request_id="unknown-operation")
    proxy.call("nowhere", "echo", x_request_id="unknown-namespace")
    proxy.call("chaos", "echo", "no object", x_request_id="refused")
    target, fault = f"{proxy.url}/v1/chaos/do", {"fault": "hang"}
    with pytest.raises(httpx.ReadTimeout):
        proxy.client.post(target, json=fault, headers={"x-request-id": "left"}, timeout=0.5)
    proxy.client.get(f"{proxy.url}/healthz")  # no call
    eventually(lambda: len(records(file)) == 5)
    found = {record["request_id"]: record for record in records(file)}
    assert {name: (one["status"], one["ran"]) for name, one in found.items()} == {
        "good": ("OK", "yes"),
        "unknown-operation": ("UNIMPLEMENTED", "no"),
        "unknown-namespace": ("NOT_FOUND", "no"),
        "refused": ("INVALID_ARGUMENT", "no"),
        "left": ("CANCELLED", "unknown"),
    }
    assert proxy.metric("prism_audit_records_total") == 5
    assert proxy.stop() == 0
    done = audit("verify", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{file}: whole: 5 records, 1 chain\n"
    done = audit("tail", file, "-n", "1", "--namespace", "chaos", "--json")
    assert json.loads(done.stdout)["request_id"] == "left"
    done = audit("tail", file, "--decision", "none")
    assert "anonymous nowhere/echo NOT_FOUND" in done.stdout


def to_its_end(stream):
    stream.end()
    with suppress(StreamFailed):
        stream.values()


def leaves(stream):
    assert stream.receive() is not None
    stream.leave()


@pytest.mark.slow
def test_a_stream_has_one_record_at_every_door_however_it_ends(start_prism, file):
    plugin = {"type": "sidecar", "command": [sys.executable, str(SUPPORT / "stream_plugin.py")]}
    streams = {"name": "kv", "backend": "streams", "plugin": plugin}
    proxy = start_prism({"audit": {"file": str(file)}, "namespaces": [streams]})
    endings = {
        ("count", "OK", "yes"): ({"n": 2}, to_its_end),
        ("fail", "DATA_LOSS", "yes"): ({"n": 2}, to_its_end),
        ("no_such", "UNIMPLEMENTED", "no"): ({}, to_its_end),
        ("deaf", "CANCELLED", "unknown"): ({}, leaves),
    }
    goal = 0
    for name, door in STREAM_DOORS.items():
        for (operation, _, _), (params, use) in endings.items():
            stream = door(proxy.port, f"/v1/kv/{operation}", params)
            use(stream)
            stream.leave()
        goal += len(endings)
        eventually(lambda goal=goal: len(records(file)) >= goal)
        told = [(one["operation"], one["status"], one["ran"]) for one in records(file)]
        assert sorted(told[-len(endings) :]) == sorted(endings), name
    assert proxy.stop() == 0
    found = records(file)
    assert len(found) == goal  # and no other came later
    assert len({one["request_id"] for one in found}) == len(found)
    assert audit("verify", file).returncode == 0


def test_a_changed_log_is_told(start_prism, file):
    proxy = start_prism(config(file))
    proxy.call("chaos", "echo", {"a": 1})
    proxy.stop()
    file.write_text(file.read_text().replace("anonymous", "innocents"))
    done = audit("verify", file, "-o", "json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["whole"] is False
    assert "are not as they were sealed" in audit("verify", file).stdout


def test_what_was_answered_before_a_kill_is_there_but_for_the_last_moment(start_prism, file):
    """Records leave the process some milliseconds after the answer."""
    proxy = start_prism(config(file))
    for number in range(20):
        proxy.call("chaos", "echo", {}, x_request_id=f"before-{number}")
    eventually(lambda: len(records(file)) == 20)
    proxy.process.send_signal(signal.SIGKILL)
    proxy.process.wait()
    done = audit("verify", file)
    assert (done.returncode, done.stdout.count("has no end")) == (1, 1)
    with file.open("a") as torn:
        torn.write('{"seq":')
    proxy = start_prism(config(file))
    proxy.call("chaos", "echo", {}, x_request_id="after")
    proxy.stop()
    assert [record["request_id"] for record in records(file)] == [
        *(f"before-{number}" for number in range(20)),
        "after",
    ]
    done = audit("verify", file)
    assert done.returncode == 0, done.stdout
    assert "not a whole line" in done.stderr


def test_calls_in_a_rolling_restart_are_all_recorded(start_prism, file):
    proxy = start_prism(config(file))
    answered = []
    stopping = threading.Event()

    def ask(client):
        number = 0
        while not stopping.is_set():
            name = f"{client}-{number}"
            assert proxy.call("chaos", "echo", {}, x_request_id=name).status_code == 200
            answered.append(name)
            number += 1

    def goes_on():
        goal = len(answered) + 20
        eventually(lambda: len(answered) >= goal or any(one.done() for one in asking))

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask, client) for client in range(2)]
        goes_on()
        hand_over(proxy)
        goes_on()
        stopping.set()
        for one in asking:
            one.result()
    proxy.process.terminate()
    proxy.process.wait()
    recorded = [one["request_id"] for one in records(file)]
    assert sorted(recorded) == sorted(answered)
    done = audit("verify", file)
    assert done.stdout == f"{file}: whole: {len(answered)} records, 2 chains\n"


@pytest.mark.parametrize("when_it_fails", ["fail_closed", "degrade"])
def test_a_log_that_nobody_takes(start_prism, tmp_path, when_it_fails):
    """A pipe whose reader goes away: as a full disk, it cannot be written."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    proxy = start_prism(config(pipe, when_it_fails=when_it_fails))
    assert proxy.call("chaos", "echo", {"a": 1}).status_code == 200
    os.close(reader)
    proxy.call("chaos", "echo", {"a": 1})
    eventually(lambda: proxy.metric("prism_audit_failing") == 1)
    answer = proxy.call("chaos", "echo", {"a": 1})
    if when_it_fails == "degrade":
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["reason"]) == (503, "audit_unavailable")
        assert answer.headers["retry-after"]
    (line,) = proxy.logged("until it can be written, ")
    assert "Broken pipe" in line["message"]
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    eventually(lambda: proxy.metric("prism_audit_failing") == 0)
    assert proxy.call("chaos", "echo", {"a": 1}).status_code == 200
    os.close(reader)


@pytest.mark.parametrize("when_it_fails", ["fail_closed", "degrade"])
@pytest.mark.parametrize("trouble", ["full", "stuck"])
def test_a_disk_that_is_full_or_stuck(start_prism, tmp_path, file, when_it_fails, trouble):
    if trouble == "full":
        # So that the limit, which is for all files of the process, is felt by this one alone.
        file.write_text(" " * 50_000_000 + "\n")
    else:
        os.mkfifo(file)
        reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    proxy = start_prism(config(file, when_it_fails=when_it_fails))
    asked = 0

    def ask():
        nonlocal asked
        asked += 1
        return proxy.call("chaos", "echo", {"n": asked}, x_request_id=f"call-{asked}")

    assert ask().status_code == 200
    if trouble == "full":
        eventually(lambda: b"call-1" in tail_of(file))
        limit = file.stat().st_size + 1000
        resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    else:
        for _ in range(40):  # more than the pipe takes
            assert ask().status_code in (200, 503)

    def fails():
        ask()
        return proxy.metric("prism_audit_failing") == 1

    eventually(fails)
    answer = ask()
    if when_it_fails == "degrade":
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["reason"]) == (503, "audit_unavailable")
        plugin = proxy.client.get(f"{proxy.admin}/admin/plugins/chaos").json()
        assert plugin["state"] == "ready"  # it is not the plugin's doing
    texts = []
    if trouble == "full":
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE, unlimited)
        read = functools.partial(tail_of, file)
    else:

        def read():
            with suppress(BlockingIOError):
                texts.append(os.read(reader, 65536))
            return b"".join(texts)

    def works():
        read()
        return proxy.metric("prism_audit_failing") == 0

    eventually(works)
    assert ask().status_code == 200
    eventually(lambda: f'"call-{asked}"'.encode() in read())
    whole = []  # a line that found no room for its end is written again
    for line in read().splitlines():
        with suppress(ValueError):
            whole.append(json.loads(line).get("request_id"))
    found = [whole.count(f"call-{number}") for number in range(1, asked + 1)]
    assert found == [1] * asked  # those refused, too
    if trouble == "stuck":
        stopping = threading.Thread(target=proxy.stop)
        stopping.start()
        eventually(lambda: read() and not stopping.is_alive())
        os.close(reader)


def tail_of(file):
    """What was written behind the blanks."""
    with file.open("rb") as opened:
        opened.seek(50_000_000)
        return opened.read()


def test_a_file_that_cannot_be_opened_keeps_the_proxy_from_starting(tmp_path):
    settings = tmp_path / "prism.yaml"
    settings.write_text(json.dumps(config(tmp_path / "no" / "such" / "audit.jsonl")))
    command = [sys.executable, "-m", "prism", "serve", "--port", "0", "--config", str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "audit.jsonl: No such file or directory; name a file that this user can" in done.stderr
    assert "Traceback" not in done.stderr

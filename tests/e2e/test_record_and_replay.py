"""Calls of a real proxy are recorded, and played against other versions of its plugin."""

import json
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from prism_process import FAST_CHECKS, LIMIT, SUPPORT, eventually

CANARY = "hunter2-canary-value"
SQLITE = [sys.executable, "-m", "prism_plugins.sqlite"]
HANGS = """
import os
from pathlib import Path

import anyio

from prism.sdk import Plugin, operation, serve


class Hangs(Plugin):
    @operation(idempotent=True, access="read")
    async def get(self, params: dict) -> dict:
        Path("asked.new").write_text(str(os.getpid()))
        Path("asked.new").rename("asked")
        await anyio.sleep_forever()
        return {}


serve(Hangs)
"""
OTHER = [sys.executable, str(SUPPORT / "other_sqlite.py")]


def recorded(directory, **record):
    namespace = {
        "name": "kv",
        "backend": "sqlite",
        "plugin": {"health": FAST_CHECKS},
        "config": {"path": str(directory / "kv.db")},
        "record": {"file": str(directory / "kv.jsonl"), **record},
    }
    return {"namespaces": [namespace]}


def lines(directory):
    file = directory / "kv.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(True) if line.endswith("\n")]


def replay(directory, *arguments, mode="same", config=None):
    settings = json.dumps(config or {"path": str(directory / "kv.db")})
    if "--against" not in arguments:
        arguments = ("--plugin-config", settings, *arguments)
    done = subprocess.run(
        [sys.executable, "-m", "prism", "replay", str(directory / "kv.jsonl"), "-o", "json",
         *arguments],
        capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


@pytest.fixture(scope="module")
def recording(start_shared_prism, tmp_path_factory):
    """A directory with a recording, and the database as it was after it; and the proxy."""
    directory = tmp_path_factory.mktemp("recording")
    proxy = start_shared_prism(recorded(directory, values="keep"))
    for number in range(4):
        proxy.call("kv", "set", {"key": f"k{number}", "value": {"name": CANARY, "n": number}})
    for number in range(4):
        proxy.call("kv", "get", {"key": f"k{number}"})
    proxy.call("kv", "mget", {"keys": ["k1", "none"]})
    proxy.call("kv", "get", {"nope": 1})
    eventually(lambda: len(lines(directory)) == 10)
    return directory, proxy


def test_what_is_recorded(recording):
    directory, proxy = recording
    found = lines(directory)
    assert [each["operation"] for each in found] == ["set"] * 4 + ["get"] * 4 + ["mget", "get"]
    assert [each.get("writes", False) for each in found] == [True] * 4 + [False] * 6
    assert found[4]["result"]["value"] == {"name": CANARY, "n": 0}
    assert found[9]["status"] == "INVALID_ARGUMENT"
    assert all(each["seconds"] > 0 for each in found)
    assert stat.S_IMODE((directory / "kv.jsonl").stat().st_mode) == 0o600
    assert CANARY not in proxy.log
    assert proxy.metric("prism_recorded_calls_total", namespace="kv") == 10


def test_the_same_version_answers_the_same(recording):
    directory, _ = recording
    status, report, _ = replay(directory, "--", *SQLITE)
    assert (status, report["is_equal"]) == (0, True)
    assert (report["played"], report["skipped_writes"]) == (6, 4)
    assert report["outcomes"]["equal"] == 6


def test_a_planted_difference_is_found_with_its_path(recording):
    directory, _ = recording
    planted = ["env", "MODE=other", *OTHER]
    status, report, errors = replay(directory, "--", *planted)
    assert (status, report["is_equal"]) == (1, False)
    # The one that is refused, and mget, are as before.
    assert report["outcomes"] == {
        "equal": 2, "different": 4, "only_old_failed": 0, "only_new_failed": 0,
    }  # fmt: skip
    places = {(each["operation"], each["kind"], each["path"]) for each in report["differences"]}
    assert places == {
        ("get", "type", "$.version"),
        ("get", "extra", "$.*4"),
    }  # nobody declares `fresh`
    assert CANARY not in json.dumps(report) + errors
    ignored = ("--ignore", "version", "--ignore", "fresh")
    assert replay(directory, *ignored, "--", *planted)[0] == 0


def test_against_a_namespace_of_a_running_proxy(recording, start_prism, tmp_path):
    directory, _ = recording
    other = start_prism(recorded(tmp_path, share=0))
    status, report, _ = replay(directory, "--against", other.url, "kv")
    assert status == 1  # there is nothing in it yet
    assert report["outcomes"]["different"] == 5
    status, report, _ = replay(
        directory, "--against", other.url, "kv", "--writes", "--concurrency", "1"
    )
    assert report["outcomes"]["equal"] == report["played"] == 10, report
    assert status == 0
    status, report, errors = replay(directory, "--against", "http://127.0.0.1:9", "kv")
    assert (status, report) == (1, {})
    assert "cannot call" in errors


def test_a_file_that_is_being_recorded_to_draws_a_warning(start_prism, tmp_path):
    proxy = start_prism(recorded(tmp_path, values="keep"))
    proxy.call("kv", "get", {"key": "a"})
    eventually(lambda: len(lines(tmp_path)) == 1)
    status, _, errors = replay(tmp_path, "--against", proxy.url, "kv")
    assert (status, "a proxy is recording to" in errors) == (0, True)
    copied = tmp_path / "copied"
    copied.mkdir()
    shutil.copy(tmp_path / "kv.jsonl", copied)
    status, _, errors = replay(copied, "--against", proxy.url, "kv")
    assert (status, errors) == (0, "")


@pytest.mark.parametrize("which", ["another namespace", "the admin port"])
def test_what_is_no_namespace_of_a_proxy_is_told_before_the_first_call(recording, which):
    directory, proxy = recording
    where = (proxy.admin, "kv") if which == "the admin port" else (proxy.url, "nope")
    status, report, errors = replay(directory, "--against", *where)
    assert (status, report) == (2, {})
    assert errors.startswith("prism: ")
    if which == "another namespace":
        assert "NOT_FOUND" in errors


def test_a_plugin_that_does_not_serve_is_told(recording):
    directory, _ = recording
    status, report, errors = replay(directory, "--", *SQLITE, config={"pth": "x"})
    assert (status, report) == (1, {})
    assert "the plugin does not serve" in errors


def test_what_its_plugin_says_cannot_drive_the_terminal(recording):
    directory, _ = recording
    program = "import sys; sys.exit('\\x1b[2Jno\\x1b[1m')"
    status, report, errors = replay(directory, "--", sys.executable, "-c", program)
    assert (status, report) == (1, {})
    assert "\ufffd[2Jno\ufffd[1m" in errors
    assert "\x1b" not in errors


def test_interrupted_it_ends_without_a_traceback_and_so_does_its_plugin(recording, tmp_path):
    directory, _ = recording
    program = tmp_path / "hangs.py"
    program.write_text(HANGS)
    with subprocess.Popen(
        [sys.executable, "-m", "prism", "replay", str(directory / "kv.jsonl"), "--",
         sys.executable, str(program)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as replaying:  # fmt: skip
        asked = tmp_path / "asked"
        eventually(lambda: asked.exists() and asked.read_text())
        replaying.send_signal(signal.SIGINT)
        _, errors = replaying.communicate(timeout=LIMIT)
    assert (replaying.returncode, "Traceback" in errors) == (-signal.SIGINT, False)
    eventually(lambda: not Path("/proc", asked.read_text()).exists())


def test_redacted_it_has_no_values_and_is_played_without_a_comparison(start_prism, tmp_path):
    proxy = start_prism(recorded(tmp_path))
    proxy.call("kv", "set", {"key": CANARY, "value": {CANARY: CANARY}})
    proxy.call("kv", "get", {"key": CANARY})
    eventually(lambda: len(lines(tmp_path)) == 2)
    assert proxy.stop() == 0
    assert CANARY not in (tmp_path / "kv.jsonl").read_text() + proxy.log
    assert lines(tmp_path)[1]["params"] == {"key": "x" * len(CANARY)}
    status, report, _ = replay(tmp_path, "--", *SQLITE)
    assert (status, report["compared"], report["played"]) == (0, False, 1)


def test_killed_under_load_it_leaves_a_file_that_can_be_read(start_prism, tmp_path):
    proxy = start_prism(recorded(tmp_path, values="keep"))
    answered, ending = [], threading.Event()

    def call():
        try:
            while not ending.is_set():
                answered.append(proxy.call("kv", "get", {"key": "x" * 500}).status_code)
        except httpx.HTTPError:
            pass  # the proxy is gone

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(lines(tmp_path)) > 20)
    proxy.process.send_signal(signal.SIGKILL)
    proxy.process.wait()
    ending.set()
    for thread in threads:
        thread.join()
    with (tmp_path / "kv.jsonl").open("ab") as file:  # as if the last write had been cut off
        file.write(b'{"v":1,"time":17')
    status, report, _ = replay(tmp_path, "--", *SQLITE)
    assert (status, report["skipped_lines"]) == (0, 1)
    assert report["played"] == report["outcomes"]["equal"] > 20


def test_the_block_comes_and_goes_while_it_serves(start_prism, tmp_path):
    config = recorded(tmp_path, values="keep") | {"admin": {"without_token": "change"}}
    plain = json.loads(json.dumps(config))
    del plain["namespaces"][0]["record"]
    proxy = start_prism(plain)
    for each, expected in ((config, 1), (plain, 1), (config, 2)):
        (tmp_path / "prism.yaml").write_text(json.dumps(each))
        applied = proxy.client.post(f"{proxy.admin}/admin/config/apply", json={}).json()
        assert applied["applied"]
        proxy.call("kv", "get", {"key": "a"})
        eventually(lambda expected=expected: len(lines(tmp_path)) == expected)

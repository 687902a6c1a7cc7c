"""The operators' commands against a real proxy."""

import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial

import httpx
import pytest
from prism_process import WAITING, eventually


@pytest.fixture(scope="module")
def proxy(start_shared_prism, tmp_path_factory):
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("correct-horse-battery\n")
    token.chmod(0o600)
    versions = {"v1.2": {"command": WAITING}, "v1.3": {"command": WAITING},
        "broken": {"command": ["/no/such/program"]}}  # fmt: skip
    proxy = start_shared_prism(
        {
            "admin": {"token_file": str(token)},
            "plugins": [{"name": "waiting", "type": "sidecar", "versions": versions}],
            "namespaces": [
                {"name": "user-profiles", "backend": "waiting",
                    "plugin": {"name": "waiting", "version": "v1.2"}}
            ],
        }
    )  # fmt: skip
    proxy.token = token
    return proxy


def prism(proxy, *arguments, token=True):
    options = ["--url", proxy.admin, *(["--token-file", str(proxy.token)] if token else [])]
    return subprocess.run(
        [sys.executable, "-m", "prism", *arguments, *options],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_lists_and_descriptions(proxy):
    listed = prism(proxy, "plugin", "list")
    assert listed.stdout.split("\n")[1].split()[:4] == ["user-profiles", "waiting", "v1.2", "1.0.0"]
    (status,) = json.loads(prism(proxy, "plugin", "list", "-o", "json").stdout)
    assert (status["state"], status["configured_version"]) == ("ready", "v1.2")
    assert "state:" in prism(proxy, "plugin", "status", "user-profiles").stdout
    assert "user-profiles" in prism(proxy, "namespace", "list").stdout
    described = prism(proxy, "namespace", "describe", "user-profiles", "-o", "yaml")
    assert "max_payload_bytes" in described.stdout


def test_programs_get_every_field_of_a_status(proxy):
    (listed,) = json.loads(prism(proxy, "plugin", "list", "-o", "json").stdout)
    status = json.loads(prism(proxy, "plugin", "status", "user-profiles", "-o", "json").stdout)
    assert status.keys() == listed.keys()
    arguments = ["plugin", "status", "user-profiles", "--watch", "-o", "json"]
    options = ["--url", proxy.admin, "--token-file", str(proxy.token)]
    with subprocess.Popen(
        [sys.executable, "-m", "prism", *arguments, *options], stdout=subprocess.PIPE, text=True
    ) as watch:
        first = watch.stdout.readline()
        watch.kill()
    assert json.loads(first).keys() == listed.keys()


@pytest.mark.parametrize("payloads", [False, True])
def test_frames_are_shown_as_they_cross(proxy, payloads):
    options = ["--url", proxy.admin, "--token-file", str(proxy.token)]
    command = [sys.executable, "-m", "prism", "plugin", "trace", "user-profiles"]
    asked = ["--payloads"] if payloads else []
    with subprocess.Popen(
        [*command, *asked, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as trace:
        lines = []
        reader = threading.Thread(target=lambda: lines.extend(iter(trace.stdout.readline, "")))
        reader.start()

        def seen():
            httpx.post(f"{proxy.url}/v1/user-profiles/wait", json={"seconds": 0.0125})
            return any("<- CLOSE" in line and " OK " in line for line in lines)

        eventually(seen)
        trace.send_signal(signal.SIGINT)
        assert trace.wait(60) == -signal.SIGINT
        reader.join(60)
        assert trace.stderr.read() == ""
    opened = next(line for line in lines if "-> OPEN" in line)
    assert " Execute " in opened
    assert '"operation":"wait"' in opened
    assert ("0.0125" in opened) == payloads


def test_what_is_in_frames_is_for_who_operates(proxy):
    refused = prism(proxy, "plugin", "trace", "user-profiles", "--payloads", token=False)
    assert refused.returncode == 1
    assert "token" in refused.stderr


def test_a_status_is_looked_at_again_when_something_happens(proxy):
    options = ["--url", proxy.admin, "--token-file", str(proxy.token)]
    command = [sys.executable, "-m", "prism", "plugin", "status", "user-profiles", "--watch"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as watch:
        before = watch.stdout.readline()
        assert "instance=user-profiles/" in before
        assert "in_flight" not in before, "of which no event tells"
        assert prism(proxy, "plugin", "restart", "user-profiles").returncode == 0
        status = json.loads(prism(proxy, "plugin", "status", "user-profiles", "-o", "json").stdout)
        last = f"instance={status['instance']} "
        assert any(line.startswith(last) and "state=ready" in line for line in watch.stdout)
        watch.kill()


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["call", ""], ["user-profiles"]),
        (["tail", "x"], []),
        (["call", "user-profiles", "wait_"], ["wait_until"]),
        (["call", "user-profiles", "nothing"], []),
        (["call", "a/b", ""], []),
        (["plugin", "reload", "user"], ["user-profiles"]),
        (["namespace", "describe", ""], ["user-profiles"]),
        (["plugin", "verify", "wai"], ["waiting"]),
        (["plugin", "status", "--url", "http://127.0.0.1:1", ""], []),
        (["plugin", "status", "--token-file", "/no/such/file", ""], []),
    ],
)
def test_names_are_completed_by_the_proxy_that_runs(proxy, words, completed):
    asked = {
        "_PRISM_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["prism", *words]),
        "COMP_CWORD": str(len(words)),
        "PRISM_URL": proxy.url,
        "PRISM_ADMIN": proxy.admin,
        "PRISM_TOKEN_FILE": str(proxy.token),
        "PRISM_CONFIG": str(proxy.directory / "prism.yaml"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "prism"],
        capture_output=True, text=True, timeout=60, env={**os.environ, **asked},
    )  # fmt: skip
    assert done.stderr == ""
    assert [line.removeprefix("plain,") for line in done.stdout.split()] == completed


def test_the_rfcs_reload_and_its_receipt(proxy):
    done = prism(proxy, "plugin", "reload", "user-profiles", "--version", "v1.3", "-o", "json")
    assert done.returncode == 0, done.stderr
    receipt = json.loads(done.stdout)
    assert (receipt["outcome"], receipt["calls"]["lost"]) == ("swapped", 0)
    table = prism(proxy, "plugin", "reload", "user-profiles")
    assert "lost 0" in table.stdout
    status = json.loads(prism(proxy, "plugin", "status", "user-profiles", "-o", "json").stdout)
    assert status["configured_version"] == "v1.3"


def test_how_far_a_reload_is(proxy, tmp_path):
    gate = tmp_path / "gate"
    stuck = threading.Thread(
        target=proxy.call, args=("user-profiles", "wait_until", {"file": str(gate)})
    )
    stuck.start()
    options = ["-o", "json", "--url", proxy.admin, "--token-file", str(proxy.token)]
    try:
        status = f"{proxy.admin}/admin/plugins/user-profiles"
        token = {"authorization": f"Bearer {proxy.token.read_text().strip()}"}
        asked = partial(proxy.client.get, status, headers=token)
        eventually(lambda: asked().json()["in_flight"] == 1)
        with subprocess.Popen(
            [sys.executable, "-m", "prism", "plugin", "reload", "user-profiles", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as reload:  # fmt: skip
            assert any("draining, 1 in flight" in line for line in reload.stderr)
            gate.touch()
            receipt = json.loads(reload.stdout.read())
    finally:
        gate.touch()
        stuck.join()
    assert receipt["calls"]["finished_on_old"] == 1


def test_a_reload_that_is_given_up(proxy):
    done = prism(proxy, "plugin", "reload", "user-profiles", "--version", "broken", "-o", "json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["outcome"] == "rolled_back"
    assert proxy.call("user-profiles", "echo", {"a": 1}).json() == {"a": 1}
    unknown = prism(proxy, "plugin", "reload", "user-profiles", "--version", "v9")
    assert unknown.returncode == 1
    assert "v1.2" in unknown.stderr
    assert prism(proxy, "plugin", "status", "nowhere").returncode == 1


def test_restart_drain_and_reset(proxy):
    assert prism(proxy, "plugin", "restart", "user-profiles").returncode == 0
    drained = prism(proxy, "plugin", "drain", "user-profiles", "-o", "json")
    assert json.loads(drained.stdout)["outcome"] == "drained"
    refused = proxy.call("user-profiles", "echo")
    assert refused.status_code == 503
    assert "retry-after" not in refused.headers, "nobody starts it until an operator does"
    assert prism(proxy, "plugin", "restart", "user-profiles").returncode == 0
    assert proxy.call("user-profiles", "echo").status_code == 200
    assert prism(proxy, "plugin", "reset", "user-profiles").returncode == 0
    assert prism(proxy, "plugin", "logs", "user-profiles").returncode == 0


def test_what_happens_is_followed(proxy):
    options = ["--url", proxy.admin, "--token-file", str(proxy.token)]
    command = [sys.executable, "-m", "prism", "plugin", "events", "user-profiles", *options]
    with subprocess.Popen([*command, "--tail", "1"], stdout=subprocess.PIPE, text=True) as events:
        when, who, *_ = events.stdout.readline().split()  # the last one: now it follows
        assert when.endswith("+00:00")
        assert who.startswith("user-profiles")
        assert prism(proxy, "plugin", "reload", "user-profiles").returncode == 0
        assert any(" reload " in line and " has taken over" in line for line in events.stdout)
        assert any(line.split()[2] == "stopped" for line in events.stdout)
        events.kill()


def test_who_shows_no_token_is_told_how(proxy):
    refused = prism(proxy, "plugin", "reload", "user-profiles", token=False)
    assert refused.returncode == 1
    assert "--token-file" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_admin_port_that_is_not_there():
    done = subprocess.run(
        [sys.executable, "-m", "prism", "plugin", "list", "--url", "http://127.0.0.1:1"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, "PRISM_ADMIN" in done.stderr) == (1, True)

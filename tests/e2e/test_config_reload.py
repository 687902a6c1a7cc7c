"""The configuration of a running proxy is changed: by SIGHUP, by an operator, by a watch."""

import json
import signal
import subprocess
import sys
import threading

from prism_process import CHAOS, WAITING, eventually

SECRET = "correct-horse-battery"
LIMIT = 30.0
OPEN = {"admin": {"without_token": "change"}}
"""Who shows no token may change it."""


def namespace(name, *command, **changes):
    command = list(command or WAITING)
    return {"name": name, "backend": "any", "plugin": {"type": "sidecar", "command": command}} | (
        changes
    )


def write(proxy, *namespaces, **settings):
    """A new file in the place of the old one, as editors write it."""
    file = proxy.directory / "prism.yaml"
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"namespaces": namespaces, **OPEN, **settings}))
    new.rename(file)


def prism(proxy, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "prism", *arguments, "--url", proxy.admin],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def generation(proxy):
    return proxy.metric("prism_config_generation")


class Load:
    """Calls a namespace all the time; ``answers`` holds the statuses."""

    def __init__(self, proxy, name):
        self.answers = []
        self._proxy, self._name = proxy, name
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._ending.is_set():
            self.answers.append(self._proxy.call(self._name, "echo", {"a": 1}).status_code)

    def __enter__(self):
        self._thread.start()
        eventually(lambda: len(self.answers) > 3, LIMIT)
        return self

    def __exit__(self, *_error):
        now = len(self.answers)
        eventually(lambda: len(self.answers) > now + 3, LIMIT)
        self._ending.set()
        self._thread.join()


def test_sighup_under_load(start_prism):
    proxy = start_prism({"namespaces": [namespace("stays"), namespace("goes")], **OPEN})
    status = f"{proxy.admin}/admin/plugins/stays"
    pid = proxy.client.get(status).json()["pid"]
    with Load(proxy, "stays") as load:
        write(proxy, namespace("stays", limits={"max_in_flight": 7}), namespace("comes"))
        proxy.process.send_signal(signal.SIGHUP)
        eventually(lambda: generation(proxy) == 2, LIMIT)
        assert proxy.call("comes", "echo", {"b": 2}).json() == {"b": 2}
        assert proxy.call("goes", "echo").status_code == 404
    assert set(load.answers) == {200}
    described = proxy.client.get(f"{proxy.admin}/admin/namespaces/stays").json()
    assert described["limits"]["max_in_flight"] == 7
    assert proxy.client.get(status).json()["pid"] == pid
    assert proxy.metric("prism_config_last_reload_successful") == 1
    applied = "is applied (generation 2); namespaces: 1 start, 1 stop, 1 update"
    eventually(lambda: proxy.logged(applied), LIMIT)  # once what was removed has ended


def test_a_changed_plugin_is_reloaded_without_an_error(start_prism):
    proxy = start_prism({"namespaces": [namespace("kv")], **OPEN})
    with Load(proxy, "kv") as load:
        write(proxy, namespace("kv", config={"changed": True}))
        done = prism(proxy, "config", "apply", "-o", "json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert [(c["namespace"], c["action"]) for c in outcome["changes"]] == [("kv", "reload")]
    assert outcome["receipts"][0]["calls"]["lost"] == 0
    assert set(load.answers) == {200}
    assert len(set(proxy.plugin_pids)) == 2


def test_a_file_that_is_wrong_changes_nothing_and_says_where(start_prism):
    proxy = start_prism({"namespaces": [namespace("kv")], **OPEN})
    (proxy.directory / "prism.yaml").write_text("namespaces:\n  - name: kv\n    bakend: any\n")
    planned = prism(proxy, "config", "plan")
    assert planned.returncode == 1
    assert "prism.yaml:3:5: namespaces[0]" in planned.stderr
    assert '"backend"' in planned.stderr
    answer = proxy.client.post(f"{proxy.admin}/admin/config/apply", json={})
    assert answer.status_code == 400
    assert answer.json()["reason"] == "invalid_config"
    assert 3 in [problem["line"] for problem in answer.json()["problems"]]
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(proxy.logged("the configuration in use stays")) == 2, LIMIT)
    assert proxy.call("kv", "echo", {"a": 1}).json() == {"a": 1}
    assert generation(proxy) == 1
    assert proxy.metric("prism_config_last_reload_successful") == 0


def test_a_plugin_that_does_not_start_takes_everything_back(start_prism):
    proxy = start_prism({"namespaces": [namespace("kv"), namespace("other")], **OPEN})
    write(
        proxy,
        namespace("kv", config={"changed": True}),
        namespace("new"),
        namespace("bad", sys.executable, "-c", "raise SystemExit('no database')"),
    )
    planned = prism(proxy, "config", "plan")
    assert [line.split()[:2] for line in planned.stdout.splitlines()] == [
        ["NAMESPACE", "ACTION"],
        ["bad", "start"],
        ["kv", "reload"],
        ["new", "start"],
        ["other", "stop"],
        [],
        ["NAMESPACE", "KEY"],
        ["kv", "config.changed"],
    ]
    done = prism(proxy, "config", "apply")
    assert done.returncode == 1
    assert "Nothing has changed" in done.stderr
    assert "bad: plugin 'any'" in done.stderr
    assert generation(proxy) == 1
    for name in ("kv", "other"):
        assert proxy.call(name, "echo", {"a": 1}).json() == {"a": 1}
    assert proxy.call("new", "echo").status_code == 404
    served = proxy.client.get(f"{proxy.admin}/admin/namespaces").json()["namespaces"]
    assert [found["namespace"] for found in served] == ["kv", "other"]


def test_a_reload_under_way_goes_first(start_prism, tmp_path):
    proxy = start_prism({"namespaces": [namespace("kv")], **OPEN})
    gate = tmp_path / "gate"
    slow = threading.Thread(target=proxy.call, args=("kv", "wait_until", {"file": str(gate)}))
    slow.start()
    eventually(lambda: proxy.metric("prism_requests_in_flight", namespace="kv") == 1, LIMIT)
    reload = subprocess.Popen(
        [sys.executable, "-m", "prism", "plugin", "reload", "kv", "--url", proxy.admin],
        stdout=subprocess.DEVNULL,
    )
    try:
        status = f"{proxy.admin}/admin/plugins/kv"
        eventually(lambda: proxy.client.get(status).json()["operation"] == "reload", LIMIT)
        write(proxy, namespace("kv", config={"changed": True}))
        refused = prism(proxy, "config", "apply")
        assert refused.returncode == 1
        assert "reload" in refused.stderr
        proxy.process.send_signal(signal.SIGHUP)  # which waits for it
        eventually(lambda: proxy.logged("reloading on SIGHUP"), LIMIT)
        gate.touch()
        eventually(lambda: generation(proxy) == 2, LIMIT)
        assert reload.wait(LIMIT) == 0
    finally:
        gate.touch()
        reload.kill()
        reload.wait()
        slow.join()
    assert len(set(proxy.plugin_pids)) == 3


def test_a_watch_applies_what_is_put_in_the_files_place(start_prism):
    ports = ("--port", "0", "--admin-port", "0")
    proxy = start_prism({"namespaces": [namespace("kv")], **OPEN}, arguments=("--watch", *ports))
    write(proxy, namespace("kv"), namespace("second"))
    eventually(lambda: generation(proxy) == 2, LIMIT)
    assert proxy.call("second", "echo", {"a": 1}).json() == {"a": 1}
    assert proxy.logged("has changed")


def test_a_watch_needs_a_file():
    done = subprocess.run(
        [sys.executable, "-m", "prism", "serve", "--watch"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--config FILE" in done.stderr


def test_no_secret_is_shown(start_prism, tmp_path):
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "password").write_text(SECRET)
    (secrets / "password").chmod(0o600)
    credentials = {"password": "{{ secret:password }}", "token": SECRET}
    private = namespace("kv", *CHAOS, credentials=credentials, config={"api_key": SECRET})
    proxy = start_prism({"namespaces": [private], "secrets": {"directory": str(secrets)}, **OPEN})
    shown = prism(proxy, "config", "show")
    assert "{{ secret:password }}" in shown.stdout
    assert "drain_timeout_seconds: 35" in shown.stdout
    of_file = prism(proxy, "config", "show", "--config", str(proxy.directory / "prism.yaml"))
    assert of_file.returncode == 0
    changed = {**credentials, "token": f"{SECRET}-new"}
    write(
        proxy,
        namespace("kv", *CHAOS, credentials=changed),
        secrets={"directory": str(secrets)},
    )
    planned = prism(proxy, "config", "plan", "-o", "yaml")
    applied = prism(proxy, "config", "apply")
    assert applied.returncode == 0, applied.stderr
    for text in (shown.stdout, of_file.stdout, planned.stdout, applied.stdout, proxy.log):
        assert SECRET not in text


def test_what_waits_for_a_new_process_is_said(start_prism):
    proxy = start_prism({"namespaces": [namespace("kv")], **OPEN})
    write(proxy, namespace("kv"), log={"format": "console"}, drain_timeout_seconds=3)
    applied = prism(proxy, "config", "apply")
    assert applied.returncode == 0
    assert "log.format" in applied.stdout
    assert "at restart" in applied.stdout
    assert proxy.logged("log.format, drain_timeout_seconds changed")

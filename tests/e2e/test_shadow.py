"""Shadows in real processes: whatever one does, clients, the plugin and the proxy do not notice."""

import json
import signal
import subprocess
import sys

import pytest
from prism_process import FAST_CHECKS, LIMIT, SUPPORT, eventually

OTHER = [sys.executable, str(SUPPORT / "other_sqlite.py")]
CANARY = "hunter2-canary-value"
CALLS = 6


def sqlite(directory, mode="same", **shadow):
    """A namespace on SQLite, whose shadow is another version that works on the same file."""
    environment = {"MODE": mode, "SEEN": str(directory / f"seen-{mode}")}
    plugin = {"type": "sidecar", "command": OTHER, "environment": environment,
              "health": FAST_CHECKS, "kill_timeout_seconds": 0.5}  # fmt: skip
    return {
        "name": "kv",
        "backend": "sqlite",
        "plugin": {"health": FAST_CHECKS},
        "config": {"path": str(directory / "kv.db")},
        "shadow": {"plugin": plugin, **shadow},
    }


def with_shadow(directory, *arguments, **options):
    return {"namespaces": [sqlite(directory, *arguments, **options)], **OPEN}


OPEN = {"admin": {"without_token": "change"}}


def report(proxy):
    return proxy.client.get(f"{proxy.admin}/admin/namespaces/kv/shadow").json()


def plugin(proxy, name):
    return proxy.client.get(f"{proxy.admin}/admin/plugins/{name}").json()


def serves(proxy):
    eventually(lambda: plugin(proxy, "kv:shadow")["state"] == "ready")


def seen(directory, mode):
    file = directory / f"seen-{mode}"
    return file.read_text().splitlines() if file.exists() else []


def prism(proxy, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "prism", *arguments, "--url", proxy.admin],
        capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip


def write(proxy, config):
    """The new file in the place of the old one, and a signal; returns once it is in use."""
    generation = proxy.metric("prism_config_generation")
    file = proxy.directory / "prism.yaml"
    new = file.with_suffix(".new")
    new.write_text(json.dumps(config))
    new.rename(file)
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: proxy.metric("prism_config_generation") == generation + 1)


def workload(proxy):
    """Reads and writes with their answers, and an error."""
    answers = []
    for number in range(CALLS):
        key = f"key-{number % 5}"
        answers.append(proxy.call("kv", "set", {"key": key, "value": number}).json())
        answers.append(proxy.call("kv", "get", {"key": key}).json())
    answers.append(proxy.call("kv", "get", {"nope": 1}).json()["code"])
    return answers


def counted(proxy):
    """What the proxy counts of the namespace's calls."""
    names = ("set", "get")
    return {
        **{each: proxy.metric("prism_requests_total", namespace="kv", operation=each,
                              status="OK") for each in names},
        "invalid": proxy.metric("prism_requests_total", namespace="kv", operation="get",
                                status="INVALID_ARGUMENT"),
        "in_flight": proxy.metric("prism_requests_in_flight", namespace="kv"),
        "ready": proxy.metric("prism_namespace_ready", namespace="kv"),
        "restarts": proxy.metric("prism_plugin_restarts_total", namespace="kv"),
    }  # fmt: skip


EXPECTED = {"set": CALLS, "get": CALLS, "invalid": 1, "in_flight": 0, "ready": 1, "restarts": 0}


@pytest.fixture(scope="module")
def expected(start_shared_prism, tmp_path_factory):
    """What clients get without a shadow."""
    plain = sqlite(tmp_path_factory.mktemp("plain")) | {"shadow": None}
    proxy = start_shared_prism({"namespaces": [plain]})
    answers = workload(proxy)
    assert counted(proxy) == EXPECTED
    return answers


@pytest.mark.parametrize("mode", ["same", "other", "slow", "fails", "hangs", "crashes"])
def test_clients_get_what_they_get_without_a_shadow(start_prism, tmp_path, expected, mode):
    proxy = start_prism(with_shadow(tmp_path, mode))
    serves(proxy)
    assert workload(proxy) == expected
    assert counted(proxy) == EXPECTED
    assert proxy.ready()
    if mode in ("same", "other", "slow", "fails"):
        eventually(lambda: sum(report(proxy)["outcomes"].values()) == CALLS + 1)
        # The last call failed, with whatever plugin.
        outcome = {"same": "equal", "slow": "equal", "other": "different",
                   "fails": "only_shadow_failed"}[mode]  # fmt: skip
        assert report(proxy)["outcomes"][outcome] >= CALLS
    elif mode == "hangs":
        eventually(lambda: len(seen(tmp_path, mode)) == CALLS + 1)
        assert report(proxy)["in_flight"] == CALLS + 1
    else:
        found = report(proxy)
        assert found["outcomes"]["only_shadow_failed"] + found["dropped"]["no_plugin"] > 0
    # The plugin can be replaced at once, whatever its shadow still has.
    reload = proxy.client.post(f"{proxy.admin}/admin/plugin/reload", json={"namespace": "kv"})
    receipt = reload.json()
    assert receipt["outcome"] == "swapped"
    assert receipt["calls"]["cancelled"] == receipt["calls"]["lost"] == 0
    assert proxy.stop() == 0


def test_only_reads_are_copied_and_the_shadow_knows_that_it_is_one(start_prism, tmp_path):
    proxy = start_prism(with_shadow(tmp_path))
    serves(proxy)
    proxy.call("kv", "set", {"key": "a", "value": 1})
    proxy.call("kv", "get", {"key": "a"}, prism_shadow="0")
    proxy.call("kv", "increment", {"key": "a"})
    eventually(lambda: report(proxy)["outcomes"]["equal"] == 1)
    assert seen(tmp_path, "same") == ["get 1 kv"]
    assert proxy.call("kv", "get", {"key": "a"}).json()["value"] == 2


@pytest.mark.parametrize("processes", [1, 2])
def test_it_may_be_the_same_plugin_with_other_data(start_prism, tmp_path, processes):
    config = with_shadow(tmp_path)
    plugin = {"type": "sidecar", "command": [sys.executable, "-m", "prism_plugins.sqlite"],
              "processes": processes}  # fmt: skip
    shadow = {"config": {"path": str(tmp_path / "other.db")}, "plugin": plugin}
    if processes == 1:
        del shadow["plugin"]  # then it is the namespace's, here in the proxy itself
    config["namespaces"][0]["shadow"] = shadow
    proxy = start_prism(config)
    serves(proxy)
    proxy.call("kv", "set", {"key": "a", "value": 1})
    for _ in range(4):
        assert proxy.call("kv", "get", {"key": "a"}).json()["value"] == 1
    eventually(lambda: report(proxy)["outcomes"]["different"] == 4)  # it has no such key
    assert report(proxy)["in_flight"] == 0
    assert proxy.metric("prism_shadow_bytes", namespace="kv") == 0


def test_writes_that_are_named_are_done_in_the_shadows_own_data(start_prism, tmp_path):
    own = {"path": str(tmp_path / "shadow.db")}
    proxy = start_prism(with_shadow(tmp_path, operations=["set"], config=own))
    serves(proxy)
    proxy.call("kv", "set", {"key": "a", "value": 1})
    eventually(lambda: report(proxy)["outcomes"]["equal"] == 1)
    assert (tmp_path / "shadow.db").exists()
    proxy.call("kv", "get", {"key": "a"})
    eventually(lambda: report(proxy)["copied"] == 2)


def test_what_differs_is_told_to_operators_without_the_values(start_prism, tmp_path):
    proxy = start_prism(with_shadow(tmp_path, "other"))
    serves(proxy)
    proxy.call("kv", "set", {"key": CANARY, "value": {CANARY: CANARY}})
    for _ in range(3):
        assert proxy.call("kv", "get", {"key": CANARY}).json()["value"] == {CANARY: CANARY}
    eventually(lambda: report(proxy)["outcomes"]["different"] == 3)
    shown = prism(proxy, "shadow", "report", "kv")
    assert shown.returncode == 0, shown.stderr
    assert "3      get        type   $.version" in shown.stdout
    as_json = prism(proxy, "shadow", "report", "kv", "--output", "json").stdout
    assert json.loads(as_json)["version"] == "2-other"
    events = [json.loads(line) for line in _events(proxy)]
    (event,) = [each for each in events if each["kind"] == "shadow"]
    assert (event["namespace"], event["instance"]) == ("kv:shadow", "kv:shadow/1")
    metrics = proxy.client.get(f"{proxy.admin}/metrics").text
    assert 'prism_shadow_copies_total{namespace="kv",outcome="different"} 3.0' in metrics
    described = prism(proxy, "namespace", "describe", "kv").stdout
    assert "different 3" in described
    for text in (shown.stdout, as_json, proxy.log, metrics, json.dumps(events), described):
        assert CANARY not in text


def _events(proxy):
    """The events so far, as lines."""
    lines = []
    headers = {"accept": "application/x-ndjson"}
    url = f"{proxy.admin}/admin/events?tail=100"
    with proxy.client.stream("GET", url, headers=headers) as response:
        for line in response.iter_lines():
            lines.append(line)
            if '"kind":"shadow"' in line:
                break
    return lines


def test_it_is_a_plugin_that_operators_know(start_prism, tmp_path):
    proxy = start_prism(with_shadow(tmp_path))
    serves(proxy)
    listed = prism(proxy, "plugin", "list").stdout
    assert "kv:shadow" in listed
    restarted = prism(proxy, "plugin", "restart", "kv:shadow", "--output", "json")
    assert json.loads(restarted.stdout)["outcome"] == "swapped"
    assert prism(proxy, "plugin", "logs", "kv:shadow").returncode == 0
    assert prism(proxy, "plugin", "restart", "nope:shadow").returncode == 1
    assert proxy.call("kv:shadow", "get", {"key": "a"}).status_code == 400  # no namespace's name


def test_a_shadow_that_never_starts_holds_up_neither_start_nor_readiness(start_prism, tmp_path):
    config = with_shadow(tmp_path)
    config["namespaces"][0]["shadow"]["plugin"]["command"] = ["sleep", "600"]
    config["namespaces"][0]["shadow"]["plugin"]["start_timeout_seconds"] = 600
    proxy = start_prism(config)
    assert proxy.ready()
    assert proxy.call("kv", "set", {"key": "a", "value": 1}).status_code == 200
    assert proxy.call("kv", "get", {"key": "a"}).status_code == 200
    assert report(proxy)["dropped"]["no_plugin"] == 1
    write(proxy, with_shadow(tmp_path))  # and no change of the configuration
    serves(proxy)


def test_the_block_comes_changes_and_goes_while_calls_run(start_prism, tmp_path):
    plain = {"namespaces": [sqlite(tmp_path) | {"shadow": None}], **OPEN}
    proxy = start_prism(plain)
    proxy.call("kv", "set", {"key": "a", "value": 1})
    assert proxy.client.get(f"{proxy.admin}/admin/namespaces/kv/shadow").status_code == 404
    write(proxy, with_shadow(tmp_path))
    serves(proxy)
    proxy.call("kv", "get", {"key": "a"})
    eventually(lambda: report(proxy)["outcomes"]["equal"] == 1)
    first = plugin(proxy, "kv:shadow")
    write(proxy, with_shadow(tmp_path, share=0))
    proxy.call("kv", "get", {"key": "a"})
    write(proxy, with_shadow(tmp_path, share=1))
    assert report(proxy)["copied"] == 1
    assert plugin(proxy, "kv:shadow")["pid"] == first["pid"]
    write(proxy, with_shadow(tmp_path, "other"))
    serves(proxy)
    assert plugin(proxy, "kv:shadow")["version"] == "2-other"
    proxy.call("kv", "get", {"key": "a"})
    eventually(lambda: report(proxy)["outcomes"]["different"] == 1)
    assert report(proxy)["outcomes"]["equal"] == 0  # those of the other version are gone
    write(proxy, plain)
    assert proxy.client.get(f"{proxy.admin}/admin/plugins/kv:shadow").status_code == 404
    assert plugin(proxy, "kv")["restarts"] == 0
    assert proxy.call("kv", "get", {"key": "a"}).json()["value"] == 1


def test_its_secrets_rotate_as_a_namespaces_do(start_prism, tmp_path):
    (tmp_path / "secrets").mkdir(mode=0o700)
    (tmp_path / "accepted").write_text("first-password\nsecond-password\n")
    put(tmp_path / "secrets" / "word", "first-password")
    login = [sys.executable, str(SUPPORT / "login_plugin.py")]
    config = with_shadow(tmp_path) | {"secrets": {"directory": str(tmp_path / "secrets")}}
    config["namespaces"][0]["shadow"] = {
        "plugin": {"type": "sidecar", "command": login, "health": FAST_CHECKS},
        "config": {"passwords": str(tmp_path / "accepted")},
        "credentials": {"password": "{{ secret:word }}"},
    }
    proxy = start_prism(config)
    serves(proxy)
    put(tmp_path / "secrets" / "word", "second-password")
    eventually(lambda: plugin(proxy, "kv:shadow")["instance"] == "kv:shadow/2")
    assert plugin(proxy, "kv")["instance"] == "kv/1"
    assert "first-password" not in proxy.log
    assert "second-password" not in proxy.log


def put(file, value):
    """A secret, in the place of the one before."""
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(value)
    new.replace(file)

"""WebAssembly plugins behind a proxy: reloads, deadlines, verification, and what bombs cost."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prism_process import FAST_CHECKS, eventually

from tests.hosts.wasm.modules import greeter, save, wat

__all__ = ["greeter"]  # a fixture

LOOP = "(loop $again (br $again))"
OPEN = {"without_token": "change"}


def namespace(name, file, *, wasm=None, config=None, credentials=None, **plugin):
    return {
        "name": name,
        "backend": "module",
        "plugin": {"type": "wasm", "file": str(file), "wasm": wasm or {}, **plugin},
        "config": config or {},
        "credentials": credentials or {},
    }


def reload(proxy, name):
    url = f"{proxy.admin}/admin/plugin/reload"
    return proxy.client.post(url, json={"namespace": name})


def test_a_module_from_its_start_over_reloads_to_its_end(start_prism, greeter, tmp_path):
    file = tmp_path / "greeter.wasm"
    shutil.copy(greeter, file)
    wasm = {"grants": {"log": True, "key_value_bytes": 10_000}}
    spaces = [namespace("greetings", file, wasm=wasm, config={"greeting": "Good morning"})]
    proxy = start_prism({"admin": OPEN, "namespaces": spaces})
    ada = {"text": "Good morning, Ada!"}
    assert proxy.call("greetings", "greet", {"name": "Ada"}).json() == ada
    assert [proxy.call("greetings", "visits").json()["visits"] for _ in range(3)] == [1, 2, 3]
    described = proxy.client.get(f"{proxy.url}/v1/greetings").json()
    assert described["plugin"] == {"name": "module", "version": "1.0.0"}
    assert described["operations"]["greet"]["access"] == "read"
    eventually(lambda: proxy.logged('greets with "Good morning"'))

    save(file, wat())  # the file changes: what runs does not
    assert proxy.call("greetings", "greet", {"name": "Ada"}).json() == ada
    assert reload(proxy, "greetings").status_code == 200
    assert proxy.call("greetings", "run").json() == {}
    assert proxy.call("greetings", "greet").status_code == 404

    file.write_bytes(b"\0asm\x01\0\0\0 nothing")  # a reload that fails leaves what runs
    failed = reload(proxy, "greetings")
    assert failed.json()["outcome"] == "rolled_back"
    assert "it cannot be compiled" in failed.text
    assert proxy.call("greetings", "run").json() == {}
    assert proxy.stop() == 0


def test_a_loop_costs_its_own_call_and_no_process(start_prism, tmp_path):
    file = save(tmp_path / "loop.wasm", wat(run=LOOP))
    spaces = [namespace("a", file, wasm={"instances": 2}, health=FAST_CHECKS)]
    proxy = start_prism({"namespaces": spaces})
    for _ in range(4):  # more than there are instances
        late = proxy.call("a", "run", prism_timeout="200ms")
        assert late.status_code == 504, late.text
        assert proxy.call("a", "other").json() == {}
    assert len(proxy.plugin_pids) == 1


def test_a_process_that_is_killed_is_started_anew(start_prism, tmp_path):
    file = save(tmp_path / "good.wasm", wat())
    proxy = start_prism({"namespaces": [namespace("a", file, health=FAST_CHECKS)]})
    assert proxy.call("a", "run").json() == {}
    os.kill(proxy.plugin_pids[0], signal.SIGKILL)
    eventually(lambda: proxy.call("a", "run").status_code == 200)
    assert len(proxy.plugin_pids) == 2


def bomb(branches=60_000, variables=2000):
    """A function of a megabyte that takes a compiler minutes."""
    steps = [
        f"(local.set {n % variables} (i64.add (local.get {(n * 7 + 3) % variables}) "
        f"(i64.const {n}))) (br_if 0 (i64.eqz (local.get {n % variables})))"
        for n in range(branches)
    ]
    return wat(extra=f"(func (local{' i64' * variables}) (block {''.join(steps)}))")


def test_a_module_that_cannot_be_compiled_in_time_costs_nobody_else(start_prism, tmp_path):
    spaces = [
        namespace("good", save(tmp_path / "good.wasm", wat())),
        namespace(
            "bomb",
            save(tmp_path / "bomb.wasm", bomb()),
            start_timeout_seconds=8.0,
            kill_timeout_seconds=0.5,
            restart={"max_crashes": 1, "first_delay_seconds": 3600.0},
        ),
    ]
    proxy = start_prism({"namespaces": spaces})
    eventually(lambda: proxy.call("good", "run").status_code == 200)
    (started,) = eventually(
        lambda: [
            record["pid"]
            for record in proxy.logged("started as pid")
            if record["namespace"] == "bomb"
        ]
    )
    eventually(lambda: not Path(f"/proc/{started}").exists())
    assert "within 8 seconds" in proxy.absence("bomb")
    assert proxy.call("good", "run").json() == {}


def test_what_a_module_logs_of_its_credentials_is_hidden(start_prism, tmp_path):
    """It logs all that it is initialised with."""
    module = wat(
        imports='(import "prism" "log" (func $log (param i32 i32 i32)))',
        initialize="(call $log (i32.const 3) (local.get $at) (local.get $size))",
    )
    spaces = [
        namespace(
            "a",
            save(tmp_path / "talker.wasm", module),
            wasm={"grants": {"log": True}},
            credentials={"password": "hunter2-hunter2"},
        )
    ]
    proxy = start_prism({"namespaces": spaces})
    (line,) = eventually(lambda: proxy.logged('"credentials"'))
    assert '"password"' in line["message"]
    assert "hunter2" not in proxy.log


@pytest.mark.parametrize("signed", [True, False])
def test_only_what_is_signed_runs_where_that_is_required(start_prism, tmp_path, signed):
    def prism(*words):
        command = [sys.executable, "-m", "prism", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    key, file = tmp_path / "release.key", save(tmp_path / "good.wasm", wat())
    trusted = prism("plugin", "keygen", key).rpartition('key: "')[2].partition('"')[0]
    if signed:
        prism("plugin", "sign", "--key", key, file)
    proxy = start_prism(
        {
            "verification": {
                "policy": "require",
                "trusted_keys": [{"name": "release", "key": trusted}],
            },
            "namespaces": [namespace("a", file)],
        }
    )
    if signed:
        eventually(lambda: proxy.call("a", "run").status_code == 200)
        assert proxy.logged("signed by release")
    else:
        eventually(lambda: "there is no signature" in proxy.absence("a"))
        assert proxy.plugin_pids == []


def test_it_runs_where_everything_is_closed_to_its_process(start_prism, tmp_path):
    """All that a host needs is its own: the sealed copy, its socket, Python."""
    file = save(tmp_path / "good.wasm", wat())
    closed = {"network": "none", "read": [], "processes": 16, "memory": "256MiB"}
    spaces = [
        namespace(mechanism, file) | {"isolation": {"mechanism": mechanism, **closed}}
        for mechanism in ("landlock", "bubblewrap")
    ]
    proxy = start_prism({"namespaces": spaces})
    for mechanism in ("landlock", "bubblewrap"):
        eventually(lambda name=mechanism: proxy.call(name, "run").status_code == 200)

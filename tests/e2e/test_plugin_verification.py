"""Signed plugins serve, others do not; what runs goes on, whatever becomes of its file."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prism_process import eventually

ECHO = Path(__file__).parents[2] / "examples" / "plugins" / "python" / "echo.py"


def prism(*words):
    """A prism command, as an operator types it; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "prism", *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def installed(tmp_path):
    """Two versions of a plugin, both signed, and the configuration that trusts them."""
    key = tmp_path / "release.key"
    trusted = prism("plugin", "keygen", key).rpartition('key: "')[2].partition('"')[0]
    for version in ("v1", "v2"):
        file = tmp_path / "orders" / version / "plugin.py"
        file.parent.mkdir(parents=True, mode=0o755)
        shutil.copy(ECHO, file)
        prism("plugin", "sign", "--key", key, "--name", "orders", "--version", version, file)
    entry = {
        "name": "orders",
        "type": "sidecar",
        "command": [sys.executable, "orders/{version}/plugin.py"],
        "working_directory": str(tmp_path),
        "versions": {"v1": {}, "v2": {}},
    }
    namespaces = [
        {"name": version, "backend": "memory", "plugin": {"name": "orders", "version": version}}
        for version in ("v1", "v2")
    ]
    return {
        "verification": {
            "policy": "require",
            "trusted_keys": [{"name": "release", "key": trusted}],
        },
        "plugins": [entry],
        "namespaces": namespaces,
    }


def test_a_tampered_file_costs_the_running_plugin_nothing_and_never_starts(
    start_prism, installed, tmp_path
):
    proxy = start_prism(installed)
    assert proxy.ready()
    assert proxy.logged("signed by release")
    file = tmp_path / "orders" / "v1" / "plugin.py"
    genuine = file.read_bytes()
    with file.open("r+b") as opened:  # in place, not by a rename: the same inode
        opened.write(b"raise SystemExit('tampered')\n")

    for number in range(20):
        params = {"key": "a", "value": number}
        assert proxy.call("v1", "set", params).json() == {"stored": True}
    assert proxy.call("v1", "get", {"key": "a"}).json() == {"found": True, "value": 19}

    started = proxy.plugin_pids
    os.kill(next(p for p in started if serves(proxy, "v1", p)), signal.SIGKILL)

    def is_refused():
        """the tampered plugin is refused"""
        return "was refused (digest_mismatch)" in proxy.absence("v1")

    eventually(is_refused)
    assert proxy.call("v2", "get", {"key": "a"}).json() == {"found": False}
    assert proxy.plugin_pids == started, "none of its code ran"
    assert not proxy.logged("tampered')")

    file.write_bytes(genuine)

    def serves_again():
        """the genuine plugin serves again"""
        return proxy.call("v1", "get", {"key": "a"}).status_code == 200

    eventually(serves_again)


def serves(proxy, namespace, pid):
    """Does this process serve the namespace?"""
    return bool(proxy.logged(f"started as pid {pid} for namespace {namespace}"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda file: Path(f"{file}.sig").unlink(), "signature_missing"),
        (lambda file: file.write_text("raise SystemExit('ran')"), "digest_mismatch"),
        (lambda file: file.chmod(0o666), "world_writable"),
        (lambda file: file.parent.chmod(0o777), "world_writable"),
        (
            lambda file: shutil.copy(f"{file.parents[1]}/v2/plugin.py.sig", f"{file}.sig"),
            "version_mismatch",
        ),
    ],
)
def test_a_refused_plugin_keeps_nobody_else_from_serving(
    start_prism, installed, tmp_path, change, reason
):
    change(tmp_path / "orders" / "v1" / "plugin.py")
    proxy = start_prism(installed)
    assert proxy.call("v2", "get", {"key": "a"}).json() == {"found": False}
    refused = proxy.call("v1", "get", {"key": "a"})
    assert refused.status_code == 503
    assert "orders" not in refused.json()["detail"], "paths and owners are for operators"
    assert f"was refused ({reason})" in proxy.absence("v1")
    assert not proxy.logged("for namespace v1")


def test_the_same_verdict_on_the_command_line(installed, tmp_path):
    config = tmp_path / "prism.yaml"
    config.write_text(json.dumps(installed))
    (tmp_path / "orders" / "v1" / "plugin.py").write_text("tampered")
    done = subprocess.run(
        [sys.executable, "-m", "prism", "plugin", "verify", "-c", str(config), "-o", "json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    results = {found["version"]: found["result"] for found in json.loads(done.stdout)}
    assert results == {"v1": "digest_mismatch", "v2": "ok"}


def test_a_verified_class_inside_the_proxy(start_prism, tmp_path):
    package = tmp_path / "packages" / "orders_inside"
    package.mkdir(parents=True, mode=0o755)
    shutil.copy(ECHO, package / "plugin.py")
    (package / "__init__.py").write_text("")
    key = tmp_path / "release.key"
    trusted = prism("plugin", "keygen", key).rpartition('key: "')[2].partition('"')[0]
    prism("plugin", "sign", "--key", key, package)
    plugin = {
        "type": "in_process",
        "module": "orders_inside.plugin:Echo",
        "path": str(package.parent),
    }
    config = {
        "verification": {
            "policy": "require",
            "trusted_keys": [{"name": "release", "key": trusted}],
        },
        "namespaces": [{"name": "inside", "backend": "memory", "plugin": plugin}],
    }
    proxy = start_prism(config)
    assert proxy.call("inside", "set", {"key": "a", "value": 1}).json() == {"stored": True}
    assert proxy.stop() == 0
    (package / "extra.py").write_text("")
    proxy = start_prism(config)
    refused = proxy.absence("inside")
    assert "digest_mismatch" in refused
    assert "extra.py (added)" in refused

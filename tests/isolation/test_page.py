"""What docs/isolation.md and the commands of operators say, against a proxy that runs."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prism.config import parse_config
from prism.isolation.machine import machine

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests/e2e/support"))

from prism_process import CHAOS, Proxy, eventually, group_members  # noqa: E402 - the path to it is above

PAGE = (ROOT / "docs/isolation.md").read_text()


def test_the_samples_are_good():
    samples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    limits, egress = [
        parse_config(sample, "prism.yaml").config.namespaces[0].isolation for sample in samples
    ]
    assert limits.sandbox == "required"
    assert egress.egress[0] == "db.internal:5432"


@pytest.mark.skipif(not machine().has_scopes, reason="Landlock is not complete here")
def test_operators_see_what_holds_and_what_does_not(tmp_path):
    plugin = {"type": "sidecar", "command": CHAOS, "start_timeout_seconds": 60}
    proxy = Proxy(tmp_path, {"namespaces": [{"name": "a", "backend": "chaos", "plugin": plugin}]})
    try:
        proxy.wait_ready()
        status = proxy.client.get(f"{proxy.admin}/admin/plugins/a").json()
        isolation = status["isolation"]
        assert isolation["mechanism"] == "landlock"
        assert isolation["holds"]["system_calls"] == "seccomp"
        # The configuration lies in the directory in which the plugin runs.
        assert f"cannot hide {tmp_path}/prism.yaml" in isolation["lacks"]["files"]
        command = [sys.executable, "-m", "prism", "plugin", "status", "a"]
        command += ["--admin", proxy.admin]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert re.search(r"^isolation: +landlock: .*other processes", printed, re.MULTILINE)
        assert f"not confined:\n    files: {isolation['lacks']['files']}"[:60] in printed
        for what, value in (("system_calls", 1), ("files", 0)):
            labels = {"namespace": "a", "mechanism": "landlock", "from": what}
            assert proxy.metric("prism_plugin_isolation", **labels) == value
    finally:
        proxy.check()


NEEDS_BUBBLEWRAP = pytest.mark.skipif(bool(machine().no_bubblewrap), reason=machine().no_bubblewrap)


@NEEDS_BUBBLEWRAP
def test_replicas_in_sandboxes_are_replaced_and_outlive_no_proxy(tmp_path):
    """A change of the block reloads them; and where the proxy is killed, its guardian ends all."""
    plugin = {"type": "sidecar", "command": CHAOS, "start_timeout_seconds": 60, "processes": 2}
    namespace = {"name": "a", "backend": "chaos", "plugin": plugin}
    proxy = Proxy(tmp_path, {"namespaces": [namespace], "isolation": {"mechanism": "bubblewrap"}})
    try:
        proxy.wait_ready()
        first = replicas(proxy)
        for pid in first:
            assert CHAOS[1] in Path(f"/proc/{pid}/cmdline").read_text()
        groups = [os.getpgid(pid) for pid in first]
        offline = {"mechanism": "bubblewrap", "network": "none"}
        text = json.dumps({"namespaces": [namespace], "isolation": offline})
        (tmp_path / "prism.yaml").write_text(text)
        os.kill(proxy.pid, signal.SIGHUP)
        eventually(lambda: len(replicas(proxy) - first) == 2)
        eventually(lambda: not any(group_members(group) for group in groups))
        status = proxy.client.get(f"{proxy.admin}/admin/plugins/a").json()
        assert "network" in status["isolation"]["holds"]
        assert proxy.call("a", "echo", {"back": 1}).text == '{"back": 1}'
        groups = [os.getpgid(pid) for pid in replicas(proxy)]
    finally:
        os.kill(proxy.pid, signal.SIGKILL)
        proxy.process.wait()
        proxy.process.stdout.close()
        proxy.client.close()
    eventually(lambda: not any(group_members(group) for group in groups))


def replicas(proxy):
    """The numbers of their processes."""
    status = proxy.client.get(f"{proxy.admin}/admin/plugins/a").json()
    return {one["pid"] for one in status["replicas"] if one["pid"]}

"""What docs/isolation.md and the commands of operators say, against a proxy that runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from prism.config import parse_config
from prism.isolation.machine import machine

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests/e2e/support"))

from prism_process import CHAOS, Proxy  # noqa: E402 - the path to it is above

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

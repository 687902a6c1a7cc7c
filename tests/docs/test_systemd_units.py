"""The units in examples/systemd are right, tight, and fit the configuration beside them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prism.config import load_config

UNITS = Path(__file__).parents[2] / "examples/systemd"
CREDENTIALS = "/run/credentials/prism.service/"
LOOSEST = 2.5
"""Exposure, as `systemd-analyze security` counts it, from 0 to 10; below 4 it says OK."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "--no-pager", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@needs_systemd
def test_systemd_has_nothing_to_say_about_them(tmp_path: Path) -> None:
    for unit in UNITS.glob("prism*.s*"):
        # It wants the program to be there.
        text = unit.read_text().replace("/opt/prism/bin/prism", sys.executable)
        (tmp_path / unit.name).write_text(text)
    done = analyze("verify", "--man=no", *sorted(tmp_path.iterdir()))
    said = [line for line in done.stderr.splitlines() if "prism" in line]
    assert said == []


@needs_systemd
def test_the_service_may_do_little() -> None:
    done = analyze("security", "--offline=true", UNITS / "prism.service")
    found = re.search(r"Overall exposure level for prism.service: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) < LOOSEST


def directives(name: str) -> dict[str, list[str]]:
    """The unit's settings, with those that are commented out."""
    found: dict[str, list[str]] = {}
    lines = (UNITS / name).read_text().splitlines()
    for key, value in re.findall(r"^(?:# )?([A-Z]\w+)=(\S*)", "\n".join(lines), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def test_the_configuration_fits_the_service() -> None:
    unit = directives("prism.service")
    loaded = {value.partition(":")[0] for value in unit["LoadCredential"]}
    text = (UNITS / "prism.yaml").read_text()
    for name in re.findall(rf"{CREDENTIALS}([\w.]+)", text):
        assert name in loaded
    found = load_config(UNITS / "prism.yaml")
    assert found.warnings == ()
    assert found.config.secrets.directory == CREDENTIALS.rstrip("/")
    (namespace,) = found.config.namespaces
    assert namespace.config["path"].startswith(f"/var/lib/{unit['StateDirectory'][0]}/")
    assert (
        f"--token-file %d/{Path(found.config.admin.token_file or '').name}"
        in (UNITS / "prism.service").read_text()
    )


def test_the_sockets_are_those_of_the_configuration() -> None:
    config = load_config(UNITS / "prism.yaml").config
    for name, port in (("prism", config.listen.port), ("prism-admin", config.admin.port)):
        (stream,) = directives(f"{name}.socket")["ListenStream"]
        assert stream == f"127.0.0.1:{port}"

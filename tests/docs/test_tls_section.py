"""The certificates of docs/getting-started.md fit the configuration that it shows beside them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from prism.config import load_config
from prism.control.machine import check_machine
from prism.streams.tls import TLSFiles, load_client_context

PAGE = Path(__file__).parents[2] / "docs" / "getting-started.md"


def test_what_the_section_makes_can_be_served(tmp_path: Path) -> None:
    if shutil.which("openssl") is None and not os.environ.get("CI"):
        pytest.skip("openssl is not installed (Debian: apt-get install openssl)")
    section = PAGE.read_text().partition("## 6. TLS")[2].partition("\n## ")[0]
    commands = re.findall(r"^```\n(openssl .*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(commands) == 2
    for block in commands:
        subprocess.run(["sh", "-ec", block], cwd=tmp_path, check=True, capture_output=True)
    (shown,) = re.findall(r"^```yaml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    for text in (shown, shown.replace("# client_ca", "client_ca")):
        file = tmp_path / "prism.yaml"
        file.write_text(text)
        assert yaml.safe_load(text)["listen"]["tls"].keys() >= {"cert", "key"}
        assert check_machine(load_config(file)) == ([], [])
    load_client_context(TLSFiles(str(tmp_path / "ca.pem"), str(tmp_path / "client.pem")))

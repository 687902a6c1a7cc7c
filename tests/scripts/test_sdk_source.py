"""The SDK's own distribution: complete without the rest of the proxy."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import prism.sdk.serving, prism.sdk.testing, prism.sdk.byte_streams

for name, module in sys.modules.items():
    if name.partition(".")[0] == "prism" and module.__file__:
        assert Path(module.__file__).is_relative_to(sys.argv[1]), module
print(prism.__version__)
"""


def test_the_sources_hold_all_that_the_sdk_imports(tmp_path: Path) -> None:
    folder = tmp_path / "sdk"
    subprocess.run([sys.executable, ROOT / "scripts/sdk_source.py", folder], check=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert not (folder / "prism/config").exists()

    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    proxy = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "prism-plugin-sdk"
    assert set(project["dependencies"]) < set(proxy["dependencies"])
    assert not list(folder.rglob("*.pyc"))

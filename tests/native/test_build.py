"""What is built where a compiler is there, and where there is none."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ["native", "plugins", "prism", "setup.py", "pyproject.toml", "README.md", "LICENSE"]
MODULES = ["prism/server/http2/_nghttp2", "prism/calls/_json"]


@pytest.mark.slow
def test_an_install_without_a_compiler_succeeds(tmp_path):
    """And builds no extension; what setuptools says about it is a warning."""
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-c",
                "import runpy; runpy.run_path('setup.py', run_name='__main__')",
            ),
            *("build_ext", "--build-lib", tmp_path / "lib", "--build-temp", tmp_path / "temp"),
        ],
        cwd=ROOT,
        env={**os.environ, "CC": "no-such-compiler"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*.so")) == []
    assert "failed" in done.stderr + done.stdout


@pytest.mark.slow
def test_a_source_archive_makes_a_wheel_with_what_is_compiled(tmp_path):
    if shutil.which("gcc") is None:
        assert "CI" not in os.environ
        pytest.skip("this needs gcc")
    tree, unpacked = tmp_path / "tree", tmp_path / "unpacked"
    tree.mkdir()
    for part in PARTS:  # as git has them, without what was built
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tree / part)
    for built in tree.rglob("*.so"):
        built.unlink()
    setup = [sys.executable, "setup.py", "--quiet"]
    subprocess.run([*setup, "sdist", "--dist-dir", tmp_path], cwd=tree, check=True)
    with tarfile.open(*tmp_path.glob("*.tar.gz")) as archive:
        archive.extractall(unpacked, filter="data")
    (sources,) = unpacked.iterdir()
    subprocess.run([*setup, "bdist_wheel", "--dist-dir", tmp_path], cwd=sources, check=True)
    names = zipfile.ZipFile(*tmp_path.glob("*.whl")).namelist()
    for module in MODULES:
        kinds = {Path(name).suffix for name in names if name.startswith(f"{module}.")}
        assert kinds == {".so", ".pyi"}
    assert [name for name in names if name.endswith((".c", ".h", ".o"))] == []

"""What every call comes by runs as Python, or compiled: all of it or nothing, from one source.

``make test-compiled`` runs these tests, and those of all that is compiled, on the second.
"""

import importlib
import re
import runpy
from pathlib import Path

import pytest

from prism.calls import is_compiled

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def setup_py():
    return runpy.run_path(str(ROOT / "setup.py"))


def test_all_is_compiled_or_nothing(setup_py):
    names = [
        f"prism.{folder.replace('/', '.')}.{name}"
        for folder, modules in setup_py["COMPILED"].items()
        for name in modules.split()
    ]
    assert "prism.calls.call" in names
    files = {name: importlib.import_module(name).__file__ for name in names}
    assert {file.endswith(".so") for file in files.values()} == {is_compiled()}, files


def test_every_policy_is_compiled(setup_py):
    """A new one has its name in setup.py: in Python it would cost what the others save."""
    named = set(setup_py["COMPILED"]["calls/policies"].split())
    assert named == {path.stem for path in (ROOT / "prism/calls/policies").glob("[!_]*.py")}


def test_mypyc_is_the_version_that_is_tested(setup_py):
    pinned = (ROOT / "requirements/constraints.txt").read_text().splitlines()
    for requirement in setup_py["MYPY"]:
        assert re.sub(r"\[.*\]", "", requirement) in pinned


def test_compiling_brings_what_the_modules_import(setup_py, monkeypatch):
    """Else mypy would not know the types of trio's, or msgspec's, and mypyc not those of ours."""
    monkeypatch.chdir(ROOT)
    needed = " ".join(setup_py["requirements"]())
    assert all(name in needed for name in ("mypy[mypyc]==", "trio>=", "msgspec>=", "httptools>="))

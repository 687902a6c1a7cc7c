"""What every call comes by runs as Python, or compiled: all of it or nothing, from one source.

``make test-compiled`` runs these tests, and those of all that is compiled, on the second.
"""

import ast
import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
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


def test_what_may_be_called_has_a_body(setup_py):
    """Of one that has but a docstring and whose result may be something, mypyc takes for granted
    that nobody calls it: calling it ends the process."""
    without = []
    for folder, modules in setup_py["COMPILED"].items():
        for name in modules.split():
            tree = ast.parse((ROOT / "prism" / folder / f"{name}.py").read_text())
            for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
                if "Protocol" in {ast.unparse(base) for base in kind.bases}:
                    continue
                for method in kind.body:
                    if isinstance(method, ast.FunctionDef) and method.returns is not None:
                        marks = {ast.unparse(mark) for mark in method.decorator_list}
                        is_empty = all(
                            isinstance(line, ast.Expr | ast.Pass) for line in method.body
                        )
                        is_empty &= len(method.body) == 1
                        has_result = ast.unparse(method.returns) != "None"
                        if is_empty and has_result and "abstractmethod" not in marks:
                            without.append(f"{folder}/{name}.py: {kind.name}.{method.name}")
    assert not without


@pytest.mark.slow
def test_mypyc_takes_the_sources(tmp_path):
    """It makes C of them; what gcc makes of that is left to ``make test-compiled``: minutes."""
    for part in ("prism", "setup.py", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    program = "import runpy; runpy.run_path('setup.py')['compiled']()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "build/compiled/__native_prism___calls___call.c").exists()


def test_compiling_beside_the_sources_is_refused():
    """As ``pip install --editable`` would: the extensions there would hide later changes."""
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=ROOT,
        env={**os.environ, "PRISM_COMPILE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "install without --editable" in done.stderr


def test_mypyc_is_the_version_that_is_tested(setup_py):
    pinned = (ROOT / "requirements/constraints.txt").read_text().splitlines()
    for requirement in setup_py["MYPY"]:
        assert re.sub(r"\[.*\]", "", requirement) in pinned


def test_compiling_brings_what_the_modules_import(setup_py, monkeypatch):
    """Else mypy would not know the types of trio's, or msgspec's, and mypyc not those of ours."""
    monkeypatch.chdir(ROOT)
    needed = " ".join(setup_py["requirements"]())
    assert all(name in needed for name in ("mypy[mypyc]==", "trio>=", "msgspec>=", "httptools>="))

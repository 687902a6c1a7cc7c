"""The extensions: as they are installed, and built to end the process at a wrong access."""

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]


class Sanitized(NamedTuple):
    """The extension ``module``, built at ``path``; ``runtime`` is what Python preloads for it."""

    module: str
    path: Path
    runtime: str

    def run(self, program: str | Path, *arguments: object) -> str:
        """Run Python's ``program`` (a path, or ``pytest``) with it; returns what it printed."""
        environment = {
            **os.environ,
            "LD_PRELOAD": self.runtime,
            "PYTHONMALLOC": "malloc",  # else Python's own pools hide what is out of bounds
            # Python itself leaves memory behind at its end; other tests look for leaks.
            "ASAN_OPTIONS": "detect_leaks=0:strict_string_checks=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        done = subprocess.run(
            [
                *(sys.executable, HERE / "with_extension.py", self.module, self.path),
                *(program, *map(str, arguments)),
            ],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
        return done.stdout


@pytest.fixture(scope="session")
def installed() -> Callable[[str], ModuleType]:
    """Imports an extension, and skips the test if it is not there."""

    def installed(module: str) -> ModuleType:
        try:
            return importlib.import_module(module)
        except ImportError as error:
            assert "CI" not in os.environ
            pytest.skip(f"{error}; this needs a C compiler when Prism is installed")

    return installed


@pytest.fixture(scope="session")
def compile_extension() -> Callable[..., None]:
    """Compiles the C files in a folder of native/ into an extension, with more arguments of gcc."""

    def compile_extension(folder: str, target: Path, *arguments: str | Path) -> None:
        if (compiler := shutil.which("gcc")) is None:
            assert "CI" not in os.environ
            pytest.skip("this needs gcc")
        subprocess.run(
            [
                *(
                    compiler,
                    "-shared",
                    "-fPIC",
                    "-std=c11",
                    f"-I{sysconfig.get_paths()['include']}",
                ),
                *sorted((ROOT / "native" / folder).glob("*.c")),
                *(*arguments, "-ldl", "-o", target),
            ],
            check=True,
        )

    return compile_extension


@pytest.fixture(scope="session")
def sanitized(
    compile_extension: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Sanitized]:
    """Builds a module from a folder of native/ with gcc's sanitizers."""

    def sanitized(folder: str, module: str) -> Sanitized:
        runtime = ""
        if compiler := shutil.which("gcc"):
            command = [compiler, "-print-file-name=libasan.so"]
            runtime = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        if not Path(runtime).is_absolute():  # gcc repeats the name if it has none
            assert "CI" not in os.environ
            pytest.skip("this needs gcc with its sanitizers (Debian: gcc, libasan8)")
        path = tmp_path_factory.mktemp("sanitized") / f"{module.rpartition('.')[2]}.so"
        compile_extension(folder, path, *SANITIZE)
        return Sanitized(module, path, runtime)

    return sanitized

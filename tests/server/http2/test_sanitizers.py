"""The extension, built to end the process at a wrong access, under broken frames."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NATIVE = HERE.parents[2] / "prism/server/http2/native"
SECONDS = 15
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """The extension with gcc's sanitizers, and the environment it needs."""
    compiler = shutil.which("gcc")
    runtime = (
        compiler
        and subprocess.run(
            [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    if not runtime or not Path(runtime).exists():
        assert "CI" not in os.environ
        pytest.skip("this needs gcc with its sanitizers (Debian: gcc, libasan8)")
    extension = tmp_path_factory.mktemp("sanitized") / "_nghttp2.so"
    include = sysconfig.get_paths()["include"]
    sources = sorted(NATIVE.glob("*.c"))
    flags = ["-shared", "-fPIC", "-std=c11", *SANITIZE, f"-I{include}"]
    subprocess.run([compiler, *flags, *sources, "-ldl", "-o", extension], check=True)
    return extension, {
        **os.environ,
        "LD_PRELOAD": runtime,
        "PYTHONMALLOC": "malloc",  # else Python's own pools hide what is out of bounds
        # Python itself leaves memory behind at its end; test_native looks for leaks.
        "ASAN_OPTIONS": "detect_leaks=0:strict_string_checks=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_broken_frames_and_any_order_of_calls(sanitized, seed):
    extension, environment = sanitized
    done = subprocess.run(
        [sys.executable, HERE / "fuzz_native.py", extension, str(SECONDS), str(seed)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS * 10,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert int(done.stdout) > 100


@pytest.mark.slow
def test_the_codecs_own_tests(sanitized):
    """With every wrong argument, and every end that a stream comes to."""
    extension, environment = sanitized
    program = (
        "import sys; sys.path.insert(0, sys.argv[2]); import fuzz_native, pytest;"
        "fuzz_native.load(sys.argv[1]);"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-k', 'not nothing_is_left',"
        "*sys.argv[3:]]))"
    )
    tests = [HERE / name for name in ("test_codec.py", "test_native.py", "test_limits.py")]
    done = subprocess.run(
        [sys.executable, "-c", program, extension, HERE, *tests],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]

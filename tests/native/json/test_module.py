"""The extension in C: its manners, and its memory. Its verdicts are in tests/calls."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KEYS = b"{%s}" % b",".join(b'"k%d\\n":1' % number for number in range(10_000))
LARGE = b'{"a":"%s"}' % bytes(64 * 1024).replace(b"\0", b"x")


@pytest.fixture
def scanner(installed):
    return installed("prism.calls._json")


@pytest.mark.parametrize("body", ["{}", memoryview(b"{}"), type("Body", (bytes,), {})(b"{}"), None])
def test_a_body_is_bytes(scanner, body):
    with pytest.raises(TypeError, match=f"a body is bytes or bytearray, not {type(body).__name__}"):
        scanner.is_params(body)


def test_nothing_is_left_behind(scanner):
    def resident():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    refused = KEYS[:-1] + b',"k5000\\n":2}'
    for _ in range(20):
        assert scanner.is_params(KEYS)
    before = resident()
    for _ in range(100):
        assert scanner.is_params(KEYS)
        assert not scanner.is_params(refused)
        assert not scanner.is_params(KEYS[:-1])
    assert resident() - before < 10 * len(KEYS)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_large_body_lets_other_threads_run(scanner, kind):
    """Here no thread has to give way: the other one goes on to its end, unless the scanner does."""
    body = kind(LARGE)
    started, stop, calls, enough = threading.Event(), threading.Event(), [0], 20_000

    def scan():
        started.set()
        while not stop.is_set() and calls[0] < enough:
            scanner.is_params(body)
            calls[0] += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread = threading.Thread(target=scan)
        thread.start()
        started.wait()
        stop.set()
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert calls[0] < enough


def test_without_memory_there_is_no_verdict(compile_extension, tmp_path):
    """And ordinary bodies need none."""
    extension, says = tmp_path / "_json.so", []
    wrap = ["-Wl,--wrap=malloc", "-Wl,--wrap=realloc", HERE / "no_memory.c"]
    compile_extension("json", extension, *wrap)
    place = [HERE.parent / "with_extension.py", "prism.calls._json", extension]
    for allocations in range(5):
        done = subprocess.run(
            [sys.executable, *place, HERE / "no_memory.py"],
            env={**os.environ, "ALLOCATIONS": str(allocations)},
            capture_output=True,
            text=True,
        )
        says.append(done.stdout.strip() or done.stderr)
    assert says == ["no memory"] * 4 + ["True"]

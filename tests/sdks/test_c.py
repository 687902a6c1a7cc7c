"""The C kit under the address and undefined-behaviour sanitizers: its own tests, the golden
vectors, and the example against every rule of the protocol."""

import json
import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from tests.sdks.kits import BUILD_LIMIT, ROOT, SDKS, alone, need
from tests.sdks.test_kits import conformance

VECTORS = ROOT / "schemas" / "vectors"
LIMIT = 60.0
HELLO = b'{"name":"prism","codec":"json"}'
GOAWAY, PING = 8, 7


def frame(kind: int, payload: bytes = b"", *, aux: int = 0) -> bytes:
    codec = 1 if payload else 0
    return struct.pack(">IIBBBBI", len(payload), 0, kind, 0, codec, 0, aux) + payload


@pytest.fixture(scope="module")
def checked(shared: Path) -> Path:
    """The folder with ``test`` and ``kit-checked``."""
    need({"gcc": "gcc", "make": "make"})
    out = shared / "kits" / "c-checked"
    with alone(out):
        command = ["make", "-s", "CC=gcc", f"OUT={out}", f"{out}/test", f"{out}/kit-checked"]
        subprocess.run(command, cwd=SDKS / "c", check=True, timeout=BUILD_LIMIT)
    return out


def cases(name: str) -> list[dict]:
    found: list[dict] = json.loads((VECTORS / f"{name}.json").read_text())["cases"]
    return found


def vectors() -> dict[str, tuple[bytes, bool]]:
    """What a host sends in each case, and whether it breaks a rule."""
    found = {}
    for case in cases("errors"):
        if case["to"] == "plugin" and case["codec"] == "json":
            greeting = frame(1, HELLO, aux=1) if case["state"] == "ready" else b""
            found[case["name"]] = (greeting + bytes.fromhex(case["hex"]), True)
    for case in cases("tolerance"):
        if case["to"] == "plugin":
            found[case["name"]] = (frame(1, HELLO, aux=1) + bytes.fromhex(case["hex"]), False)
    for case in cases("frames-json"):
        if case["sender"] == "host":
            parts = [each["hex"] for each in case["before"]] + [case["hex"]]
            sent = frame(1, HELLO, aux=1) + bytes.fromhex("".join(parts))
            found[case["name"]] = (sent, False)
    for case in cases("conversations"):
        if case["codec"] == "json":
            parts = [step["hex"] for step in case["steps"] if step["sender"] == "host"]
            found[case["name"]] = (bytes.fromhex("".join(parts)), False)
    return found


def feed(
    checked: Path, sent: bytes, size: int, *mode: str
) -> tuple[list[tuple[int, int]], int, str]:
    """What the plugin sends as (type, stream), its exit status, and what it printed."""
    ours, theirs = socket.socketpair()
    with ours:
        process = subprocess.Popen(
            [checked / "test", "feed", *mode], stdin=theirs, stderr=subprocess.PIPE, text=True
        )
        theirs.close()
        ours.settimeout(LIMIT)
        try:
            for start in range(0, len(sent), size):
                ours.sendall(sent[start : start + size])
            ours.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, OSError):
            pass  # it has refused what came before
        received = b""
        while chunk := ours.recv(65536):
            received += chunk
        _, printed = process.communicate(timeout=LIMIT)
    frames = []
    while received:
        length, stream, kind = struct.unpack_from(">IIB", received)
        frames.append((kind, stream))
        received = received[16 + length :]
    return frames, process.returncode, printed


@pytest.mark.parametrize("size", [1 << 20, 1], ids=["whole", "byte-by-byte"])
def test_vectors(checked: Path, size: int) -> None:
    for name, (sent, breaks) in vectors().items():
        probe = b"" if breaks else frame(PING, aux=4711)
        mode = ["stream"] if name == "data after END" else []
        frames, status, printed = feed(checked, sent + probe, size, *mode)
        assert status == int(breaks), (name, frames, printed)
        kinds = [kind for kind, _ in frames]
        assert kinds[0] == 1, name
        assert (GOAWAY in kinds) == breaks, (name, frames, printed)
        if "shutdown" not in name and not breaks:
            assert PING in kinds, (name, frames)
        closes = [stream for kind, stream in frames if kind == 4]
        assert len(set(closes)) == len(closes), (name, frames)


def test_the_example_keeps_the_protocol(checked: Path) -> None:
    assert conformance([str(checked / "kit-checked")]) == []


def test_its_own(checked: Path) -> None:
    done = subprocess.run([checked / "test"], capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stdout) == (0, "0 wrong\n"), done.stdout + done.stderr
    assert 'such as "get_key"' in done.stderr


def test_its_own_in_a_locale_that_writes_numbers_with_a_comma(
    checked: Path, tmp_path: Path
) -> None:
    if not Path("/usr/share/i18n/locales/de_DE").exists():
        message = "there are no sources of locales (Debian: apt-get install locales)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    # It may warn, with status 1, and has made it all the same.
    command = ["localedef", "-c", "-i", "de_DE", "-f", "UTF-8", tmp_path / "de_DE.UTF-8"]
    subprocess.run(command, capture_output=True, timeout=LIMIT)
    assert (tmp_path / "de_DE.UTF-8" / "LC_NUMERIC").is_file()
    environment = {**os.environ, "LOCPATH": str(tmp_path), "LC_ALL": "de_DE.UTF-8"}
    done = subprocess.run(
        [checked / "test"], env=environment, capture_output=True, text=True, timeout=LIMIT
    )
    assert (done.returncode, done.stdout) == (0, "0 wrong\n"), done.stdout + done.stderr


def test_it_installs(tmp_path: Path, shared: Path) -> None:
    """make install, and a program that pkg-config finds it for."""
    need({"gcc": "gcc", "make": "make", "pkg-config": "pkg-config"})
    prefix = f"PREFIX={tmp_path}/usr"
    options = ["-s", "CC=gcc", f"OUT={tmp_path}/out", prefix]
    subprocess.run(["make", *options, "install"], cwd=SDKS / "c", check=True, timeout=BUILD_LIMIT)
    build = (
        f"gcc -std=c11 -o {tmp_path}/kit examples/kit.c "
        f"$(PKG_CONFIG_PATH={tmp_path}/usr/lib/pkgconfig pkg-config --cflags --libs prism-plugin)"
    )
    subprocess.run(build, shell=True, cwd=SDKS / "c", check=True, timeout=BUILD_LIMIT)
    done = subprocess.run([tmp_path / "kit"], capture_output=True, text=True, env={}, timeout=LIMIT)
    assert done.returncode == 2
    assert "nothing says where the proxy is" in done.stderr

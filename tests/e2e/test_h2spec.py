"""h2spec, the conformance suite for RFC 9113 and RFC 7541, whole and strict.

It is asked for everything: its generic, hpack and http2 parts, and the cases that
it leaves out unless told to be strict.
"""

import re
import subprocess

import pytest
from doors import CODECS, DOORS, open_door, program

CASES = 146


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("door", DOORS)
def test_every_case_passes(start_prism, tmp_path, door, codec):
    h2spec = program("h2spec", "Go")
    proxy = open_door(start_prism, tmp_path, door, codec)
    # /v1 has a body, which the cases on flow control need.
    command = [h2spec, "--strict", "--timeout", "5", "--path", "/v1", "--port", str(proxy.port)]
    if door == "tls":
        command += ["--tls", "--insecure"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    print(done.stdout[done.stdout.find("Failures:") :], done.stderr)
    counts = re.findall(r"(\d+) (tests|passed|skipped|failed)", done.stdout.splitlines()[-1])
    assert {what: int(count) for count, what in counts} == {
        "tests": CASES,
        "passed": CASES,
        "skipped": 0,
        "failed": 0,
    }
    assert proxy.call("demo", "get", {"key": "a"}).json() == {"found": False}

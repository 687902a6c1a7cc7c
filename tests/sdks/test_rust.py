"""The Rust kit: its own tests, with the golden vectors, and its example as a shared library."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prism_process import Proxy, eventually

from tests.sdks.kits import BUILD_LIMIT, RUST, SDKS

PASSWORD = "hunter2-of-the-library"


def test_its_own(built) -> None:
    """`cargo test`: the vectors whole and byte by byte, credit, one CLOSE, the RFC's examples."""
    built("rust")
    done = subprocess.run(
        ["cargo", "test", "--quiet", "--locked", "--tests", "--target-dir", RUST],
        cwd=SDKS / "rust",
        capture_output=True,
        text=True,
        timeout=BUILD_LIMIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("test result: ok.") >= 3


@pytest.fixture(scope="module")
def library(built, start_shared_prism) -> Proxy:
    """A proxy with the example as a library, in a process of its own and within the proxy."""
    built("rust")
    file = f"{RUST}/debug/examples/libkit_library.so"
    plugin = {"type": "in_process", "library": file}
    return start_shared_prism(
        {
            "namespaces": [
                {
                    "name": isolation,
                    "backend": isolation,
                    "plugin": {**plugin, "isolation": isolation},
                    "credentials": {"password": PASSWORD},
                }
                for isolation in ("process", "none")
            ],
            "admin": {"without_token": "change"},
        }
    )


@pytest.mark.parametrize("isolation", ["process", "none"])
def test_as_a_library(library: Proxy, curl, isolation: str) -> None:
    url = f"{library.url}/v1/{isolation}"

    def ask(operation: str, params: Any, *options: str) -> Any:
        return json.loads(curl("-d", json.dumps(params), *options, f"{url}/{operation}"))

    def lines(operation: str, *messages: Any) -> list[Any]:
        file = library.directory / f"{isolation}-body"
        file.write_text("".join(json.dumps(message) + "\n" for message in messages))
        kind = "application/x-ndjson" if len(messages) > 1 else "application/json"
        headers = ["-H", "Accept: application/x-ndjson", "-H", f"Content-Type: {kind}"]
        told = curl("-N", *headers, "--data-binary", f"@{file}", f"{url}/{operation}")
        return [json.loads(line) for line in told.splitlines()]

    assert ask("echo", {"a": "ü"}) == {"a": "ü"}
    assert ask("secret", {}) == {"password": True}
    assert ask("whoami", {})["namespace"] == isolation
    assert ask("fail", {"code": 5, "message": "not there"})["code"] == "NOT_FOUND"
    crashed = ask("panic", {})
    assert (crashed["status"], crashed["code"]) == (500, "INTERNAL")
    assert len(ask("big", {"bytes": 2_000_000})["data"]) == 2_000_000
    assert [each["n"] for each in lines("count", {"to": 3000, "size": 500})] == [*range(1, 3001)]
    numbers = [{"n": n} for n in range(1, 5001)]
    assert lines("sum", *numbers) == [{"sum": 12_502_500.0}]
    before = ask("cancelled", {})["count"]
    late = ask("sleep", {"seconds": 600}, "-H", "prism-timeout: 200ms")
    assert late["code"] == "DEADLINE_EXCEEDED"
    eventually(lambda: ask("cancelled", {})["count"] == before + 1)
    message = f"of the library in {isolation}: {PASSWORD}"
    ask("log", {"message": message, "level": "WARNING"})
    (record,) = eventually(lambda: library.logged(f"of the library in {isolation}"))
    assert (record["level"], record["namespace"]) == ("warning", isolation)
    assert PASSWORD not in json.dumps(record)


def test_a_library_ends_with_its_threads(library: Proxy) -> None:
    """A reload makes a new plugin object, and of the old one no thread is left."""

    def threads() -> int:
        names = Path(f"/proc/{library.pid}/task").glob("*/comm")
        return sum(file.read_text().startswith("prism-plugin") for file in names)

    for _ in range(3):
        told = library.client.post(
            f"{library.admin}/admin/plugin/reload", json={"namespace": "none"}
        ).json()
        assert told["outcome"] == "swapped", told
    eventually(lambda: threads() == 2)

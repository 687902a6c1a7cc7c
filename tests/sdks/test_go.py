"""The Go kit's own tests: `go vet`, `gofmt`, `go test`; the golden vectors are among them."""

import subprocess

import pytest

from tests.sdks.kits import BUILD_LIMIT, SDKS, need

RACE = pytest.param("-race", marks=pytest.mark.soak)
"""To compile Go's library once more for it takes as long as all other tests of kits."""


def go(*words: str) -> str:
    need({"go": "golang-go"})
    done = subprocess.run(
        ["go", *words], cwd=SDKS / "go", capture_output=True, text=True, timeout=BUILD_LIMIT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("race", ["-vet=all", RACE])
def test_its_own(race) -> None:
    assert "ok  \tprism/sdks/go\t" in go("test", race, "./...")


def test_it_is_formatted() -> None:
    need({"gofmt": "golang-go"})
    done = subprocess.run(["gofmt", "-l", SDKS / "go"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")

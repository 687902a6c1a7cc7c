"""The scanner, built to end the process at a wrong access, under broken documents."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECONDS = 10
CHECKS = HERE.parents[1] / "calls/test_json_text.py"


@pytest.fixture(scope="module")
def scanner(sanitized):
    return sanitized("json", "prism.calls._json")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_broken_documents(scanner, seed):
    tried, accepted = map(
        int, scanner.run(HERE / "fuzz.py", SECONDS, seed, timeout=SECONDS * 10).split()
    )
    assert tried > accepted > 100


@pytest.mark.slow
def test_the_checks_own_tests(scanner):
    options = ["-q", "-p", "no:cacheprovider", "-k", "not behind and not without_memory"]
    scanner.run("pytest", *options, CHECKS, HERE / "test_module.py", timeout=600)

"""The scanner, built to end the process at a wrong access, under broken documents."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHECKS = HERE.parents[1] / "calls/test_json_text.py"


@pytest.fixture(scope="module")
def scanner(sanitized):
    return sanitized("json", "prism.calls._json")


@pytest.mark.slow
@pytest.mark.parametrize("documents", [2000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_broken_documents(scanner, documents):
    accepted = int(scanner.run(HERE / "fuzz.py", documents, 1))
    assert documents / 4 < accepted < documents


@pytest.mark.slow
@pytest.mark.parametrize(
    "but",
    [
        pytest.param(" and not agrees", id="without generated documents"),
        pytest.param("", id="all", marks=pytest.mark.soak),
    ],
)
def test_the_checks_own_tests(scanner, but):
    """Those that generate documents take most of the time; ``fuzz.py`` makes some as well."""
    options = ["-q", "-p", "no:cacheprovider", "-k", f"not behind and not without_memory{but}"]
    scanner.run("pytest", *options, CHECKS, HERE / "test_module.py")

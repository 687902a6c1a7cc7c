"""What calls native libraries, built to end the process at a wrong access, under faults of one."""

from pathlib import Path

import pytest

HOSTS = Path(__file__).parents[2] / "hosts" / "test_library.py"
CHANNELS = Path(__file__).parents[2] / "channels" / "test_channel.py"
MEMORY = "by_any_thread or after_its_end or completion or large_messages or never_begun or is_none"
"""The tests in which memory changes hands between threads, or at an end."""


@pytest.fixture(scope="module")
def loader(sanitized, monkeypatch_module):
    monkeypatch_module.setenv("PRISM_PROBE_FLAGS", "-fsanitize=address -g")
    return sanitized("library", "prism.hosts._library")


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tests", "chosen"),
    [
        (HOSTS, MEMORY),
        pytest.param(HOSTS, "not in_c", marks=pytest.mark.soak),
        pytest.param(CHANNELS, "library", marks=pytest.mark.soak),
    ],
    ids=["where memory changes hands", "all", "as a channel"],
)
def test_the_probe_under_sanitizers(loader, tests, chosen):
    loader.run("pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, tests)

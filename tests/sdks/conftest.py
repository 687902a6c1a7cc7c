"""What tests of the kits share: each example is built once in a run, whichever worker is first."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "e2e" / "support"))

from tests.e2e.conftest import curl, start_prism, start_process, start_shared_prism
from tests.sdks.kits import build

__all__ = ["curl", "start_prism", "start_process", "start_shared_prism"]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of this run have."""
    mine = tmp_path_factory.getbasetemp()
    return mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine


@pytest.fixture(scope="session")
def built(shared: Path) -> Callable[[str], list[str]]:
    """The command that starts a language's example."""
    return lambda language: build(language, shared)

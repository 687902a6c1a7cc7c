"""A token issuer, as the tests with real processes have it."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "e2e" / "support"))

from token_issuer import TokenIssuer


@pytest.fixture
def issuer():
    made = TokenIssuer()
    yield made
    made.close()

"""The plugins that are held to their groups, and what each needs to run.

To add one: a ``Subject``, whose ``setup`` gives the configuration for tests that begin with an
empty backend or share one with others, in namespaces of their own. A server comes from a
fixture: ``request.getfixturevalue("redis")``.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Setup(NamedTuple):
    """What a plugin is configured with, for one test."""

    config: Mapping[str, Any]
    credentials: Mapping[str, str] = {}


class Subject(NamedTuple):
    """A plugin. ``deviations`` are the promises that it does not keep, by the test's name, with
    the reason, which the page shows; such a test has to fail."""

    name: str
    module: str
    """Where its class is, as ``module:Class`` of the configuration; a path for a single file."""

    groups: frozenset[str]
    setup: Callable[[pytest.FixtureRequest], Setup]
    page: str
    """Its page in ``docs/``."""

    deviations: Mapping[str, str] = {}

    @property
    def command(self) -> list[str]:
        """What starts it as a process of its own."""
        where = self.module.partition(":")[0]
        return [sys.executable, where] if where.endswith(".py") else [sys.executable, "-m", where]


def _sqlite(request: pytest.FixtureRequest) -> Setup:
    directory: Path = request.getfixturevalue("tmp_path")
    return Setup({"path": str(directory / "compliance.db")})


SUBJECTS = (
    Subject(
        name="sqlite",
        module="prism_plugins.sqlite:SQLitePlugin",
        groups=frozenset({"key_value", "kv_versions", "watch", "queue", "sql"}),
        setup=_sqlite,
        page="sqlite.md",
    ),
    Subject(
        name="memory",
        module=f"{ROOT / 'examples' / 'plugins' / 'python' / 'memory.py'}:Memory",
        groups=frozenset({"key_value"}),
        setup=lambda _: Setup({}),
        page="writing-a-plugin.md#keys-and-values",
        deviations={"test_values_outlive_the_plugin": "it keeps nothing when it ends"},
    ),
)

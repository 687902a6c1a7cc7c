"""How the suite is run: in several workers, its matrices by pairs, its soaks on demand.

``make test-compiled`` runs it on a Prism that is not the sources: ``--compiled`` sees to that.

A test whose parameters span a matrix says so: ``@pytest.mark.matrix("behind", "door")``. Of
all the tests so marked in a file, ``make test`` takes as many as it needs for every two
values that occur together anywhere (this door with that channel, this door in that test, this
channel in that test) to occur together once. ``--soak`` takes them all, and the tests
marked ``soak``, which run for minutes.
"""

import random
from collections.abc import Generator, Hashable, Sequence
from itertools import combinations, groupby
from typing import Any

import hypothesis
import pytest

import prism
from prism.calls import is_compiled

pytest_plugins = ["tests.services.fixtures"]

Point = tuple[Hashable, ...]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options ``--soak`` and ``--compiled``."""
    parser.addoption(
        "--soak", action="store_true", help="run the soaks, and every test of the matrices"
    )
    parser.addoption(
        "--compiled", action="store_true", help="refuse to run where the calls are not compiled"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Generated examples are the same in every run, but in soaks. None fails for being slow.

    Raises:
        UsageError: ``--compiled`` was given, and what tests would import is not.
    """
    if config.getoption("--compiled") and not is_compiled():
        raise pytest.UsageError(f"not compiled: {prism.__path__[0]}; use make test-compiled")
    hypothesis.settings.register_profile(
        "prism",
        derandomize=not config.getoption("--soak"),
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("prism")


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the soaks, and what the matrices do not need for their pairs."""
    if config.getoption("--soak"):
        return
    left_out = {item for item in items if item.get_closest_marker("soak")}
    for _, in_file in groupby(items, lambda item: item.path):
        matrix = {item: point_of(item) for item in in_file if item.get_closest_marker("matrix")}
        chosen = pairwise(list(matrix.values()))
        left_out |= {item for item, point in matrix.items() if point not in chosen}
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def point_of(item: pytest.Function) -> Point:
    """A test's place in its file's matrix: the parameters that its mark names, and the rest."""
    mark = item.get_closest_marker("matrix")
    values = {name: repr(value) for name, value in item.callspec.params.items()}
    named = [values.pop(name, "") for name in mark.args]
    return (*named, (item.originalname, *values.values()))


def pairwise(points: Sequence[Point]) -> set[Point]:
    """Few of the points, in which all pairs of values occur that occur in any of the points.

    Greedy: always one that has most pairs yet missing. Of several it takes any (the same in
    every run), not the first, which would have the first channel in most of them.
    """
    shuffled = random.Random(0).sample(points, len(points))  # noqa: S311 - no secret
    pairs = {point: set(combinations(enumerate(point), 2)) for point in shuffled}
    missing = set().union(*pairs.values())
    chosen = set()
    while missing:
        best = max(shuffled, key=lambda point: len(pairs[point] & missing))
        chosen.add(best)
        missing -= pairs[best]
    return chosen


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Let reports pass from the workers: what a test logs may hold lone surrogates."""
    return encodable((yield))


def encodable(value: Any) -> Any:
    """The same value with each character that has no UTF-8 escaped (``\\ud800``)."""
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {encodable(key): encodable(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(map(encodable, value))
        case _:
            return value

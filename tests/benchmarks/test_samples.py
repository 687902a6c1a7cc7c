"""Samples are taken in turns and compared round by round."""

from benchmarks.effort import QUICK, Effort
from benchmarks.samples import (
    SHARES,
    Load,
    Results,
    Sample,
    SideFailed,
    percentile,
    quantiles,
    take_turns,
)

ONE = Load(1)


def sample(calls: int) -> Sample:
    return Sample(calls=calls, seconds=1.0, quantiles=tuple(SHARES))


def rate(found: Sample) -> float:
    return found.rate


def test_sides_take_turns_and_the_order_alternates():
    asked: list[str] = []

    def side(name: str, calls: int):
        def run(_load: Load, _seconds: float) -> Sample:
            asked.append(name)
            return sample(calls)

        return run

    results = take_turns({"a": side("a", 30), "b": side("b", 10)}, [ONE], rounds=2, seconds=1)
    assert "".join(asked) == "ab" + "ab" + "ba"
    assert results.ratio("a", "b", ONE, rate) == 3.0
    assert results.difference("a", "b", ONE, rate) == 20.0


def test_a_side_that_fails_leaves_the_others_alone():
    asked = 0

    def fragile(_load: Load, _seconds: float) -> Sample:
        nonlocal asked
        asked += 1
        if asked > 2:
            raise SideFailed("it ended")
        return sample(1)

    results = take_turns(
        {"good": lambda _load, _seconds: sample(2), "fragile": fragile},
        [ONE],
        rounds=3,
        seconds=1,
    )
    assert results.failed == {"fragile": "it ended"}
    assert asked == 3
    assert results.ratio("good", "fragile", ONE, rate) == 2.0
    assert results.ratio("good", "absent", ONE, rate) is None


def test_a_ratio_compares_round_by_round():
    results = Results()
    for mine, theirs in [(10, 5), (100, 50), (9, 3)]:
        results.add("mine", ONE, sample(mine))
        results.add("theirs", ONE, sample(theirs))
    assert results.ratio("mine", "theirs", ONE, rate) == 2.0
    assert results.median("mine", ONE, rate) == 10.0


def test_percentile():
    assert percentile(range(100), 0.5) == 50
    assert percentile([7], 0.99) == 7


def test_quantiles_sort_first():
    found = Sample(calls=3, seconds=1, quantiles=quantiles([3.0, 1.0, 2.0]))
    assert (found.p50, found.p99) == (2.0, 3.0)


def test_a_load_says_what_it_is():
    assert str(Load(64)) == "64 in flight"
    assert str(Load(256, connections=4)) == "256 in flight on 4 connections"
    assert str(Load(16, http1=True)) == "HTTP/1.1, 16 in flight"


def test_a_quick_run_keeps_the_typical_load():
    assert QUICK.some([1, 2, 3], 2) == [2]
    assert Effort().some([1, 2, 3], 2) == [1, 2, 3]

"""The arithmetic of rates: no window ever gets more than its rate and its burst."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.limits import gcra
from prism.limits.gcra import Bucket, Rate, Recent

RATES = st.floats(0.01, 100_000)
BURSTS = st.integers(1, 1000)
PAUSES = st.one_of(st.just(0.0), st.floats(0, 0.01), st.floats(0, 5), st.floats(0, 10_000))
CALLS = st.lists(st.tuples(PAUSES, st.integers(1, 20)), min_size=1, max_size=60)


def passing(rate, bucket, calls, start=0.0):
    """The (time, cost) of each call that passes, of those that come after a pause each."""
    passed, now = [], start
    for pause, cost in calls:
        now += pause
        if not bucket.wait(rate, cost, now):
            bucket.use(rate, cost, now)
            passed.append((now, cost))
    return passed


def most_over(passed, rate, burst):
    """By how much the fullest window is over ``rate * t + burst``: below 0 if none is."""
    used = [0, *accumulate(cost for _, cost in passed)]
    return max(
        used[last + 1] - used[first] - rate * (passed[last][0] - passed[first][0]) - burst
        for first in range(len(passed))
        for last in range(first, len(passed))
    )


@given(RATES, BURSTS, CALLS, st.floats(0, 1e6))
def test_no_window_has_more_than_its_rate_and_its_burst(per_second, burst, calls, start):
    passed = passing(Rate(per_second, burst), Bucket(start), calls, start)
    if passed:
        assert most_over(passed, per_second, burst) <= 1e-5 * burst + 1e-9 * per_second * 1e6


@given(RATES, BURSTS, st.floats(0, 1e6))
def test_the_whole_burst_passes_at_once_and_nothing_more(per_second, burst, start):
    rate, bucket = Rate(per_second, burst), Bucket(start)
    assert len(passing(rate, bucket, [(0.0, 1)] * (burst + 5), start)) == burst


@given(RATES, BURSTS, st.integers(1, 20), st.floats(0, 1e5))
def test_what_is_refused_passes_after_the_time_that_was_said(per_second, burst, cost, start):
    rate, bucket = Rate(per_second, burst), Bucket(start)
    passing(rate, bucket, [(0.0, 1)] * burst, start)
    cost = min(cost, burst)
    wait = bucket.wait(rate, cost, start)
    assert wait > 0
    assert bucket.wait(rate, cost, start + wait * 0.99 - 1e-6) > 0
    assert bucket.wait(rate, cost, start + wait) <= 1e-9


def test_no_edge_of_a_window_lets_twice_as_much_pass():
    """As counters for each second do: all at the end of one, and all at the begin of the next."""
    rate, bucket = Rate(100, 100), Bucket(0.0)
    late = passing(rate, bucket, [(0.999, 1)] + [(0.0, 1)] * 200)
    early = passing(rate, bucket, [(0.001, 1)] + [(0.0, 1)] * 200, start=0.999)
    assert (len(late), len(early)) == (100, 0)


def test_another_rate_keeps_what_was_used():
    rate, bucket = Rate(1, 10), Bucket(0.0)
    assert len(passing(rate, bucket, [(0.0, 1)] * 8)) == 8
    rate.per_second, rate.burst = 100, 5
    assert bucket.wait(rate, 1, 0.0) == pytest.approx(0.04)  # 8 are used, and 5 may be
    assert not bucket.wait(rate, 1, 0.05)


def test_a_clock_that_stands_still_or_runs_back_gives_nothing():
    rate, bucket = Rate(10, 1), Bucket(5.0)
    bucket.use(rate, 1, 5.0)
    assert bucket.wait(rate, 1, 4.0) == bucket.wait(rate, 1, 5.0) == pytest.approx(0.1)
    bucket.use(rate, 1, 4.0)
    assert bucket.at == 5.0


# -- what is known of keys --------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3)), max_size=50))
def test_what_was_used_within_its_time_is_known(uses):
    recent, now, used = Recent(2.0), 100.0, {}
    for key, pause in uses:
        now += pause
        found = recent.get(key, now)
        if key in used and now - used[key] < 2.0:
            assert found == key
        if found is None:
            assert recent.put(key, key)
        used[key] = now


def test_what_is_idle_is_forgotten_without_looking_at_each(monkeypatch):
    recent = Recent(1.0)
    for number in range(1000):
        recent.get(str(number), 10.0)
        recent.put(str(number), number)
    assert len(recent) == 1000
    assert recent.get("1", 11.0) == 1
    assert recent.get("new", 12.5) is None
    assert len(recent) == 1
    assert recent.get("new", 20.0) is None
    assert len(recent) == 0


def test_there_is_room_for_so_many_and_those_that_are_used_stay(monkeypatch):
    monkeypatch.setattr(gcra, "MAX_KEYS", 3)
    recent = Recent(1.0)
    for key in "abc":
        recent.get(key, 10.0)
        assert recent.put(key, key)
    assert not recent.put("d", "d")
    assert recent.get("a", 11.5) == "a"  # b and c are of the time before
    assert not recent.put("d", "d")
    assert recent.get("a", 12.6) == "a"
    assert recent.put("d", "d")
    assert len(recent) == 2

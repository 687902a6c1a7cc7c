"""How long calls took, within a fifth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.supervision.latencies import SMALLEST, Latencies


@given(st.lists(st.floats(SMALLEST, 100), min_size=1), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_a_percentile_is_that_or_a_fifth_more(seconds, share):
    latencies = Latencies()
    for each in seconds:
        latencies.take(each)
    found = latencies.percentile(share)
    within = sum(each <= found for each in seconds)
    assert within >= share * len(seconds)
    below = sum(each <= found / 2**0.25 for each in seconds)
    assert below < share * len(seconds) + 1e-9


def test_nothing_was_taken():
    assert (Latencies().count, Latencies().percentile(0.95)) == (0, 0.0)


def test_what_is_out_of_range_counts_at_its_end():
    latencies = Latencies()
    latencies.take(0)
    assert latencies.percentile(1) == SMALLEST
    latencies.take(1e9)
    assert 100 < latencies.percentile(1) < 1000


def test_the_last_ones_are_kept():
    latencies = Latencies(keep=100)
    for _ in range(1000):
        latencies.take(0.01)
    for number in range(1, 101):
        latencies.take(1.0)
        assert 50 <= latencies.count < 100
        if number >= 50:
            assert latencies.percentile(0.5) == pytest.approx(1.0, rel=0.2)
    assert latencies.percentile(0.01) == pytest.approx(1.0, rel=0.2)

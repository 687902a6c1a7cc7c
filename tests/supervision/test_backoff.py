from hypothesis import given
from hypothesis import strategies as st

from prism.config.types import RestartConfig
from prism.supervision.backoff import JITTER, Backoff

CONFIG = RestartConfig()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_delays_double_up_to_the_last_within_the_jitter(rolls):
    remaining = iter(rolls)
    backoff = Backoff(CONFIG, lambda: next(remaining))
    expected = CONFIG.first_delay_seconds
    for _ in rolls:
        delay = backoff.after(served=0, crashed=False)
        assert expected * (1 - JITTER) <= delay <= expected * (1 + JITTER)
        expected = min(2 * expected, CONFIG.max_delay_seconds)


def test_a_good_run_starts_afresh():
    backoff = Backoff(CONFIG, lambda: 0.5)
    first, good = CONFIG.first_delay_seconds, CONFIG.good_run_seconds
    delays = [backoff.after(0, crashed=True) for _ in range(5)]
    assert delays[-1] > delays[0]
    assert backoff.after(good - 1, crashed=True) > first
    assert backoff.after(good, crashed=True) == first
    assert backoff.crashes == 1


@given(st.integers(1, 20), st.lists(st.booleans(), max_size=60))
def test_only_crashes_in_a_row_exhaust_it(limit, crashes):
    backoff = Backoff(RestartConfig(max_crashes=limit), lambda: 0.5)
    in_a_row = 0
    for crashed in crashes:
        in_a_row = in_a_row + 1 if crashed else 0
        delay = backoff.after(1, crashed=crashed)
        assert (delay is None) == (in_a_row >= limit)
    backoff.reset()
    assert (backoff.after(0, crashed=True) is None) == (limit == 1)


def test_a_limit_of_zero_never_gives_up():
    backoff = Backoff(RestartConfig(max_crashes=0), lambda: 0.5)
    assert None not in [backoff.after(0, crashed=True) for _ in range(1000)]

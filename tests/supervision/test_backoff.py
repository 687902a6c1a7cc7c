from hypothesis import given
from hypothesis import strategies as st

from prism.supervision.backoff import FIRST_DELAY, GOOD_RUN, JITTER, LAST_DELAY, Backoff


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_delays_double_up_to_the_last_within_the_jitter(rolls):
    remaining = iter(rolls)
    backoff = Backoff(lambda: next(remaining))
    expected = FIRST_DELAY
    for _ in rolls:
        delay = backoff.delay(served=0)
        assert expected * (1 - JITTER) <= delay <= expected * (1 + JITTER)
        expected = min(2 * expected, LAST_DELAY)


def test_a_good_run_starts_afresh():
    backoff = Backoff(lambda: 0.5)
    delays = [backoff.delay(0) for _ in range(5)]
    assert delays[-1] > delays[0]
    assert backoff.delay(GOOD_RUN - 1) > FIRST_DELAY
    assert backoff.delay(GOOD_RUN) == FIRST_DELAY

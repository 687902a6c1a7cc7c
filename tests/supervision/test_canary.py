"""The judgement of a canary, and the sample that it is based on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.contract.status import StatusCode
from prism.supervision.canary import PLUGIN_AT_FAULT, Canary, CanaryVerdict, Sample, judge

CANARY = Canary(share=0.1, min_calls=50, min_seconds=10, max_seconds=100)


def sample(calls, errors=0, seconds=0.01):
    made = Sample()
    for number in range(calls):
        status = StatusCode.INTERNAL if number < errors else StatusCode.OK
        made.take(seconds, status)
    return made


@pytest.mark.parametrize(
    ("old", "new", "seconds", "verdict", "says"),
    [
        (sample(900), sample(100), 20, CanaryVerdict.PROMOTE, "as good: errors 0.0% of 100 calls"),
        (sample(900), sample(100), 5, CanaryVerdict.WAIT, ""),
        (sample(900), sample(49), 20, CanaryVerdict.WAIT, ""),
        (sample(900), sample(49), 100, CanaryVerdict.ROLL_BACK, "only 49 of the 50 calls"),
        (sample(900), sample(100, errors=10), 20, CanaryVerdict.ROLL_BACK, "fails more often"),
        # Before its time, if it cannot be chance; one bad call of three may be.
        (sample(90), sample(30, errors=30), 1, CanaryVerdict.ROLL_BACK, "fails more often"),
        (sample(30), sample(3, errors=1), 1, CanaryVerdict.WAIT, ""),
        # As bad as the old one is good enough.
        (sample(900, errors=90), sample(100, errors=10), 20, CanaryVerdict.PROMOTE, "as good"),
        (sample(900), sample(100, seconds=0.1), 20, CanaryVerdict.ROLL_BACK, "slower"),
        (sample(900), sample(100, seconds=0.014), 20, CanaryVerdict.PROMOTE, "as good"),
        (sample(0), sample(100), 20, CanaryVerdict.PROMOTE, "as good"),
    ],
)
def test_verdicts(old, new, seconds, verdict, says):
    found, reason = judge(CANARY, old, new, seconds)
    assert found is verdict
    assert says in reason


@given(st.integers(0, 200), st.integers(0, 200), st.floats(0, 200))
def test_it_is_over_in_time_and_never_promotes_the_untried(old_calls, new_calls, seconds):
    verdict, _ = judge(CANARY, sample(old_calls), sample(new_calls), seconds)
    if new_calls < CANARY.min_calls or seconds < CANARY.min_seconds:
        assert verdict is not CanaryVerdict.PROMOTE
    if seconds >= CANARY.max_seconds:
        assert verdict is not CanaryVerdict.WAIT


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 0},
        {"share": 1},
        {"min_calls": 0},
        {"min_seconds": 20, "max_seconds": 10},
        {"max_error_increase": -0.1},
        {"max_latency_factor": 0.5},
    ],
)
def test_numbers_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match=r"must be|at least"):
        Canary(**wrong)


@given(st.lists(st.floats(1e-5, 60), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_percentile_is_right_to_within_a_fifth(latencies, share):
    made = Sample()
    for seconds in latencies:
        made.take(seconds, StatusCode.OK)
    exact = sorted(latencies)[max(0, -int(-share * len(latencies) // 1) - 1)]
    assert exact / 1.001 <= made.latency(share) <= exact * 1.2 + 1e-5


@given(st.lists(st.sampled_from(StatusCode), max_size=50))
def test_only_the_plugins_own_failures_are_errors(statuses):
    made = Sample()
    for status in statuses:
        made.take(0.01, status)
    assert made.errors == sum(status in PLUGIN_AT_FAULT for status in statuses)
    assert made.calls == len(statuses)

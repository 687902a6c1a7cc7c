"""The circuit breaker: its table, its window, and any order of calls, answers and pauses."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prism.config.types import BreakerConfig
from prism.supervision.breaker import (
    BUCKETS,
    JITTER,
    LONGEST,
    TRANSITIONS,
    Breaker,
    CircuitState,
    CircuitTrigger,
    IllegalTransition,
    Outcome,
    Window,
)

GOOD, BAD, NOTHING = Outcome.GOOD, Outcome.BAD, Outcome.NOTHING
CONFIG = BreakerConfig(min_calls=4, window_seconds=10, open_seconds=5, probes=3)


class Clocked:
    """A breaker and its time; ``changes`` are what it has told. Without jitter."""

    def __init__(self, **config):
        self.now = 100.0
        self.changes = []
        chosen = {name: getattr(CONFIG, name) for name in CONFIG.__struct_fields__} | config
        self.breaker = Breaker(
            BreakerConfig(**chosen), lambda *change: self.changes.append(change), lambda: 0.5
        )

    @property
    def state(self):
        return self.breaker.state

    def call(self, outcome=GOOD, seconds=0.0):
        """One call from its begin to its end; returns whether it might pass."""
        if self.breaker.refused_for(self.now) is not None:
            return False
        period = self.breaker.begin(self.now)
        self.now += seconds
        self.breaker.end(period, outcome, seconds, self.now)
        return True

    def open(self):
        for _ in range(self.breaker.config.min_calls):
            self.call(BAD)
        assert self.state is CircuitState.OPEN
        return self

    def half_open(self):
        self.open()
        self.now = self.breaker.open_until
        return self


def test_every_state_can_be_reached_and_left():
    reached = {after for row in TRANSITIONS.values() for after in row.values()}
    assert reached == set(TRANSITIONS) == set(CircuitState)
    assert all(CircuitTrigger.RESET in row for row in TRANSITIONS.values())


def test_what_is_not_in_the_table_is_a_bug():
    with pytest.raises(IllegalTransition, match="proven means nothing in closed"):
        Clocked().breaker._move(CircuitTrigger.PROVEN, "")


def test_it_opens_at_the_rate_of_failures_and_not_before_there_are_enough_calls():
    one = Clocked()
    for outcome in (BAD, BAD, GOOD):
        one.call(outcome)
    assert one.state is CircuitState.CLOSED  # two of three, but three are no statistics
    one.call(GOOD)
    assert one.state is CircuitState.CLOSED  # a good call opens nothing
    one.call(GOOD)
    one.call(BAD)
    assert one.state is CircuitState.OPEN
    ((before, after, reason),) = one.changes
    assert (before, after) == (CircuitState.CLOSED, CircuitState.OPEN)
    assert reason == (
        "3 of 6 calls within 10 s failed (50%, opens at 50%); it is tried again in 5 s"
    )
    assert one.breaker.refused_for(one.now + 1) == 4


def test_it_opens_at_the_rate_of_slow_calls():
    one = Clocked(slow_seconds=1.0, slow_rate=0.75)
    for seconds in (1.0, 1.5, 0.9):
        one.call(GOOD, seconds)
    assert one.state is CircuitState.CLOSED
    one.call(GOOD, 1.0)
    assert one.state is CircuitState.OPEN
    assert one.changes[0][2].startswith(
        "3 of 4 calls within 10 s took 1 s or longer (75%, opens at 75%)"
    )


def test_without_a_limit_no_call_is_slow():
    one = Clocked()
    for _ in range(10):
        one.call(GOOD, 0.9)
    assert one.state is CircuitState.CLOSED


def test_a_plugin_that_is_slow_for_some_operations_stays_closed_unless_the_rate_says_so():
    one = Clocked(slow_seconds=1.0, slow_rate=0.8, window_seconds=1000)
    for number in range(200):
        one.call(GOOD, 2.0 if number % 4 == 0 else 0.01)  # a report among lookups
    assert one.state is CircuitState.CLOSED
    for _ in range(1000):
        one.call(GOOD, 2.0)
        if one.state is CircuitState.OPEN:
            break
    window = one.breaker.window
    assert window.slow >= 0.8 * window.calls


def test_clients_that_leave_a_plugin_that_hangs_do_not_keep_it_closed():
    one = Clocked(slow_seconds=1.0)
    for _ in range(20):
        one.call(NOTHING, 0.5)
    assert (one.state, one.breaker.window.calls) == (CircuitState.CLOSED, 0)
    for _ in range(4):
        one.call(NOTHING, 1.5)
    assert one.state is CircuitState.OPEN


def test_old_calls_are_forgotten():
    one = Clocked()
    for _ in range(3):
        one.call(BAD)
    one.now += 10.5
    one.call(BAD)
    assert (one.state, one.breaker.window.calls) == (CircuitState.CLOSED, 1)


def test_one_probe_at_a_time_and_several_good_ones_close_it():
    one = Clocked().half_open()
    breaker = one.breaker
    assert breaker.refused_for(one.now - 0.01) == pytest.approx(0.01)
    first = breaker.begin(one.now)
    assert one.state is CircuitState.HALF_OPEN
    assert breaker.refused_for(one.now) == 5  # while that one is awaited
    breaker.end(first, GOOD, 0.0, one.now)
    assert one.call()
    assert one.state is CircuitState.HALF_OPEN
    assert one.call()
    assert one.state is CircuitState.CLOSED
    assert breaker.window.calls == 0  # what counts is what comes now
    assert [change[1] for change in one.changes] == [
        CircuitState.OPEN,
        CircuitState.HALF_OPEN,
        CircuitState.CLOSED,
    ]


@pytest.mark.parametrize(("outcome", "seconds"), [(BAD, 0.0), (GOOD, 2.0), (NOTHING, 2.0)])
def test_a_bad_probe_opens_it_for_longer(outcome, seconds):
    one = Clocked(slow_seconds=2.0).half_open()
    assert one.call()
    assert one.call(outcome, seconds)
    assert one.state is CircuitState.OPEN
    assert one.breaker.open_until == one.now + 10
    one.now += 10
    one.call(BAD)
    assert one.breaker.open_until == one.now + 20


def test_how_long_it_is_open_is_bounded_and_jittered():
    for chance, factor in ((0.0, 1 - JITTER), (1.0, 1 + JITTER)):
        one = Clocked()
        one.breaker._rand = lambda chance=chance: chance
        one.open()
        pauses = []
        for _ in range(40):
            pauses.append(one.breaker.open_until - one.now)
            one.now = one.breaker.open_until
            one.call(BAD)
        assert pauses[0] == pytest.approx(5 * factor)
        assert pauses[-1] == pytest.approx(5 * LONGEST * factor)


def test_one_that_flaps_is_open_for_longer_each_time_until_it_was_well():
    one = Clocked()
    pauses = []
    for _ in range(3):
        one.open()
        pauses.append(one.breaker.open_until - one.now)
        one.now = one.breaker.open_until
        for _ in range(3):
            one.call()  # it looks well whenever it is tried, and fails under load
        assert one.state is CircuitState.CLOSED
    assert pauses == [5, 10, 20]
    one.now += 21
    one.open()
    assert one.breaker.open_until - one.now == 5


def test_a_probe_of_which_nothing_comes_gives_its_place_back():
    one = Clocked().half_open()
    assert one.call(NOTHING)
    assert one.breaker.refused_for(one.now) is None
    assert (one.state, one.breaker.good_probes) == (CircuitState.HALF_OPEN, 0)


def test_a_probe_that_hangs_lets_another_one_pass_in_time():
    one = Clocked().half_open()
    one.breaker.begin(one.now)
    assert not one.call()
    one.now += 5
    assert one.call()
    assert (one.state, one.breaker.good_probes) == (CircuitState.HALF_OPEN, 1)


@pytest.mark.parametrize("outcome", Outcome)
def test_a_probe_that_was_given_up_says_nothing_of_the_present_one(outcome):
    one = Clocked().half_open()
    hanging = one.breaker.begin(one.now)
    one.now += 6
    present = one.breaker.begin(one.now)
    one.breaker.end(hanging, outcome, 6.0, one.now)
    assert (one.state, one.breaker.good_probes) == (CircuitState.HALF_OPEN, 0)
    assert one.breaker.refused_for(one.now) == 5  # no second one beside it
    one.breaker.end(present, GOOD, 0.0, one.now)
    assert one.breaker.good_probes == 1


def test_calls_of_before_say_nothing_of_now():
    one = Clocked()
    early = [one.breaker.begin(one.now) for _ in range(10)]
    one.half_open()
    assert one.call()
    for period in early:
        one.breaker.end(period, BAD, 30.0, one.now)
    assert (one.state, one.breaker.good_probes) == (CircuitState.HALF_OPEN, 1)


def test_another_configuration_keeps_the_state():
    one = Clocked().half_open()
    one.call()
    one.breaker.configure(BreakerConfig(probes=2, window_seconds=60))
    assert (one.state, one.breaker.good_probes) == (CircuitState.HALF_OPEN, 1)
    one.call()
    assert (one.state, one.breaker.window.seconds) == (CircuitState.CLOSED, 60)


def test_a_reset_forgets_all():
    one = Clocked().half_open()
    running = one.breaker.begin(one.now)
    one.breaker.reset()
    one.breaker.end(running, BAD, 0.0, one.now)
    assert (one.state, one.breaker.window.calls) == (CircuitState.CLOSED, 0)
    one.open()
    assert one.breaker.open_until - one.now == 5


calls = st.tuples(st.floats(0, 30), st.booleans(), st.booleans())


@given(st.floats(0.1, 1000), st.lists(calls, max_size=60))
def test_the_window_counts_what_a_list_of_all_calls_would(seconds, steps):
    window, now, kept = Window(seconds), 0.0, []
    width = seconds / BUCKETS
    for pause, bad, slow in steps:
        now += pause
        window.add(now, bad=bad, slow=slow)
        kept.append((int(now / width), bad, slow))
        recent = [call for call in kept if call[0] > int(now / width) - BUCKETS]
        assert window.calls == len(recent)
        assert window.bad == sum(call[1] for call in recent)
        assert window.slow == sum(call[2] for call in recent)


class AnyOrder(RuleBasedStateMachine):
    """Calls that overlap, end in any way and any order, and pauses in between."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.running = []
        self.begun = 0
        self.probe = None  # the number of the one that is awaited, and when it began
        self.moves = []
        self.config = BreakerConfig(
            min_calls=3, window_seconds=10, open_seconds=5, probes=2, slow_seconds=3
        )
        self.breaker = Breaker(self.config, self.moved)

    def moved(self, before, after, reason):
        assert reason
        assert after in TRANSITIONS[before].values()
        if self.moves:
            assert self.moves[-1][0] is before
        self.moves.append((after, self.now))
        self.probe = None

    @rule()
    def call_comes(self):
        before, wait = self.breaker.state, self.breaker.refused_for(self.now)
        if before is CircuitState.CLOSED:
            assert wait is None
        if wait is not None:
            assert 0 < wait <= self.config.open_seconds * LONGEST * (1 + JITTER)
            assert self.breaker.state is before  # a look changes nothing
            return
        if before is CircuitState.OPEN:
            assert self.now >= self.breaker.open_until
        elif before is CircuitState.HALF_OPEN:
            # One at a time, but for one that has hung for as long as it is open.
            assert self.probe is None or self.probe[1] + self.config.open_seconds <= self.now
        period = self.breaker.begin(self.now)
        self.begun += 1
        self.running.append((self.begun, period, self.now))
        if self.breaker.state is CircuitState.HALF_OPEN:
            self.probe = self.begun, self.now

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def call_ends(self, data, outcome):
        place = data.draw(st.integers(0, len(self.running) - 1))
        number, period, began = self.running.pop(place)
        before, counted = self.breaker.state, self.breaker.window.calls
        moves = len(self.moves)
        is_now = period == self.breaker.period
        if before is CircuitState.HALF_OPEN:
            assert is_now == (self.probe is not None and self.probe[0] == number)
            self.probe = None if is_now else self.probe
        self.breaker.end(period, outcome, self.now - began, self.now)
        if not is_now:
            assert self.breaker.state is before
            assert self.breaker.window.calls == counted
        elif before is CircuitState.HALF_OPEN:
            bad = outcome is Outcome.BAD or self.now - began >= 3
            assert (self.breaker.state is CircuitState.OPEN) == bad
        elif outcome is Outcome.GOOD and self.now - began < 3:
            assert len(self.moves) == moves

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def an_operator_resets(self):
        self.breaker.reset()
        assert self.breaker.refused_for(self.now) is None
        self.probe = None

    @rule(config=st.sampled_from([5.0, 10.0, 20.0]))
    def configured(self, config):
        before = self.breaker.state
        self.config = BreakerConfig(
            min_calls=3, window_seconds=config, open_seconds=5, probes=2, slow_seconds=3
        )
        self.breaker.configure(self.config)
        assert self.breaker.state is before

    @invariant()
    def it_never_sticks(self):
        """After its longest pause, a call may pass, whatever has been."""
        longest = self.config.open_seconds * LONGEST * (1 + JITTER)
        assert self.breaker.refused_for(self.now + longest) is None
        assert not math.isnan(self.breaker.open_until)
        window = self.breaker.window
        assert 0 <= window.bad <= window.calls
        assert 0 <= window.slow <= window.calls


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestAnyOrder = AnyOrder.TestCase

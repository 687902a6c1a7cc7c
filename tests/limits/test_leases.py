"""Leases: several proxies of one limit never let more through than one would, whatever is held,
lost, late or taken in advance. The store is a model here; the real one has the same arithmetic."""

from collections import deque
from math import floor, inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prism.limits.gcra import Bucket, Rate
from prism.limits.leases import HOLD_SECONDS, LEASE_SECONDS, Ask, Lease

START = 1000.0


class Model:
    """What the script does for one key."""

    def __init__(self, rate):
        self.rate = rate
        self.level, self.at = 0.0, START

    def count(self, ask, now):
        rate = self.rate
        level = max(ask.level, self.level - (now - self.at) * rate.per_second, 0.0)
        level = min(level, rate.burst)
        granted = min(ask.demand, floor(rate.burst - level))
        if granted < ask.least:
            granted = 0
        level += granted
        ahead = max(level, HOLD_SECONDS * rate.per_second)
        held = max(0, min(ask.extra, floor(rate.burst - ahead)))
        if held:
            level = ahead + held
        self.level, self.at = level, now
        return granted, held, rate.burst - level


class Call:
    """A call that waits; ``passed`` are the times, and costs, at which the store let some pass."""

    def __init__(self, cost, passed, clock):
        self.cost, self.is_gone = cost, False
        self._passed, self._clock = passed, clock

    def granted(self):
        self._passed.append((self._clock[0], self.cost))

    def refused(self, wait):
        assert wait > 0

    def undecided(self):
        raise AssertionError


class Proxy:
    """A proxy with a lease on the model's one key, which asks as the store's client does."""

    def __init__(self, model, passed):
        self.model, self.passed = model, passed
        self.lease = Lease("key", model.rate, Bucket(START))
        self.answers = deque()  # on their way here
        self.asked = 0

    def call(self, cost, now):
        """A call comes: it passes, is refused, or waits."""
        lease = self.lease
        if lease.held < cost and lease.wait(cost, now):
            return
        if lease.take(cost, now):
            self.passed.append((now, cost))
        else:
            lease.waiting.append(Call(cost, self.passed, self.model_clock))

    def ask(self, now):
        """The store counts, at this time, what was asked for."""
        self.model_clock[0] = now
        ask = Ask(self.lease, now)
        if ask.demand:
            self.asked += 1
            self.answers.append((ask, *self.model.count(ask, now), now))

    def answer(self):
        """The answer comes."""
        if self.answers:
            self.lease.answered(*self.answers.popleft())


def fullest(passed, rate):
    """By how much the fullest window is over what its length and the burst allow."""
    events = sorted(passed)
    most = -inf
    for first in range(len(events)):
        used = 0
        for time, cost in events[first:]:
            used += cost
            most = max(most, used - rate.per_second * (time - events[first][0]) - rate.burst)
    return most


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),  # which proxy
        st.sampled_from(["call", "call", "call", "ask", "answer", "both"]),
        st.integers(1, 3),  # what a call costs, and how many come
        st.floats(0, 0.06),  # after how many seconds
    ),
    min_size=10,
    max_size=150,
)


@settings(max_examples=200)
@given(st.floats(1, 5000), st.integers(1, 300), STEPS)
def test_proxies_together_keep_to_rate_and_burst(per_second, burst, steps):
    rate = Rate(per_second, burst)
    model, passed, now = Model(rate), [], START
    proxies = [Proxy(model, passed) for _ in range(3)]
    for proxy in proxies:
        proxy.model_clock = [START]
    for which, step, number, pause in steps:
        now += pause
        proxy = proxies[which]
        if step == "call":
            for _ in range(number * 5):
                proxy.call(number, now)
        if step in ("ask", "both") and not proxy.answers:
            proxy.ask(now)
        if step in ("answer", "both"):
            proxy.answer()
    if passed:
        assert fullest(passed, rate) <= 1e-6 * burst


def steadily(rate, calls_per_second, seconds=5.0, proxies=1):
    """How many of the calls pass that come evenly to some proxies, and how often these ask."""
    model, passed = Model(rate), []
    made = [Proxy(model, passed) for _ in range(proxies)]
    calls = int(calls_per_second * seconds)
    for number in range(calls):
        proxy, now = made[number % proxies], START + number / calls_per_second
        proxy.model_clock = [now]
        proxy.call(1, now)
        if proxy.lease.waiting:
            proxy.ask(now)
            proxy.answer()
    return len(passed) / calls, sum(proxy.asked for proxy in made)


def test_a_proxy_that_uses_its_limit_asks_about_as_often_as_a_lease_lasts():
    passed, asked = steadily(Rate(1000, 200), 900)
    assert passed == 1.0
    assert asked <= 5.0 / LEASE_SECONDS * 1.3


@pytest.mark.parametrize("proxies", [2, 10, 50])
def test_what_is_held_for_nothing_is_little_where_many_share_a_limit(proxies):
    """A tenth of the rate is left, and it is not what proxies hold that is used up by that."""
    passed, _ = steadily(Rate(500, 500), 450, proxies=proxies)
    assert passed > 0.99


def test_low_rates_are_asked_singly():
    passed, asked = steadily(Rate(10, 5), 9)
    assert passed == 1.0
    assert asked == 45


def test_who_comes_first_is_served_first_and_who_has_left_leaves_its_part():
    rate = Rate(1, 100)
    lease = Lease("key", rate, Bucket(START))
    clock, passed = [START], []
    calls = [Call(cost, passed, clock) for cost in (2, 3, 1)]
    lease.waiting.extend(calls)
    ask = Ask(lease, START)
    assert (ask.demand, ask.least) == (6, 1)
    late = Call(2, passed, clock)
    lease.waiting.append(late)
    calls[1].is_gone = True
    lease.answered(ask, 6, 0, 94.0, START)
    assert [cost for _, cost in passed] == [2, 1, 2]
    assert not lease.waiting


def test_what_is_held_is_good_for_its_time_alone():
    lease = Lease("key", Rate(1000, 1000), Bucket(START))
    lease.waiting.append(Call(1, [], [START]))
    lease.answered(Ask(lease, START), 1, 10, 900.0, START)
    assert lease.take(4, START + HOLD_SECONDS * 0.9)
    assert not lease.take(1, START + HOLD_SECONDS)


def test_what_is_held_is_counted_for_as_long_as_it_may_be_used():
    """Counted when it is taken, it would have flowed off by the time at which it is used, and a
    whole burst would pass beside it."""
    rate = Rate(1000, 200)
    model, passed = Model(rate), []
    one, other = Proxy(model, passed), Proxy(model, passed)
    one.model_clock = other.model_clock = [START]
    one.lease.taken, one.lease.until = 25, inf  # it was too little the last time
    one.call(1, START)
    one.ask(START)
    one.answer()
    assert one.lease.held == 50
    late = START + HOLD_SECONDS * 0.9
    for _ in range(300):
        other.call(1, late)
    other.ask(late)
    other.answer()
    for _ in range(50):
        one.call(1, late)
    assert fullest(passed, rate) <= 1e-9
    assert len(passed) == 1 + 140 + 50

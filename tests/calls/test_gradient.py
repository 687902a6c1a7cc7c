"""The adaptive limit, by simulated plugins on a simulated clock."""

import heapq
from itertools import count
from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.calls.gradient import FIRST, MOST_OPERATIONS, PROBE_EVERY, WINDOW_CALLS, Gradient


class Backend:
    """Serves ``capacity`` calls at a time in ``seconds`` each; with more, each takes longer."""

    def __init__(self, capacity, seconds=0.1):
        self.capacity = capacity
        self.seconds = {"get": seconds}
        self.now = 0.0
        self.running = []
        self.numbers = count()
        self.limits = []

    def run(self, gradient, until, demand=1_000_000, operations=("get",)):
        """Clients that have ``demand`` calls open whenever they may, for as long as it says."""
        while self.now < until:
            while len(self.running) < min(gradient.limit, demand):
                number = next(self.numbers)
                operation = operations[number % len(operations)]
                inside = len(self.running) + 1
                takes = self.seconds[operation] * max(1.0, inside / self.capacity)
                entry = (self.now + takes, number, operation, takes, inside)
                heapq.heappush(self.running, entry)
            self.now, _, operation, takes, inside = heapq.heappop(self.running)
            most = max(inside, len(self.running) + 1)
            gradient.sample(operation, takes, most, self.now)
            self.limits.append(gradient.limit)


def steady():
    return 0.5


@pytest.mark.parametrize("capacity", [10, 40, 150])
def test_it_finds_what_the_backend_serves_at_a_time(capacity):
    gradient, backend = Gradient(1, 1000, steady), Backend(capacity)
    backend.run(gradient, 20)
    backend.limits.clear()
    backend.run(gradient, 60)
    assert max(backend.limits) <= 3 * capacity
    full = [limit for limit in backend.limits if limit >= capacity]
    assert len(full) > 0.9 * len(backend.limits)


def test_it_stays_within_its_bounds_also_while_it_probes():
    gradient, backend = Gradient(8, 30, steady), Backend(1, 0.01)
    backend.run(gradient, 120)
    assert min(backend.limits) == 8
    assert backend.limits[-1] <= 12  # what calls take with 8 at a time is the best that is known
    backend.capacity = 10_000
    backend.run(gradient, 160)
    assert max(backend.limits) == 30
    assert min(backend.limits[-1000:]) >= 15


def test_a_probe_halves_the_limit_for_a_moment_and_comes_seldom():
    gradient, backend = Gradient(1, 100, steady), Backend(1000)
    backend.run(gradient, 10)
    assert gradient.limit == 100
    backend.limits.clear()
    backend.run(gradient, 10 + 4 * PROBE_EVERY)
    probing = [limit for limit in backend.limits if limit < 100]
    assert set(probing) == {50}
    assert 0 < len(probing) < 0.02 * len(backend.limits)


def test_a_backend_that_becomes_slower_by_nature_is_learnt():
    gradient, backend = Gradient(2, 100, steady), Backend(50)
    backend.run(gradient, 20)
    before = gradient.limit
    backend.seconds["get"] = 0.8
    backend.run(gradient, 30)
    assert gradient.limit < before / 4
    backend.run(gradient, 120)
    assert gradient.limit >= 50


def test_slow_and_fast_operations_are_told_apart():
    """Of a mixture that changes, the mean says that everything is slower; it is not."""
    gradient, backend = Gradient(1, 1000, steady), Backend(50)
    backend.seconds["report"] = 5.0
    backend.run(gradient, 60, operations=["get"] * 9 + ["report"])
    least = gradient.limit
    backend.limits.clear()
    backend.run(gradient, 90, operations=["get", "report"])
    assert least >= 50
    assert min(backend.limits) >= 25


def test_calls_that_all_run_into_their_deadline_teach_no_baseline():
    gradient = Gradient(3, 100, steady)
    for number in range(2000):
        now = number * 0.1
        gradient.sample("get", 5.0, gradient.limit, now, timed_out=True)
    assert gradient.limit == 3


def test_what_is_not_made_use_of_does_not_grow():
    gradient, backend = Gradient(1, 1000, steady), Backend(50)
    backend.run(gradient, 30, demand=5)
    assert gradient.limit == FIRST


def test_other_bounds():
    gradient = Gradient(1, 1000, steady)
    gradient.configure(40, 50)
    assert gradient.limit == 40
    gradient.configure(1, 10)
    assert gradient.limit == 10


def test_no_more_than_so_many_operations_are_told_apart():
    gradient = Gradient(1, 1000, steady)
    for number in range(5000):
        gradient.sample(f"operation-{number}", 0.01, 1, number * 0.01)
    assert len(gradient._operations) <= MOST_OPERATIONS + 1


SECONDS = st.one_of(st.sampled_from([0.0, 1e-300, 1e-9, 86400.0]), st.floats(0, 10))
SAMPLES = st.tuples(
    st.sampled_from(["get", "get", "scan"]),
    SECONDS,  # that it took
    st.integers(1, 200),  # how many ran
    st.booleans(),  # whether its time was up
    st.sampled_from([0.0, 1e-9, 0.05, 1.0, 40.0, 1e6]),  # after how long
    st.integers(1, 2 * WINDOW_CALLS),  # how often
)
BOUNDS = st.tuples(st.integers(1, 300), st.integers(1, 300)).map(sorted)


@given(BOUNDS, st.lists(st.one_of(SAMPLES, BOUNDS), max_size=60), st.floats(0, 1))
def test_whatever_calls_take_the_limit_is_within_its_bounds(bounds, steps, jitter):
    (least, most), now = bounds, 0.0
    gradient = Gradient(least, most, lambda: jitter)
    for step in steps:
        if isinstance(step, list):
            least, most = step
            gradient.configure(least, most)
        else:
            operation, seconds, ran, timed_out, pause, often = step
            for _ in range(often):
                now += pause
                gradient.sample(operation, seconds, ran, now, timed_out=timed_out)
        assert least <= gradient.limit <= most
        assert all(isfinite(each.baseline) for each in gradient._operations.values())

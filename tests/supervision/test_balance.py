import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prism.config.plugin_types import BalanceConfig
from prism.config.types import BreakerConfig
from prism.contract.status import StatusCode
from prism.supervision.balance import ENOUGH, HALF_WINDOW, LEAST_WEIGHT, MIN_CALLS, Balance
from prism.supervision.breaker import Breaker, Outcome
from prism.supervision.instance import Instance

OK, FAILED = StatusCode.OK, StatusCode.INTERNAL


class Channel:
    ended = None


class Bench:
    """A balance with a clock that is set by hand, and replicas that serve."""

    def __init__(self, names="abc", zone="", zones=(), seed=1, **config):
        self.time = 1000.0
        self.events = []
        self.balance = Balance(
            BalanceConfig(**{"slow_start_seconds": 0, **config}),
            zone,
            now=lambda: self.time,
            rand=random.Random(seed).random,
            on_event=lambda replica, what, why: self.events.append((replica.name, what, why)),
        )
        self.generation = 0
        for number, name in enumerate(names):
            self.balance.add(name, zones[number] if zones else "")
            self.serve(name)

    def __getitem__(self, name):
        return self.balance.replicas[name]

    def serve(self, name):
        self.generation += 1
        instance = Instance("ns", self.generation, "p", "1", Channel(), {}, replica_name=name)
        self.balance.fill(self[name], instance)

    def say(self, name, *statuses):
        for status in statuses:
            self[name].take(0.01, status)

    def ejected(self):
        return {name for name, each in self.balance.replicas.items() if each.ejected_until}

    def spread(self, calls=3000, *, held=False):
        """How many of so many calls go where; they end at once, unless they are held."""
        counts = Counter()
        for _ in range(calls):
            instance = self.balance.choose()
            counts[instance.replica_name] += 1
            if held:
                instance.acquire()
        return counts


def test_idle_replicas_get_the_same():
    counts = Bench().spread()
    assert all(900 < counts[name] < 1100 for name in "abc")


def test_held_calls_are_level():
    bench = Bench()
    bench.spread(300, held=True)
    leases = [replica.instance.leases for replica in bench.balance.replicas.values()]
    assert max(leases) - min(leases) <= 3


def test_one_that_hangs_gets_next_to_nothing():
    bench = Bench()
    for _ in range(5):
        bench["b"].instance.acquire()
    assert bench.spread()["b"] == 0


def test_another_one_than_that_to_avoid():
    bench = Bench()
    avoid = bench["a"].instance
    assert {bench.balance.choose(avoid).replica_name for _ in range(50)} == {"b", "c"}
    alone = Bench("a")
    assert alone.balance.choose(alone["a"].instance) is alone["a"].instance
    assert Bench("").balance.choose() is None


def test_one_whose_channel_has_broken_is_passed_over():
    bench = Bench()
    bench["a"].instance.channel.ended = OSError()
    assert bench.spread(200)["a"] == 0


def test_one_whose_breaker_is_open_is_for_when_there_is_no_other():
    bench = Bench()
    for name in "ab":
        breaker = bench[name].instance.breaker = Breaker(BreakerConfig(min_calls=1))
        breaker.end(breaker.begin(bench.time), Outcome.BAD, 0.1, bench.time)
        assert bench[name].instance.is_open(bench.time)
    assert set(bench.spread(200)) == {"c"}
    # A call that is made again on the one that has failed it may pass; on those it may not.
    failed = bench["c"].instance
    assert {bench.balance.choose(failed) for _ in range(50)} == {failed}
    bench.balance.clear(bench["c"])
    assert set(bench.spread(200)) <= {"a", "b"}


# -- ejection -----------------------------------------------------------------


def test_failures_in_a_row_eject_and_the_time_out_grows():
    bench = Bench(ejection_seconds=10, max_ejection_seconds=35)
    times = []
    for _ in range(4):
        bench.say("a", *[FAILED] * 5)
        assert bench.ejected() == {"a"}
        times.append(bench["a"].ejected_until - bench.time)
        assert bench.spread(200)["a"] == 0
        bench.time += times[-1]
        assert bench.spread(200)["a"] > 0
    assert times == [10, 20, 35, 35]
    assert bench["a"].ejections == 4
    assert bench.events[:2] == [
        ("a", "ejected", "for 10 s: 5 calls in a row have failed"),
        ("a", "returned", "its time is up"),
    ]


def test_good_service_is_forgiving():
    bench = Bench(ejection_seconds=10)
    bench.say("a", *[FAILED] * 5)
    bench.time += 10
    bench.balance.choose()
    bench.time += 10
    bench.say("a", *[FAILED] * 5)
    assert bench["a"].ejected_until - bench.time == 10


def test_a_success_breaks_the_row_and_a_cancelled_call_says_nothing():
    bench = Bench()
    bench.say("a", *[FAILED] * 4, OK, *[FAILED] * 4)
    assert not bench.ejected()
    bench.say("a", StatusCode.CANCELLED, FAILED)
    assert bench.ejected() == {"a"}
    for _ in range(50):
        bench["b"].take(0.01, StatusCode.DEADLINE_EXCEEDED)
    # What callers do wrong is not the replica's fault.
    bench.say("b", *[StatusCode.NOT_FOUND] * 50)
    assert bench.ejected() == {"a"}


def test_what_fails_everywhere_ejects_nobody():
    bench = Bench()
    for _ in range(100):
        for name in "abc":
            bench.say(name, FAILED)
    assert not bench.ejected()


def test_a_rate_of_errors_far_from_the_others():
    bench = Bench(eject_error_rate=0.3)
    for _ in range(30):
        bench.say("a", OK, FAILED)
        bench.say("b", *[OK] * 9, FAILED)
    assert bench.ejected() == {"a"}
    assert bench.events == [
        ("a", "ejected", "for 10 s: 50% of 20 calls have failed (of the others': 10%)")
    ]


def test_a_rate_that_is_no_outlier():
    bench = Bench(eject_after_failures=0, eject_error_rate=0.3)
    for _ in range(100):
        for name in "abc":
            bench.say(name, OK, FAILED)
    assert not bench.ejected()


def test_old_calls_are_forgotten():
    bench = Bench(eject_after_failures=0)
    bench.say("a", *[FAILED] * (MIN_CALLS - 1))
    bench.time += 2 * HALF_WINDOW
    bench.say("a", FAILED)
    assert bench["a"].counts(bench.time) == (1, 1)
    assert not bench.ejected()


@pytest.mark.parametrize(
    ("names", "share", "at_most"),
    [("a", 1, 0), ("ab", 0.5, 1), ("abc", 0.1, 1), ("abc", 1, 2), ("abcdef", 0.5, 3), ("ab", 0, 0)],
)
def test_how_many_may_be_out(names, share, at_most):
    bench = Bench(names, max_ejected=share)
    for name in names[:-1] or names:
        bench.say(name, *[FAILED] * 5)
    assert len(bench.ejected()) == at_most


def test_the_ejected_come_back_when_the_others_go():
    bench = Bench()
    bench.say("a", *[FAILED] * 5)
    for name in "bc":
        bench.balance.clear(bench[name])
    assert not bench.ejected()
    assert bench.balance.choose().replica_name == "a"
    assert bench.events[-1] == ("a", "returned", "too few are left")


def test_a_new_instance_is_as_good_as_any_but_not_forgiven():
    bench = Bench()
    bench.say("a", *[FAILED] * 5)
    bench.serve("a")
    assert not bench.ejected()
    bench.say("a", *[FAILED] * 5)
    assert bench["a"].ejected_until - bench.time == 20


def test_one_that_went_while_it_was_ejected_is_not_forgiven():
    bench = Bench(ejection_seconds=10)
    bench.say("a", *[FAILED] * 5)
    bench.balance.clear(bench["a"])
    assert not bench.ejected()
    bench.time += 5
    bench.serve("a")
    bench.say("a", *[FAILED] * 5)
    assert bench["a"].ejected_until - bench.time == 20


def test_calls_that_end_on_an_instance_that_is_out_say_nothing():
    bench = Bench()
    old = bench["a"].instance
    bench.serve("a")
    assert old.replica is None
    gone = bench["b"].instance
    bench.balance.clear(bench["b"])
    assert gone.replica is None


# -- slow start ---------------------------------------------------------------


def test_a_new_one_gets_a_share_that_grows():
    bench = Bench(slow_start_seconds=10)
    bench.time += 100
    bench.serve("c")
    shares = []
    for _ in range(3):
        shares.append(bench.spread()["c"] / 3000)
        bench.time += 5
    full = 1 / 3
    assert shares[0] == pytest.approx(LEAST_WEIGHT / (2 + LEAST_WEIGHT), abs=0.02)
    assert shares[1] == pytest.approx(0.5 / 2.5, abs=0.03)
    assert shares[2] == pytest.approx(full, abs=0.04)


def test_where_all_are_new_none_is():
    counts = Bench(slow_start_seconds=10).spread()
    assert all(900 < counts[name] < 1100 for name in "abc")


def test_a_new_one_gets_a_share_of_what_is_held():
    bench = Bench(slow_start_seconds=10)
    bench.time += 100
    bench.serve("c")
    counts = bench.spread(500, held=True)
    assert 40 < counts["c"] < 100  # it is drawn, first or second, one time in seven


def test_where_several_are_new_the_old_one_does_not_get_all_the_rest():
    bench = Bench(slow_start_seconds=10)
    bench.time += 100
    bench.serve("b")
    bench.serve("c")
    assert bench.spread(500, held=True)["a"] < 300


def test_one_that_is_back_starts_slowly():
    bench = Bench(slow_start_seconds=10)
    bench.time += 100
    bench.say("a", *[FAILED] * 5)
    bench.time += 10
    assert 0 < bench.spread()["a"] < 300


# -- zones --------------------------------------------------------------------


def test_calls_stay_in_the_zone_while_enough_is_there():
    bench = Bench("abcdef", zone="x", zones="xxxyyy")
    assert set(bench.spread(300)) == set("abc")
    bench.balance.clear(bench["a"])
    counts = bench.spread()
    share = 2 / 3 / ENOUGH
    assert (counts["b"] + counts["c"]) / 3000 == pytest.approx(share, abs=0.03)
    for name in "bc":
        bench.balance.clear(bench[name])
    assert set(bench.spread(300)) == set("def")


def test_where_no_other_zone_is_there_the_own_has_all():
    bench = Bench("abcd", zone="x", zones="xxxy")
    for name in "abd":
        bench.balance.clear(bench[name])
    assert set(bench.spread(100)) == {"c"}


def test_without_a_zone_of_its_own_all_are_alike():
    assert set(Bench("ab", zones="xy").spread(100)) == {"a", "b"}
    assert set(Bench("ab", zone="z", zones="xy").spread(100)) == {"a", "b"}


def test_shares_add_up():
    bench = Bench("abcd", zone="x", zones="xxyy", slow_start_seconds=10)
    bench.balance.clear(bench["a"])
    shares = {replica.name: share for replica, share in bench.balance.shares()}
    assert shares["a"] == 0
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["b"] == pytest.approx(0.5 / ENOUGH)


# -- whatever happens -----------------------------------------------------------

steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *["ok", *["fail"] * 3, *["serve"] * 3],
                *["clear", "pass", "hold", "remove", "add", "configure"],
            ]
        ),
        st.sampled_from("aaabcde"),
        st.floats(0, 60),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(steps, st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.sampled_from(["", "x"]), st.integers(0, 9))
def test_what_holds_at_every_moment(steps, share, zone, seed):
    bench = Bench("abc", zone, "xxy", seed=seed, max_ejected=share, slow_start_seconds=5)
    balance = bench.balance
    for what, name, seconds in steps:
        replica = balance.replicas.get(name)
        if what == "pass":
            bench.time += seconds
        elif what == "configure":
            times = {"ejection_seconds": 0.001 + seconds, "max_ejection_seconds": 60.001 - seconds}
            shares = {"max_ejected": share, "slow_start_seconds": seconds // 20}
            balance.configure(BalanceConfig(**times, **shares))
        elif replica is None:
            if what == "add":
                balance.add(name, "xy"[seed % 2])
        elif what == "remove":
            balance.clear(replica)
            balance.remove(replica)
        elif what == "serve":
            bench.serve(name)
        elif what == "clear":
            balance.clear(replica)
        elif what == "hold" and replica.instance is not None:
            replica.instance.acquire()
        elif what in ("ok", "fail") and replica.instance is not None:
            bench.say(name, *[FAILED if what == "fail" else OK] * 5)
        present = {each.instance for each in balance.replicas.values() if each.instance is not None}
        chosen = balance.choose()
        assert (chosen is None) is (not present)
        assert chosen is None or chosen in present
        out = {each.instance for each in balance.replicas.values() if each.ejected_until}
        assert out <= present
        assert not present or len(out) < len(present)
        assert len(out) <= max(1, math.floor(share * len(present)))
        assert chosen not in out
        total = sum(part for _, part in balance.shares())
        assert total == pytest.approx(1 if present else 0)
        if len(present) > 1 and chosen is not None:
            assert balance.choose(chosen) is not chosen

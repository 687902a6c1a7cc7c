"""Who comes in, who waits and who is refused; then everything at once, at random."""

from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from prism.calls.admission import CLAIM_SECONDS, GONE, INSIDE, WAITING, Admission
from prism.contract.errors import QueueTooLong, TooManyInFlight


class Asker:
    """A call, which remembers what it was told."""

    def proceed(self):
        raise AssertionError("the policy's to call")

    def end(self, error):
        raise AssertionError("the policy's to call")


@pytest.fixture
def make_admission():
    def make(limit, max_queued=0, *, fair=False, adaptive=None, inside=0):
        admission = Admission("kv", inside)
        admission.configure(limit, max_queued, fair=fair, adaptive=adaptive)
        return admission

    return make


def ask(admission, principal="", deadline=100.0, now=0.0):
    ticket, displaced = admission.ask(Asker(), principal, deadline, now)
    assert displaced is None
    return ticket


def ask_all(admission, principals, **more):
    return [ask(admission, principal, **more) for principal in principals]


def drain(admission, now=0.0):
    """All that come in now."""
    return [*iter(lambda: admission.next(now), None)]


def test_a_queue_is_in_the_order_of_deadlines(make_admission):
    admission = make_admission(1, 10)
    running = ask(admission)
    assert running.state == INSIDE
    tickets = {due: ask(admission, deadline=due) for due in (30.0, 10.0, 20.0)}
    also = ask(admission, deadline=20.0)
    assert {ticket.state for ticket in tickets.values()} == {WAITING}
    order = [tickets[10.0], tickets[20.0], also, tickets[30.0]]
    for following in order:
        admission.leave(running, 1.0)
        assert drain(admission, 1.0) == [following]
        running = following
    admission.leave(running, 1.0)
    assert (drain(admission), admission.inside, admission.queued) == ([], 0, 0)
    assert admission.dequeued == {"admitted": 4}
    assert admission.queue_seconds == 4.0


def test_a_full_queue_refuses_and_says_how_long_it_is(make_admission):
    admission = make_admission(1, 2)
    ask_all(admission, [""] * 3)
    with pytest.raises(TooManyInFlight, match="1 calls in flight, its limit, and 2 in its queue"):
        admission.check("", 100.0, 0.0)
    with pytest.raises(TooManyInFlight):
        ask(admission)
    assert admission.refused == {"queue_full": 2}
    assert (admission.inside, admission.queued) == (1, 2)


def test_what_cannot_make_it_is_refused_at_once(make_admission):
    admission = make_admission(2, 100)
    for _ in range(100):
        admission.leave(ask(admission, now=0.0), 1.0)
    ask_all(admission, [""] * 2)
    late = [ask(admission, deadline=50.0) for _ in range(4)]  # one goes each half a second
    with pytest.raises(QueueTooLong, match=r"2 calls in flight and 4 in its queue.* some 2\.5 s"):
        ask(admission, deadline=52.4, now=50.0)
    with pytest.raises(QueueTooLong) as refusal:
        admission.check("", 52.4, 50.0)
    assert refusal.value.retry_after == pytest.approx(2.5)
    before_them = ask(admission, deadline=49.9, now=49.3)
    assert before_them.state == WAITING
    assert {ticket.state for ticket in late} == {WAITING}


def test_of_how_long_calls_take_nothing_is_known_at_first(make_admission):
    admission = make_admission(1, 10)
    ask(admission)
    assert ask(admission, deadline=0.001).state == WAITING


def test_a_deadline_that_passes_in_the_queue(make_admission):
    admission = make_admission(1, 10)
    running = ask(admission)
    soon, later, left = (ask(admission, deadline=due) for due in (1.0, 9.0, 8.0))
    admission.leave(left, 0.5)
    admission.leave(running, 2.0)
    assert drain(admission, 2.0) == [soon, later]
    assert (soon.state, later.state) == (GONE, INSIDE)
    assert admission.dequeued == {"left": 1, "expired": 1, "admitted": 1}
    assert "never ran" in str(soon.too_late())
    admission.leave(soon, 2.0)
    admission.leave(left, 2.0)
    assert (admission.inside, admission.queued) == (1, 0)


def test_places_go_to_who_has_fewest(make_admission):
    admission = make_admission(4, 100, fair=True)
    flood = ask_all(admission, ["many"] * 20, deadline=5.0)
    few = ask_all(admission, ["few"] * 3, deadline=50.0)
    for ticket in flood[:4]:
        admission.leave(ticket, 1.0)
    came = drain(admission, 1.0)
    assert sorted(ticket.share.name for ticket in came) == ["few", "few", "many", "many"]
    admission.leave(came[-1], 1.0)
    assert admission.principals == 2
    assert set(few) >= {ticket for ticket in came if ticket.share.name == "few"}


def test_a_full_queue_makes_room_for_who_has_less(make_admission):
    admission = make_admission(2, 4, fair=True)
    flood = [ask(admission, "many", deadline=10.0 + number) for number in range(6)]
    ticket, displaced = admission.ask(Asker(), "few", 5.0, 0.0)
    assert (ticket.state, displaced, displaced.state) == (WAITING, flood[5], GONE)
    assert admission.ask(Asker(), "few", 5.0, 0.0)[1] is flood[4]
    with pytest.raises(TooManyInFlight):
        admission.ask(Asker(), "many", 1.0, 0.0)
    _, displaced = admission.ask(Asker(), "third", 5.0, 0.0)
    assert displaced is flood[3]
    assert admission.queued == 4
    with pytest.raises(TooManyInFlight):  # who has two has no fewer than that by two
        admission.ask(Asker(), "few", 5.0, 0.0)
    assert admission.refused == {"displaced": 3, "queue_full": 2}


def test_without_a_queue_who_has_its_share_leaves_places_to_others(make_admission):
    admission = make_admission(8, fair=True)
    flood = ask_all(admission, ["many"] * 8)
    for _ in range(2):
        with pytest.raises(TooManyInFlight, match="8 calls in flight, its limit"):
            ask(admission, "few")
    for ticket in flood[:2]:
        admission.leave(ticket, 0.1)
    for _ in range(3):
        with pytest.raises(TooManyInFlight, match="this caller has its share"):
            ask(admission, "many", now=0.2)
    few = ask_all(admission, ["few"] * 2, now=1.0)
    admission.leave(flood[2], 1.1)
    assert ask(admission, "many", now=1.1).state == INSIDE  # nobody claims that place
    admission.leave(few[0], 1.2)
    with pytest.raises(TooManyInFlight):
        ask(admission, "many", now=1.3)
    assert ask(admission, "few", now=1.4).state == INSIDE
    assert admission.refused == {"in_flight": 2, "fair_share": 4}


def test_what_is_claimed_and_not_used_is_for_all(make_admission):
    admission = make_admission(4, fair=True)
    flood = ask_all(admission, ["many"] * 4)
    with pytest.raises(TooManyInFlight):
        ask(admission, "few")
    admission.leave(flood[0], 0.1)
    with pytest.raises(TooManyInFlight):
        ask(admission, "many", now=CLAIM_SECONDS - 0.1)
    assert ask(admission, "many", now=CLAIM_SECONDS + 0.1).state == INSIDE
    assert admission.principals == 1


def test_who_comes_again_after_its_claim_has_one_anew(make_admission):
    admission = make_admission(2, fair=True)
    flood = ask_all(admission, ["many"] * 2)
    again = CLAIM_SECONDS + 0.5
    for now in (0.0, again):
        with pytest.raises(TooManyInFlight):
            ask(admission, "few", now=now)
    admission.leave(flood[0], again)
    with pytest.raises(TooManyInFlight, match="this caller has its share"):
        ask(admission, "many", now=again)
    few = ask(admission, "few", now=again)
    with pytest.raises(TooManyInFlight):
        ask(admission, "many", now=again + CLAIM_SECONDS)  # its claims expire
    admission.leave(few, again + CLAIM_SECONDS)
    admission.configure(2, 10, fair=True, adaptive=None)
    assert (admission.inside, admission.principals) == (1, 1)


def test_who_is_alone_has_all_places(make_admission):
    admission = make_admission(4, fair=True)
    for _ in range(3):
        tickets = ask_all(admission, ["one"] * 4)
        with pytest.raises(TooManyInFlight):
            ask(admission, "one")
        for ticket in tickets:
            admission.leave(ticket, 1.0)


def test_claims_are_bounded(make_admission):
    admission = make_admission(4, fair=True)
    ask_all(admission, ["many"] * 4)
    for number in range(1000):
        with pytest.raises(TooManyInFlight):
            ask(admission, f"one-{number}")
    assert admission.principals <= 5


def test_other_limits_under_calls(make_admission):
    admission = make_admission(2, 10)
    tickets = ask_all(admission, [""] * 6)
    admission.configure(5, 10, fair=False, adaptive=None)
    assert drain(admission) == tickets[2:5]
    admission.configure(1, 0, fair=False, adaptive=None)
    for ticket in tickets[:4]:
        admission.leave(ticket, 1.0)
        assert drain(admission, 1.0) == []
    assert (admission.inside, admission.queued) == (1, 1)
    with pytest.raises(TooManyInFlight):
        ask(admission)
    admission.leave(tickets[4], 1.0)
    assert drain(admission, 1.0) == tickets[5:]


def test_calls_from_before_count(make_admission):
    admission = make_admission(2, 10, inside=2)
    ticket = ask(admission)
    assert ticket.state == WAITING
    admission.leave_unknown()
    assert drain(admission) == [ticket]
    assert admission.inside == 2


def test_an_adaptive_limit_is_within_max_in_flight(make_admission):
    admission = make_admission(10, adaptive=(1, 100))
    assert admission.limit == 10
    admission.configure(100, 0, fair=False, adaptive=(50, 60))
    assert admission.limit == 50
    admission.configure(100, 0, fair=False, adaptive=None)
    assert admission.limit == 100


principals = st.sampled_from(["a", "b", "c", "d"])
limits = st.integers(0, 5)


class Admissions(RuleBasedStateMachine):
    """Calls that come and end anyhow, while limits change; against a plain list of them."""

    def __init__(self):
        super().__init__()
        self.admission = Admission("kv", 2)
        self.unknown = 2
        self.now = 0.0
        self.tickets = []
        self.limit, self.max_queued, self.fair = 3, 4, True
        self.admission.configure(3, 4, fair=True, adaptive=None)
        self.numbers = count()

    def those(self, state):
        return [ticket for ticket in self.tickets if ticket.state == state]

    def has(self, share, *states):
        return sum(each.share is share and each.state in states for each in self.tickets)

    @rule(limit=limits, max_queued=st.integers(0, 6), fair=st.booleans())
    def configure(self, limit, max_queued, fair):
        self.limit, self.max_queued, self.fair = limit, max_queued, fair
        self.admission.configure(limit, max_queued, fair=fair, adaptive=None)
        self.admit()

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 3.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(principal=principals, within=st.sampled_from([0.05, 1.0, 5.0, 5.0, 50.0]))
    def ask(self, principal, within):
        before = self.those(WAITING)
        inside, is_full = self.admission.inside, len(before) >= self.max_queued
        try:
            ticket, displaced = self.admission.ask(Asker(), principal, self.now + within, self.now)
        except QueueTooLong:
            assert inside >= self.limit
        except TooManyInFlight:
            assert self.fair or (inside >= self.limit and is_full)
        else:
            self.tickets.append(ticket)
            if ticket.state == INSIDE:
                assert (inside < self.limit, before) == (True, [])
            elif is_full:
                assert self.fair
                assert displaced.state == GONE
                own = self.has(ticket.share, INSIDE, WAITING)
                assert self.has(displaced.share, INSIDE, WAITING) >= own - 1
            else:
                assert displaced is None
            if displaced is not None:
                self.admission.leave(displaced, self.now)  # as its call ends

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def leave(self, data):
        ticket = data.draw(st.sampled_from(self.tickets))
        self.admission.leave(ticket, self.now)
        assert ticket.state == GONE
        self.admit()

    @precondition(lambda self: self.unknown)
    @rule()
    def leave_unknown(self):
        self.unknown -= 1
        self.admission.leave_unknown()
        self.admit()

    def admit(self):
        while True:
            waiting = self.those(WAITING)
            inside = {ticket.share: self.has(ticket.share, INSIDE) for ticket in waiting}
            ticket = self.admission.next(self.now)
            if ticket is None:
                break
            assert ticket in waiting
            assert inside[ticket.share] == min(inside.values())
            assert (ticket.state == GONE) == (ticket.deadline <= self.now)
            for other in waiting:
                if other.share is ticket.share:
                    mine = (ticket.deadline, ticket.number)
                    assert mine <= (other.deadline, other.number)
            assert self.admission.inside <= self.limit

    @invariant()
    def nothing_is_lost(self):
        admission = self.admission
        assert admission.inside == len(self.those(INSIDE)) + self.unknown
        assert admission.queued == len(self.those(WAITING))
        assert not admission.queued or admission.inside >= self.limit
        shares = {ticket.share for ticket in self.those(WAITING) + self.those(INSIDE)}
        assert set(admission._shares.values()) == shares | set(admission._claimants.values())
        assert admission._claims == sum(each.claim for each in admission._claimants.values())
        assert not admission._claims or (self.fair and not self.max_queued)
        assert admission._waiting_shares == len({each.share for each in self.those(WAITING)})
        for share in shares:
            assert share.inside == self.has(share, INSIDE)
            assert len(share.waiting) == self.has(share, WAITING)

    def teardown(self):
        for ticket in self.those(INSIDE) + self.those(WAITING):
            self.admission.leave(ticket, self.now)
            self.admit()
        self.nothing_is_lost()


class Claims(Admissions):
    """The same where nobody may wait, so that there are claims to places, which expire."""

    def __init__(self):
        super().__init__()
        self.configure(2, 0, True)

    @rule(limit=limits, max_queued=st.just(0), fair=st.just(True))
    def configure(self, limit, max_queued, fair):
        super().configure(limit, max_queued, fair)

    @rule(seconds=st.sampled_from([0.0, CLAIM_SECONDS / 2, CLAIM_SECONDS + 0.1]))
    def wait(self, seconds):
        super().wait(seconds)


@pytest.mark.parametrize("machine", [Admissions, Claims])
@pytest.mark.parametrize("examples", [100, pytest.param(20_000, marks=pytest.mark.soak)])
def test_at_random(machine, examples):
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None)
    )


def test_the_heap_stays_small(make_admission):
    admission = make_admission(1, 100, fair=True)
    running = ask(admission, "a")
    waiting = ask_all(admission, ["b"] * 50)
    for number in range(5000):
        admission.leave(waiting.pop(0), 0.0)
        waiting.append(ask(admission, f"p-{number % 40}", deadline=100.0 - number % 7))
    assert len(admission._ready) <= 2 * 50 + 66
    admission.leave(running, 0.0)
    assert len(drain(admission)) == 1

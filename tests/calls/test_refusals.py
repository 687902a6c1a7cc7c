"""When refusals are told: at once as long as they are few, and not all of them at once beyond."""

from math import inf
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.calls import refusals as module
from prism.calls.deadlines import Alarms
from prism.calls.memory import Memory
from prism.calls.refusals import ALL_NAMESPACES, LATEST, TICK, Refusals
from prism.streams.outlet import begin_turn, end_turn

PER_SECOND = 100.0
BURST = 10


class Ring:
    """``Refusals`` on a clock that goes as the test says."""

    def __init__(self, per_second: float | None = PER_SECOND) -> None:
        self.alarms = Alarms()
        self.refusals = Refusals(self.alarms, per_second)
        self.now = 1000.0
        self.told: list[tuple[float, str]] = []

    def refuse(
        self, namespace: str = "one", *, deadline: float = inf, memory=None, known: bool = True
    ) -> bool:
        """Whether it is told later."""
        call = SimpleNamespace(
            namespace=namespace,
            target=object() if known else None,
            deadline=deadline,
            tell_refusal=lambda: self.told.append((self.now, namespace)),
        )
        begin_turn(self.now)
        try:
            return self.refusals.hold(call, memory)
        finally:
            end_turn()

    def pass_to(self, until: float) -> None:
        """Ring whenever that is due."""
        while self.refusals in self.alarms._alarms and self.refusals.due <= until:
            self.now = max(self.now, self.refusals.due)
            self.alarms.forget(self.refusals)
            begin_turn(self.now)
            self.refusals.ring()
            end_turn()
        self.now = until


def test_few_are_told_at_once():
    ring = Ring()
    assert not any(ring.refuse() for _ in range(BURST))
    for _ in range(50):
        ring.pass_to(ring.now + 1.001 / PER_SECOND)
        assert not ring.refuse()
    assert ring.refusals.late == 0


def test_more_are_told_at_the_rate_in_groups():
    ring = Ring()
    began = ring.now
    assert sum(not ring.refuse() for _ in range(BURST + 50)) == BURST
    assert ring.refusals.held == 50
    ring.pass_to(began + 2.0)
    assert len(ring.told) == ring.refusals.late == 50
    assert ring.refusals.held == 0
    moments = sorted({at for at, _ in ring.told})
    assert moments[-1] - began == pytest.approx(50 / PER_SECOND, abs=TICK)
    assert len(moments) == pytest.approx(50 / PER_SECOND / TICK, abs=1)
    assert all((at / TICK) % 1 == pytest.approx(0, abs=1e-6) for at in moments)


def test_no_one_waits_for_longer_than_the_longest():
    ring = Ring()
    began = ring.now
    for _ in range(2000):
        ring.refuse()
    ring.pass_to(began + LATEST + TICK)
    assert ring.refusals.held == 0
    # A flood is forgotten as soon as that, whatever it was.
    ring.pass_to(began + 2 * LATEST + 2 * TICK)
    assert not ring.refuse()


def test_other_namespaces_do_not_notice():
    ring = Ring()
    for _ in range(500):
        ring.refuse()
    assert not any(ring.refuse("other") for _ in range(BURST))
    assert not any(ring.refuse("none", known=False) for _ in range(BURST))
    assert ring.refuse("nor this", known=False)  # all that are not there count as one


def test_floods_in_many_namespaces_share_a_rate():
    ring = Ring()
    began = ring.now
    for _ in range(BURST + 20):
        for number in range(5):
            ring.refuse(f"{number}")
    ring.pass_to(began + LATEST / 2)
    assert len(ring.told) <= (PER_SECOND * ALL_NAMESPACES) * LATEST / 2 + BURST


def test_a_deadline_comes_before():
    ring = Ring()
    for _ in range(BURST):
        ring.refuse()
    assert not ring.refuse(deadline=ring.now + TICK / 2)
    assert ring.refuse(deadline=ring.now + LATEST)


def test_a_connection_keeps_room_for_other_calls():
    ring, memory = Ring(), Memory().for_connection()
    memory.most_late = 7
    for _ in range(BURST):
        ring.refuse()
    assert [ring.refuse(memory=memory) for _ in range(9)] == [True] * 7 + [False] * 2
    assert ring.refuse(memory=Memory().for_connection())
    ring.pass_to(ring.now + LATEST + TICK)
    assert memory.late == 0
    assert len(ring.told) == 8


def test_there_is_room_for_so_many(monkeypatch):
    monkeypatch.setattr(module, "MOST_LATE", 20)
    ring = Ring()
    assert sum(ring.refuse() for _ in range(100)) == 20


def test_all_are_told_when_the_proxy_stops():
    ring = Ring()
    for _ in range(BURST + 30):
        ring.refuse()
    ring.refusals.stop()
    assert len(ring.told) == 30
    assert not ring.alarms._alarms
    assert not any(ring.refuse() for _ in range(30))


def test_none_are_late_where_that_is_off():
    ring = Ring(per_second=None)
    assert not any(ring.refuse() for _ in range(1000))


@given(st.lists(st.floats(0, 0.05), min_size=1, max_size=300), st.floats(5.0, 500.0))
def test_every_one_is_told_once_and_in_time(pauses, per_second):
    ring = Ring(per_second)
    asked, at_once = 0, 0
    for pause in pauses:
        ring.pass_to(ring.now + pause)
        asked += 1
        at_once += not ring.refuse()
        assert len(ring.told) + at_once + ring.refusals.held == asked
    ring.pass_to(ring.now + LATEST + TICK)
    assert len(ring.told) + at_once == asked
    assert ring.refusals.held == 0

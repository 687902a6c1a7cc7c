"""Alarms: each rings once, in time, unless it is forgotten."""

import trio

from prism.calls.deadlines import Alarm, Deadlines
from prism.streams.tasks import TaskPool
from tests.calls.conftest import ProbeCall


class Noted(Alarm):
    def __init__(self, due, rung, then=lambda: None):
        super().__init__(due)
        self.rung = rung
        self.then = then

    def ring(self):
        self.rung.append((self.due, trio.current_time()))
        self.then()


async def test_each_rings_when_it_is_due(nursery, autojump_clock):
    deadlines = Deadlines()
    alarms = deadlines.alarms
    rung = []
    alarms.add(Noted(3.0, rung))
    nursery.start_soon(deadlines.run)
    await trio.testing.wait_all_tasks_blocked()
    never, late = Noted(2.0, rung), Noted(5.0, rung)
    for alarm in (never, late, Noted(1.0, rung)):
        alarms.add(alarm)
    alarms.forget(never)
    await trio.sleep(4)
    assert rung == [(1.0, 1.0), (3.0, 3.0)]
    alarms.forget(late)
    alarms.forget(late)
    await trio.sleep(4)
    assert len(rung) == 2


async def test_one_may_forget_another_add_one_or_fail(nursery, autojump_clock, caplog):
    deadlines = Deadlines()
    alarms = deadlines.alarms
    nursery.start_soon(deadlines.run)
    await trio.testing.wait_all_tasks_blocked()
    rung = []

    def fail():
        raise RuntimeError("a bug")

    pair = [Noted(1.0, rung), Noted(1.0, rung)]
    for one, other in (pair, pair[::-1]):
        one.then = lambda other=other: alarms.forget(other)
        alarms.add(one)
    alarms.add(Noted(2.0, rung, lambda: alarms.add(Noted(2.5, rung))))
    alarms.add(Noted(2.0, rung, fail))
    alarms.add(Noted(9.0, rung))
    await trio.sleep(10)
    assert [due for due, _ in rung] == [1.0, 2.0, 2.0, 2.5, 9.0]
    assert "a bug" in caplog.text


async def test_a_call_that_cannot_be_ended_keeps_no_other(nursery, autojump_clock, caplog):
    deadlines = Deadlines()
    nursery.start_soon(deadlines.run)
    ended = []

    class Due(ProbeCall):
        def __init__(self, deadline, fails=False):
            super().__init__(TaskPool(nursery), b"")
            self.request_id, self.deadline, self.fails = "id", deadline, fails

        def expire(self, now):
            ended.append(self.deadline)
            if self.fails:
                raise RuntimeError("a bug")
            deadlines.forget(self)

    for call in (Due(1.0, fails=True), Due(1.0), Due(1.0, fails=True), Due(2.0)):
        deadlines.add(call, call.deadline)
    await trio.sleep(5)
    assert ended.count(1.0) >= 3
    assert ended[-1] == 2.0
    assert "request id" in caplog.text

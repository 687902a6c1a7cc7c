"""One structure for the deadlines of all calls: one task sleeps until the earliest of them.

A call's deadline is seldom reached, so what counts is that adding and forgetting one costs
next to nothing. The open calls are a set; ``_due`` is a lower bound for their deadlines, which
adding a call only ever lowers. When it is reached, the set is looked through once: calls whose
time is up end, and the earliest of the others is the next bound.

What happens within a call, a retry's pause and a hedge, has ``Alarms``, a structure of the same
kind: theirs are so much earlier that all open calls would be looked through for them all the time.
"""

import logging
from abc import ABC, abstractmethod
from math import inf
from typing import TYPE_CHECKING

import trio
from mypy_extensions import mypyc_attr

from prism.calls.memory import GRACE
from prism.contract.errors import RequestTimeout
from prism.streams.outlet import begin_turn, end_turn

if TYPE_CHECKING:
    from prism.calls.call import Call

log = logging.getLogger("prism.calls")

RECLAIM_PAUSE = 0.25
"""Seconds between two looks for calls whose room is needed."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Alarm(ABC):
    """Something that is to be done ``due``, on trio's clock."""

    __slots__ = ("due",)

    def __init__(self, due: float) -> None:
        self.due = due

    @abstractmethod
    def ring(self) -> None:
        """It is time. Plain code."""


class Alarms:
    """Rings each alarm when it is due, or soon after, while ``run`` runs."""

    def __init__(self) -> None:
        self._alarms: set[Alarm] = set()
        self._due = inf
        self._sleep = trio.CancelScope()

    def add(self, alarm: Alarm) -> None:
        """Ring ``alarm`` once, unless it is forgotten before."""
        self._alarms.add(alarm)
        if alarm.due < self._due:
            self._due = self._sleep.deadline = alarm.due

    def forget(self, alarm: Alarm) -> None:
        """It is not needed any more; it may have rung."""
        self._alarms.discard(alarm)

    async def run(self) -> None:
        """Ring them, for ever. A bug in one is logged."""
        while True:
            with trio.CancelScope(deadline=self._due) as self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            self._due = inf
            is_turn = begin_turn(now)
            for alarm in list(self._alarms):
                if alarm.due > now:
                    self._due = min(self._due, alarm.due)
                elif alarm in self._alarms:  # and not forgotten by one that rang before it
                    self._alarms.discard(alarm)
                    try:
                        alarm.ring()
                    except Exception:
                        log.exception("an alarm failed")
            if is_turn:
                end_turn()


class Deadlines:
    """Ends calls in time while ``run`` runs, and rings ``alarms``."""

    def __init__(self) -> None:
        self.alarms = Alarms()
        self._calls: set[Call] = set()
        self._due = inf
        self._sleep = trio.CancelScope()
        self._next_reclaim = -inf

    def add(self, call: "Call", due: float) -> None:
        """Have ``call.expire`` called at ``due`` or soon after, unless it is forgotten before."""
        self._calls.add(call)
        if due < self._due:
            self._due = self._sleep.deadline = due

    def forget(self, call: "Call") -> None:
        """The call has ended."""
        self._calls.discard(call)

    def end_slow_bodies(self) -> None:
        """There is no room for more requests: end the calls whose bodies are long on their way.

        At most once in a while, since it looks at every open call.
        """
        now = trio.current_time()
        if now < self._next_reclaim:
            return
        self._next_reclaim = now + RECLAIM_PAUSE
        for call in list(self._calls):
            if call.reading_until is not None and call.started + GRACE < now:
                call.end(RequestTimeout("the request's body came slowly, and its room is needed"))

    async def run(self) -> None:
        """End calls whose time is up, and ring the alarms, for ever. A bug in one is logged."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.alarms.run)
            await self._end_calls()

    async def _end_calls(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._due) as self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            self._due = inf
            for call in list(self._calls):
                due = call.deadline
                if due <= now or call.reading_until is not None:
                    try:
                        again = call.expire(now)
                    except Exception:
                        log.exception("request %s could not be ended", call.request_id)
                        self._calls.discard(call)
                        continue
                    if again is None:
                        continue
                    due = again
                if due < self._due:
                    self._due = due

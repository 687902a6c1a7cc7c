"""One structure for the deadlines of all calls: one task sleeps until the earliest of them.

A call's deadline is seldom reached, so what counts is that adding and forgetting one costs
next to nothing. The open calls are a set; ``_due`` is a lower bound for their deadlines, which
adding a call only ever lowers. When it is reached, the set is looked through once: calls whose
time is up end, and the earliest of the others is the next bound.
"""

from math import inf
from typing import TYPE_CHECKING

import trio

from prism.calls.memory import GRACE
from prism.contract.errors import RequestTimeout

if TYPE_CHECKING:
    from prism.calls.call import Call

RECLAIM_PAUSE = 0.25
"""Seconds between two looks for calls whose room is needed."""


class Deadlines:
    """Ends calls in time while ``run`` runs."""

    def __init__(self) -> None:
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
        """End calls whose time is up, for ever."""
        while True:
            with trio.CancelScope(deadline=self._due) as self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            self._due = inf
            for call in list(self._calls):
                due = call.deadline
                if due <= now or call.reading_until is not None:
                    again = call.expire(now)
                    if again is None:
                        continue
                    due = again
                if due < self._due:
                    self._due = due

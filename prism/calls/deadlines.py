"""One structure for the deadlines of all calls: one task sleeps until the earliest of them.

A call's deadline is seldom reached, so what counts is that adding and forgetting one costs
next to nothing. The open calls are a set; ``_due`` is a lower bound for their deadlines, which
adding a call only ever lowers. When it is reached, the set is looked through once: calls whose
time is up end, and the earliest of the others is the next bound.
"""

from math import inf
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from prism.calls.call import Call


class Deadlines:
    """Ends calls in time while ``run`` runs."""

    def __init__(self) -> None:
        self._calls: set[Call] = set()
        self._due = inf
        self._sleep = trio.CancelScope()

    def add(self, call: "Call", due: float) -> None:
        """Have ``call.expire`` called at ``due`` or soon after, unless it is forgotten before."""
        self._calls.add(call)
        if due < self._due:
            self._due = self._sleep.deadline = due

    def forget(self, call: "Call") -> None:
        """The call has ended."""
        self._calls.discard(call)

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

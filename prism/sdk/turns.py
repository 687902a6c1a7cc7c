"""What a task does before others get their turn, so that it is sent once, and at once.

A task that begins the calls of a burst, or takes in the answers of one, knows when it is done:
what was to be sent meanwhile, to the host or to a backend, can then leave in one system call
for each connection, without a pass of the event loop to find out that no more is coming. Where
there is no such task, each connection has a task that writes.
"""

from collections.abc import Callable
from contextvars import ContextVar


class Turns:
    """The turns of one session's tasks, of which one at a time has its own.

    ``run``: one has, and it does not wait before its turn ends.
    """

    __slots__ = ("_at_end", "run")

    def __init__(self) -> None:
        self.run = False
        self._at_end: list[Callable[[], None]] = []

    def begin(self) -> None:
        """A task's turn begins."""
        self.run = True

    def at_end(self, act: Callable[[], None]) -> None:
        """Have ``act`` called, once, when the turn that runs ends. It must not raise."""
        self._at_end.append(act)

    def end(self) -> None:
        """The turn ends: the task is about to wait."""
        self.run = False
        if self._at_end:
            acts, self._at_end = self._at_end, []
            for act in acts:
                act()

    def pass_on(self) -> None:
        """The turn goes on in another task, which will end it."""
        self.run = False


turns: ContextVar[Turns | None] = ContextVar("prism_turns", default=None)
"""Those of the session that a task belongs to; None outside of one, as in the proxy's process."""

"""Who takes part in a comparison, and who is missing and why."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack

from benchmarks.samples import Side, SideFailed


class Unavailable(Exception):
    """A side cannot take part on this machine; the text says what it lacks."""


class Lineup(ExitStack):
    """Sides that run until the block ends.

    ``missing`` are those that could not be started: the tables say so, and the
    others are compared all the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sides: dict[str, Side] = {}
        self.missing: dict[str, str] = {}

    def add(self, name: str, side: AbstractContextManager[Side]) -> None:
        """Start ``side``."""
        try:
            self.sides[name] = self.enter_context(side)
        except (Unavailable, SideFailed) as reason:
            self.missing[name] = str(reason)

    def add_all(
        self, names: Sequence[str], sides: AbstractContextManager[Mapping[str, Side]]
    ) -> None:
        """Start ``sides``, which belong together; ``names`` are what they will be called."""
        try:
            self.sides |= self.enter_context(sides)
        except (Unavailable, SideFailed) as reason:
            self.missing |= dict.fromkeys(names, str(reason))

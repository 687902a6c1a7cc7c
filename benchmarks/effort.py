"""How much time a run takes."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Effort(NamedTuple):
    """``rounds`` samples of each kind, of ``seconds`` each.

    ``quick`` is for seeing that everything works: it leaves out most loads.
    """

    rounds: int = 5
    seconds: float = 0.5
    quick: bool = False

    def some(self, values: Sequence[T], typical: T) -> list[T]:
        """All of ``values``, or only the ``typical`` one in a quick run."""
        return [typical] if self.quick else list(values)


QUICK = Effort(rounds=1, seconds=0.05, quick=True)

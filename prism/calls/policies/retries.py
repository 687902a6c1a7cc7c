"""What a namespace's calls may be repeated for, how often, and after which pause.

``calls.invoke`` decides whether a call that failed may be made again at all; here is what the
configuration adds to that. Without it a call is repeated once, if that is safe and its instance is
gone, or has not begun it and there is another; with it, such a repetition costs no more than so.
"""

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prism.calls.budget import Budget
from prism.calls.policies.policy import Measure, Policy
from prism.config.types import RetriesConfig

if TYPE_CHECKING:
    from prism.calls.call import Call
    from prism.calls.namespace import Namespace

FIRST_PAUSE = 0.025
"""Seconds before the first retry on an instance that serves; each further one waits twice as
long."""
MAX_PAUSE = 1.0
"""Seconds that a pause has at most, if the plugin asks for no longer one."""

_REFUSED: Final = Measure(
    "prism_retries_over_budget", "counter", "Calls that were not repeated for lack of budget"
)
_LEFT: Final = Measure("prism_retries_left", "gauge", "Retries that the budget has now")


class Retries(Policy):
    """Lets a call be made again, as long as its budget and its time allow it."""

    name = "retries"
    measures = (_REFUSED, _LEFT)

    def __init__(self, namespace: "Namespace") -> None:
        self.attempts = 1
        self.budget = Budget()
        super().__init__(namespace)

    @classmethod
    def applies(cls, namespace: "Namespace") -> bool:
        return namespace.config.retries is not None

    def configure(self) -> None:
        config = self.namespace.config.retries or RetriesConfig()
        self.attempts, self.budget.share = config.attempts, config.budget

    def state(self) -> dict[str, object]:
        return {
            "attempts": self.attempts,
            "budget": self.budget.share,
            "left": round(self.budget.left, 1),
            "used": self.budget.used,
            "over_budget": self.budget.refused,
        }

    def measure(self) -> Iterator[tuple[Measure, tuple[str, ...], float]]:
        yield _REFUSED, (), self.budget.refused
        yield _LEFT, (), self.budget.left

    def enter(self, call: "Call") -> None:
        self.budget.add_call()

    def pause(self, call: "Call", asked: float | None, *, at_once: bool) -> float:
        """Seconds to wait before ``call`` is made again; ``asked`` is what its error asks for.

        ``at_once``: its instance is gone, so that the next one has not been troubled by it yet.
        """
        if at_once and not call.retries:
            return 0.0
        pause: float = min(FIRST_PAUSE * 2**call.retries, MAX_PAUSE)
        # Calls that failed together should not come again together.
        pause *= 0.5 + random.random() / 2  # noqa: S311 - not a secret
        return pause if asked is None else max(pause, asked)

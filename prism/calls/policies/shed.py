"""While the proxy has more to do than it can, it refuses calls: the least important ones first."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prism.calls.overload import HIGH, PRIORITIES, parse_priority
from prism.calls.policies.policy import Measure, Policy
from prism.contract.errors import LoadShed

if TYPE_CHECKING:
    from prism.calls.call import Call
    from prism.calls.namespace import Namespace

REFUSED = Measure(
    "prism_shedding_refused",
    "counter",
    "Calls refused because the proxy had too much to do",
    ("priority",),
)


class Shed(Policy):
    """Refuses calls by priority: the namespace's, or the client's own where that is lower. In the
    list where ``shedding`` is configured; what is to be refused ``calls.overload`` knows."""

    name = "shedding"
    measures = (REFUSED,)

    def __init__(self, namespace: "Namespace") -> None:
        self.refused: Counter[int] = Counter()
        self.priority = HIGH
        super().__init__(namespace)

    @classmethod
    def applies(cls, namespace: "Namespace") -> bool:
        return namespace.overload.config is not None

    def configure(self) -> None:
        self.priority = parse_priority(self.namespace.config.priority)

    def enter(self, call: "Call") -> None:
        overload = self.namespace.overload
        if not overload.step:
            return
        priority = min(self.priority, call.priority)
        if overload.refuses(priority):
            self.refused[priority] += 1
            raise LoadShed(PRIORITIES[priority], retry_after=overload.retry_after())

    def state(self) -> dict[str, object]:
        overload = self.namespace.overload
        return {
            "priority": PRIORITIES[self.priority],
            "refusing": overload.refused() or "nothing",
            "loop_lag_seconds": round(overload.delay, 4),
            "memory_bytes": overload.memory,
            "refused": self.refused.total(),
        }

    def measure(self) -> Iterator[tuple[Measure, tuple[str, ...], float]]:
        for number, name in enumerate(PRIORITIES):
            yield REFUSED, (name,), self.refused[number]

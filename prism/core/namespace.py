"""A namespace: what clients address, and what its calls have in common."""

from dataclasses import dataclass, field

from prism.contract.config import NamespaceConfig, NamespaceLimits
from prism.supervision.slot import Slot


@dataclass(eq=False, slots=True)
class Namespace:
    """One namespace. ``in_flight`` counts its calls between admission and answer."""

    name: str
    slot: Slot
    limits: NamespaceLimits = field(default_factory=NamespaceLimits)
    backend: str = ""
    description: str = ""
    in_flight: int = field(default=0, init=False)

    @classmethod
    def from_config(cls, config: NamespaceConfig, slot: Slot) -> "Namespace":
        """The namespace that ``config`` describes, with its plugin in ``slot``."""
        return cls(config.name, slot, config.limits, config.backend, config.description)

    def deadline(self, now: float, timeout: float | None) -> float:
        """When a call that starts ``now`` must end, if it asks for ``timeout`` seconds."""
        if timeout is None:
            return now + self.limits.timeout_seconds
        return now + min(timeout, self.limits.max_timeout_seconds)

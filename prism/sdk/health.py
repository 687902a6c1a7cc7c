"""A plugin's word on its health."""

import msgspec

from prism.contract.messages import HealthStatus


class Health(msgspec.Struct, frozen=True):
    """What ``Plugin.health`` returns. Details are shown to operators: no secrets.

    A degraded plugin keeps its traffic; an unhealthy one loses it.
    """

    status: HealthStatus
    message: str = ""
    details: dict[str, str] = {}

    @classmethod
    def healthy(cls, message: str = "", **details: str) -> "Health":
        """Everything works."""
        return cls(HealthStatus.HEALTHY, message, details)

    @classmethod
    def degraded(cls, message: str, **details: str) -> "Health":
        """Calls are answered, but something needs an operator's eye."""
        return cls(HealthStatus.DEGRADED, message, details)

    @classmethod
    def unhealthy(cls, message: str, **details: str) -> "Health":
        """Calls cannot be answered now."""
        return cls(HealthStatus.UNHEALTHY, message, details)

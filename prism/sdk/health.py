"""What a plugin tells of itself: its health and its counters."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from prism.contract.messages import HealthCheckResponse, HealthStatus, PluginMetrics

log = logging.getLogger("prism.sdk")


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


@dataclass(slots=True)
class Metrics:
    """A plugin's counters, cumulative since its start.

    The SDK keeps the first three. The others belong to the author, as does
    ``custom``: any name to any number.
    """

    requests_total: int = 0
    requests_failed: int = 0
    latency_ms: float = 0.0
    connections_active: int = 0
    connections_idle: int = 0
    queries_executed: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    custom: dict[str, float] = field(default_factory=dict)

    def snapshot(self) -> PluginMetrics:
        """The counters as the contract's message."""
        return PluginMetrics(
            requests_total=self.requests_total,
            requests_failed=self.requests_failed,
            latency_ms=self.latency_ms,
            connections_active=self.connections_active,
            connections_idle=self.connections_idle,
            queries_executed=self.queries_executed,
            cache_hits=self.cache_hits,
            cache_misses=self.cache_misses,
            custom_metrics_json=_encode(self.custom) if self.custom else "",
        )


def _encode(custom: dict[str, float]) -> str:
    """What is no number costs the author these metrics, not the call or the process."""
    try:
        return msgspec.json.encode(custom).decode()
    except (TypeError, ValueError, OverflowError) as error:
        log.warning("metrics.custom cannot be reported: %s", error)
        return ""


def _tell_nobody(_health: HealthCheckResponse) -> None:
    """Nobody has asked to be told."""


class TellsHealth:
    """A plugin that tells of a change of its health by itself, beside answering health checks: it
    calls ``on_health``, which its owner sets. Plain code; from the event loop."""

    on_health: Callable[[HealthCheckResponse], None] = staticmethod(_tell_nobody)

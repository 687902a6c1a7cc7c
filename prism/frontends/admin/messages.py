"""What goes over the admin port, where ``prism.supervision`` has no type for it."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from prism.calls.policies.circuit_breaker import Action
from prism.config.types import NamespaceLimits
from prism.contract.errors import InvalidRequest
from prism.supervision.canary import Canary
from prism.supervision.events import EVENTS_KEPT, LINES_KEPT, LogLine
from prism.supervision.status import NamespaceStatus


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of requests and queries: unknown keys are refused, since they may be misspelt."""


class NoQuery(Asked, frozen=True):
    """A route that takes no query."""


class Nothing(Asked, frozen=True):
    """A body with nothing in it: ``{}``, or none at all."""


class NamespaceRequest(Asked, frozen=True):
    """Which namespace's plugin."""

    namespace: str


class CanaryRequest(Asked, frozen=True):
    """How a new version is tried on a part of the calls."""

    share: Annotated[str | float, Meta(description="Of the calls: `10%`, or 0.1.")]
    min_calls: Annotated[int, Meta(ge=1, description="Answered before it can be promoted.")] = 100
    min_seconds: Annotated[float, Meta(ge=0, description="Of trial, at least.")] = 30.0
    max_seconds: Annotated[
        float, Meta(ge=0, description="After which too few calls are a rollback.")
    ] = 600.0
    max_error_increase: Annotated[
        float, Meta(ge=0, description="By which its share of errors may be above the old one's.")
    ] = 0.01
    max_latency_factor: Annotated[
        float, Meta(ge=1, description="By which its 95th percentile may be above the old one's.")
    ] = 1.5

    def canary(self) -> Canary:
        """As the supervisor takes it. Raises InvalidRequest."""
        try:
            share = _share(self.share)
            return Canary(
                share=share,
                min_calls=self.min_calls,
                min_seconds=self.min_seconds,
                max_seconds=self.max_seconds,
                max_error_increase=self.max_error_increase,
                max_latency_factor=self.max_latency_factor,
            )
        except ValueError as error:
            raise InvalidRequest(f"canary: {error}") from None


class ReloadRequest(Asked, frozen=True):
    """Replace a namespace's plugin: by another version, or by the same one anew."""

    namespace: str
    version: Annotated[
        str | None, Meta(description="One of the catalogue; without it, the present one again.")
    ] = None
    canary: Annotated[
        str | float | CanaryRequest | None,
        Meta(description="Try it on a share of the calls first, such as `10%`."),
    ] = None

    def trial(self) -> Canary | None:
        """The canary, if one is asked for. Raises InvalidRequest."""
        if self.canary is None:
            return None
        if isinstance(self.canary, CanaryRequest):
            return self.canary.canary()
        return CanaryRequest(share=self.canary).canary()


def _share(given: str | float) -> float:
    if not isinstance(given, str):
        return float(given)
    try:
        return float(given.removesuffix("%")) / (100 if given.endswith("%") else 1)
    except ValueError:
        raise ValueError(
            f"expected a share of the calls such as 10%, found {given[:40]!r}"
        ) from None


class LogsQuery(Asked, frozen=True):
    """Which lines of a plugin's output."""

    tail: Annotated[int, Meta(ge=0, le=LINES_KEPT, description="So many of the last lines.")] = 100
    follow: Annotated[bool, Meta(description="Go on with new lines, as a stream.")] = False


class EventsQuery(Asked, frozen=True):
    """Which events."""

    namespace: Annotated[str | None, Meta(description="Of this namespace alone.")] = None
    tail: Annotated[
        int, Meta(ge=0, le=EVENTS_KEPT, description="Begin with so many past events.")
    ] = 0


class BreakerRequest(Asked, frozen=True):
    """Have a namespace's circuit breaker stay open, or closed, or go by the calls again."""

    namespace: str
    action: Action


class PluginList(msgspec.Struct, frozen=True):
    """All namespaces' plugins, sorted by namespace."""

    plugins: list[NamespaceStatus]


class LogLines(msgspec.Struct, frozen=True):
    """The last lines of a plugin, oldest first."""

    namespace: str
    lines: list[LogLine]


class PluginHealth(msgspec.Struct, frozen=True):
    """What the plugin said of itself in its last health check; null before the first."""

    namespace: str
    state: str
    health: str | None
    message: str


class NamespaceSummary(msgspec.Struct, frozen=True):
    """One line of the list of namespaces."""

    namespace: str
    backend: str
    description: str
    ready: bool
    in_flight: int
    operations: list[str]


class NamespaceList(msgspec.Struct, frozen=True):
    """All namespaces, sorted by name."""

    namespaces: list[NamespaceSummary]


class OperationFacts(msgspec.Struct, frozen=True):
    """What a plugin declares of an operation."""

    name: str
    idempotent: bool
    streaming: bool
    access: str


class NamespaceDescription(msgspec.Struct, frozen=True):
    """A namespace in full."""

    namespace: str
    backend: str
    description: str
    while_unavailable: str
    in_flight: int
    open_streams: int
    limits: NamespaceLimits
    policies: dict[str, dict[str, Any]]
    operations: list[OperationFacts]
    plugin: NamespaceStatus


class NamespaceTraffic(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a namespace's calls have come to since the process began, and how it stands now. What
    is 0, or empty, is left out, and what is of replicas where there is one.

    `calls` are those that have ended, by gRPC status; `durations` as many in each of the buckets
    of `bounds`, the last of which is that of longer ones; `seconds` how long all took together.
    `waiting` calls wait for the plugin; `ready` is whether there is one. Where it has several
    `replicas`, `replicas_ready` get calls. `policies` is what those that are configured show of
    themselves.
    """

    namespace: str
    ready: bool
    calls: dict[str, int] = {}
    durations: list[int] = []
    seconds: float = 0.0
    in_flight: int = 0
    max_in_flight: int = 0
    open_streams: int = 0
    waiting: int = 0
    replicas: int = 1
    replicas_ready: int = 0
    policies: dict[str, dict[str, Any]] = {}


class Traffic(msgspec.Struct, frozen=True):
    """Counters, of which `prism top` makes rates and percentiles: differences of two answers.

    `clock` is the time in seconds on a clock that nobody sets; `pid` tells one process's counters
    from its successor's, which begin at 0. `bounds` are the upper ends of the buckets, in seconds.
    """

    pid: int
    clock: float
    bounds: list[float]
    namespaces: list[NamespaceTraffic]


class BreakerState(msgspec.Struct, frozen=True):
    """A namespace's circuit breaker, as among the `policies` of its description."""

    namespace: str
    breaker: dict[str, Any]


class ConfigInUse(msgspec.Struct, frozen=True):
    """The configuration in use, as the file would have it, secrets as `***`.

    `generation` counts the configurations used, `settled` is false while the last attempt to
    change it failed; `changed_at` is a Unix time.
    """

    generation: int
    settled: bool
    changed_at: float
    config: dict[str, Any]


class Restarted(msgspec.Struct, frozen=True):
    """How a rolling restart went: `replaced`, or `kept`, since the successor failed (`reason`).

    `pid` is the process that serves now. `starting`: nobody waited for it.
    """

    outcome: Literal["starting", "replaced", "kept"]
    pid: int
    reason: str = ""


class RestartRequest(Asked, frozen=True):
    """Start a successor, and let it take over."""

    wait: Annotated[
        bool, Meta(description="Answer when it has taken over, or has been refused.")
    ] = True


class Stopping(msgspec.Struct, frozen=True):
    """The proxy stops: it accepts nothing more, and ends when what is in flight is done."""

    status: str = "draining"

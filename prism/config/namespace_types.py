"""The types of a namespace."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from prism.config.access_types import NamespaceAccess
from prism.config.fields import MIB, Block, Bytes, Count, Name, OperationName, Seconds
from prism.config.isolation_types import IsolationConfig
from prism.config.plugin_types import PluginConfig
from prism.config.resilience_types import (
    AdaptiveLimit,
    BreakerConfig,
    HedgingConfig,
    RateLimitConfig,
    RecordConfig,
    RetriesConfig,
    ShadowConfig,
)


class NamespaceLimits(Block, frozen=True):
    """What one namespace's callers may use."""

    max_payload_bytes: Annotated[Bytes, Meta(description="Largest request body.")] = MIB
    request_memory_bytes: Annotated[
        Bytes | None,
        Meta(
            description="What its requests may take of `listen.limits.request_memory_bytes`. "
            "Without it, half."
        ),
    ] = None
    answer_memory_bytes: Annotated[
        Bytes | None,
        Meta(
            description="What its answers may take of `listen.limits.answer_memory_bytes`. "
            "Without it, half."
        ),
    ] = None
    max_in_flight: Annotated[
        Count,
        Meta(description="Calls at a time; one more is answered 429, or waits (`max_queued`)."),
    ] = 1024
    max_queued: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Calls that wait for a place, the earliest deadline first; one more, or "
            "one that would wait beyond its deadline, is answered 429.",
        ),
    ] = 0
    fair_shares: Annotated[
        bool,
        Meta(
            description="Whether principals share the places, and the queue, equally where there "
            "are too few."
        ),
    ] = False
    adaptive: Annotated[
        AdaptiveLimit | None,
        Meta(
            description="Have fewer calls than `max_in_flight` at a time while more would only "
            "wait for each other in the plugin; without it `max_in_flight` alone holds."
        ),
    ] = None
    max_streams: Annotated[
        Count, Meta(description="Open streams, beside the calls; one more is answered 429.")
    ] = 1024
    max_streams_per_client: Annotated[
        Count, Meta(description="Open streams of one client address.")
    ] = 256
    stream_idle_timeout_seconds: Annotated[
        Seconds, Meta(description="A stream ends when no message went either way for so long.")
    ] = 300.0
    max_waiting: Annotated[
        Count,
        Meta(description="Calls at a time that wait for a plugin to come back; one more is 503."),
    ] = 1024
    timeout_seconds: Annotated[
        Seconds, Meta(description="Deadline of a call whose caller names none.")
    ] = 30.0
    max_timeout_seconds: Annotated[
        Seconds, Meta(description="Longest deadline that a caller may ask for.")
    ] = 300.0
    rate: Annotated[
        RateLimitConfig | list[RateLimitConfig] | None,
        Meta(
            description="How many calls may come; one more is answered 429. Of several limits each "
            "call must pass all."
        ),
    ] = None

    @property
    def rates(self) -> list[RateLimitConfig]:
        """The rate limits, none or more."""
        if self.rate is None:
            return []
        return [self.rate] if isinstance(self.rate, RateLimitConfig) else self.rate


class CacheConfig(Block, frozen=True):
    """What a plugin may keep of its results."""

    operations: Annotated[
        list[OperationName],
        Meta(
            min_length=1,
            description="Operations whose results are kept. A plugin that cannot refuses to start; "
            "those on the SDK's keys and values can `get`, `mget` and `exists`.",
            examples=[["get"]],
        ),
    ]
    ttl_seconds: Annotated[
        Seconds,
        Meta(
            description="For how long a result is kept. What other proxies and programs write, and "
            "that a key expires, shows so much later at most.",
        ),
    ] = 30.0
    max_bytes: Annotated[
        Bytes, Meta(description="Of results in memory; those not used for longest go first.")
    ] = 64 * MIB
    write_through: Annotated[
        bool,
        Meta(
            description="Whether a write puts what it wrote into the cache (by reading it back), "
            "instead of only removing what was there."
        ),
    ] = False


class NamespaceConfig(Block, frozen=True):
    """One namespace: a name for clients, and the plugin behind it."""

    name: Annotated[Name, Meta(description="Unique; part of the URL.", examples=["user-profiles"])]
    backend: Annotated[
        Name,
        Meta(
            description="Kind of backend, told to the plugin. Without a `plugin` block it also "
            "names the plugin: a catalogue entry, or a built-in one (`sqlite`).",
            examples=["sqlite", "postgres"],
        ),
    ]
    description: Annotated[str, Meta(description="For people.")] = ""
    plugin: Annotated[PluginConfig, Meta(description="The plugin and how it runs.")] = (
        PluginConfig()
    )
    config: Annotated[
        dict[str, Any],
        Meta(
            description="Backend settings, handed to the plugin as they are. No secrets here.",
            extra={"private": True},
        ),
    ] = {}
    credentials: Annotated[
        dict[str, str],
        Meta(
            description="Secrets for the plugin. `{{ secret:name }}` in a value is replaced by "
            "[that secret](#secrets) when the plugin starts; when it changes, the plugin is "
            "reloaded.",
            examples=[{"password": "{{ secret:postgres_password }}"}],
            extra={"private": True},
        ),
    ] = {}
    cache: Annotated[
        CacheConfig | None, Meta(description="A cache in the plugin; without it there is none.")
    ] = None
    isolation: Annotated[
        IsolationConfig,
        Meta(description="What its plugin's processes may do, where Prism starts it."),
    ] = IsolationConfig()
    access: Annotated[
        NamespaceAccess | None,
        Meta(description="Who may use it, where there is `authentication`; without it nobody."),
    ] = None
    limits: Annotated[NamespaceLimits, Meta(description="Limits of this namespace.")] = (
        NamespaceLimits()
    )
    priority: Annotated[
        Literal["high", "normal", "low"],
        Meta(
            description="How important its calls are, with `shedding`: the low ones are refused "
            "first, the high ones last. A client may say `prism-priority: low` of its own."
        ),
    ] = "normal"
    breaker: Annotated[
        BreakerConfig | None,
        Meta(description="Its circuit breaker; without it there is none. `{}` takes the defaults."),
    ] = None
    retries: Annotated[
        RetriesConfig | None,
        Meta(
            description="Calls that failed are made again. Without it, once, and only if that is "
            "safe and their plugin's process or connection is gone, or a replica had no room."
        ),
    ] = None
    hedging: Annotated[
        HedgingConfig | None,
        Meta(description="Calls that take long are made a second time; without it never."),
    ] = None
    shadow: Annotated[
        ShadowConfig | None,
        Meta(description="A plugin that gets copies of its calls; without it there is none."),
    ] = None
    record: Annotated[
        RecordConfig | None,
        Meta(description="A recording of its calls; without it there is none."),
    ] = None
    while_unavailable: Annotated[
        Literal["wait", "fail"],
        Meta(
            description="What becomes of calls while the plugin restarts. `wait`: they wait, up to "
            "their deadline, until it has had its first new start; if that fails, they are "
            "answered 503 at once until it is back. `fail`: 503 at once."
        ),
    ] = "wait"
    required: Annotated[
        bool,
        Meta(
            description="Whether the proxy is ready (`/readyz`, gRPC's health of the whole) only "
            "with this namespace's plugin. With `false` its failure takes no other namespace off "
            "a load balancer."
        ),
    ] = True

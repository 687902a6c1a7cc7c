"""The types of how much callers get, and of what happens when something goes wrong."""

import math
from typing import Annotated, Any, Literal

from msgspec import Meta

from prism.config.fields import (
    MIB,
    Block,
    Bytes,
    Count,
    OperationName,
    PathText,
    Percentile,
    ResultPath,
    Seconds,
    Text,
)
from prism.config.plugin_types import PluginConfig


class AdaptiveLimit(Block, frozen=True):
    """A limit that follows how long calls take."""

    min: Annotated[Count, Meta(description="Never fewer calls at a time than these.")] = 4
    max: Annotated[Count | None, Meta(description="Never more; without it `max_in_flight`.")] = None


class RateLimitConfig(Block, frozen=True, kw_only=True):
    """How many calls may come: a steady rate, and a burst on top ([Resilience](resilience.md))."""

    calls_per_second: Annotated[
        float,
        Meta(
            ge=0.000001,
            le=1_000_000,
            description="The rate at which what was used comes back; below 1 for less than one a "
            "second.",
            examples=[100, 0.5],
        ),
    ]
    burst: Annotated[
        Count | None,
        Meta(
            description="What may be used at once. Without it what comes back in one second, at "
            "least 1.",
            examples=[200],
        ),
    ] = None
    per: Annotated[
        Literal["namespace", "principal", "operation", "client"],
        Meta(
            description="Who has such a budget: the namespace as a whole, or each principal, "
            "operation or client address (of IPv6, each /64) in it."
        ),
    ] = "namespace"
    operations: Annotated[
        list[OperationName],
        Meta(
            description="The operations that are limited; without it all.",
            examples=[["get", "scan"]],
        ),
    ] = []
    costs: Annotated[
        dict[OperationName, Annotated[int, Meta(ge=0, le=1_000_000)]],
        Meta(
            description="What a call of an operation uses, before what the plugin declares of it; "
            "else 1. With 0 it is not limited.",
            examples=[{"scan": 10, "exists": 0}],
        ),
    ] = {}
    when_store_is_down: Annotated[
        Literal["local", "deny", "allow"] | None,
        Meta(
            description="With a `limits_store` that cannot be asked: each proxy limits by itself "
            "(`local`, so without this key), calls are answered 503, or let pass."
        ),
    ] = None

    @property
    def most_at_once(self) -> int:
        """The burst, also where it is not written."""
        return max(1, math.ceil(self.calls_per_second)) if self.burst is None else self.burst


class RetriesConfig(Block, frozen=True):
    """Calls that failed are made again, where that is safe ([Retries](resilience.md#retries))."""

    attempts: Annotated[
        int,
        Meta(ge=2, le=10, description="How often a call is made at most, the first time included."),
    ] = 2
    budget: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="How many retries there may be for each call of the last seconds; "
            "one a second is allowed beside.",
        ),
    ] = 0.1


class HedgingConfig(Block, frozen=True):
    """Calls that take long are made a second time, and the first answer counts.

    Only where the plugin has declared the operation idempotent ([Hedging](resilience.md#hedging)).
    """

    after: Annotated[
        Percentile | Seconds,
        Meta(
            description="What is long: a number of seconds, or a percentile of what the "
            "operation's calls take, from `p50` to `p99.9`.",
            examples=["p95", 0.05],
        ),
    ] = "p95"
    budget: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="How many second attempts there may be for each call of the last seconds; "
            "one a second is allowed beside.",
        ),
    ] = 0.05


Rate = Annotated[float, Meta(gt=0, le=1)]
"""A share of calls."""


class BreakerConfig(Block, frozen=True):
    """A circuit breaker: a plugin that fails, or is slow, gets no calls for a while."""

    error_rate: Annotated[
        Rate,
        Meta(
            description="It opens when so many of the calls failed: those that the plugin "
            "answered UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL or RESOURCE_EXHAUSTED, did not "
            "answer in time, or crashed under."
        ),
    ] = 0.5
    slow_seconds: Annotated[
        Seconds | None,
        Meta(description="From when on a call is slow; without it none is. Streams are not."),
    ] = None
    slow_rate: Annotated[
        Rate, Meta(description="It opens when so many of the calls were slow.")
    ] = 0.8
    window_seconds: Annotated[
        Seconds, Meta(description="The calls that count are those of so long.")
    ] = 10.0
    min_calls: Annotated[
        Count, Meta(description="It does not open for fewer calls within that time.")
    ] = 20
    open_seconds: Annotated[
        Seconds,
        Meta(
            description="How long it stays open, give or take a fifth; twice as long each time "
            "that it opens again before it was well, up to twelve times as long."
        ),
    ] = 5.0
    probes: Annotated[
        Count,
        Meta(
            description="Then calls are let through one after another; it closes when so many in "
            "a row were good, and opens again with the first that is not."
        ),
    ] = 3


class ShadowConfig(Block, frozen=True):
    """A second plugin, which gets copies of calls; its answers are compared, and go nowhere."""

    plugin: Annotated[
        PluginConfig | None,
        Meta(
            description="The plugin and how it runs, as a namespace's `plugin`: `version` alone is "
            "another version of the namespace's. Without it, the namespace's own."
        ),
    ] = None
    config: Annotated[
        dict[str, Any] | None,
        Meta(
            description="Its backend settings; without it, the namespace's `config`.",
            extra={"private": True},
        ),
    ] = None
    credentials: Annotated[
        dict[str, str] | None,
        Meta(
            description="Its secrets; without it, the namespace's `credentials`.",
            extra={"private": True},
        ),
    ] = None
    share: Annotated[
        float, Meta(ge=0, le=1, description="The share of calls that is copied, at random.")
    ] = 1.0
    operations: Annotated[
        list[OperationName],
        Meta(
            description="Further operations that are copied, beside those that the plugin declares "
            "as idempotent and reads. A write named here is carried out by the shadow, too.",
        ),
    ] = []
    ignore: Annotated[
        list[ResultPath],
        Meta(
            description="Parts of results that are not compared, since they differ each time: "
            "`*` is any key, `[*]` any index, `**` any number of steps.",
            examples=[["items[*].updated_at", "**.etag"]],
        ),
    ] = []
    values: Annotated[
        Literal["redact", "keep"],
        Meta(
            description="Whether the report shows values that differ, and all keys of objects, or "
            "only where and how they differ."
        ),
    ] = "redact"
    max_in_flight: Annotated[
        Count, Meta(description="Copies at a time; more calls are not copied, and counted.")
    ] = 64
    max_bytes: Annotated[
        Bytes, Meta(description="What the copies, and both answers to each, may take at a time.")
    ] = 16 * MIB


class RecordConfig(Block, frozen=True, kw_only=True):
    """A recording of calls, for `prism replay`."""

    file: Annotated[
        PathText,
        Meta(description="Where calls are added, as JSON lines; only this user may read it."),
    ]
    share: Annotated[
        float, Meta(ge=0, le=1, description="The share of calls that is recorded, at random.")
    ] = 1.0
    values: Annotated[
        Literal["redact", "keep"],
        Meta(
            description="`redact` keeps the types and lengths of params and results. `keep` keeps "
            "all that clients send and get, which a replay needs to compare results."
        ),
    ] = "redact"
    max_bytes: Annotated[
        Annotated[int, Meta(ge=MIB, le=1024 * 1024 * MIB)],
        Meta(description="Size from which a file is put aside under a name with the time in it."),
    ] = 64 * MIB
    keep_files: Annotated[
        Count, Meta(description="Files put aside that are kept; older ones are deleted.")
    ] = 4


class SheddingConfig(Block, frozen=True):
    """When the proxy has more to do than it can: it refuses calls, the least important first."""

    loop_lag_seconds: Annotated[
        Seconds | None,
        Meta(
            description="How late its event loop may be, which is by how much longer every call "
            "takes; null: that is not looked at."
        ),
    ] = 0.2
    memory_bytes: Annotated[
        Annotated[int, Meta(ge=64 * MIB, le=1024 * 1024 * MIB)] | None,
        Meta(
            description="What the process may take of memory; calls are refused from nine tenths "
            "of it. Without it, nine tenths of what its control group may take, if that is limited."
        ),
    ] = None


class LimitsStoreConfig(Block, frozen=True, kw_only=True):
    """A Redis, or Valkey, by which several proxies share their rate limits."""

    url: Annotated[
        str,
        Meta(
            description="Where it is: `rediss://HOST:PORT/DATABASE`, or `redis://` in plain text.",
            examples=["rediss://limits.example.com:6379/0"],
        ),
    ]
    username: Annotated[
        Text | None,
        Meta(description="As whom; without it as `default`, where there is a password."),
    ] = None
    password: Annotated[
        Text | None,
        Meta(
            description='Its password; better `"{{ secret:name }}"`.',
            examples=["{{ secret:limits_password }}"],
            extra={"private": True},
        ),
    ] = None
    ca_cert: Annotated[
        PathText | None, Meta(description="Authorities for `url`; without it the system's.")
    ] = None
    timeout_seconds: Annotated[
        Annotated[float, Meta(ge=0.001, le=10)],
        Meta(
            description="For each answer; then it counts as down. A call waits for it twice as "
            "long at most."
        ),
    ] = 0.1

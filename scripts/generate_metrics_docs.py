"""Write ``docs/metrics.md``: every metric of the proxy, from the families that it exports.

``make generate`` runs this; a test compares the page with what it would write.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import trio
from prometheus_client.core import Metric

from prism.app import Proxy
from prism.calls.overload import Overload
from prism.calls.refusals import Refusals
from prism.config.types import (
    Config,
    LimitsStoreConfig,
    NamespaceConfig,
    SecretsConfig,
    SheddingConfig,
)
from prism.limits.store import LimitsStore
from prism.observability.audit import AuditLog
from prism.observability.collectors import (
    MAX_CUSTOM_METRICS,
    audit_metrics,
    config_metrics,
    limits_metrics,
    memory_metrics,
    refusal_metrics,
    server_metrics,
    shedding_metrics,
    vault_metrics,
)
from prism.observability.metrics import BOUNDS, UNKNOWN, Metrics
from prism.secrets import Secrets
from prism.server.statistics import ServerStatistics
from prism.streams.tls import Certificate, ServerTLS

ROOT = Path(__file__).parents[1]

SECTIONS = (
    (
        "Calls",
        (
            "prism_request",
            "prism_retries",
            "prism_hedges",
            "prism_plugin_duration",
            "prism_streams_open",
            "prism_answer_memory",
        ),
        f"""\
`status` is the gRPC status by name, `OK` to `UNAUTHENTICATED`. The durations are histograms in
seconds, with bounds from {BOUNDS[0]:g} to {BOUNDS[-1]:g}. What is no operation of a known namespace
is counted as `{UNKNOWN}`, so that no client can make up series.""",
    ),
    (
        "Plugins, as the proxy sees them",
        (
            "prism_namespace",
            "prism_plugin_state",
            "prism_plugin_transitions",
            "prism_plugin_restarts",
            "prism_plugin_reloads",
            "prism_plugin_calls_open",
            "prism_replica",
            "prism_secret",
            "prism_vault",
        ),
        "[The life of a plugin](lifecycle.md) explains the states; alert on `prism_plugin_state{"
        'state="failed"} == 1`, on `prism_plugin_state{state="degraded"} == 1` for some minutes '
        "(a backend that is down shows there), and on `prism_secrets_stale == 1` "
        "([secrets](security.md#secrets)). `prism_replica_…` are of plugins with "
        "[several replicas](resilience.md#replicas).",
    ),
    (
        "Plugins, as they report themselves",
        ("prism_plugin_",),
        f"""\
From what [the plugin says of itself](writing-a-plugin.md#what-a-plugin-has-at-hand), so up to
`health.interval_seconds` (10 s) old. `instance` is new for every instance, so that a counter never
runs backwards; sum over it. `prism_plugin_custom` has what a plugin puts into
`custom_metrics_json`, at most {MAX_CUSTOM_METRICS} names. `prism_plugin_latency_ms` has the
contract's name and unit.""",
    ),
    (
        "Connections of the data port",
        ("prism_connections", "prism_tls"),
        "Of Prism's own server; the `tls` ones are there with `listen.tls`.",
    ),
    (
        "Limits, breakers, shedding",
        (
            "prism_rate",
            "prism_limits_store",
            "prism_breaker",
            "prism_in_flight",
            "prism_queue",
            "prism_refusals",
            "prism_shed",
        ),
        "With what [resilience](resilience.md) has of it in the configuration. `limit` is a rate "
        "limit's `per`, numbered where a namespace has several; those of the store are there with "
        "`limits_store`: alert on `prism_limits_store_up == 0`.",
    ),
    (
        "Shadows and recordings",
        ("prism_shadow", "prism_recorded"),
        "Of namespaces with a [shadow](resilience.md#shadow), or a "
        "[recording](resilience.md#record-and-replay).",
    ),
    ("Audit", ("prism_audit",), "With [`audit`](security.md#who-did-what)."),
    ("Configuration", ("prism_config",), "[The admin port](admin.md#the-configuration)."),
    (
        "The process",
        ("prism_",),
        "And `process_…`: CPU, memory, descriptors and start, as of any process.",
    ),
)
"""The page's parts: a title, how its names begin, and a text. The first part that fits counts."""


async def families() -> list[Metric]:
    """Every family that a proxy with one namespace and TLS exports."""
    proxy = Proxy(Config(namespaces=[NamespaceConfig(name="n", backend="sqlite")]))
    tls = SimpleNamespace(reloads=0, failed_reloads=0, certificate=Certificate("", 0.0))
    statistics = ServerStatistics()
    metrics = Metrics(proxy.router, proxy.supervisor)
    metrics.register(partial(config_metrics, proxy.live))
    metrics.register(partial(vault_metrics, Secrets()))
    metrics.register(partial(limits_metrics, _limits_store()))
    metrics.register(partial(memory_metrics, proxy.router.memory))
    metrics.register(partial(shedding_metrics, Overload(SheddingConfig())))
    metrics.register(partial(refusal_metrics, Refusals(proxy.router.deadlines.alarms, 1000)))
    metrics.register(partial(audit_metrics, AuditLog(Path("audit.jsonl"))))
    metrics.register(partial(server_metrics, statistics, cast("ServerTLS", tls)))
    return sorted(metrics.collect(), key=lambda family: family.name)


def _limits_store() -> LimitsStore:
    store = LimitsStore()
    store.configure(LimitsStoreConfig(url="redis://127.0.0.1"), SecretsConfig())
    return store


def page() -> str:
    """The whole page."""
    return "\n".join(_lines(trio.run(families)))


def _lines(found: list[Metric]) -> Iterator[str]:
    yield """\
# Metrics

`GET /metrics` of [the admin port](admin.md) has them, in Prometheus' text format, or OpenMetrics
where it is asked for. Who scrapes it needs the right to read: a [token](admin.md#who-may) with
`may: read` is made for that. This page is generated from the code by `make generate`.
"""
    left = {family.name: family for family in found}
    for title, beginnings, text in SECTIONS:
        here = [name for name in left if name.startswith(beginnings)]
        yield f"## {title}\n\n{text}\n"
        yield "| metric | type | labels | meaning |\n|---|---|---|---|"
        yield from (_row(left.pop(name)) for name in here)
        yield ""


def _row(family: Any) -> str:
    ending = {"counter": "_total", "info": "_info"}.get(family.type, "")
    labels = ", ".join(f"`{label}`" for label in getattr(family, "_labelnames", ()))
    if family.type == "info":
        labels = ", ".join(f"`{label}`" for label in family.samples[0].labels)
    return f"| `{family.name}{ending}` | {family.type} | {labels} | {family.documentation} |"


if __name__ == "__main__":
    (ROOT / "docs/metrics.md").write_text(page())

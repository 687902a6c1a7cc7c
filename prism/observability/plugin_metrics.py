"""What plugins report about themselves, for Prometheus.

Read when scraped, from each namespace's current instance. The label ``instance``
is new for every generation, so a counter that starts again at zero is a series
of its own and never looks like a reset.
"""

import re
import sys
from collections.abc import Iterable, Iterator

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from prism.calls.namespace import Namespace
from prism.contract.messages import PluginMetrics

MAX_CUSTOM_METRICS = 50
"""Custom metrics taken from one plugin; each is a series that Prometheus keeps."""

_COUNTERS = {
    "requests_total": "Calls that the plugin served",
    "requests_failed": "Calls that failed in the plugin",
    "queries_executed": "Queries sent to the backend",
    "cache_hits": "Reads answered from the plugin's cache",
    "cache_misses": "Reads that its cache could not answer",
}
_GAUGES = {
    "latency_ms": "Duration of the plugin's last call, in milliseconds",
    "connections_active": "Backend connections in use",
    "connections_idle": "Backend connections in the pool, unused",
}
_LABELS = ["namespace", "plugin", "version", "instance"]
_CUSTOM_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,62}").fullmatch
_LARGEST = sys.float_info.max
_decode_custom = msgspec.json.Decoder(dict[str, object]).decode


def plugin_metrics(namespaces: Iterable[Namespace]) -> Iterator[Metric]:
    """The metric families of all plugins that have reported anything."""
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {
        **{name: CounterMetricFamily(f"prism_plugin_{name}", text, labels=_LABELS)
           for name, text in _COUNTERS.items()},
        **{name: GaugeMetricFamily(f"prism_plugin_{name}", text, labels=_LABELS)
           for name, text in _GAUGES.items()},
    }  # fmt: skip
    custom = GaugeMetricFamily(
        "prism_plugin_custom", "Numbers in custom_metrics_json", labels=[*_LABELS, "name"]
    )
    for namespace in namespaces:
        instance = namespace.slot.current
        if instance is None or instance.metrics is None:
            continue
        labels = [namespace.name, instance.plugin, instance.version, instance.id]
        for name, family in families.items():
            family.add_metric(labels, getattr(instance.metrics, name))
        for name, value in custom_metrics(instance.metrics).items():
            custom.add_metric([*labels, name], value)
    yield from families.values()
    yield custom


def custom_metrics(metrics: PluginMetrics) -> dict[str, float]:
    """The usable numbers of ``custom_metrics_json``: a flat object, bounded in size.

    A plugin's mistake here costs it the metric and nothing else.
    """
    try:
        reported = _decode_custom(metrics.custom_metrics_json or "{}")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    usable: dict[str, float] = {}
    for name, value in reported.items():
        if len(usable) == MAX_CUSTOM_METRICS:
            break
        if isinstance(value, int | float) and _CUSTOM_NAME(name) and abs(value) <= _LARGEST:
            usable[name] = float(value)
    return usable

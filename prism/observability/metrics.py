"""The proxy's own metrics, for Prometheus.

Label values come only from the configuration and from what plugins declare, so
that no client can make up series: every other name is counted as ``_unknown``.
"""

import platform
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate

import trio
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import prism
from prism.calls.call import Call
from prism.calls.router import Router
from prism.contract.status import StatusCode
from prism.observability.collectors import (
    plugin_metrics,
    policy_metrics,
    supervision_metrics,
)
from prism.observability.log_writer import dropped_lines
from prism.supervision.supervisor import Supervisor

UNKNOWN = "_unknown"
BOUNDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Upper bounds in seconds: from a cached read in a local plugin to the default deadline."""

_BUCKETS = (*map(str, BOUNDS), "+Inf")


class Histogram:
    """Counts of durations in seconds, by ``BOUNDS``; for one thread.

    All calls run in trio's thread, so the locks of prometheus_client's own Histogram would
    cost several times what the counting does.
    """

    __slots__ = ("_counts", "sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def add_to(self, counts: list[int]) -> None:
        """Add what is counted to ``counts``, one for each bucket; the last is that of what is
        longer than any of ``BOUNDS``."""
        for place, count in enumerate(self._counts):
            counts[place] += count

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts, as ``HistogramMetricFamily.add_metric`` takes them."""
        return list(zip(_BUCKETS, accumulate(self._counts), strict=True))


class _Operation:
    """What is counted for one operation of one namespace."""

    __slots__ = ("duration", "plugin_duration", "requests")

    def __init__(self) -> None:
        self.requests = [0] * len(StatusCode)  # by status
        self.duration = Histogram()
        self.plugin_duration = Histogram()


class Totals:
    """What the calls of one namespace have come to, all operations together: how many by status,
    how many in each bucket of ``Histogram``, and how many seconds they took."""

    __slots__ = ("by_status", "durations", "seconds")

    def __init__(self) -> None:
        self.by_status = [0] * len(StatusCode)
        self.durations = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0


class Metrics(Collector):
    """Counts calls, and reads everything else when it is scraped."""

    def __init__(self, router: Router, supervisor: Supervisor | None = None) -> None:
        self._router = router
        self._supervisor = supervisor
        self._operations: dict[tuple[str, str], _Operation] = {}
        self._others: list[Callable[[], Iterator[Metric]]] = []
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def register(self, read: Callable[[], Iterator[Metric]]) -> None:
        """Have ``read`` called, too, at each scrape."""
        self._others.append(read)

    def observe(self, call: Call, seconds: float) -> None:
        """Count a call that ended after ``seconds``."""
        operation = self._operations.get((call.namespace, call.operation))
        if operation is None:
            operation = self._operations.setdefault(_labels(call), _Operation())
        operation.requests[call.status] += 1
        operation.duration.observe(seconds)
        if call.plugin_seconds is not None:
            operation.plugin_duration.observe(call.plugin_seconds)

    def totals(self) -> dict[str, Totals]:
        """Of each namespace that had calls, and of those to none (``UNKNOWN``)."""
        found: dict[str, Totals] = {}
        for (namespace, _), operation in self._operations.items():
            totals = found.get(namespace)
            if totals is None:
                totals = found[namespace] = Totals()
            for status, count in enumerate(operation.requests):
                totals.by_status[status] += count
            operation.duration.add_to(totals.durations)
            totals.seconds += operation.duration.sum
        return found

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics, and their content type, in the format that ``accept`` asks for."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """The metric families, called by the registry."""
        yield InfoMetricFamily(
            "prism_build",
            "The version of Prism and of Python",
            {"version": prism.__version__, "python": platform.python_version()},
        )
        of_plugins = self._supervisor.events.lines_dropped if self._supervisor is not None else 0
        yield CounterMetricFamily(
            "prism_log_lines_dropped",
            "Log lines that nobody read in time, and plugins' lines that were too many at once",
            dropped_lines() + of_plugins,
        )
        if trio.lowlevel.in_trio_run():  # else nothing is served, as in some tests
            tasks = trio.lowlevel.current_statistics().tasks_living
            yield GaugeMetricFamily("prism_tasks", "Tasks of the proxy's event loop", tasks)
        yield from self._calls()
        yield from self._namespaces()
        yield from policy_metrics(self._router.namespaces())
        yield from plugin_metrics(self._router.namespaces())
        if self._supervisor is not None:
            yield from supervision_metrics(self._supervisor)
        for read in self._others:
            yield from read()

    def _calls(self) -> Iterator[Metric]:
        labels = ["namespace", "operation"]
        requests = CounterMetricFamily(
            "prism_requests", "Calls by gRPC status, refused ones too", labels=[*labels, "status"]
        )
        duration = HistogramMetricFamily(
            "prism_request_duration_seconds", "From head to answer", labels=labels
        )
        plugin_duration = HistogramMetricFamily(
            "prism_plugin_duration_seconds", "The plugin's share of it", labels=labels
        )
        known = {UNKNOWN, *(namespace.name for namespace in self._router.namespaces())}
        for names in [names for names in self._operations if names[0] not in known]:
            del self._operations[names]  # the namespace was removed
        for names, operation in self._operations.items():
            for status, count in zip(StatusCode, operation.requests, strict=True):
                if count:
                    requests.add_metric([*names, status.name], count)
            for family, histogram in (
                (duration, operation.duration),
                (plugin_duration, operation.plugin_duration),
            ):
                buckets = histogram.buckets()
                if buckets[-1][1]:  # calls that the proxy refuses have no plugin's share
                    family.add_metric(names, buckets, histogram.sum)
        yield from (requests, duration, plugin_duration)

    def _namespaces(self) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily(
            "prism_requests_in_flight", "Calls admitted and not yet answered", labels=["namespace"]
        )
        streams = GaugeMetricFamily(
            "prism_streams_open", "Streams admitted and not yet ended", labels=["namespace"]
        )
        ready = GaugeMetricFamily(
            "prism_namespace_ready", "Whether an instance takes calls", labels=["namespace"]
        )
        owed = GaugeMetricFamily(
            "prism_plugin_calls_open",
            "Calls that the plugin has not closed, cancelled ones too",
            labels=["namespace"],
        )
        for namespace in self._router.namespaces():
            instances = namespace.slot.instances()
            owed.add_metric(
                [namespace.name], sum(instance.channel.open_calls for instance in instances)
            )
            in_flight.add_metric([namespace.name], namespace.in_flight)
            streams.add_metric([namespace.name], namespace.streams_by_client.total())
            ready.add_metric([namespace.name], namespace.slot.current is not None)
        yield from (in_flight, streams, ready, owed)


def _labels(call: Call) -> tuple[str, str]:
    if call.target is None:
        return UNKNOWN, UNKNOWN
    if call.operation not in call.target.slot.operations:
        return call.namespace, UNKNOWN
    return call.namespace, call.operation

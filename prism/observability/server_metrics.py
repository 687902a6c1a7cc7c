"""What the metrics say of the data port: its connections and its certificate."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from prism.server import ServerStatistics, ServerTLS

_COUNTERS = {
    "accepted": "Connections accepted, refused ones too",
    "refused": "Connections over the limit per peer",
    "shed": "Idle connections closed to make room",
    "retired": "Connections closed because of their age",
}


class ServerMetrics(Collector):
    """Read when scraped; ``tls`` is ``None`` for a port in clear text."""

    def __init__(self, statistics: ServerStatistics, tls: ServerTLS | None) -> None:
        self._statistics = statistics
        self._tls = tls

    def collect(self) -> Iterator[Metric]:
        """The metric families, called by the registry."""
        found = self._statistics
        yield GaugeMetricFamily("prism_connections", "Open connections", found.connections)
        for name, meaning in _COUNTERS.items():
            yield CounterMetricFamily(f"prism_connections_{name}", meaning, getattr(found, name))
        if self._tls is not None:
            yield from self._about_tls(self._tls)

    def _about_tls(self, tls: ServerTLS) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "prism_tls_handshakes_waiting",
            "Clients in the queue for a handshake",
            self._statistics.handshakes_waiting,
        )
        yield CounterMetricFamily(
            "prism_tls_handshakes_failed",
            "Handshakes that came to nothing",
            self._statistics.handshakes_failed,
        )
        yield CounterMetricFamily(
            "prism_tls_reloads", "Times the certificate was read again", tls.reloads
        )
        yield CounterMetricFamily(
            "prism_tls_reloads_failed",
            "Of these, how often the old one stayed in use",
            tls.failed_reloads,
        )
        if tls.certificate is not None:
            yield GaugeMetricFamily(
                "prism_tls_certificate_expiry_timestamp_seconds",
                "When the certificate in use ends, in Unix time",
                tls.certificate.expires,
            )

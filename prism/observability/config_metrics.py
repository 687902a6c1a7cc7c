"""What is told of configuration changes, for Prometheus."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from prism.control.live_config import LiveConfig


class ConfigMetrics(Collector):
    """Reads the live configuration at each scrape."""

    def __init__(self, config: LiveConfig) -> None:
        self._config = config

    def collect(self) -> Iterator[Metric]:
        """The metric families, called by the registry."""
        yield GaugeMetricFamily(
            "prism_config_generation", "Configurations used so far", self._config.generation
        )
        yield GaugeMetricFamily(
            "prism_config_last_reload_successful",
            "Whether the last attempt to change the configuration succeeded",
            float(self._config.settled),
        )
        yield GaugeMetricFamily(
            "prism_config_last_reload_success_timestamp_seconds",
            "When the configuration in use was taken into use",
            self._config.changed_at,
        )

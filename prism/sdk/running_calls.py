"""The calls that run now: their number, their times, and when the last one is gone."""

from time import perf_counter

import anyio

from prism.contract.messages import PluginMetrics
from prism.sdk.metrics import Metrics

METRICS_INTERVAL_SECONDS = 1.0
"""ExecuteResponse carries metrics at most this often; health checks always do."""


class RunningCalls:
    """Counts one plugin's calls and keeps the SDK's part of its metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self.count = 0
        self._metrics = metrics
        self._metrics_sent = float("-inf")
        self._none_left: anyio.Event | None = None

    def begin(self) -> float:
        """Count a call; the returned time goes to ``end``."""
        self.count += 1
        self._metrics.requests_total += 1
        return perf_counter()

    def end(self, started: float) -> None:
        """Uncount a call."""
        self.count -= 1
        self._metrics.latency_ms = (perf_counter() - started) * 1000
        if self._none_left is not None and self.count == 0:
            self._none_left.set()

    def metrics_when_due(self, now: float) -> PluginMetrics | None:
        """A snapshot of the metrics if none was sent for a while, else None."""
        if now - self._metrics_sent < METRICS_INTERVAL_SECONDS:
            return None
        self._metrics_sent = now
        return self._metrics.snapshot()

    async def wait_none_left(self) -> None:
        """Wait for every call to end. Cancelling is safe."""
        if self.count:
            self._none_left = anyio.Event()
            await self._none_left.wait()

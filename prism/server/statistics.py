"""What one server counts, for the metrics."""

from dataclasses import dataclass


@dataclass
class ServerStatistics:
    """Gauges are of this moment; counters only grow. ``refused`` were over the limit per
    peer; ``shed`` were idle, and closed to make room; ``retired`` had reached their age."""

    connections: int = 0
    accepted: int = 0
    refused: int = 0
    shed: int = 0
    retired: int = 0
    handshakes_waiting: int = 0
    handshakes_failed: int = 0

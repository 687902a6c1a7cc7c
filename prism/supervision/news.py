"""What a plugin says of itself between calls: log records, metrics, health, GOAWAY."""

import logging

import trio

from prism.supervision.instance import Instance
from prism.wire.events import GoAway, Note

MAX_RECORDS_PER_SECOND = 500
"""Log records taken from one plugin per second; the rest is counted."""
_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}

log = logging.getLogger("prism.supervision")


class News:
    """Receives one instance's NOTE frames. Called from the reader: nothing blocks."""

    def __init__(self, namespace: str, plugin: str) -> None:
        self.instance: Instance | None = None
        self.leaving = trio.Event()
        self._namespace = namespace
        self._plugin = plugin
        self._log = logging.getLogger(f"prism.plugin.{plugin}")
        self._second = 0
        self._taken = 0

    def take(self, note: Note) -> None:
        """Pass on log records, within the rate; keep metrics and health."""
        for record in note.logs:
            if not self._within_rate():
                continue
            level = _LEVELS.get(record.level, logging.INFO)
            if self._log.isEnabledFor(level):
                source = record.logger or self._log.name
                self._log.log(
                    level,
                    "%s",
                    record.message,
                    extra={"fields": {"namespace": self._namespace, "source": source}},
                )
        if self.instance is not None:
            self.instance.metrics = note.metrics or self.instance.metrics
            self.instance.health = note.health or self.instance.health

    def _within_rate(self) -> bool:
        second = int(trio.current_time())
        if second != self._second:
            self.report_dropped()
            self._second = second
            self._taken = 0
        self._taken += 1
        return self._taken <= MAX_RECORDS_PER_SECOND

    def report_dropped(self) -> None:
        """Say how many records went over the rate, if any did."""
        dropped = self._taken - MAX_RECORDS_PER_SECOND
        if dropped > 0:
            self._log.warning("%d log records were dropped: too many at once", dropped)
            self._taken = MAX_RECORDS_PER_SECOND

    def goaway(self, event: GoAway) -> None:
        """The plugin will start no more calls."""
        log.info(
            "plugin %r of namespace %s drains: %s", self._plugin, self._namespace, event.reason
        )
        self.leaving.set()

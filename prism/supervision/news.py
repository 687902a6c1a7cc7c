"""What a plugin says of itself between calls: log records, metrics, health, GOAWAY."""

import logging
from collections.abc import Callable

import trio

from prism.contract.messages import HealthCheckResponse
from prism.supervision.instance import Instance
from prism.supervision.journal import Journal
from prism.wire.events import GoAway, Note

MAX_RECORDS_PER_SECOND = 500
"""Log records taken from one plugin per second; the rest is counted."""
_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}

log = logging.getLogger("prism.supervision")


class News:
    """Receives what one generation says by itself. Called from the reader: nothing blocks.

    ``pid`` and ``ending`` are set by the way in which the plugin is reached, where it
    knows its process and how that ended.
    """

    def __init__(
        self,
        journal: Journal,
        plugin: str,
        label: str,
        on_health: Callable[[HealthCheckResponse], None] = lambda _health: None,
    ) -> None:
        self.instance: Instance | None = None
        self.leaving = trio.Event()
        self.pid: int | None = None
        self.ending = ""
        self.label = label
        self._journal = journal
        self._plugin = plugin
        self._on_health = on_health
        self._log = logging.getLogger(f"prism.plugin.{plugin}")
        self._second = 0
        self._taken = 0

    def take(self, note: Note) -> None:
        """Pass on log records, within the rate; keep metrics and health."""
        for record in note.logs:
            if not self._within_rate():
                continue
            self._journal.line(self.label, "note", record.level, record.message)
            level = _LEVELS.get(record.level, logging.INFO)
            if self._log.isEnabledFor(level):
                source = record.logger or self._log.name
                self._log.log(
                    level,
                    "%s",
                    record.message,
                    extra={"fields": {"namespace": self._journal.namespace, "source": source}},
                )
        if self.instance is not None:
            self.instance.metrics = note.metrics or self.instance.metrics
            if note.health is not None:
                self._on_health(note.health)

    def output(self, text: str) -> None:
        """The plugin's process wrote a line."""
        self._journal.line(self.label, "output", "INFO", text)

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
            "plugin %r of namespace %s drains: %s",
            self._plugin,
            self._journal.namespace,
            event.reason,
        )
        if self.instance is not None:
            self.instance.leaving = True
        self.leaving.set()

"""A plugin process's news for its host: log records and metrics, as NOTE frames."""

import logging
import sys
from collections import deque

import anyio

from prism.contract.messages import PluginMetrics
from prism.contract.service import BackendPlugin
from prism.sdk.session import Session
from prism.wire.events import LogRecord, Note

MAX_PENDING = 1000
"""Log records kept for the host; beyond it the oldest are dropped and counted."""
MAX_RECORDS = 100
"""Log records in one NOTE."""
MAX_MESSAGE = 8 * 1024
"""Characters of one log record; longer ones are cut."""
MAX_TEXT = 16 * 1024
"""Characters of log records in one NOTE, whose frame a host may want small."""
LOG_INTERVAL = 0.25
"""Seconds between looks for log records to send."""
METRICS_INTERVAL = 10.0
"""Seconds between reports of metrics, sent only when they changed."""


class NoteHandler(logging.Handler):
    """Keeps log records until a session takes them; from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self._pending: deque[LogRecord] = deque(maxlen=MAX_PENDING)
        self._dropped = 0
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record; never raises."""
        try:
            message = self.format(record)[:MAX_MESSAGE].encode(errors="replace").decode()
        except Exception:
            self.handleError(record)
            return
        if len(self._pending) == MAX_PENDING:
            self._dropped += 1
        self._pending.append(LogRecord(message, record.levelname, record.name, record.created))

    def take(self) -> list[LogRecord]:
        """The oldest records, as many as one NOTE takes."""
        records: list[LogRecord] = []
        size = 0
        while self._pending and len(records) < MAX_RECORDS and size < MAX_TEXT:
            records.append(self._pending.popleft())
            size += len(records[-1].message)
        if self._dropped:
            text = f"{self._dropped} log records were dropped: too many at once"
            records.append(LogRecord(text, "WARNING", "prism.sdk"))
            self._dropped = 0
        return records

    def print_rest(self) -> None:
        """Write to standard error what no host has taken."""
        while records := self.take():
            for record in records:
                sys.stderr.write(f"{record.level} {record.logger}: {record.message}\n")


async def report(session: Session, plugin: BackendPlugin, handler: NoteHandler) -> None:
    """Send logs and changed metrics while the session is up. Runs until cancelled."""
    reported: PluginMetrics | None = None
    next_metrics = anyio.current_time() + METRICS_INTERVAL
    while True:
        await anyio.sleep(LOG_INTERVAL)
        send_logs(session, handler)
        metrics = getattr(plugin, "metrics", None)
        if metrics is not None and anyio.current_time() >= next_metrics:
            next_metrics = anyio.current_time() + METRICS_INTERVAL
            current = metrics.snapshot()
            if current != reported and session.takes_notes:
                session.note(Note(metrics=current))
                reported = current


def send_logs(session: Session, handler: NoteHandler) -> None:
    """Send what the handler holds, as far as the session takes it."""
    while session.takes_notes and (records := handler.take()):
        session.note(Note(logs=records))

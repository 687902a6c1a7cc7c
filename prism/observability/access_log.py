"""One line for every request, however it ended, on the logger ``prism.access``.

Parameters, results, query strings and header values never appear, but for the user agent, of which
what is not printable is escaped. Where lines are written as JSON by the
log's own writer, which is the ordinary case, those of one turn of the event loop are encoded in
one go and handed over as bytes. Where anybody else wants them (a handler on the logger, a
console), each is a log record whose attribute ``fields`` has the line's facts.
"""

import logging
import os
import random
import time
from typing import Literal

import msgspec

from prism.calls.call import Call
from prism.contract.status import StatusCode
from prism.observability.access_lines import (
    MAX_LINE_DETAIL,
    MAX_PATH,
    MAX_USER_AGENT,
    NOBODY,
    AccessLine,
    RequestPart,
    asked_by,
    printable,
)
from prism.observability.log_writer import LogWriter
from prism.observability.logs import JSONFormatter, time_text
from prism.server.exchange import Exchange
from prism.streams.outlet import at_turn_end

ACCESS_LOGGER = "prism.access"

_logger = logging.getLogger(ACCESS_LOGGER)
_OK = StatusCode.OK  # for each line: on Python 3.11 an enum's attribute costs a call
_STATUS_NAMES = [status.name for status in StatusCode]
_TEMPLATE = logging.LogRecord(ACCESS_LOGGER, logging.INFO, "", 0, "request", (), None).__dict__
_encode_lines = msgspec.json.Encoder().encode_lines


_FAULTS = frozenset(
    {
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)
"""What is not the client's doing: logged as warnings."""


def _asked(exchange: Exchange) -> RequestPart:
    peer, agent = exchange.peer, b""
    for name, value in exchange.headers:
        if name == b"user-agent":
            agent = value
            break
    return asked_by(
        peer.client,
        exchange.method,
        exchange.target[:MAX_PATH],
        exchange.version,
        agent[:MAX_USER_AGENT],
        peer.certificate,
    )


class AccessLog:
    """Writes the lines: of ``all`` requests, of those that ``failed``, or of none; of those that
    did not fail, of a share of ``sample`` (0 to 1). ``flush`` is called at the end of each turn by
    itself."""

    def __init__(
        self, requests: Literal["all", "failed", "none"] = "all", sample: float = 1.0
    ) -> None:
        self._of_failed = requests != "none"
        self._of_good = sample if requests == "all" else 0.0
        self._lines: list[AccessLine] = []
        self._moment = 0
        self._pid = os.getpid()
        self._text = ""

    def add(self, call: Call, seconds: float) -> None:
        """Log a call that ended after ``seconds``; next to free where it is not to be logged."""
        level, name = logging.INFO, "info"
        if call.status is not _OK or call.http_status >= 400:
            if not self._of_failed:
                return
            if call.status in _FAULTS or call.http_status >= 500:
                level, name = logging.WARNING, "warning"
        elif self._of_good < 1.0 and random.random() >= self._of_good:  # noqa: S311 - a sample
            return
        if not _logger.isEnabledFor(level):
            return
        exchange = getattr(call, "exchange", None)
        asked = NOBODY if exchange is None else _asked(exchange)
        plugin_seconds = call.plugin_seconds
        is_plain = not call.retries and call.hedge is None
        self._lines.append(
            AccessLine(
                self._now(),
                name,
                ACCESS_LOGGER,
                "request",
                self._pid,
                call.namespace,
                call.operation,
                _STATUS_NAMES[call.status],
                call.http_status,
                int(seconds * 1e6) / 1000,
                0.0 if plugin_seconds is None else int(plugin_seconds * 1e6) / 1000,
                call.principal,
                call.request_id,
                call.trace_id,
                call.instance_id,
                call.bytes_in,
                call.bytes_out,
                *asked,
                1 if is_plain else call.attempts,
                not is_plain and call.is_hedged,
                call.reason,
                call.detail and printable(call.detail[:MAX_LINE_DETAIL]),
            )
        )
        if len(self._lines) == 1:
            at_turn_end(self)

    def _now(self) -> str:
        milliseconds = int(time.time() * 1000)
        if milliseconds != self._moment:
            self._moment = milliseconds
            self._text = time_text(milliseconds)
        return self._text

    def flush(self) -> None:
        """Hand over the lines of this turn."""
        lines, self._lines = self._lines, []
        writer = _json_writer()
        if writer is not None:
            writer.write(_encode_lines(lines), count=len(lines))
            return
        for line in lines:
            _logger.handle(_log_record(line))


def _json_writer() -> LogWriter | None:
    """The writer of the whole log, if it is all that there is, and writes JSON."""
    handlers = logging.root.handlers
    if _logger.handlers or not _logger.propagate or len(handlers) != 1 or _logger.filters:
        return None
    [handler] = handlers
    if isinstance(handler, LogWriter) and type(handler.formatter) is JSONFormatter:
        return handler
    return None


def _log_record(line: AccessLine) -> logging.LogRecord:
    """As ``Logger.makeRecord``, at a third of the cost: all but time and fields is the same."""
    fields = msgspec.to_builtins(line)
    for name in ("time", "level", "logger", "message", "pid"):
        del fields[name]
    record = logging.LogRecord.__new__(logging.LogRecord)
    now = time.time()
    record.__dict__.update(_TEMPLATE, created=now, msecs=now % 1 * 1000 // 1, fields=fields)
    if line.level == "warning":
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return record

"""One line for every request, however it ended, on the logger ``prism.access``.

The line's facts are in the log record's attribute ``fields``, for formatters
that write them one by one. Parameters, results and header values never appear.
"""

import logging

from prism.core.request import CallRecord

ACCESS_LOGGER = "prism.access"

_logger = logging.getLogger(ACCESS_LOGGER)


def log_access(record: CallRecord, seconds: float) -> None:
    """Log a request that ended after ``seconds``; free of cost where INFO is off."""
    if not _logger.isEnabledFor(logging.INFO):
        return
    fields = {
        "namespace": record.namespace,
        "operation": record.operation,
        "status": record.status.name,
        "http_status": record.http_status,
        "duration_ms": round(seconds * 1000, 3),
        "plugin_ms": round((record.plugin_seconds or 0.0) * 1000, 3),
        "principal": record.principal,
        "request_id": record.request_id,
        "trace_id": record.trace.trace_id,
        "instance": record.instance,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
    }
    if record.retries:
        fields["retries"] = record.retries
    if record.reason:
        fields["reason"] = record.reason
    # Made by hand: Logger.info would walk the stack for a source line that says nothing.
    _logger.handle(
        _logger.makeRecord(
            ACCESS_LOGGER, logging.INFO, "", 0, "request", (), None, extra={"fields": fields}
        )
    )

import logging

from prism.calls.request import CallRecord
from prism.calls.trace import new_trace
from prism.contract.status import StatusCode
from prism.observability.access_log import log_access


def test_one_record_with_fields(caplog):
    trace = new_trace()
    record = CallRecord(
        0.0,
        "id-1",
        trace,
        namespace="kv",
        operation="get",
        instance="kv/1",
        plugin_seconds=0.25,
        bytes_in=2,
        bytes_out=3,
        status=StatusCode.DEADLINE_EXCEEDED,
        http_status=504,
        reason="deadline_exceeded",
    )
    with caplog.at_level(logging.INFO, logger="prism.access"):
        log_access(record, 0.5)
    (line,) = caplog.records
    assert line.fields == {
        "namespace": "kv",
        "operation": "get",
        "status": "DEADLINE_EXCEEDED",
        "http_status": 504,
        "duration_ms": 500.0,
        "plugin_ms": 250.0,
        "principal": "anonymous",
        "request_id": "id-1",
        "trace_id": trace.trace_id,
        "instance": "kv/1",
        "bytes_in": 2,
        "bytes_out": 3,
        "reason": "deadline_exceeded",
    }


def test_nothing_where_info_is_off(caplog):
    with caplog.at_level(logging.WARNING, logger="prism.access"):
        log_access(CallRecord(0.0, "id", new_trace()), 0.5)
    assert caplog.records == []

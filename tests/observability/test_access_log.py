import json
import logging
import os

import pytest

from prism.contract.status import StatusCode
from prism.observability.access_log import AccessLog
from prism.observability.log_writer import LogWriter
from prism.observability.logs import JSONFormatter
from prism.streams.outlet import begin_turn, end_turn

FIELDS = {
    "namespace": "kv",
    "operation": "get",
    "status": "DEADLINE_EXCEEDED",
    "http_status": 504,
    "duration_ms": 500.0,
    "plugin_ms": 250.0,
    "principal": "anonymous",
    "request_id": "id-1",
    "trace_id": "0af7651916cd43dd8448eb211c80319c",
    "instance": "kv/1",
    "bytes_in": 2,
    "bytes_out": 3,
    "reason": "deadline_exceeded",
}


@pytest.fixture
def call(make_record):
    return make_record(
        namespace="kv",
        operation="get",
        request_id="id-1",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        instance_id="kv/1",
        plugin_seconds=0.25,
        bytes_in=2,
        bytes_out=3,
        status=StatusCode.DEADLINE_EXCEEDED,
        http_status=504,
        reason="deadline_exceeded",
    )


def test_one_record_with_fields(call, caplog):
    with caplog.at_level(logging.INFO, logger="prism.access"):
        AccessLog().add(call, 0.5)
    (line,) = caplog.records
    assert line.fields == FIELDS
    assert (line.name, line.getMessage(), line.levelname) == ("prism.access", "request", "INFO")


def test_nothing_where_info_is_off(make_record, caplog):
    with caplog.at_level(logging.WARNING, logger="prism.access"):
        AccessLog().add(make_record(), 0.5)
    assert caplog.records == []


@pytest.fixture
def json_log():
    """All that is logged, as the lines of a pipe; it replaces every other handler."""
    reading, writing = os.pipe()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    writer = LogWriter(writing)
    writer.setFormatter(JSONFormatter())
    root.handlers[:] = [writer]
    root.setLevel(logging.INFO)

    def lines():
        writer.flush()
        return [json.loads(line) for line in os.read(reading, 1 << 16).splitlines()]

    yield lines
    root.handlers[:] = before
    root.setLevel(level)
    writer.close()
    os.close(reading)


async def test_the_lines_of_a_turn_are_those_that_the_formatter_would_make(
    call, make_record, json_log
):
    log = AccessLog()
    assert begin_turn()
    log.add(call, 0.5)
    plain = make_record(namespace="kv", retries=1)
    log.add(plain, 0.001)
    end_turn()
    first, second = json_log()
    record = logging.LogRecord("prism.access", logging.INFO, "", 0, "request", (), None)
    record.fields = FIELDS
    expected = json.loads(JSONFormatter().format(record))
    assert list(first) == list(expected)
    assert first | {"time": ""} == expected | {"time": ""}
    assert first["time"].endswith("Z")
    assert "reason" not in second
    assert second["retries"] == 1


def test_nothing_waits_for_a_turn_where_there_is_none(call, json_log):
    AccessLog().add(call, 0.5)
    [line] = json_log()
    assert line["request_id"] == "id-1"

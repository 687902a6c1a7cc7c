import json
import logging
import os
import ssl

import pytest
import trustme

from prism.calls.json_text import check_params
from prism.contract.errors import (
    ForeignOrigin,
    InvalidRequest,
    PluginError,
    Unauthenticated,
    UnsupportedContentType,
)
from prism.contract.status import StatusCode
from prism.observability.access_lines import MAX_LINE_DETAIL
from prism.observability.access_log import AccessLog
from prism.observability.log_writer import LogWriter
from prism.observability.logs import JSONFormatter
from prism.server.exchange import Peer
from prism.streams.outlet import begin_turn, end_turn
from tests.frontends.probe_exchange import ProbeExchange
from tests.observability.conftest import Record

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
    assert (line.name, line.getMessage(), line.levelname) == (
        "prism.access",
        "request",
        "WARNING",
    )


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
    record = logging.LogRecord("prism.access", logging.WARNING, "", 0, "request", (), None)
    record.fields = FIELDS
    expected = json.loads(JSONFormatter().format(record))
    assert list(first) == list(expected)
    assert first | {"time": ""} == expected | {"time": ""}
    assert first["time"].endswith("Z")
    assert "reason" not in second
    assert second["attempts"] == 2


def test_nothing_waits_for_a_turn_where_there_is_none(call, json_log):
    AccessLog().add(call, 0.5)
    [line] = json_log()
    assert line["request_id"] == "id-1"


class Asked(ProbeExchange):
    """A request, of which only what it says is read."""

    def __init__(self, agent=b"curl/8", client=("2001:db8::1", 5), certificate=None):
        super().__init__(None, "POST", "/v1/kv/get?params=secret", [(b"user-agent", agent)])
        self.peer = Peer("http", client, certificate=certificate)


class Request(Record):
    """A call with a request."""

    __slots__ = ("exchange",)


@pytest.fixture
def logged(json_log):
    """``logged(log, exchange, **facts)``: the lines that a request has."""

    def logged(log, exchange=None, **facts):
        call = Request(0.0, None)
        call.exchange = exchange or Asked()
        for name, value in facts.items():
            setattr(call, name, value)
        log.add(call, 0.5)
        return json_log()

    return logged


def test_who_asked_for_what(logged):
    [line] = logged(AccessLog(), http_status=200)
    assert {name: line.get(name) for name in ("client", "method", "path", "protocol")} == {
        "client": "[2001:db8::1]:5",
        "method": "POST",
        "path": "/v1/kv/get",
        "protocol": "HTTP/2",
    }
    assert line["user_agent"] == "curl/8"
    assert "certificate" not in line


def test_nothing_that_a_client_makes_up_can_forge_a_line_or_a_terminal(logged):
    [line] = logged(AccessLog(), Asked(b"a\x1b[2Jb\xff" + b"x" * 1000))
    assert line["user_agent"].startswith("a\\x1b[2Jb\\xffxxx")
    assert len(line["user_agent"]) < 300
    [line] = logged(AccessLog(), detail="no \x1b such", status=StatusCode.NOT_FOUND)
    assert line["detail"] == "no \\x1b such"


@pytest.mark.parametrize(
    "error", [ForeignOrigin("http://\x1b[2J" + "x" * 9000), UnsupportedContentType("\n" * 9000)]
)
def test_what_a_refusal_quotes_of_the_client_is_short_and_drives_no_terminal(logged, error):
    assert len(str(error)) < 500
    [line] = logged(AccessLog(), detail=str(error) + "\n" * 9000, status=StatusCode.NOT_FOUND)
    assert line["detail"].isprintable()
    assert len(line["detail"]) < 5 * MAX_LINE_DETAIL


def test_the_certificate_has_a_name(logged):
    issued = trustme.CA().issue_cert("alice@example.org", common_name="alice")
    der = ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())
    [line] = logged(AccessLog(), Asked(certificate=der))
    assert "CN=alice" in line["certificate"]
    version = b"\xa0\x03\x02\x01\x02"
    [line] = logged(AccessLog(), Asked(certificate=der.replace(version, version[:-1] + b"\x01")))
    assert "certificate" not in line


async def test_a_refusal_says_why_and_a_plugins_words_are_its_own(make_record):
    record = make_record()
    record.note(InvalidRequest("why"))
    assert record.detail == "why"
    record.note(Unauthenticated("why", logged="why: it says 'a'"))
    assert record.detail == "why: it says 'a'"
    for params in (b'{"ada@example.com":1,"ada@example.com":2}', b'{"a":4111e9999}'):
        with pytest.raises(InvalidRequest) as caught:
            check_params(params, "line 1")
        record.note(caught.value)
        assert "ada" in str(caught.value) or "4111" in str(caught.value)
        assert "the params have" in record.detail
        assert "ada" not in record.detail
        assert "4111" not in record.detail
    record = make_record()
    record.note(PluginError(StatusCode.NOT_FOUND, "a value"))
    assert record.detail == ""


NOT_FOUND = {"status": StatusCode.NOT_FOUND, "http_status": 404}
FAULT = {"status": StatusCode.UNAVAILABLE, "http_status": 503}


@pytest.mark.parametrize(
    ("settings", "facts", "level"),
    [
        ({}, {"http_status": 200}, "info"),
        ({}, NOT_FOUND, "info"),
        ({}, FAULT, "warning"),
        ({}, {"status": StatusCode.INTERNAL, "http_status": 200}, "warning"),
        ({"requests": "failed"}, {"http_status": 200}, None),
        ({"requests": "failed"}, NOT_FOUND, "info"),
        ({"requests": "none"}, FAULT, None),
        ({"sample": 0.0}, {"http_status": 200}, None),
        ({"sample": 0.0}, NOT_FOUND, "info"),
    ],
)
def test_which_requests_have_a_line(settings, facts, level, caplog):
    call = Request(0.0, None)
    call.exchange = Asked()
    for name, value in facts.items():
        setattr(call, name, value)
    with caplog.at_level(logging.INFO, logger="prism.access"):
        AccessLog(**settings).add(call, 0.5)
    assert [record.levelname.lower() for record in caplog.records] == ([level] if level else [])


def test_at_warning_faults_are_still_seen(caplog, call):
    with caplog.at_level(logging.WARNING, logger="prism.access"):
        AccessLog().add(call, 0.5)
    assert len(caplog.records) == 1

"""docs/protocol.md against the code: tables, numbers and the worked examples."""

import re
from pathlib import Path

import msgspec
import pytest

from prism.channels.frames.link import LOOKS_PER_INTERVAL
from prism.config.types import HealthConfig, NamespaceLimits
from prism.contract import names
from prism.contract.errors import Overloaded
from prism.contract.messages import ExecuteRequest, ExecuteResponse, OperationDeclaration
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.sdk.serving import FIRST_RETRY, LAST_RETRY
from prism.sdk.session import HANDSHAKE_TIMEOUT
from prism.supervision.process import PASSED_ON
from prism.wire._state import CONNECTION, HANDLER, ConnectionState, Role, StreamState, Trigger
from prism.wire.events import Close, Hello, Open
from prism.wire.frames import ACK, END, NOT_STARTED, FrameType

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
EITHER_WAY = {
    trigger
    for trigger in Trigger
    if re.fullmatch(r"\w+?_(DATA|CLOSE|CANCEL|CREDIT|PING|NOTE)", trigger.name)
}


def drawn(states, title):
    """The rows of the page's table after ``title``, as the code writes them."""
    section = PAGE[PAGE.index(title) :]
    rows = {}
    for name, entries in re.findall(r"^\| ([A-Z_]+) \| ?(.*) ?\|$", section, re.MULTILINE):
        if name in rows or name not in states.__members__:
            break
        row = {}
        for entry in filter(None, (text.strip() for text in entries.split(","))):
            trigger, _, after = entry.partition(" → ")
            row[Trigger[trigger]] = states[after or name]
        rows[name] = row
    return {states[name]: row for name, row in rows.items()}


def test_connection_table():
    table = drawn(ConnectionState, "**Connection**, as the host sees it")
    expected = {
        state: {
            trigger: after
            for trigger, after in row.items()
            if trigger is not Trigger.ENDED and trigger not in EITHER_WAY
        }
        for state, row in CONNECTION[Role.HOST].items()
    }
    assert table == expected
    for state, row in CONNECTION[Role.HOST].items():
        running = state.name not in ("START", "OFFERED", "CLOSED")
        assert {t for t in row if t in EITHER_WAY} == (EITHER_WAY if running else set())


def test_call_table():
    table = drawn(StreamState, "**A call**, as the plugin sees it")
    everywhere = {
        Trigger.SENT_CLOSE: StreamState.CLOSED,
        Trigger.RECEIVED_CANCEL: StreamState.CANCELLED,
    }
    for state, row in HANDLER.items():
        credit = {Trigger.SENT_CREDIT: state, Trigger.RECEIVED_CREDIT: state}
        assert row == {**table[state], **everywhere, **credit}
    assert set(table) == set(HANDLER)


def test_numbers():
    for kind in FrameType:
        assert f"| {kind.value} | {kind.name} |" in PAGE
    for method, word in zip(Method, ("Initialize", "HealthCheck", "Execute"), strict=False):
        assert re.search(rf"\b{method.value}\s+{word}\b", PAGE)
    for status in StatusCode:
        assert f"| {status.value} | {status.name} |" in PAGE
    assert f"`END` = {END}, `NOT_STARTED` = {NOT_STARTED}, `ACK` = {ACK}" in PAGE


def test_what_the_host_and_the_sdk_hold_themselves_to():
    page = " ".join(PAGE.split())
    environment = re.search(r"The environment of a plugin .*? and the descriptor\.", page)
    assert environment
    assert re.findall(r"`([A-Z_]+)`", environment[0]) == ["PATH", *PASSED_ON, "PYTHONUNBUFFERED"]
    assert f"the SDK waits for {HANDSHAKE_TIMEOUT:g} s" in page
    assert f"{FIRST_RETRY:g} s at first, twice as long each time, at most {LAST_RETRY:g} s" in page
    assert f"An operation's name is {names.OPERATION_FORM}" in page
    interval = HealthConfig().interval_seconds
    assert LOOKS_PER_INTERVAL == 2
    assert f"half of `health.interval_seconds` ({interval:g} s)" in page
    assert "answers further calls 503, `overloaded`" in page
    assert (Overloaded.http_status, Overloaded.reason) == (503, "overloaded")


def test_every_field_of_an_operation_is_named():
    for field in OperationDeclaration.__struct_fields__:
        assert f'"{field}"' in PAGE or f"`{field}`" in PAGE


def test_the_frame_that_is_recommended_holds_every_body_of_the_default_size():
    """Text within JSON: each byte may be escaped, so that it is twice as long."""
    (recommended,) = set(re.findall(r"\b4194304\b", PAGE))
    body = NamespaceLimits().max_payload_bytes
    request = ExecuteRequest(
        operation="x" * 64, params_json='"' * body, metadata={"k" * 100: "v" * 8000}
    )
    assert len(msgspec.json.encode(request)) < int(recommended)


@pytest.mark.parametrize("field", Hello.__struct_fields__)
def test_every_field_of_hello_with_its_default(field):
    (default,) = re.findall(rf"^\| `{field}` \| (.*?) ?\|", PAGE, re.MULTILINE)
    if not default.startswith("same") and default:
        value = getattr(Hello(), field)
        shown = list(value) if isinstance(value, tuple) else value
        assert default.strip("`").replace('"', "'") == str(shown if shown != "" else "''")


def hex_blocks():
    four = r"[0-9a-f]{2}(?: [0-9a-f]{2}){3}"
    return [
        bytes.fromhex(block)
        for block in re.findall(rf"^    ({four}(?:  {four}){{3}})$", PAGE, re.MULTILINE)
    ]


def test_worked_example_of_a_header(connected):
    host, plugin = connected()
    host._next_stream = 3
    request = ExecuteRequest(operation="get", params_json='{"key":"user-1"}')
    host.send(Open(3, Method.EXECUTE, request, 1500))
    opened = host.data_to_send()
    plugin.receive_data(opened)
    plugin.next_event()
    answer = ExecuteResponse(success=True, result_json='{"found":false}')
    plugin.send(Close(3, StatusCode.OK, answer))
    closed = plugin.data_to_send()
    assert hex_blocks() == [opened[:16], closed[:16]]
    assert opened[16:].decode() in PAGE
    assert closed[16:].decode() in PAGE

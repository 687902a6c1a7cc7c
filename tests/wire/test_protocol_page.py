"""docs/protocol.md against the code: tables, numbers and the worked examples."""

import re
from pathlib import Path

import pytest

from prism.contract.messages import ExecuteRequest, ExecuteResponse
from prism.contract.service import Method
from prism.contract.status import StatusCode
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


def test_worked_example_of_a_header(greeted):
    host, plugin = greeted()
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

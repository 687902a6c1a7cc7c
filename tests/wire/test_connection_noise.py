"""Whatever bytes come, however they are cut: events or RemoteProtocolError, nothing else."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    InitializeResponse,
    StreamRequest,
    StreamResponse,
)
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.wire import ConnectionState, Role, codecs
from prism.wire.connection import Connection
from prism.wire.events import (
    Cancel,
    Credit,
    Data,
    GoAway,
    Hello,
    LogRecord,
    Note,
    Open,
    Ping,
)
from prism.wire.frames import Codec

HEADER = struct.Struct("!IIBBBBI")
TEXT = st.text(max_size=20)


def start(role, connected, carried):
    return Connection(role, Hello(name="x", max_streams=3, window=60, max_frame=300))


def awaiting_answer(role, connected, carried):
    if role is Role.PLUGIN:
        connection = start(role, connected, carried)
        connection.send(connection.local_hello)
        return connection
    connection = start(role, connected, carried)
    plugin = start(Role.PLUGIN, connected, carried)
    plugin.send(plugin.local_hello)
    carried(plugin, connection)
    return connection


def ready(codec):
    def build(role, connected, carried):
        limits = Hello(name="x", max_streams=3, window=60, max_frame=300)
        host, plugin = connected(codec, host=limits, plugin=limits)
        return host if role is Role.HOST else plugin

    return build


def busy(codec):
    """One call of each kind from either side, one of them cancelled."""

    def build(role, connected, carried):
        limits = Hello(name="x", max_streams=4, window=60, max_frame=300)
        host, plugin = connected(codec, host=limits, plugin=limits)
        for side in (host, plugin):
            side.send(Open(side.next_stream(), Method.EXECUTE, ExecuteRequest()))
            side.send(Open(side.next_stream(), Method.EXECUTE_STREAM, StreamRequest(), end=False))
            side.send(Open(side.next_stream(), Method.EXECUTE_STREAM, StreamRequest(), end=True))
            side.send(Cancel(side.next_stream() - 4))
        carried(host, plugin)
        carried(plugin, host)
        return host if role is Role.HOST else plugin

    return build


def draining(role, connected, carried):
    connection = busy("json")(role, connected, carried)
    connection.send(GoAway(0, "drain"))
    return connection


def closed(role, connected, carried):
    connection = busy("json")(role, connected, carried)
    connection.receive_data(b"")
    assert connection.next_event() is None
    assert connection.state is ConnectionState.CLOSED
    return connection


SITUATIONS = {
    "start": start,
    "offered": awaiting_answer,
    "ready-json": ready("json"),
    "ready-msgpack": ready("msgpack"),
    "busy-json": busy("json"),
    "busy-msgpack": busy("msgpack"),
    "draining": draining,
    "closed": closed,
}

MESSAGES = [
    ExecuteRequest(operation="get", params_json='{"key":"ü"}', metadata={"a": "b"}),
    ExecuteResponse(success=True, result_raw=b"\x80"),
    InitializeResponse(success=True, supported_operations=["get"]),
    StreamRequest(operation="watch"),
    StreamResponse(is_final=True),
    Hello(name="y", codecs=("json", "msgpack")),
    Hello(name="prism", codec="json"),
    Note(logs=[LogRecord("hello")]),
]

payloads = st.one_of(
    st.just(b""),
    st.binary(max_size=40),
    st.sampled_from([codecs.encode(c, m) for m in MESSAGES for c in (Codec.JSON, Codec.MSGPACK)]),
    st.sampled_from([b"{}", b"\x80", b"null", b"\xc0", b"[" * 300, b'{"a":' * 60, b"\x91" * 300]),
)


@st.composite
def frames(draw):
    payload = draw(payloads)
    length = len(payload) if draw(st.integers(0, 9)) else draw(st.integers(0, 2**32 - 1))
    header = HEADER.pack(
        length,
        draw(st.one_of(st.integers(0, 12), st.integers(0, 2**32 - 1))),
        draw(st.integers(0, 11)),
        draw(st.sampled_from([0, 1, 2, 4, 255])),
        draw(st.sampled_from([0, 1, 1, 1, 2, 2, 3])),
        draw(st.integers(0, 6)),
        draw(st.one_of(st.integers(0, 20), st.integers(0, 2**32 - 1))),
    )
    return header + payload


noise = st.one_of(st.binary(max_size=200), st.lists(frames(), min_size=1, max_size=8).map(b"".join))
cuts = st.lists(st.integers(0, 600), max_size=6)


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@pytest.mark.parametrize("role", Role, ids=lambda role: role.name)
@pytest.mark.parametrize("situation", SITUATIONS)
@settings(max_examples=30, deadline=None)
@given(data=noise, places=cuts)
def test_any_bytes(situation, role, connected, carried, fed, data, places):
    build = SITUATIONS[situation]
    whole = fed(build(role, connected, carried), [data])
    assert fed(build(role, connected, carried), cut_at(data, places)) == whole
    events, _error, state = whole
    assert state is ConnectionState.CLOSED
    assert len(events) <= len(data) // 16


conversation = [
    Open(1, Method.EXECUTE, ExecuteRequest(operation="get", params_json="{}"), deadline_ms=500),
    Open(3, Method.EXECUTE_STREAM, StreamRequest(operation="watch"), end=False),
    Ping(7),
    Data(3, StreamRequest(params_json="[1,2]")),
    Cancel(1, StatusCode.DEADLINE_EXCEEDED),
    Data(3, StreamRequest(params_json="[3]"), end=True),
    Note(logs=[LogRecord("hello", "WARNING")]),
    Credit(3, 100),
    GoAway(0, "drain"),
]


@st.composite
def mutations(draw, size):
    """Where bytes change, go or come."""
    place = st.integers(0, size - 1)
    return draw(
        st.lists(
            st.tuples(st.sampled_from(["set", "drop", "add"]), place, st.integers(0, 255)),
            min_size=1,
            max_size=4,
        )
    )


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@settings(max_examples=80, deadline=None)
@given(data=st.data(), places=cuts)
def test_mutated_conversation(codec, connected, fed, data, places):
    host, _ = connected(codec)
    for event in conversation:
        host.send(event)
    stream = bytearray(host.data_to_send())
    for act, place, byte in data.draw(mutations(len(stream))):
        place %= len(stream)
        if act == "set":
            stream[place] = byte
        elif act == "drop":
            del stream[place]
        else:
            stream.insert(place, byte)
    whole = fed(connected(codec)[1], [bytes(stream)])
    assert fed(connected(codec)[1], cut_at(bytes(stream), places)) == whole


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_conversation_bytewise_and_with_trailing_data(codec, connected, fed):
    host, plugin = connected(codec)
    for event in conversation:
        host.send(event)
    stream = host.data_to_send()
    events, error, _ = fed(plugin, [stream])
    assert error == ""
    without_sizes = [replace(e, size=0) if isinstance(e, Data) else e for e in events]
    assert sorted(map(repr, without_sizes)) == sorted(map(repr, conversation))
    assert fed(connected(codec)[1], [stream[i : i + 1] for i in range(len(stream))])[0] == events
    trailing, error, _ = fed(connected(codec)[1], [stream + b"\0"])
    assert trailing == events
    assert "middle of a frame" in error

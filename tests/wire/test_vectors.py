"""The golden vectors of schemas/vectors: read and written."""

import json
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from prism.contract.errors import HandshakeFailed, RemoteProtocolError
from prism.contract.service import REQUEST_TYPE, Method
from prism.contract.status import StatusCode
from prism.wire import ConnectionState, Role, events, handshake
from prism.wire.connection import Connection
from prism.wire.events import GoAway, Hello, Note, Open

VECTORS = Path(__file__).parents[2] / "schemas" / "vectors"


def load(name):
    return json.loads((VECTORS / f"{name}.json").read_text())


def cases(*names):
    return [
        pytest.param({"codec": file.get("codec"), **case}, id=f"{name}: {case['name']}")
        for name in names
        for file in [load(name)]
        for case in file["cases"]
    ]


def event_of(fields, sender):
    """The event that a vector describes, as ``sender`` would send it."""
    fields = dict(fields)
    kind = getattr(events, fields.pop("event"))
    if kind in (Hello, Note):
        return msgspec.convert(fields, kind)
    for name, numbers in (("status", StatusCode), ("method", Method)):
        if name in fields:
            fields[name] = numbers[fields[name]]
    if fields.get("message") is not None:
        if kind is Open:
            message_type = REQUEST_TYPE[fields["method"]]
        else:
            message_type = sender._streams[fields["stream"]].sends
        fields["message"] = msgspec.convert(fields["message"], message_type)
    return kind(**fields)


def read_all(connection):
    found = []
    while (event := connection.next_event()) is not None:
        found.append(event)
    return found


def speak(case_hex, described, sender, receiver):
    """Send what is described: the bytes are the vector's, and are read as described."""
    sent = []
    for fields in described:
        sent.append(event_of(fields, sender))
        sender.send(sent[-1])
    assert sender.data_to_send().hex() == case_hex
    receiver.receive_data(bytes.fromhex(case_hex))
    assert read_all(receiver) == sent


def replay(step, sender, receiver):
    """Bring both sides to where the bytes of ``step`` have been sent and read."""
    receiver.receive_data(bytes.fromhex(step["hex"]))
    for event in read_all(receiver):
        sender.send(event)
    assert sender.data_to_send().hex() == step["hex"]


def sides(pair, sender):
    host, plugin = pair
    return (host, plugin) if sender == "host" else (plugin, host)


@pytest.mark.parametrize("case", cases("frames-json", "frames-msgpack"))
def test_frames(case, connected):
    pair = connected(case["codec"])
    for step in case["before"]:
        replay(step, *sides(pair, step["sender"]))
    speak(case["hex"], [case["event"]], *sides(pair, case["sender"]))


@pytest.mark.parametrize("case", cases("handshake"))
def test_handshake(case):
    host = Connection(Role.HOST, msgspec.convert(load("handshake")["host"], Hello))
    offer_frame = bytes.fromhex(case["offer_hex"])
    assert offer_frame[16:] == case["offer_payload"].encode()
    host.receive_data(offer_frame)
    offer = host.next_event()
    try:
        answer = handshake.answer(offer, host.local_hello)
    except HandshakeFailed as refusal:
        assert not case["accepted"]
        answer = GoAway(0, str(refusal))
    else:
        assert case["accepted"]
    host.send(answer)
    frame = host.data_to_send()
    assert frame.hex() == case["answer_hex"]
    assert frame[16:] == case["answer_payload"].encode()

    plugin = Connection(Role.PLUGIN, msgspec.json.decode(case["offer_payload"], type=Hello))
    plugin.send(plugin.local_hello)
    plugin.receive_data(frame)
    assert type(plugin.next_event()) is type(answer)


def reader_in(case, connected):
    role = Role.HOST if case["to"] == "host" else Role.PLUGIN
    if case["state"] == "ready":
        return connected(case["codec"])[role is Role.PLUGIN]
    connection = Connection(role, Hello(name="x"))
    if case["state"] == "offered":
        connection.send(connection.local_hello)
        connection.data_to_send()
    return connection


@pytest.mark.parametrize("case", cases("errors"))
def test_errors(case, connected):
    data = bytes.fromhex(case["hex"])
    for chunks in ([data], [data[i : i + 1] for i in range(len(data))]):
        connection = reader_in({"codec": "json", **case}, connected)
        with pytest.raises(RemoteProtocolError):  # noqa: PT012 - which byte it is differs
            for chunk in [*chunks, b""]:
                connection.receive_data(chunk)
                read_all(connection)
        assert connection.state is ConnectionState.CLOSED
        assert connection.data_to_send()[8] == 8


@pytest.mark.parametrize("case", cases("tolerance"))
def test_tolerance(case, connected):
    host, plugin = connected(case["codec"])
    plugin.receive_data(bytes.fromhex(case["hex"]))
    found = read_all(plugin)
    for event in found:
        # The host's view, to know the types of later messages.
        if isinstance(event, Open):
            host._next_stream = event.stream
            host.send(replace(event, end=False))
    assert found == [event_of(fields, host) for fields in case["events"]]


@pytest.mark.parametrize("case", cases("conversations"))
def test_conversations(case):
    first, second, *steps = case["steps"]
    offer, reply = (msgspec.convert(step["events"][0], Hello) for step in (first, second))
    pair = Connection(Role.HOST, reply), Connection(Role.PLUGIN, offer)
    for step in case["steps"]:
        speak(step["hex"], step["events"], *sides(pair, step["sender"]))
    assert steps

"""The tables: every state and every trigger, in both roles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.contract.errors import LocalProtocolError, RemoteProtocolError
from prism.contract.messages import StreamRequest, StreamResponse
from prism.contract.service import REQUEST_TYPE, Method
from prism.contract.status import StatusCode
from prism.wire._state import (
    CALLER,
    CONNECTION,
    HANDLER,
    ConnectionState,
    Role,
    StreamState,
    Trigger,
    refusal,
)
from prism.wire.connection import Connection
from prism.wire.events import Cancel, Close, Credit, Data, GoAway, Hello, Note, Open, Ping
from prism.wire.frames import END, Codec, FrameType, pack

MIRROR = {
    trigger: Trigger[
        trigger.name.replace("SENT", "RECEIVED")
        if trigger.name.startswith("SENT")
        else trigger.name.replace("RECEIVED", "SENT")
    ]
    for trigger in Trigger
}


@pytest.mark.parametrize("role", Role)
def test_every_state_has_a_row_and_every_row_leads_to_a_state(role):
    table = CONNECTION[role]
    assert set(table) == set(ConnectionState)
    for row in table.values():
        assert row[Trigger.ENDED] is ConnectionState.CLOSED
        assert set(row.values()) <= set(ConnectionState)


def test_what_one_role_may_send_first_the_other_expects():
    host, plugin = CONNECTION[Role.HOST], CONNECTION[Role.PLUGIN]
    assert MIRROR[Trigger.SENT_HELLO] in host[ConnectionState.START]
    assert Trigger.SENT_HELLO in plugin[ConnectionState.START]
    assert Trigger.SENT_HELLO in host[ConnectionState.OFFERED]
    assert Trigger.RECEIVED_HELLO in plugin[ConnectionState.OFFERED]


def test_caller_and_handler_are_mirror_images():
    swap = {
        StreamState.SENT_END: StreamState.RECEIVED_END,
        StreamState.RECEIVED_END: StreamState.SENT_END,
    }
    for state, row in CALLER.items():
        if state is StreamState.CANCELLED:
            continue  # each side drops what was on its way, and sends no more itself
        mirrored = {MIRROR[t]: swap.get(after, after) for t, after in row.items()}
        assert HANDLER[swap.get(state, state)] == mirrored


def test_a_call_ends_only_by_the_handlers_close():
    for table, close in ((CALLER, Trigger.RECEIVED_CLOSE), (HANDLER, Trigger.SENT_CLOSE)):
        for row in table.values():
            enders = {t for t, after in row.items() if after is StreamState.CLOSED}
            assert enders == {close}


def test_refusal_says_whose_fault_it_is():
    assert isinstance(refusal(Trigger.RECEIVED_DATA, "x"), RemoteProtocolError)
    assert isinstance(refusal(Trigger.SENT_DATA, "x"), LocalProtocolError)
    assert str(refusal(Trigger.SENT_DATA_END, "x")) == "cannot send DATA_END in x"


# -- the same, through Connection ---------------------------------------------

EVENTS = {
    Trigger.SENT_HELLO: Hello(name="x", codec="json"),
    Trigger.SENT_PING: Ping(1),
    Trigger.SENT_GOAWAY: GoAway(0),
    Trigger.SENT_NOTE: Note(),
}
FRAMES = {
    Trigger.RECEIVED_HELLO: pack(FrameType.HELLO, 0, b'{"codec":"json"}', codec=Codec.JSON, aux=1),
    Trigger.RECEIVED_PING: pack(FrameType.PING, aux=1),
    Trigger.RECEIVED_GOAWAY: pack(FrameType.GOAWAY),
    Trigger.RECEIVED_NOTE: pack(FrameType.NOTE),
}


def in_state(role, state, connected, carried):
    """A connection brought to ``state`` by legal means."""
    if state is ConnectionState.START:
        return Connection(role, Hello(name="x"))
    if state is ConnectionState.OFFERED:
        plugin = Connection(Role.PLUGIN, Hello(name="p"))
        plugin.send(plugin.local_hello)
        if role is Role.PLUGIN:
            return plugin
        host = Connection(Role.HOST, Hello(name="h"))
        carried(plugin, host)
        return host
    host, plugin = connected()
    connection = host if role is Role.HOST else plugin
    if state in (ConnectionState.GOAWAY_SENT, ConnectionState.GOAWAY_BOTH):
        connection.send(GoAway(0))
    if state in (ConnectionState.GOAWAY_RECEIVED, ConnectionState.GOAWAY_BOTH):
        connection.receive_data(FRAMES[Trigger.RECEIVED_GOAWAY])
        assert isinstance(connection.next_event(), GoAway)
    if state is ConnectionState.CLOSED:
        connection.receive_data(b"")
        assert connection.next_event() is None
    return connection


@pytest.mark.parametrize("role", Role, ids=lambda role: role.name)
@pytest.mark.parametrize("state", ConnectionState, ids=lambda state: state.name)
def test_connection_follows_its_table(role, state, connected, carried):
    row = CONNECTION[role][state]
    for trigger, event in EVENTS.items():
        connection = in_state(role, state, connected, carried)
        assert connection.state is state
        if trigger in row:
            connection.send(event)
            assert connection.state is row[trigger]
        else:
            with pytest.raises(LocalProtocolError):
                connection.send(event)
            assert connection.state is state
    for trigger, frame in FRAMES.items():
        connection = in_state(role, state, connected, carried)
        connection.receive_data(frame)
        if state is ConnectionState.CLOSED:
            assert connection.next_event() is None
        elif trigger in row:
            assert connection.next_event() is not None
            assert connection.state is row[trigger]
        else:
            with pytest.raises(RemoteProtocolError, match="not allowed"):
                connection.next_event()
            assert connection.state is ConnectionState.CLOSED


def act(connection, trigger, stream, mine):
    """Do ``trigger`` on ``stream``; returns nothing, raises what the connection raises."""
    sends = StreamRequest() if mine else StreamResponse()
    name = trigger.name
    if name.startswith("SENT"):
        connection.send(
            {
                "SENT_DATA": Data(stream, sends),
                "SENT_DATA_END": Data(stream, sends, end=True),
                "SENT_CLOSE": Close(stream, StatusCode.OK),
                "SENT_CANCEL": Cancel(stream),
                "SENT_CREDIT": Credit(stream, 1),
            }[name]
        )
        return
    connection.receive_data(
        {
            "RECEIVED_DATA": pack(FrameType.DATA, stream),
            "RECEIVED_DATA_END": pack(FrameType.DATA, stream, flags=END),
            "RECEIVED_CLOSE": pack(FrameType.CLOSE, stream),
            "RECEIVED_CANCEL": pack(FrameType.CANCEL, stream),
            "RECEIVED_CREDIT": pack(FrameType.CREDIT, stream, aux=1),
        }[name]
    )
    connection.next_event()


STREAM_TRIGGERS = [
    trigger
    for trigger in Trigger
    if any(word in trigger.name for word in ("DATA", "CLOSE", "CANCEL", "CREDIT"))
]


@pytest.mark.parametrize("mine", [True, False])
@given(triggers=st.lists(st.sampled_from(STREAM_TRIGGERS), max_size=6))
def test_stream_follows_its_table(mine, connected, carried, triggers):
    connection, plugin = connected()
    opener = connection if mine else plugin
    stream = opener.next_stream()
    opener.send(Open(stream, Method.EXECUTE_STREAM, StreamRequest(), end=False))
    if not mine:
        carried(plugin, connection)
    table = CALLER if mine else HANDLER
    state = StreamState.OPEN
    for trigger in triggers:
        after = table[state].get(trigger)
        if after is None:
            with pytest.raises((LocalProtocolError, RemoteProtocolError)):
                act(connection, trigger, stream, mine)
            return
        act(connection, trigger, stream, mine)
        if after is StreamState.CLOSED:
            assert not connection.is_open(stream)
            return
        state = after
        assert connection._streams[stream].state is state


@pytest.mark.parametrize("method", [m for m in Method if m is not Method.EXECUTE_STREAM])
def test_unary_calls_carry_no_data(method, connected):
    host, _ = connected()
    host.send(Open(1, method, REQUEST_TYPE[method](), end=False))
    with pytest.raises(LocalProtocolError, match="cannot send DATA in stream state ENDED"):
        host.send(Data(1, StreamRequest()))
    host.receive_data(pack(FrameType.DATA, 1))
    with pytest.raises(RemoteProtocolError, match="DATA is not allowed in stream state ENDED"):
        host.next_event()

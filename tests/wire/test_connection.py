"""The rules that span several frames."""

import tracemalloc

import pytest
from msgspec.structs import replace

from prism.contract.errors import LocalProtocolError, PayloadTooLarge, RemoteProtocolError
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    HealthCheckRequest,
    HealthCheckResponse,
    HealthStatus,
    PluginMetrics,
    ShutdownRequest,
    StreamRequest,
    StreamResponse,
)
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.wire import ConnectionState, Role, codecs, handshake
from prism.wire.connection import MAX_FAULTS, MAX_HELLO, MAX_UNANSWERED_PINGS, Connection
from prism.wire.events import (
    MAX_CONTROL_CALLS,
    Cancel,
    Close,
    Credit,
    Data,
    GoAway,
    Hello,
    LogRecord,
    Note,
    Open,
    Overrun,
    Ping,
)
from prism.wire.frames import END, HEADER_SIZE, NOT_STARTED, Codec, FrameType, pack
from prism.wire.prepared import PreparedExecute

EXECUTE = ExecuteRequest(operation="get", params_json='{"key":"a"}')


def hello_frame(payload=b'{"name":"x"}', *, codec=Codec.JSON, version=1):
    return pack(FrameType.HELLO, 0, payload, codec=codec, aux=version)


def read_all(connection):
    while connection.next_event() is not None:
        pass


def breaks(connection, frame, complaint):
    connection.receive_data(frame)
    with pytest.raises(RemoteProtocolError, match=complaint) as first:
        read_all(connection)
    assert connection.state is ConnectionState.CLOSED
    with pytest.raises(RemoteProtocolError) as again:
        connection.next_event()
    assert again.value is first.value


# -- the handshake ------------------------------------------------------------


def test_a_name_suffices_for_a_plugin():
    host = Connection(Role.HOST, Hello(name="prism"))
    host.receive_data(hello_frame())
    offer = host.next_event()
    assert offer == Hello(name="x", protocol_max=1)
    host.send(handshake.answer(offer, host.local_hello))
    assert host.state is ConnectionState.READY
    assert host.codec is Codec.JSON
    assert host.peer_hello == offer
    assert not host.data_to_send().startswith(b"\0\0\0\0")


def test_both_sides_agree_on_messagepack(connected):
    host, plugin = connected("msgpack")
    assert host.codec is plugin.codec is Codec.MSGPACK
    assert plugin.peer_hello.protocol_max == 1


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (hello_frame(b"nonsense"), "not a Hello in JSON"),
        (hello_frame(b"\x80", codec=Codec.MSGPACK), "HELLO frame in codec 2; it must be 1"),
        (hello_frame(b'{"max_frame":0}'), "HELLO with max_frame=0"),
        (hello_frame(b'{"window":4294967296}'), "HELLO with window=4294967296"),
        (hello_frame(b'{"max_streams":-1}'), "HELLO with max_streams=-1"),
        (pack(FrameType.PING), "PING is not allowed in connection state START"),
        (pack(FrameType.OPEN, 2, method=3), "OPEN is not allowed in connection state START"),
        (hello_frame()[:4].replace(b"\0\0\0", b"\0\1\0") + hello_frame()[4:], "over the limit"),
        (b"GET / HTTP/1.1\r\nHost: prism\r\n\r\n", "unknown frame type 84"),
    ],
)
def test_bad_hellos(frame, complaint):
    host = Connection(Role.HOST, Hello(name="prism"))
    breaks(host, frame, complaint)
    host = Connection(Role.HOST, Hello(name="prism"))
    for i in range(len(frame)):
        host.receive_data(frame[i : i + 1])
        try:
            assert host.next_event() is None
        except RemoteProtocolError:
            break
    assert host.state is ConnectionState.CLOSED
    assert host.data_to_send()[8] == FrameType.GOAWAY


def test_a_second_hello_is_an_error(connected):
    host, plugin = connected()
    breaks(host, hello_frame(), "HELLO is not allowed in connection state READY")
    breaks(plugin, hello_frame(), "HELLO is not allowed in connection state READY")


def test_a_plugin_refuses_a_codec_it_did_not_offer():
    plugin = Connection(Role.PLUGIN, Hello(name="p"))
    plugin.send(plugin.local_hello)
    breaks(plugin, hello_frame(b'{"codec":"msgpack"}'), "the host chose codec 'msgpack'")


def test_a_host_cannot_choose_what_was_not_offered():
    host = Connection(Role.HOST, Hello(name="prism"))
    with pytest.raises(LocalProtocolError):
        host.send(Hello(codec="json"))
    host.receive_data(hello_frame())
    host.next_event()
    for reply in (Hello(), Hello(codec="msgpack"), Hello(codec="json", window=0)):
        with pytest.raises(LocalProtocolError):
            host.send(reply)
    assert host.state is ConnectionState.OFFERED
    assert host.queued_bytes == 0


def test_a_hello_that_is_too_large_is_not_sent():
    plugin = Connection(Role.PLUGIN, Hello(name="x" * MAX_HELLO))
    with pytest.raises(PayloadTooLarge):
        plugin.send(plugin.local_hello)
    assert plugin.state is ConnectionState.START


@pytest.mark.parametrize("hello_first", [False, True])
def test_either_side_can_be_refused_before_the_handshake_is_over(hello_first):
    plugin = Connection(Role.PLUGIN, Hello(name="p"))
    if hello_first:
        plugin.send(plugin.local_hello)
    plugin.receive_data(pack(FrameType.GOAWAY, 0, b'{"reason":"no"}', codec=Codec.JSON))
    assert plugin.next_event() == GoAway(0, "no")
    assert plugin.state is ConnectionState.CLOSED
    assert plugin.next_event() is None


# -- calls --------------------------------------------------------------------


def test_a_unary_call(connected, carried):
    host, plugin = connected()
    host.send(Open(1, Method.EXECUTE, EXECUTE, deadline_ms=1500))
    assert carried(host, plugin) == [Open(1, Method.EXECUTE, EXECUTE, 1500)]
    assert plugin.last_peer_stream == 1
    answer = Close(1, StatusCode.NOT_FOUND, ExecuteResponse(error="no"))
    plugin.send(answer)
    assert carried(plugin, host) == [answer]
    assert host.open_streams == plugin.open_streams == 0
    assert host.next_stream() == 3


def test_a_close_without_a_message(connected, carried):
    host, plugin = connected()
    host.send(Open(1, Method.EXECUTE, EXECUTE))
    carried(host, plugin)
    plugin.send(Close(1, StatusCode.UNAVAILABLE, not_started=True))
    assert carried(plugin, host) == [Close(1, StatusCode.UNAVAILABLE, None, not_started=True)]


def test_after_a_cancel_the_close_is_still_owed(connected, carried):
    host, plugin = connected()
    host.send(Open(1, Method.EXECUTE, EXECUTE))
    host.send(Cancel(1, StatusCode.DEADLINE_EXCEEDED))
    host.send(Cancel(1))
    assert carried(host, plugin)[1:] == [Cancel(1, StatusCode.DEADLINE_EXCEEDED)]
    assert host.open_streams == plugin.open_streams == 1
    plugin.send(Close(1, StatusCode.CANCELLED))
    carried(plugin, host)
    assert host.open_streams == plugin.open_streams == 0


def test_only_the_caller_cancels_and_only_the_handler_closes(connected, carried):
    host, plugin = connected()
    host.send(Open(1, Method.EXECUTE, EXECUTE))
    carried(host, plugin)
    with pytest.raises(LocalProtocolError, match="cannot send CLOSE"):
        host.send(Close(1, StatusCode.OK))
    with pytest.raises(LocalProtocolError, match="cannot send CANCEL"):
        plugin.send(Cancel(1))
    breaks(host, pack(FrameType.CANCEL, 1), "CANCEL is not allowed")
    breaks(plugin, pack(FrameType.CLOSE, 1), "CLOSE is not allowed")


def test_one_close_for_one_open(connected, carried):
    host, plugin = connected()
    host.send(Open(1, Method.EXECUTE, EXECUTE))
    carried(host, plugin)
    plugin.send(Close(1, StatusCode.OK))
    with pytest.raises(LocalProtocolError, match="stream 1 is not open"):
        plugin.send(Close(1, StatusCode.OK))


def test_messages_of_the_wrong_type_are_not_sent(connected, carried):
    host, plugin = connected()
    with pytest.raises(LocalProtocolError, match="a StreamRequest in place of a ExecuteRequest"):
        host.send(Open(1, Method.EXECUTE, StreamRequest()))
    host.send(Open(1, Method.EXECUTE_STREAM, StreamRequest(), end=False))
    with pytest.raises(LocalProtocolError, match="in place of a StreamRequest"):
        host.send(Data(1, StreamResponse()))
    carried(host, plugin)
    with pytest.raises(LocalProtocolError, match="in place of a StreamResponse"):
        plugin.send(Close(1, StatusCode.OK, ExecuteResponse()))
    assert plugin.is_open(1)


def test_an_answer_that_is_too_large_leaves_the_call_open(connected, carried):
    host, plugin = connected(host=Hello(name="prism", max_frame=100))
    host.send(Open(1, Method.EXECUTE, EXECUTE))
    carried(host, plugin)
    with pytest.raises(PayloadTooLarge):
        plugin.send(Close(1, StatusCode.OK, ExecuteResponse(result_json="x" * 100)))
    plugin.send(Close(1, StatusCode.RESOURCE_EXHAUSTED))
    assert carried(plugin, host) == [Close(1, StatusCode.RESOURCE_EXHAUSTED)]


def test_all_events_in_one_go_are_those_that_come_one_by_one(connected):
    host, one_by_one = connected()
    _host, in_one_go = connected()
    for event in (1, 3, Cancel(3), 5):
        host.send(Open(event, Method.EXECUTE, EXECUTE) if isinstance(event, int) else event)
    data = host.data_to_send()
    for plugin in (one_by_one, in_one_go):
        plugin.receive_data(data[:-10])
    expected = [one_by_one.next_event() for _ in range(3)]
    assert in_one_go.next_events() == expected
    assert in_one_go.next_events() == []
    assert [in_one_go.is_cancelled(stream) for stream in (1, 3, 5, 7)] == [
        False,
        True,
        False,
        False,
    ]
    assert in_one_go.mid_frame


def test_an_error_comes_after_the_events_before_it(connected):
    host, plugin = connected()
    host.send(Ping(1))
    plugin.receive_data(host.data_to_send() + b"\xff" * 16)
    assert plugin.next_events() == [Ping(1)]
    plugin.send(Ping(1, ack=True))
    assert plugin.data_to_send()[8] == FrameType.PING
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="unknown frame type 255"):
            plugin.next_events()
        assert plugin.state is ConnectionState.CLOSED
    assert plugin.data_to_send()[8] == FrameType.GOAWAY


def test_late_frames_are_ignored_for_as_long_as_the_connection_lives(connected, carried):
    host, plugin = connected()
    for _ in range(2000):
        stream = host.next_stream()
        host.send(Open(stream, Method.EXECUTE, EXECUTE))
        carried(host, plugin)
        host.send(Cancel(stream))
        plugin.send(Close(stream, StatusCode.DEADLINE_EXCEEDED))
        assert carried(host, plugin) == []
        assert carried(plugin, host) == [Close(stream, StatusCode.DEADLINE_EXCEEDED)]
    assert plugin.state is ConnectionState.READY


@pytest.mark.parametrize(
    "kind", [FrameType.DATA, FrameType.CLOSE, FrameType.CANCEL, FrameType.CREDIT]
)
@pytest.mark.parametrize("stream", [3, 4])
def test_frames_for_calls_that_never_were(kind, stream, connected):
    host, plugin = connected()
    host.send(Open(1, Method.EXECUTE, EXECUTE))
    for connection in (host, plugin):
        breaks(connection, pack(kind, stream), "which was never opened")


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (pack(FrameType.OPEN, 2, method=3), "ids of this peer are odd and above 0"),
        (pack(FrameType.OPEN, 1, method=0), "unknown method 0"),
        (pack(FrameType.OPEN, 1, method=6), "unknown method 6"),
        (pack(FrameType.OPEN, 1, b"\x80", method=3, codec=Codec.MSGPACK), "codec 2; it must be 1"),
        (pack(FrameType.OPEN, 1, b"{}", method=3, codec=9), "codec 9; it must be 1 \\(JSON\\)"),
        (pack(FrameType.OPEN, 1, b"{}", method=3), "codec 0; it must be 1"),
        (pack(FrameType.OPEN, 1, method=3) * 2, "odd and above 1"),
    ],
)
def test_bad_opens(frame, complaint, connected):
    breaks(connected()[1], frame, complaint)


def test_unknown_flags_are_ignored(connected):
    _, plugin = connected()
    plugin.receive_data(pack(FrameType.OPEN, 1, method=3, flags=0xF8))
    assert plugin.next_event() == Open(1, Method.EXECUTE, ExecuteRequest())
    plugin.receive_data(pack(FrameType.CANCEL, 1, aux=99, flags=0xFF))
    assert plugin.next_event() == Cancel(1, StatusCode.UNKNOWN)


def test_statuses_a_newer_peer_may_know_are_unknown(connected):
    host, _ = connected()
    host.send(Open(1, Method.EXECUTE, EXECUTE))
    host.receive_data(pack(FrameType.CLOSE, 1, aux=17, flags=NOT_STARTED))
    assert host.next_event() == Close(1, StatusCode.UNKNOWN, not_started=True)


def test_as_many_calls_as_the_peer_takes(connected, carried):
    host, plugin = connected(plugin=Hello(name="p", max_streams=2))
    for stream in (1, 3):
        assert host.can_open
        host.send(Open(stream, Method.EXECUTE, EXECUTE))
    assert not host.can_open
    with pytest.raises(LocalProtocolError, match="the peer takes 2 calls at a time"):
        host.send(Open(5, Method.EXECUTE, EXECUTE))
    carried(host, plugin)
    plugin.send(Close(1, StatusCode.OK))
    assert not host.can_open
    carried(plugin, host)
    assert host.can_open


def test_a_full_plugin_can_still_be_asked_how_it_is(connected, carried):
    host, plugin = connected(plugin=Hello(name="p", max_streams=1))
    host.send(Open(1, Method.EXECUTE, EXECUTE))
    for number in range(MAX_CONTROL_CALLS):
        assert host.can_open_control
        host.send(Open(3 + 2 * number, Method.HEALTH_CHECK, HealthCheckRequest()))
    assert not host.can_open_control
    with pytest.raises(LocalProtocolError, match="4 calls of this kind are open already"):
        host.send(Open(11, Method.HEALTH_CHECK, HealthCheckRequest()))
    carried(host, plugin)
    plugin.send(Close(3, StatusCode.OK, HealthCheckResponse(status=HealthStatus.HEALTHY)))
    carried(plugin, host)
    assert host.can_open_control
    assert not host.can_open
    breaks(
        plugin,
        pack(FrameType.OPEN, 11, method=3) + pack(FrameType.OPEN, 13, method=3),
        "OPEN beyond the 1 calls",
    )


def test_ids_run_out(connected, carried):
    host, plugin = connected()
    host._next_stream = 2**32 - 1
    host.send(Open(2**32 - 1, Method.EXECUTE, EXECUTE))
    assert len(carried(host, plugin)) == 1
    assert not host.can_open
    with pytest.raises(LocalProtocolError, match="cannot be packed"):
        host.send(Open(2**32 + 1, Method.EXECUTE, EXECUTE))
    assert host.open_streams == 1


# -- streams and credit -------------------------------------------------------


def test_both_directions_and_half_close(connected, carried):
    host, plugin = connected("msgpack")
    host.send(Open(1, Method.EXECUTE_STREAM, StreamRequest(operation="chat"), end=False))
    host.send(Data(1, StreamRequest(params_raw=b"\x01"), end=True))
    with pytest.raises(LocalProtocolError, match="cannot send DATA in stream state SENT_END"):
        host.send(Data(1, StreamRequest()))
    _, data = carried(host, plugin)
    assert replace(data, size=0) == Data(1, StreamRequest(params_raw=b"\x01"), end=True)
    plugin.send(Data(1, StreamResponse(result_json="1")))
    plugin.send(Data(1, StreamResponse(result_json="2"), end=True))
    plugin.send(Close(1, StatusCode.OK))
    assert [type(event) for event in carried(plugin, host)] == [Data, Data, Close]


def test_credit_counts_header_and_payload(connected, carried):
    host, plugin = connected(plugin=Hello(name="p", window=40))
    host.send(Open(1, Method.EXECUTE_STREAM, StreamRequest(), end=False))
    assert host.send_credit(1) == 40
    message = StreamRequest(params_json="abcd")
    size = HEADER_SIZE + len(b'{"params_json":"abcd"}')
    host.send(Data(1, message))
    assert host.send_credit(1) == 40 - size > 0
    host.send(Data(1, message))
    assert host.send_credit(1) == 40 - 2 * size < 0
    with pytest.raises(LocalProtocolError, match="stream 1 has no credit"):
        host.send(Data(1, message))
    assert [event.size for event in carried(host, plugin)[1:]] == [size, size]
    plugin.send(Credit(1, 2 * size))
    assert carried(plugin, host) == [Credit(1, 2 * size)]
    assert host.send_credit(1) == 40


def test_an_overrun_is_told_once_and_ends_the_calls_data(connected):
    host, plugin = connected(plugin=Hello(name="p", window=20))
    host.send(Open(1, Method.EXECUTE_STREAM, StreamRequest(), end=False))
    plugin.receive_data(host.data_to_send())
    plugin.next_event()
    data = pack(FrameType.DATA, 1, b'{"params_json":"1"}', codec=Codec.JSON)
    plugin.receive_data(data * 3)
    assert isinstance(plugin.next_event(), Data)
    assert plugin.next_event() == Overrun(1)
    assert plugin.next_event() is None
    plugin.send(Credit(1, 1000))
    plugin.receive_data(data + pack(FrameType.DATA, 1, flags=END))
    assert plugin.next_event() is None
    plugin.send(Close(1, StatusCode.RESOURCE_EXHAUSTED))
    assert plugin.state is ConnectionState.READY
    with pytest.raises(LocalProtocolError, match="Overrun cannot be sent"):
        plugin.send(Overrun(1))


def test_credit_has_an_upper_limit(connected, carried):
    host, plugin = connected()
    host.send(Open(1, Method.EXECUTE_STREAM, StreamRequest(), end=False))
    carried(host, plugin)
    with pytest.raises(LocalProtocolError, match="credit of stream 1 would be"):
        plugin.send(Credit(1, 2**32 - 1))
    breaks(host, pack(FrameType.CREDIT, 1, aux=2**32 - 1), "adds up to over")


def test_data_that_crossed_a_cancel_is_dropped_undecoded(connected, carried):
    host, plugin = connected()
    host.send(Open(1, Method.EXECUTE_STREAM, StreamRequest(), end=False))
    carried(host, plugin)
    host.send(Cancel(1))
    host.receive_data(pack(FrameType.DATA, 1, b"nonsense", codec=7))
    assert host.next_event() is None
    with pytest.raises(LocalProtocolError, match="cannot send DATA in stream state CANCELLED"):
        host.send(Data(1, StreamRequest()))


def test_a_call_that_was_cancelled_has_no_room_for_data(connected, carried):
    host, plugin = connected()
    host.send(Open(1, Method.EXECUTE_STREAM, StreamRequest(), end=False))
    carried(host, plugin)
    assert plugin.send_credit(1) > 0
    host.send(Cancel(1))
    carried(host, plugin)
    assert plugin.is_open(1)
    assert plugin.send_credit(1) == 0


# -- order of writing ---------------------------------------------------------


def test_a_cancel_passes_data_but_never_its_own_open(connected, carried):
    host, plugin = connected()
    request = StreamRequest(params_json="x" * 200_000)
    host.send(Open(1, Method.EXECUTE_STREAM, request, end=False))
    assert [type(e) for e in carried(host, plugin)] == [Open]
    host.send(Data(1, request))
    host.send(Open(3, Method.EXECUTE_STREAM, request, end=False))
    host.send(Credit(3, 5))
    host.send(Cancel(1))
    host.send(Cancel(3))
    # The Data of call 1 arrives after its Cancel, and is dropped.
    assert [(type(e), e.stream) for e in carried(host, plugin)] == [
        (Cancel, 1),
        (Open, 3),
        (Credit, 3),
        (Cancel, 3),
    ]


# -- drain and end ------------------------------------------------------------


def test_the_host_may_open_after_its_own_goaway_but_not_after_the_plugins(connected, carried):
    host, plugin = connected()
    host.send(GoAway(0, "reload"))
    host.send(Open(1, Method.SHUTDOWN, ShutdownRequest(reason="reload")))
    assert carried(host, plugin) == [
        GoAway(0, "reload"),
        Open(1, Method.SHUTDOWN, ShutdownRequest(reason="reload")),
    ]
    plugin.send(GoAway(1, "leaving"))
    assert carried(plugin, host) == [GoAway(1, "leaving")]
    assert host.state is ConnectionState.GOAWAY_BOTH
    assert not host.can_open
    with pytest.raises(LocalProtocolError, match="cannot send OPEN in connection state GOAWAY"):
        host.send(Open(3, Method.EXECUTE, EXECUTE))


def test_an_open_that_crossed_a_goaway_still_arrives(connected, carried):
    host, plugin = connected()
    host.send(Open(1, Method.EXECUTE, EXECUTE))
    plugin.send(GoAway(0))
    assert carried(host, plugin) == [Open(1, Method.EXECUTE, EXECUTE)]
    plugin.send(Close(1, StatusCode.UNAVAILABLE, not_started=True))
    assert carried(plugin, host)[1].not_started


@pytest.mark.parametrize("reason", ["", "x" * 5000, "\0" * 5000, "\ud800"])
def test_any_reason_fits(reason, connected, carried):
    host, plugin = connected(plugin=Hello(name="p", max_frame=50))
    host.send(GoAway(0, reason))
    (goaway,) = carried(host, plugin)
    assert len(goaway.reason) <= 50


def test_the_end_of_the_stream(connected):
    host, _ = connected()
    host.receive_data(b"")
    assert host.next_event() is None
    assert host.state is ConnectionState.CLOSED
    host.receive_data(b"what comes now is ignored")
    assert host.next_event() is None
    assert not host.mid_frame
    with pytest.raises(LocalProtocolError):
        host.send(Ping(1))


def test_a_broken_rule_is_explained_to_the_peer(connected):
    host, plugin = connected()
    breaks(plugin, pack(FrameType.OPEN, 1, method=77), "unknown method 77")
    host.receive_data(plugin.data_to_send())
    assert host.next_event() == GoAway(0, "OPEN for unknown method 77 (known: 1 to 5)")
    with pytest.raises(LocalProtocolError):
        plugin.send(Ping(1))


# -- what a peer can make this side hold --------------------------------------


def test_pings_from_a_peer_that_does_not_read(connected):
    host, _ = connected()
    ping = pack(FrameType.PING, aux=1)
    limit = MAX_UNANSWERED_PINGS + host.local_hello.max_streams
    for _ in range(3):
        host.receive_data(ping * limit)
        for _ in range(limit):
            host.send(replace(host.next_event(), ack=True))
        assert len(host.data_to_send()) == limit * HEADER_SIZE
    breaks(host, ping * (limit + 1), "arrived while no answer could leave")


def test_calls_from_a_peer_that_does_not_read(connected):
    host, _ = connected()
    for number in range(2, 1_000_000, 2):
        host.receive_data(pack(FrameType.OPEN, number, method=3))
        try:
            host.next_event()
        except RemoteProtocolError:
            break
        host.send(Close(number, StatusCode.UNIMPLEMENTED, not_started=True))
    assert host.state is ConnectionState.CLOSED
    assert host.queued_bytes < 50_000


def test_nothing_is_held_for_a_stranger():
    host = Connection(Role.HOST, Hello(name="prism", max_frame=2**31))
    tracemalloc.start()
    try:
        breaks(host, (2**20).to_bytes(4, "big") + bytes(4) + b"\1\0\1\0" + bytes(4), "limit")
        for _ in range(100):
            host.receive_data(b"x" * 100_000)
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


def test_notes(connected, carried):
    host, plugin = connected("msgpack")
    note = Note(logs=[LogRecord("hi", "WARNING", "x", 1.5)])
    plugin.send(note)
    assert carried(plugin, host) == [note]
    with pytest.raises(LocalProtocolError, match="NOTE with 1001 log records"):
        plugin.send(Note(logs=[LogRecord()] * 1001))


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("number", [1001, 5000])
def test_log_records_beyond_those_of_a_note_are_dropped(connected, codec, number):
    host, _plugin = connected(codec)
    metrics = PluginMetrics(requests_total=7)
    logs = [LogRecord(f"line {n}") for n in range(number)]
    payload = codecs.encode(host.codec, Note(logs=logs, metrics=metrics))
    host.receive_data(pack(FrameType.NOTE, payload=payload, codec=host.codec))
    assert host.next_event() == Note(logs=logs[:1000], metrics=metrics)
    assert [fault.rule for fault in host.faults] == ["long_note"]


def test_of_a_note_that_is_far_too_long_the_records_are_dropped_undecoded(connected):
    host, _plugin = connected("msgpack", host=Hello(name="h", max_frame=8 * 1024 * 1024))
    number = 4_000_000
    payload = b"\x82\xa4logs\xdd" + number.to_bytes(4) + b"\x80" * number
    payload += b"\xa6health\x81\xa6status\x01"
    host.receive_data(pack(FrameType.NOTE, payload=payload, codec=Codec.MSGPACK))
    assert host.next_event() == Note(health=HealthCheckResponse(status=HealthStatus.DEGRADED))
    assert [fault.rule for fault in host.faults] == ["long_note"]


def test_what_follows_a_close_is_noticed_by_the_host_alone(connected, carried):
    host, plugin = connected()
    for stream in (1, 3):
        host.send(Open(stream, Method.EXECUTE, EXECUTE))
    carried(host, plugin)
    host.send(Cancel(1))
    late = host.data_to_send()
    for stream in (1, 3):
        plugin.send(Close(stream, StatusCode.OK))
    carried(plugin, host)
    plugin.receive_data(late)
    assert plugin.next_events() == []
    assert plugin.faults == []
    host.receive_data(pack(FrameType.CLOSE, 3) + pack(FrameType.CREDIT, 1, aux=5))
    assert host.next_events() == []
    assert [fault.what for fault in host.faults] == [
        "CLOSE for call 3 after its CLOSE",
        "CREDIT for call 1 after its CLOSE",
    ]
    host.receive_data(pack(FrameType.CLOSE, 3) * 2000)
    host.next_events()
    assert len(host.faults) == MAX_FAULTS


# -- large messages -----------------------------------------------------------


def test_the_params_of_a_large_call_are_not_copied(connected):
    host, plugin = connected("msgpack")
    params = b'{"key":"%s"}' % (b"k" * 100_000)
    prepared = PreparedExecute("get", "demo", "anonymous")
    stream = host.open_execute(prepared.payload(params, "id", "t" * 55), 1000)
    size = host.queued_bytes
    pieces = host.pieces_to_send()
    assert [piece is params for piece in pieces] == [False, True, False]
    assert sum(map(len, pieces)) == size
    for piece in pieces:
        plugin.receive_data(piece)
    opened = plugin.next_event()
    assert opened.stream == stream
    assert opened.message.params_json == params.decode()
    assert opened.message.metadata["prism-request-id"] == "id"


def test_a_small_call_is_one_piece(connected):
    host, _ = connected("msgpack")
    prepared = PreparedExecute("get", "demo", "anonymous")
    host.open_execute(prepared.payload(b"{}", "id", "t" * 55), 1000)
    assert isinstance(host.pieces_to_send(), bytes)


def test_a_large_answer_is_encoded_once_and_not_copied(connected):
    host, plugin = connected("msgpack")
    stream = host.next_stream()
    host.send(Open(stream, Method.EXECUTE, EXECUTE))
    plugin.receive_data(host.data_to_send())
    assert plugin.next_event() is not None
    plugin.send(
        Close(stream, StatusCode.OK, ExecuteResponse(success=True, result_json="x" * 100_000))
    )
    header, payload = plugin.pieces_to_send()
    assert len(header) == HEADER_SIZE
    host.receive_data(header + payload[:50_000])
    assert host.next_event() is None
    assert host.bytes_missing == len(payload) - 50_000
    host.receive_data(payload[50_000:])
    assert host.next_event().message.result_json == "x" * 100_000

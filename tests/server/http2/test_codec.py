"""What the connection relies on, of both codecs; a library that moves it fails here."""

import gc
import struct
import tracemalloc

import h2.config
import h2.connection
import h2.events
import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame, RstStreamFrame, SettingsFrame

from prism.server.http2.events import (
    ClientLeaving,
    DataReceived,
    PingAnswered,
    Request,
    RequestEnded,
    RequestMalformed,
    StreamReset,
    WindowOpened,
)
from prism.server.http2.h2_codec import H2Codec
from prism.server.http2.limits import ClientError
from prism.server.http2.request import TOO_LARGE
from prism.server.settings import ServerSettings

HEAD = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
STATUS = [(b":status", b"200")]


@pytest.fixture
def client():
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.config.validate_outbound_headers = client.config.normalize_outbound_headers = False
    client.initiate_connection()
    return client


@pytest.fixture
def make_codec(implementation):
    return lambda **limits: implementation.codec(ServerSettings(**limits), 0.0)


@pytest.fixture
def codec(make_codec):
    return make_codec()


def receive(codec, data):
    """What comes of ``data``, in as many portions as it takes."""
    events = []
    while data:
        told, size = codec.receive(data, 0.0)
        events += told
        data = data[size:]
    return events


def begin(client, codec):
    """The prefaces of both sides."""
    client.receive_data(bytes(codec.take()))
    assert set(receive(codec, client.data_to_send())) == {WindowOpened(0)}
    client.receive_data(bytes(codec.take()))


def responses(client, codec):
    return client.receive_data(bytes(codec.take()))


def test_the_limits_are_announced(client, codec):
    client.receive_data(bytes(codec.take()))
    announced = client.remote_settings
    assert announced[SettingCodes.MAX_CONCURRENT_STREAMS] == 100
    assert announced[SettingCodes.MAX_HEADER_LIST_SIZE] == 32 * 1024
    assert announced[SettingCodes.ENABLE_CONNECT_PROTOCOL] == 1
    assert client.outbound_flow_control_window == 2**20


def test_a_request_received_whole_is_one_event(client, codec):
    begin(client, codec)
    client.send_headers(1, [*HEAD, ("a", "b"), ("cookie", "c=1"), ("cookie", "d=2")])
    for part in (b"b", b"o", b"d"):
        client.send_data(1, part)
    client.send_data(1, b"y", end_stream=True)
    headers = [(b"host", b"a"), (b"a", b"b"), (b"cookie", b"c=1; d=2")]
    assert receive(codec, client.data_to_send()) == [
        Request(1, b"POST", b"/", b"", headers, b"body", ended=True)
    ]
    assert codec.last_stream_id == 1


def test_bodies_that_come_behind_many_heads_come_with_them(client, codec):
    """As clients on nghttp2 send what they have to ask at once."""
    begin(client, codec)
    streams = range(1, 128, 2)
    for stream_id in streams:
        client.send_headers(stream_id, HEAD)
    for stream_id in streams:
        client.send_data(stream_id, b"{}", end_stream=True)
    data = client.data_to_send()
    events, size = codec.receive(data, 0.0)
    assert size == len(data)
    assert [(event.stream_id, event.body, event.ended) for event in events] == [
        (stream_id, b"{}", True) for stream_id in streams
    ]


def test_a_request_received_byte_by_byte_is_told_as_it_comes(client, codec):
    begin(client, codec)
    client.send_headers(1, HEAD)
    client.send_data(1, b"bo", pad_length=3)
    client.send_headers(1, [("a-trailer", "x")], end_stream=True)
    events = []
    for byte in client.data_to_send():
        events += receive(codec, bytes([byte]))
    assert events == [
        Request(1, b"POST", b"/", b"", [(b"host", b"a")], b"", ended=False),
        DataReceived(1, b"b"),
        DataReceived(1, b"o"),
        RequestEnded(1),
    ] or events == [
        Request(1, b"POST", b"/", b"", [(b"host", b"a")], b"", ended=False),
        DataReceived(1, b"bo"),
        RequestEnded(1),
    ]


def test_what_comes_of_a_body_at_once_is_one_event(client, codec):
    begin(client, codec)
    for stream_id in (1, 3):
        client.send_headers(stream_id, HEAD)
    receive(codec, client.data_to_send())
    for part in (b"a", b"b" * 16384, b"c"):
        client.send_data(1, part)
        client.send_data(3, part[:1])
    client.send_data(3, b"d", end_stream=True)
    events, _ = codec.receive(client.data_to_send(), 0.0)
    assert events == [
        DataReceived(1, b"a" + b"b" * 16384 + b"c"),
        DataReceived(3, b"abcd"),
        RequestEnded(3),
    ]
    client.send_data(1, b"e")
    assert receive(codec, client.data_to_send()) == [DataReceived(1, b"e")]


def test_a_window_can_be_widened(client, codec):
    begin(client, codec)
    for stream_id in (1, 3):
        client.send_headers(stream_id, HEAD)
    client.send_data(1, bytes(1000))
    receive(codec, client.data_to_send())
    codec.widen(1, 2**18)
    responses(client, codec)
    assert client.local_flow_control_window(1) == 2**18 - 1000
    assert client.local_flow_control_window(3) == 2**16 - 1
    for _ in range(15):
        client.send_data(1, bytes(16384))
        receive(codec, client.data_to_send())
        codec.consumed(1, 16384)
        responses(client, codec)
    assert client.local_flow_control_window(1) > 2**17
    client.reset_stream(1)
    receive(codec, client.data_to_send())
    codec.widen(1, 2**19)  # it is no more
    assert codec.backlog == 0


def test_a_burst_leaves_in_frames_that_every_client_takes(client, codec):
    begin(client, codec)
    body = bytes(range(256)) * 200
    for stream_id in (1, 3):
        client.send_headers(stream_id, HEAD, end_stream=True)
    receive(codec, client.data_to_send())
    codec.send_headers(1, STATUS, False)
    codec.send_data(1, memoryview(body), True)
    events = responses(client, codec)
    parts = [event.data for event in events if isinstance(event, h2.events.DataReceived)]
    assert [len(part) for part in parts] == [16384, 16384, 16384, 2048]
    assert b"".join(parts) == body
    assert isinstance(events[-1], h2.events.StreamEnded)
    assert codec.window(3) == 65535 - len(body)
    assert not codec.send_response(3, STATUS, body, True)


def test_extended_connect_is_told_with_its_protocol(client, codec):
    begin(client, codec)
    head = [(":method", "CONNECT"), (":protocol", "websocket"), *HEAD[1:]]
    client.send_headers(1, head)
    assert receive(codec, client.data_to_send()) == [
        Request(1, b"CONNECT", b"/", b"websocket", [(b"host", b"a")], b"", ended=False)
    ]


def test_a_response_in_one_call(client, codec):
    begin(client, codec)
    client.send_headers(1, HEAD, end_stream=True)
    receive(codec, client.data_to_send())
    assert codec.send_response(1, [*STATUS, (b"a", b"b")], b"body", True)
    kinds = [type(event).__name__ for event in responses(client, codec)]
    assert kinds == ["ResponseReceived", "DataReceived", "StreamEnded"]
    assert codec.backlog == 0


def test_a_response_that_does_not_fit_is_only_begun(client, codec):
    client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 3})
    begin(client, codec)
    for stream_id, size in ((1, 3), (3, 4), (5, 0)):
        client.send_headers(stream_id, HEAD, end_stream=True)
        receive(codec, client.data_to_send())
        assert codec.send_response(stream_id, STATUS, bytes(size), True) == (size < 4)
        ended = any(isinstance(e, h2.events.StreamEnded) for e in responses(client, codec))
        assert ended == (size < 4)
    assert codec.window(3) == 3
    codec.send_data(3, bytes(3), False)
    assert codec.window(3) == 0


def test_an_empty_end_passes_a_shut_window(client, codec):
    client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 3})
    begin(client, codec)
    client.send_headers(1, HEAD, end_stream=True)
    receive(codec, client.data_to_send())
    codec.send_headers(1, STATUS, False)
    codec.send_data(1, bytes(3), False)
    codec.send_data(1, b"", True)
    kinds = [type(event).__name__ for event in responses(client, codec)]
    assert kinds == ["ResponseReceived", "DataReceived", "DataReceived", "StreamEnded"]


def test_an_informational_response_and_trailers(client, codec):
    begin(client, codec)
    client.send_headers(1, HEAD)
    receive(codec, client.data_to_send())
    codec.send_headers(1, [(b":status", b"100")], False)
    codec.send_headers(1, STATUS, False)
    codec.send_data(1, b"x", False)
    codec.send_headers(1, [(b"grpc-status", b"0")], True)
    kinds = [type(event).__name__ for event in responses(client, codec)]
    assert kinds == [
        *("InformationalResponseReceived", "ResponseReceived", "DataReceived"),
        *("TrailersReceived", "StreamEnded"),
    ]


def test_many_and_large_headers_are_sent(client, codec):
    begin(client, codec)
    client.send_headers(1, HEAD, end_stream=True)
    receive(codec, client.data_to_send())
    many = [(b"name-%d" % number, b"v" * 600) for number in range(60)]  # several frames
    client.decoder.max_header_list_size = 2**20
    codec.send_headers(1, [*STATUS, *many], True)
    (event, _) = responses(client, codec)
    assert list(event.headers) == [*STATUS, *many]


def test_responses_can_be_sent_after_goaway_from_either_side(client, codec):
    begin(client, codec)
    client.send_headers(1, HEAD, end_stream=True)
    receive(codec, client.data_to_send())
    assert receive(codec, GoAwayFrame(0).serialize()) == [ClientLeaving()]
    codec.goaway(1, ErrorCodes.NO_ERROR)
    codec.take()
    codec.send_headers(1, STATUS, False)
    codec.send_data(1, b"late", True)
    assert b"late" in codec.take()


def test_goaway_says_what_it_is_told_and_changes_nothing(client, codec):
    begin(client, codec)
    codec.goaway(2**31 - 1, ErrorCodes.NO_ERROR)
    assert codec.take() == GoAwayFrame(0, last_stream_id=2**31 - 1).serialize()
    codec.goaway(0, ErrorCodes.NO_ERROR)
    client.send_headers(1, HEAD, end_stream=True)
    assert [type(event) for event in receive(codec, client.data_to_send())] == [Request]


def test_a_ping_is_answered_and_ours_is_told(client, codec):
    begin(client, codec)
    client.ping(b"12345678")
    assert receive(codec, client.data_to_send()) == []
    codec.ping(b"lastcall")
    kinds = [type(event).__name__ for event in responses(client, codec)]
    assert kinds == ["PingAckReceived", "PingReceived"]
    assert receive(codec, client.data_to_send()) == [PingAnswered(b"lastcall")]


def test_a_reset_by_the_client_is_told_once_ours_never(client, codec):
    begin(client, codec)
    for stream_id in (1, 3):
        client.send_headers(stream_id, HEAD)
    client.reset_stream(1, ErrorCodes.NO_ERROR)
    assert [type(event) for event in receive(codec, client.data_to_send())] == [
        *(Request, Request, StreamReset)
    ]
    codec.reset(3, ErrorCodes.REFUSED_STREAM)
    (event,) = responses(client, codec)
    assert event.error_code == ErrorCodes.REFUSED_STREAM
    client.ping(b"12345678")
    assert receive(codec, client.data_to_send()) == []


def test_data_for_a_stream_already_closed_is_not_an_error(client, codec):
    begin(client, codec)
    client.send_headers(1, HEAD)
    receive(codec, client.data_to_send())
    codec.send_headers(1, [(b":status", b"413")], True)
    codec.reset(1, ErrorCodes.NO_ERROR)
    client.send_data(1, bytes(16000))
    assert receive(codec, client.data_to_send()) == []
    codec.reset(1, ErrorCodes.NO_ERROR)


def test_a_stream_that_is_closed_takes_no_more(client, codec):
    begin(client, codec)
    for stream_id in (1, 3):
        client.send_headers(stream_id, HEAD)
    client.reset_stream(1)
    receive(codec, client.data_to_send())
    codec.reset(3, ErrorCodes.CANCEL)
    codec.take()
    for stream_id in (1, 3):
        codec.send_headers(stream_id, STATUS, False)
        codec.send_data(stream_id, b"x", False)
        codec.send_data(stream_id, b"", True)
        assert codec.send_response(stream_id, STATUS, b"x", True)
    assert codec.take() == b""


def test_bytes_consumed_for_a_closed_stream_are_not_an_error(client, codec):
    begin(client, codec)
    client.send_headers(1, HEAD)
    client.send_data(1, bytes(16000))
    receive(codec, client.data_to_send())
    codec.reset(1, ErrorCodes.NO_ERROR)
    codec.consumed(1, 16000)
    codec.consumed(1, 0)


def test_the_windows_open_as_bytes_are_consumed(client, codec):
    begin(client, codec)
    client.send_headers(1, HEAD)
    for _ in range(4):
        client.send_data(1, bytes(16000))
    receive(codec, client.data_to_send())
    assert responses(client, codec) == []
    codec.consumed(1, 64000)
    (event,) = responses(client, codec)
    assert (event.stream_id, event.delta) == (1, 64000)


def test_a_stream_above_the_announced_limit_is_told_like_any(client, make_codec):
    codec = make_codec(max_concurrent_streams=2)
    for stream_id in (1, 3, 5, 7, 9, 11):
        client.send_headers(stream_id, HEAD)
    kinds = [type(event) for event in receive(codec, client.data_to_send())]
    assert kinds == [WindowOpened] + [Request] * 6


def test_a_connection_leaves_no_cycle_behind(client, make_codec):
    gc.disable()
    gc.freeze()  # what other tests left is not looked at
    try:
        codec = make_codec()
        begin(client, codec)
        del codec
        assert gc.collect() == 0
    finally:
        gc.unfreeze()
        gc.enable()


def test_h2_remembers_only_the_last_streams_that_ended(client):
    codec = H2Codec(ServerSettings(), 0.0)
    begin(client, codec)
    for _ in range(4500):
        stream = client.get_next_available_stream_id()
        client.send_headers(stream, HEAD, end_stream=True)
        receive(codec, client.data_to_send())
        codec.send_response(stream, STATUS, b"", True)
        client.receive_data(bytes(codec.take()))
    assert len(codec._h2._closed_streams) == 2**12


def test_settings_that_nobody_knows_are_not_kept(codec):
    receive(codec, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())
    tracemalloc.start()
    for first in range(0x1000, 0xF000, 0x400):
        unknown = b"".join(struct.pack(">HI", key, 1) for key in range(first, first + 0x400))
        receive(codec, struct.pack(">I5x", len(unknown) << 8 | 4) + unknown)
        codec.take()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000  # bytes; h2 alone keeps some 800 for each setting


def test_changes_of_the_header_table_do_not_pile_up(client, make_codec):
    codec = make_codec(flood_budget=10_000)
    client.send_headers(1, HEAD, end_stream=True)
    for number in range(1000):
        client.update_settings({SettingCodes.HEADER_TABLE_SIZE: 100 + number % 2})
    receive(codec, client.data_to_send())
    client.receive_data(bytes(codec.take()))
    codec.send_headers(1, STATUS, True)
    response = codec.take()
    assert len(response) < 30
    assert any(
        isinstance(event, h2.events.ResponseReceived)
        for event in client.receive_data(bytes(response))
    )


BROKEN = {
    "preface": (b"not a preface at all!!!!", "PROTOCOL_ERROR"),
    "first frame": (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000008060000000000") + bytes(8),
        "PROTOCOL_ERROR",
    ),
    "DATA on stream 0": (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + SettingsFrame(0).serialize()
        + bytes.fromhex("000001000000000000ff"),
        "PROTOCOL_ERROR",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_rule_is_a_client_error_and_the_end(codec, what):
    data, code = BROKEN[what]
    for _ in range(2):
        with pytest.raises(ClientError, match=code):
            receive(codec, data)
    codec.take()
    codec.reset(1, ErrorCodes.NO_ERROR)
    codec.consumed(1, 5)
    codec.send_headers(1, STATUS, False)
    codec.send_data(1, b"x", True)
    codec.send_response(1, STATUS, b"x", True)
    codec.ping(b"12345678")
    assert codec.window(1) == 0
    codec.goaway(1, ErrorCodes.PROTOCOL_ERROR)
    goaway = GoAwayFrame(0, last_stream_id=1, error_code=ErrorCodes.PROTOCOL_ERROR)
    assert codec.take() == goaway.serialize()


LARGE_HEADS = {
    "size": [("a", "b" * 1000)],
    "fields": [(f"a{number}", "") for number in range(17)],
    "a cookie that is large as a whole": [("cookie", "a=" + "b" * 100)] * 8,
}


@pytest.mark.parametrize("fields", LARGE_HEADS.values(), ids=LARGE_HEADS.keys())
def test_a_header_section_above_the_limit_concerns_its_stream(client, make_codec, fields):
    codec = make_codec(max_header_size=1000, max_header_fields=20)
    client.send_headers(1, [*HEAD, *fields])
    client.send_headers(3, HEAD, end_stream=True)
    client.send_data(1, b"more", end_stream=True)
    _, large, good = receive(codec, client.data_to_send())
    assert large == RequestMalformed(1, TOO_LARGE)
    assert isinstance(good, Request)
    codec.take()
    codec.send_response(1, [(b":status", b"431")], b"too large", True)
    codec.send_response(3, STATUS, b"good", True)
    events = client.receive_data(codec.take())
    ended = [event.stream_id for event in events if isinstance(event, h2.events.StreamEnded)]
    assert ended == [1, 3]


def test_a_cookie_cut_into_many_fields_is_one(client, make_codec):
    codec = make_codec(max_header_fields=100)
    crumbs = [("cookie", f"c{number}=v") for number in range(300)]
    client.send_headers(1, [*HEAD, *crumbs], end_stream=True)
    _, request = receive(codec, client.data_to_send())
    assert request.headers[-1] == (b"cookie", b"; ".join(value.encode() for _, value in crumbs))


def test_trailers_above_the_limit_end_their_request(client, make_codec):
    codec = make_codec(max_header_fields=20)
    client.send_headers(1, HEAD)
    client.send_headers(1, [(f"t{number}", "") for number in range(21)], end_stream=True)
    assert RequestMalformed(1, "the trailers are too large") in receive(
        codec, client.data_to_send()
    )


def test_a_header_section_far_above_the_limit_is_a_client_error(client, make_codec):
    codec = make_codec(max_header_size=1000)
    client.send_headers(1, [*HEAD, *[("a", "b" * 100)] * 40], end_stream=True)
    with pytest.raises(ClientError, match="ENHANCE_YOUR_CALM"):
        receive(codec, client.data_to_send())


@pytest.mark.parametrize(
    ("length", "sent", "trailers"),
    [("5", b"1234", False), ("3", b"1234", False), ("5", b"1234", True), ("0", b"1", False)],
)
def test_a_body_not_as_long_as_declared_is_malformed(client, codec, length, sent, trailers):
    begin(client, codec)
    client.send_headers(1, [*HEAD, ("content-length", length)])
    receive(codec, client.data_to_send())
    client.send_data(1, sent, end_stream=not trailers)
    if trailers:
        client.send_headers(1, [("a", "b")], end_stream=True)
    events = receive(codec, client.data_to_send())
    assert [type(event) for event in events if type(event) is not DataReceived] == [
        RequestMalformed
    ]
    (event,) = responses(client, codec)
    assert event.error_code == ErrorCodes.PROTOCOL_ERROR
    codec.reset(1, ErrorCodes.PROTOCOL_ERROR)
    assert codec.backlog == 0


def test_a_body_too_long_is_malformed_though_answered_before(client, codec):
    begin(client, codec)
    client.send_headers(1, [*HEAD, ("content-length", "1")])
    receive(codec, client.data_to_send())
    codec.send_response(1, STATUS, b"early", True)
    responses(client, codec)
    client.send_data(1, b"long", end_stream=True)
    assert [type(event) for event in receive(codec, client.data_to_send())] == [RequestMalformed]
    (frame, _) = RstStreamFrame.parse_frame_header(memoryview(bytes(codec.take()))[:9])
    assert isinstance(frame, RstStreamFrame)


def test_the_body_of_a_malformed_request_is_dropped_and_its_window_given_back(client, make_codec):
    codec = make_codec(connection_window=100_000)
    begin(client, codec)
    client.send_headers(1, [*HEAD, ("Upper", "case")])
    for _ in range(4):
        client.send_data(1, bytes(16000))
    assert receive(codec, client.data_to_send()) == [RequestMalformed(1, "an invalid header name")]
    reset, window = responses(client, codec)
    assert (reset.error_code, window.delta) == (ErrorCodes.PROTOCOL_ERROR, 64000)


def test_a_header_section_that_repeats_is_read_by_the_table_as_it_is(client, codec):
    """The same bytes mean another thing once the table has changed."""
    begin(client, codec)
    told = []
    for stream_id, extra in enumerate([b"one", b"one", b"one", b"two", b"one", b"two", b"two"]):
        client.send_headers(2 * stream_id + 1, [*HEAD, ("x-extra", extra)], end_stream=True)
        (event,) = receive(codec, client.data_to_send())
        told.append(dict(event.headers)[b"x-extra"])
    assert told == [b"one", b"one", b"one", b"two", b"one", b"two", b"two"]
    # Entry 62 of the table is whatever was added last.
    head, newest = b"\x83\x86\x84\x01\x01a", b"\xbe"
    told = []
    fields = [newest, newest, b"\x40\x01b\x01c", newest, newest, b"\x40\x01d\x01e", newest]
    for number, field in enumerate(fields):
        block = head + field
        frame = struct.pack("!I", len(block))[1:] + b"\x01\x05"
        (event,) = receive(codec, frame + struct.pack("!I", 101 + 2 * number) + block)
        told.append(event.headers[-1])
    last = (b"x-extra", b"two")
    added = [(b"b", b"c"), (b"d", b"e")]
    assert told == [last, last, *[added[0]] * 3, *[added[1]] * 2]

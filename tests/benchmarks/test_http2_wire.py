"""HTTP/2 by hand, held against the h2 library in the server's role."""

import h2.config
import h2.connection
import h2.events
import pytest

from benchmarks.load.http2_wire import HTTP2Wire
from benchmarks.load.wire import WrongAnswer

BODY = b'{"key":"user:123"}'
LONG = "x" * 1000
"""Longer than one byte of a length can say."""


class Server:
    """h2 as a server that notes requests and can answer them."""

    def __init__(self) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []

    def take(self, data: bytes) -> None:
        self.events += self.h2.receive_data(data)

    def answer(self, stream: int, *headers: tuple[str, str], body: bytes = b"{}") -> bytes:
        self.h2.send_headers(stream, headers or [(":status", "200")])
        self.h2.send_data(stream, body, end_stream=True)
        return self.h2.data_to_send()

    def streams_ended(self) -> list[int]:
        return [
            event.stream_id for event in self.events if isinstance(event, h2.events.StreamEnded)
        ]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def wire() -> HTTP2Wire:
    return HTTP2Wire("host:1", "/v1/demo/get", BODY, [("content-type", "a/b"), ("long", LONG)])


def test_a_request_is_what_was_asked_for(server, wire):
    server.take(wire.replies() + wire.request(1.0) + wire.request(2.0))
    assert server.streams_ended() == [1, 3]
    received = [e for e in server.events if isinstance(e, h2.events.RequestReceived)]
    assert [dict(event.headers) for event in received] == 2 * [
        {
            b":method": b"POST",
            b":scheme": b"http",
            b":authority": b"host:1",
            b":path": b"/v1/demo/get",
            b"content-length": b"%d" % len(BODY),
            b"content-type": b"a/b",
            b"long": LONG.encode(),
        }
    ]
    bodies = [e.data for e in server.events if isinstance(e, h2.events.DataReceived)]
    assert bodies == [BODY, BODY]


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_answers_are_told_however_their_bytes_are_cut(server, wire, size: int):
    server.take(wire.replies() + b"".join(wire.request(float(began)) for began in range(3)))
    data = server.h2.data_to_send() + b"".join(server.answer(stream) for stream in (5, 1, 3))
    done = []
    for start in range(0, len(data), size):
        done += wire.receive(data[start : start + size])
    assert done == [2.0, 0.0, 1.0]
    assert wire.open == 0


def test_trailers_end_an_answer(server, wire):
    server.take(wire.replies() + wire.request(1.0))
    server.h2.send_headers(1, [(":status", "200")])
    server.h2.send_data(1, b"message")
    assert wire.receive(server.h2.data_to_send()) == []
    server.h2.send_headers(1, [("grpc-status", "0")], end_stream=True)
    assert wire.receive(server.h2.data_to_send()) == [1.0]


def test_settings_and_pings_are_acknowledged(server, wire):
    server.take(wire.replies())
    server.h2.ping(b"12345678")
    wire.receive(server.h2.data_to_send())
    server.events.clear()
    server.take(wire.replies())
    kinds = {type(event) for event in server.events}
    assert kinds == {h2.events.SettingsAcknowledged, h2.events.PingAckReceived}


def test_an_answer_other_than_200_is_not_counted(server, wire):
    server.take(wire.replies() + wire.request(1.0))
    answer = server.answer(1, (":status", "429"))
    with pytest.raises(WrongAnswer, match="not answered 200"):
        wire.receive(answer)


def test_a_reset_and_a_goaway_are_not_passed_over(server, wire):
    server.take(wire.replies() + wire.request(1.0))
    server.h2.reset_stream(1)
    with pytest.raises(WrongAnswer, match="RST_STREAM"):
        wire.receive(server.h2.data_to_send())
    other = HTTP2Wire("host", "/", b"", [])
    server.h2.close_connection()
    with pytest.raises(WrongAnswer, match="GOAWAY"):
        other.receive(server.h2.data_to_send())


def test_a_body_of_several_frames_is_refused():
    with pytest.raises(ValueError, match="more than one DATA frame"):
        HTTP2Wire("host", "/", bytes(16_385), [])

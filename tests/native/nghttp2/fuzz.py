"""Drive the codec with broken frames and any order of calls, on so many connections.

Usage: python fuzz.py CONNECTIONS SEED.
"""

import contextlib
import random
import sys

import h2.config
import h2.connection
import h2.exceptions

from prism.server.http2.implementation import on_nghttp2
from prism.server.http2.limits import ClientError
from prism.server.settings import ServerSettings

HEAD = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
FIELDS = [
    *(
        ("a", "b"),
        ("cookie", "x=1"),
        ("cookie", "y=2"),
        ("content-length", "4"),
        ("te", "trailers"),
    ),
    *(("A", "b"), ("te", "gzip"), ("x", "\0"), (":a", "b"), ("long", "v" * 300), ("host", "a")),
]
RESPONSE = [(b":status", b"200"), (b"content-type", b"text/plain")]


def session(draw: random.Random) -> bytes:
    """What a client sends on one connection, mostly valid."""
    config = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False
    )
    client = h2.connection.H2Connection(config)
    client.initiate_connection()
    opened: list[int] = []
    for _ in range(draw.randrange(1, 20)):
        try:
            match draw.randrange(9):
                case 0 | 1 | 2:
                    stream_id = client.get_next_available_stream_id()
                    head = [*HEAD, *draw.sample(FIELDS, draw.randrange(4))]
                    client.send_headers(stream_id, head, end_stream=draw.random() < 0.3)
                    opened.append(stream_id)
                case 3 | 4 if opened:
                    data = bytes(draw.randrange(0, 500))
                    padding = draw.choice([None, 0, 9])
                    end = draw.random() < 0.4
                    client.send_data(draw.choice(opened), data, end, pad_length=padding)
                case 5 if opened:
                    client.reset_stream(draw.choice(opened), draw.randrange(14))
                case 6 if opened:
                    client.send_headers(draw.choice(opened), [("t", "v")], end_stream=True)
                case 7:
                    client.update_settings({draw.choice([1, 4, 5]): draw.randrange(2**14, 2**16)})
                case 8:
                    client.ping(b"12345678")
        except (h2.exceptions.ProtocolError, KeyError):  # a stream of its own that has ended
            pass
    return client.data_to_send()


def broken(draw: random.Random, data: bytearray) -> bytearray:
    """``data`` with some bytes changed, cut, doubled or put in."""
    for _ in range(draw.choice([0, 0, 1, 1, 2, 5])):
        place = draw.randrange(24, len(data)) if len(data) > 24 else 0
        match draw.randrange(5):
            case 0:
                data[place] = draw.randrange(256)
            case 1:
                del data[place : place + draw.randrange(1, 30)]
            case 2:
                data[place:place] = data[place : place + draw.randrange(1, 200)]
            case 3:
                data[place:place] = draw.randbytes(draw.randrange(1, 30))
            case 4:
                data[place : place + 3] = bytes([0, 0, draw.randrange(256)])
    return data


def call(draw: random.Random, codec, known: list[int]) -> None:
    """Any call, about a stream that is, was, or never was."""
    stream_id = draw.choice(known) if known and draw.random() < 0.9 else draw.randrange(2**31)
    end = draw.random() < 0.5
    match draw.randrange(10):
        case 0 | 1:
            codec.send_response(stream_id, RESPONSE, bytes(draw.choice([0, 5, 20_000])), end)
        case 2:
            codec.send_headers(stream_id, RESPONSE * draw.choice([1, 1, 30]), end)
        case 3:
            size = min(codec.window(stream_id), draw.choice([0, 100, 16_384, 65_536]))
            if size or end:
                codec.send_data(stream_id, memoryview(bytes(size)), end)
        case 4:
            codec.reset(stream_id, draw.randrange(14))
        case 5 if end:
            codec.widen(stream_id, draw.choice([2**17, 2**19]))
        case 5:
            codec.consumed(stream_id, draw.choice([0, 1, 1000, 2**20]))
        case 6:
            codec.ping(b"12345678")
        case 7:
            codec.goaway(draw.randrange(2**31), 0)
        case 8:
            codec.take()
        case 9:
            codec.credit(2)
            codec.charge(1)


def connection(draw: random.Random, nghttp2) -> None:
    budget = draw.choice([5, 800, 10**9])
    codec = nghttp2.codec(ServerSettings(max_header_size=2000, flood_budget=budget), 0.0)
    data = bytes(broken(draw, bytearray(session(draw))))
    known: list[int] = []
    while data:
        step = draw.choice([1, 10, 100, len(data)])
        portion, data = data[:step], data[step:]
        try:
            while portion:
                told, size = codec.receive(portion, 0.0)
                known += [event.stream_id for event in told if getattr(event, "stream_id", 0)]
                portion = portion[size:]
        except ClientError:
            data = b""
        with contextlib.suppress(ClientError):
            for _ in range(draw.randrange(4)):
                call(draw, codec, known)


def main(connections: str, seed: str) -> None:
    nghttp2, draw = on_nghttp2(), random.Random(seed)
    for _ in range(int(connections)):
        connection(draw, nghttp2)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The codec in C: its declarations, its manners, its memory. What it does is in tests/server."""

import gc
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h2.connection
import pytest

from prism.server.http2.implementation import on_nghttp2
from prism.server.settings import ServerSettings

HERE = Path(__file__).parent
SOURCES = HERE.parents[2] / "native/nghttp2"
HEAD = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
STATUS = [(b":status", b"200")]


@pytest.fixture
def nghttp2(installed):
    installed("prism.server.http2._nghttp2")
    return on_nghttp2()


@pytest.fixture
def session(nghttp2):
    return nghttp2.codec(ServerSettings(), 0.0)


def open_stream(session):
    client = h2.connection.H2Connection()
    client.initiate_connection()
    client.send_headers(1, HEAD, end_stream=True)
    session.receive(client.data_to_send(), 0.0)


def test_our_declarations_are_those_of_nghttp2():
    compiler, header = shutil.which("gcc"), Path("/usr/include/nghttp2/nghttp2.h")
    if compiler is None or not header.exists():
        assert "CI" not in os.environ
        pytest.skip("compiling the comparison needs gcc and nghttp2's headers (libnghttp2-dev)")
    subprocess.run(
        [
            *(compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"),
            *(f"-I{SOURCES}", HERE / "abi_check.c"),
        ],
        check=True,
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda session: session.receive("text", 0.0),
        lambda session: session.receive(b"text", "0.0"),
        lambda session: session.receive(b"text"),
        lambda session: session.charge("1"),
        lambda session: session.credit(None),
        lambda session: session.send_headers(1, STATUS),
        lambda session: session.send_headers(1, [(b":status", "200")], True),
        lambda session: session.send_headers(1, [[b":status", b"200"]], True),
        lambda session: session.send_headers(1, [(b":status",)], True),
        lambda session: session.send_headers(1, 5, True),
        lambda session: session.send_headers("1", STATUS, True),
        lambda session: session.send_data(1, "text", True),
        lambda session: session.send_response(1, STATUS, None, True),
        lambda session: session.consumed(1),
        lambda session: session.consumed(1, None),
        lambda session: session.window("1"),
        lambda session: session.ping(bytearray(8)),
        lambda session: session.ping(b"short"),
        lambda session: session.goaway(1),
        lambda session: type(session)(1, 2, 3),
        lambda session: type(session)(1, 2, 3, 4, 5, 6, 7, "text"),
    ],
)
def test_wrong_arguments_are_an_exception_and_nothing_else(session, call):
    open_stream(session)
    session.take()
    with pytest.raises((TypeError, ValueError)):
        call(session)
    assert session.backlog == 0
    session.ping(b"12345678")
    assert b"12345678" in session.take()


def test_more_data_than_fits_is_an_exception(session):
    open_stream(session)
    session.send_headers(1, STATUS, False)
    with pytest.raises(ValueError, match="does not fit"):
        session.send_data(1, bytes(65536), False)
    for size in (16384, 49151):
        session.send_data(1, bytes(size), False)
    with pytest.raises(ValueError, match="does not fit"):
        session.send_data(1, b"x", False)


def test_calls_for_streams_that_never_were_have_no_effect(session):
    session.take()
    session.send_headers(99, STATUS, True)
    session.send_data(99, b"", True)
    session.reset(99, 8)
    session.consumed(99, 0)
    assert session.window(99) == 0
    assert session.take() == b""


def serve_some(nghttp2, number):
    """A connection with every kind of end that a stream can come to."""
    client = h2.connection.H2Connection()
    client.initiate_connection()
    session = nghttp2.codec(ServerSettings(), 0.0)
    client.receive_data(session.take())
    for stream_id in range(1, 41, 2):
        client.send_headers(stream_id, [*HEAD, ("x-number", f"{number} {stream_id}")])
        client.send_data(stream_id, b"x" * 100, end_stream=stream_id % 3 == 0)
        if stream_id % 5 == 0:
            client.reset_stream(stream_id)
    events, _ = session.receive(client.data_to_send(), 0.0)
    for event in events:
        if type(event).__name__ != "Request":
            continue
        if event.stream_id % 7 == 0:
            session.reset(event.stream_id, 8)
        elif event.stream_id % 5:
            session.consumed(event.stream_id, len(event.body))
            session.send_response(event.stream_id, STATUS, b"body", event.stream_id % 2 == 1)
    client.receive_data(session.take())
    session.receive(b"\x00\x00\x01\x00\x00\x00\x00\x00\x01", 0.0)  # half a frame, left open


def test_nothing_is_left_behind(nghttp2):
    for number in range(20):
        serve_some(nghttp2, number)
    gc.collect()
    tracemalloc.start()
    serve_some(nghttp2, 0)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(200):
        serve_some(nghttp2, number)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 50_000  # bytes; one connection alone takes more


def test_reference_counts_stay_as_they_were(nghttp2):
    status, body = (b":status", b"2" + bytes(2)), bytes(300)
    before = sys.getrefcount(status), sys.getrefcount(body)
    for _ in range(50):
        session = nghttp2.codec(ServerSettings(), 0.0)
        open_stream(session)
        session.send_response(1, [status], body, False)
        with pytest.raises(TypeError):
            session.send_headers(1, [status, None], True)
        session.send_headers(1, [status], True)
    del session
    assert (sys.getrefcount(status), sys.getrefcount(body)) == before

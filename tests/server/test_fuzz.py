"""Whatever a client sends, the server lives, and logs no error of its own."""

import logging

import h2.config
import h2.connection
import pytest
import trio
from asgi_app import ASGIApp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prism.server.serve import serve
from prism.server.settings import ServerSettings
from prism.streams.listeners import open_listeners

ALIVE = b"GET /alive HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
LIMITS = {"linger_timeout": 0.01, "goaway_grace": 0.01}


async def app(scope, receive, send):
    if scope["method"] == "POST":
        while (await receive()).get("more_body"):
            pass
    await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
    await send({"type": "http.response.body", "body": b"x" * 100_000})
    if scope["http_version"] == "2":
        await send({"type": "http.response.trailers", "headers": [(b"a", b"b")]})


def http2_session() -> bytes:
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    head = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
    for stream_id in (1, 3, 5):
        client.send_headers(stream_id, head)
        client.send_data(stream_id, b"body")
    client.end_stream(1)
    client.reset_stream(3)
    client.ping(b"12345678")
    client.update_settings({4: 1000})
    client.increment_flow_control_window(100_000)
    client.send_headers(5, [("a-trailer", "x")], end_stream=True)
    client.close_connection()
    return client.data_to_send()


SEEDS = [
    http2_session(),
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    + ALIVE,
    b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: upgrade, http2-settings\r\n"
    b"http2-settings: AAMAAABk\r\n\r\n" + ALIVE,
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    # mostly behind the preface, which would otherwise be the only thing tested
    place = st.integers(0, len(data) - 1)
    for position, value in draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=8)):
        data[position] = value
    start = draw(place)
    match draw(st.sampled_from(["whole", "cut", "remove", "repeat", "insert"])):
        case "cut":
            del data[start:]
        case "remove":
            del data[start : start + draw(st.integers(1, 40))]
        case "repeat":
            data[start:start] = data[start : start + draw(st.integers(1, 200))]
        case "insert":
            data[start:start] = draw(st.binary(max_size=40))
    return bytes(data)


async def talk(codec: str, sent: bytes, ends: bool) -> bytes:
    """Send the bytes to a new server; returns what a well-behaved client then gets."""
    limits = ServerSettings(**LIMITS, http2_codec=codec)
    async with trio.open_nursery() as nursery:
        shutdown = trio.Event()

        async def run(task_status):
            listeners = await open_listeners("127.0.0.1", 0)
            await serve(ASGIApp(app), listeners, limits, shutdown=shutdown, task_status=task_status)

        [address] = await nursery.start(run)
        with trio.fail_after(60):
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                try:
                    await stream.send_all(sent)
                    if ends:
                        await stream.send_eof()
                    with trio.move_on_after(0.02):
                        while await stream.receive_some():
                            pass
                except trio.BrokenResourceError:
                    pass
            answer = b""
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                await stream.send_all(ALIVE)
                async for chunk in stream:
                    answer += chunk
        nursery.cancel_scope.cancel()
    return answer


@pytest.mark.parametrize("examples", [200, pytest.param(50_000, marks=pytest.mark.soak)])
def test_mutated_bytes(caplog, codec_name, examples):
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(mutated(), st.booleans())
    def serves_on(sent, ends):
        caplog.clear()
        assert trio.run(talk, codec_name, sent, ends).startswith(b"HTTP/1.1 200 ")
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []

    serves_on()

"""Each crash, leak and stall known of HTTP/2 servers, made to happen."""

import contextlib
import json
import resource
import time

import h2.events
import pytest
import trio
import trio.testing
from asgi_app import ASGIApp
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from prism.server.exchange import Peer
from prism.server.http2.connection import HTTP2Connection
from prism.server.settings import ServerSettings
from prism.streams.tasks import TaskPool


@pytest.fixture
def open_client(start_server, h2_client, codec_name):
    async def open_client(app=None, **limits):
        limits.setdefault("http2_codec", codec_name)
        server = await start_server(app, **limits) if app else await start_server(**limits)
        return server, h2_client(await server.connect())

    return open_client


async def test_many_requests_on_one_connection(open_client):
    _, client = await open_client()
    for number in range(300):
        stream_id = await client.request("POST", end=False)
        await client.data(stream_id, b"%d" % number, end=True)
        assert await client.response(stream_id) == (200, b"%d" % number)


async def test_a_large_body_passes_both_ways(open_client):
    _, client = await open_client()
    stream_id = await client.request("POST", end=False)
    body = bytes(range(256)) * 4000
    for start in range(0, len(body), 16384):
        while client.h2.local_flow_control_window(stream_id) < 16384:
            await client.read()
        await client.data(stream_id, body[start : start + 16384])
    await client.data(stream_id, b"", end=True)
    assert await client.response(stream_id) == (200, body)


async def test_data_after_an_early_answer_is_ignored_and_its_window_given_back(
    open_client, helpers
):
    async def app(scope, receive, send):
        await helpers.respond(send, 200 if scope["path"] == "/alive" else 413, b"too large")

    server, client = await open_client(app)
    for _ in range(30):  # 30 x 64 KiB: more than the connection's window
        stream_id = await client.request("POST", end=False)
        for _ in range(4):
            client.h2.send_data(stream_id, bytes(16000))
        await client.flush()
        assert await client.response(stream_id) == (413, b"too large")
    reset = await client.wait_for(h2.events.StreamReset, stream_id)
    assert reset.error_code == ErrorCodes.NO_ERROR
    assert await server.is_alive()


async def test_a_client_that_reads_only_after_it_has_sent_all_gets_an_early_answer(
    open_client, helpers
):
    async def app(scope, receive, send):
        await helpers.respond(send, 413, b"too large")

    _, client = await open_client(app, linger_timeout=5)
    stream_id = await client.request("POST", end=False)
    for _ in range(100):
        while client.h2.local_flow_control_window(stream_id) < 16000:
            assert await client.read()
        await client.data(stream_id, bytes(16000))
    await client.data(stream_id, b"", end=True)
    assert await client.response(stream_id) == (413, b"too large")
    assert not client.got(h2.events.StreamReset)


async def test_padding_alone_does_not_use_up_the_window(open_client):
    _, client = await open_client()
    stream_id = await client.request("POST", end=False)
    for _ in range(600):  # x 256 bytes: more than the stream's window
        while client.h2.local_flow_control_window(stream_id) < 300:
            await client.read()
        client.h2.send_data(stream_id, b"", pad_length=255)
        await client.flush()
    await client.data(stream_id, b"body", end=True)
    assert await client.response(stream_id) == (200, b"body")


async def test_a_body_nobody_reads_does_not_hold_up_other_streams(open_client, helpers):
    async def app(scope, receive, send):
        if scope["path"] == "/ignores":
            await trio.sleep_forever()
        await helpers.echo(scope, receive, send)

    _, client = await open_client(app)
    ignored = await client.request("POST", "/ignores", end=False)
    await client.data(ignored, bytes(16000))
    await client.data(ignored, bytes(16000))
    other = await client.request("POST", end=False)
    await client.data(other, b"hello", end=True)
    assert await client.response(other) == (200, b"hello")


@pytest.mark.parametrize(
    ("declared", "window"), [(0, 2**16), (2**16, 2**19), (None, 2**19), (2**15, 2**16)]
)
async def test_a_client_may_send_ahead_of_a_body_that_is_taken_as_it_comes(
    open_client, monkeypatch, declared, window
):
    run = ASGIApp.begin

    def begin(self, exchange):
        exchange.want_body(declared)
        run(self, exchange)

    monkeypatch.setattr(ASGIApp, "begin", begin)
    _, client = await open_client()
    stream_id = await client.request("POST", end=False)
    # Twice: what one read has brought is answered in any order.
    for _ in range(2):
        client.h2.ping(b"12345678")
        await client.flush()
        await client.wait_for(h2.events.PingAckReceived)
    assert window - 1 <= client.h2.local_flow_control_window(stream_id) <= window
    for _ in range(40):
        await client.data(stream_id, bytes(16000))
        while client.h2.local_flow_control_window(stream_id) < 16000:
            await client.read()
    await client.data(stream_id, b"", end=True)
    assert await client.response(stream_id) == (200, bytes(640_000))


async def test_the_window_opens_only_as_the_application_reads(open_client):
    read_on = trio.Event()

    async def app(scope, receive, send):
        await read_on.wait()
        while True:
            await receive()

    _, client = await open_client(app)
    stream_id = await client.request("POST", end=False)
    window = client.h2.local_flow_control_window(stream_id)
    for _ in range(3):
        await client.data(stream_id, bytes(16000))
    client.h2.ping(b"12345678")
    await client.flush()
    await client.wait_for(h2.events.PingAckReceived)
    assert client.h2.local_flow_control_window(stream_id) == window - 48000
    read_on.set()
    await client.wait_for(h2.events.WindowUpdated, stream_id)


async def test_a_client_that_waits_to_be_told_is_told_to_send_its_body(open_client, helpers):
    async def app(scope, receive, send):
        if scope["path"] == "/no":
            await helpers.respond(send, 403)
        else:
            await helpers.echo(scope, receive, send)

    _, client = await open_client(app)
    waits = (("expect", "100-continue"),)
    stream_id = await client.request("POST", end=False, headers=waits)
    await client.wait_for(h2.events.InformationalResponseReceived, stream_id)
    await client.data(stream_id, b"bo")
    await client.data(stream_id, b"dy", end=True)
    assert await client.response(stream_id) == (200, b"body")
    assert len(client.got(h2.events.InformationalResponseReceived)) == 1
    refused = await client.request("POST", "/no", end=False, headers=waits)
    assert await client.response(refused) == (403, b"")
    assert client.got(h2.events.InformationalResponseReceived, refused) == []


async def test_trailers(open_client):
    async def app(scope, receive, send):
        assert "http.response.trailers" in scope["extensions"]
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": scope["query_string"]})
        await send({"type": "http.response.trailers", "headers": [(b"Grpc-Status", b"0")]})

    _server, client = await open_client(app)
    for query in ("", "body"):
        stream_id = await client.request(path=f"/?{query}", headers=(("te", "trailers"),))
        assert await client.response(stream_id) == (200, query.encode())
        trailers = client.got(h2.events.TrailersReceived, stream_id)[0]
        assert list(trailers.headers) == [(b"grpc-status", b"0")]
    for _ in range(1500):  # finished streams must leave nothing behind
        stream_id = await client.request(headers=(("te", "trailers"),))
        await client.wait_for(h2.events.StreamEnded, stream_id)
        client.events.clear()


async def test_a_failure_after_the_response_began_resets_the_stream(open_client):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise RuntimeError

    _, client = await open_client(app)
    for _ in range(150):  # more than may be open at once: each frees its place
        stream_id = await client.request()
        reset = await client.wait_for(h2.events.StreamReset, stream_id)
        assert reset.error_code == ErrorCodes.INTERNAL_ERROR


async def test_a_failure_before_the_response_is_a_500(open_client):
    async def app(scope, receive, send):
        raise KeyError("secret")

    _, client = await open_client(app)
    status, body = await client.response(await client.request())
    assert status == 500
    assert b"secret" not in body


@pytest.mark.parametrize("how", ["RST_STREAM", "FIN"])
async def test_a_disconnect_cancels_that_request(open_client, how):
    begun, cancelled = trio.Event(), trio.Event()

    async def app(scope, receive, send):
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    _, client = await open_client(app)
    stream_id = await client.request()
    await begun.wait()
    if how == "FIN":
        await client.stream.aclose()
    else:
        client.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        await client.flush()
    await cancelled.wait()


async def test_a_reset_stream_leaves_the_others_alone(open_client, helpers):
    begun = trio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/waits":
            begun.set()
            await trio.sleep_forever()
        await helpers.respond(send, 200, b"ok")

    _, client = await open_client(app)
    stream_id = await client.request(path="/waits")
    await begun.wait()
    client.h2.reset_stream(stream_id)
    assert await client.response(await client.request()) == (200, b"ok")


async def test_streams_take_turns(open_client):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(600_000)})

    _, client = await open_client(app)
    client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**20})
    client.h2.increment_flow_control_window(2**24)
    first = await client.request()
    second = await client.request()
    await client.response(first)
    sent_meanwhile = sum(len(event.data) for event in client.got(h2.events.DataReceived, second))
    assert sent_meanwhile > 300_000  # the first one had some sends ahead
    assert (await client.response(second))[0] == 200


async def test_a_client_that_opens_no_window_holds_the_application_not_the_memory(open_client):
    sent = 0
    begun = trio.Event()

    async def app(scope, receive, send):
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        begun.set()
        chunk = bytes(100_000)
        for _ in range(1000):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            sent += 1

    _, client = await open_client(app)
    client.take_data = False
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stream_id = await client.request()
    while sum(len(e.data) for e in client.got(h2.events.DataReceived, stream_id)) < 65_535:
        await client.read()
    await begun.wait()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert sent == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


async def test_a_stream_whose_window_stays_shut_is_reset(open_client):
    cancelled = trio.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await send({"type": "http.response.body", "body": bytes(1_000_000)})
        finally:
            cancelled.set()

    _, client = await open_client(app, window_stall_timeout=0.1)
    client.take_data = False
    reset = await client.wait_for(h2.events.StreamReset, await client.request())
    assert reset.error_code == ErrorCodes.CANCEL
    await cancelled.wait()


async def test_a_slow_reader_is_not_reset_while_it_makes_progress(
    helpers, h2_client, codec_name, autojump_clock
):
    body = bytes(10 * 65536)
    settings = ServerSettings(http2_codec=codec_name)

    async def app(scope, receive, send):
        await helpers.respond(send, 200, body)

    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        connection = HTTP2Connection(
            ASGIApp(app), theirs, Peer("http"), settings, TaskPool(nursery)
        )
        nursery.start_soon(connection.run)
        client = h2_client(ours)
        client.take_data = False
        stream_id = await client.request()
        while not client.got(h2.events.StreamEnded, stream_id):
            if client.h2.remote_flow_control_window(stream_id) == 0:
                await trio.sleep(0.4 * settings.window_stall_timeout)  # twice for 64 KiB
                client.h2.increment_flow_control_window(65535, stream_id)
                client.h2.increment_flow_control_window(65535)
                await client.flush()
            assert await client.read()
        assert await client.response(stream_id) == (200, body)
        nursery.cancel_scope.cancel()


async def test_a_stream_cancelled_while_its_turn_comes_leaves_the_connection_whole(
    open_client, helpers, server_errors
):
    broken_off = trio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/whole":
            await helpers.respond(send, 200, bytes(5_000_000))
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        part = {"type": "http.response.body", "body": bytes(5_000_000), "more_body": True}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, part)
            await broken_off.wait()
            nursery.cancel_scope.cancel()

    _, client = await open_client(app)
    client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**30})
    client.h2.increment_flow_control_window(2**30)
    whole, broken = await client.request(path="/whole"), await client.request(path="/broken")
    await trio.testing.wait_all_tasks_blocked(0.05)  # the socket is full, both wait their turn
    broken_off.set()
    assert await client.response(whole) == (200, bytes(5_000_000))
    reset = await client.wait_for(h2.events.StreamReset, broken)
    assert reset.error_code == ErrorCodes.INTERNAL_ERROR
    assert server_errors() == []


async def test_a_client_that_does_not_read_at_all_is_cut_off(open_client):
    cancelled = trio.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        finally:
            cancelled.set()

    _, client = await open_client(app, send_stall_timeout=0.2)
    client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
    client.h2.increment_flow_control_window(2**30)
    await client.request()
    await cancelled.wait()


async def test_a_client_that_says_goaway_still_gets_its_response(open_client, helpers):
    go_on = trio.Event()

    async def app(scope, receive, send):
        await go_on.wait()
        await helpers.respond(send, 200, b"late")

    _, client = await open_client(app)
    stream_id = await client.request()
    await client.stream.send_all(GoAwayFrame(0).serialize())
    await client.wait_for(h2.events.ConnectionTerminated)
    go_on.set()
    assert await client.response(stream_id) == (200, b"late")
    await client.read_to_end()


async def send_ignoring_a_cut(client, data):
    with contextlib.suppress(trio.BrokenResourceError):
        async with client.sending:
            await client.stream.send_all(data)


FLOODS: dict[str, Frame] = {
    "PING": PingFrame(0, opaque_data=bytes(8)),
    "PING answer": PingFrame(0, opaque_data=bytes(8), flags=["ACK"]),
    "SETTINGS": SettingsFrame(0),
    "PRIORITY": PriorityFrame(2**20 + 1),
    "empty DATA": DataFrame(1),
    "padding": DataFrame(1, pad_length=5, flags=["PADDED"]),
    "WINDOW_UPDATE": WindowUpdateFrame(1, window_increment=1),
    "RST_STREAM": RstStreamFrame(1),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_is_cut(open_client, helpers, name):
    async def app(scope, receive, send):
        if scope["path"] != "/alive":
            await trio.sleep_forever()
        await helpers.respond(send, 200)

    server, client = await open_client(app)
    await client.request("POST", end=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_ignoring_a_cut, client, FLOODS[name].serialize() * 5000)
        await client.read_to_end()
    assert client.got(h2.events.ConnectionTerminated)[0].error_code == ErrorCodes.ENHANCE_YOUR_CALM
    assert await server.is_alive()


async def test_rapid_reset_is_cut_and_starts_few_applications(open_client, helpers):
    started = 0

    async def app(scope, receive, send):
        nonlocal started
        started += 1
        if scope["path"] != "/alive":
            await trio.sleep_forever()
        await helpers.respond(send, 200)

    server, client = await open_client(app)
    await client.flush()
    for _ in range(2000):
        stream_id = client.h2.get_next_available_stream_id()
        head = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
        client.h2.send_headers(stream_id, head, end_stream=True)
        client.h2.reset_stream(stream_id)
    attack = client.h2.data_to_send()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_ignoring_a_cut, client, attack)
        await client.read_to_end()
    assert client.got(h2.events.ConnectionTerminated)[0].error_code == ErrorCodes.ENHANCE_YOUR_CALM
    assert started < 500
    assert await server.is_alive()


async def test_streams_above_the_limit_are_refused_not_the_connection(open_client):
    go_on = trio.Event()

    async def app(scope, receive, send):
        await go_on.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    _, client = await open_client(app, max_concurrent_streams=5)
    ids = [await client.request() for _ in range(7)]  # before the limit is known
    for stream_id in ids[5:]:
        reset = await client.wait_for(h2.events.StreamReset, stream_id)
        assert reset.error_code == ErrorCodes.REFUSED_STREAM
    go_on.set()
    for stream_id in ids[:5]:
        assert await client.response(stream_id) == (204, b"")


async def test_a_client_at_the_limit_may_replace_a_stream_it_reset(open_client, helpers):
    async def app(scope, receive, send):
        if scope["path"] == "/waits":
            await trio.sleep_forever()
        await helpers.respond(send, 204)

    _, client = await open_client(app, max_concurrent_streams=3)
    ids = [await client.request(path="/waits") for _ in range(3)]
    for stream_id in ids:
        client.h2.reset_stream(stream_id)  # sent together with the next request
    assert await client.response(await client.request()) == (204, b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "nopath", 400),
        ("GET", "http://b/", 400),
        ("GET", "/\xff", 400),
        ("G\xff", "/", 400),
        ("G T", "/", 400),
        ("OPTIONS", "*", 200),
        ("GET", "*", 400),
    ],
)
async def test_a_malformed_target_is_a_400(open_client, server_errors, method, path, status):
    server, client = await open_client()
    client.h2.config.validate_outbound_headers = False
    client.h2.config.normalize_outbound_headers = False
    head = [
        (b":method", method.encode("latin-1")),
        (b":scheme", b"http"),
        (b":authority", b"a"),
        (b":path", path.encode("latin-1")),
    ]
    client.h2.send_headers(1, head, end_stream=True)
    await client.flush()
    assert (await client.response(1))[0] == status
    assert await server.is_alive()
    assert server_errors() == []


async def test_connect_is_answered_501_or_refused(open_client, server_errors):
    server, client = await open_client()
    client.h2.config.validate_outbound_headers = False
    client.h2.send_headers(1, [(b":method", b"CONNECT"), (b":authority", b"a")], end_stream=False)
    await client.flush()
    assert (await client.response(1))[0] == 501
    assert await server.is_alive()
    assert server_errors() == []


async def test_garbage_on_a_websocket_over_http2_ends_that_alone(open_client, server_errors):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"alive"})
            return
        assert await receive() == {"type": "websocket.connect"}
        await send({"type": "websocket.accept"})
        assert (await receive())["code"] == 1002

    server, client = await open_client(app)
    client.h2.config.validate_outbound_headers = False
    head = [
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":scheme", b"http"),
        (b":authority", b"a"),
        (b":path", b"/"),
        (b"sec-websocket-extensions", b"\xff"),
    ]
    client.h2.send_headers(1, head)
    await client.data(1, b"garbage")
    status, body = await client.response(1)
    assert (status, body[:1], body[2:4]) == (200, b"\x88", (1002).to_bytes(2))
    assert await server.is_alive()
    assert server_errors() == []


async def test_headers_above_the_limit_are_answered_431_and_cost_nobody_else(open_client):
    server, client = await open_client(max_header_size=4000)
    other = await client.request("POST", end=False)
    large = await client.request("POST", headers=(("x", "y" * 5000),), end=False)
    status, body = await client.response(large)
    assert (status, json.loads(body)["reason"]) == (431, "headers_too_large")
    assert "4000 bytes and 100 fields" in json.loads(body)["detail"]
    reset = await client.wait_for(h2.events.StreamReset, large)  # what it still sends is unwanted
    assert reset.error_code == ErrorCodes.NO_ERROR
    await client.data(other, b"body", end=True)
    assert await client.response(other) == (200, b"body")
    assert await server.is_alive()


async def test_an_announced_giant_frame_is_refused_before_it_comes(open_client):
    server, client = await open_client()
    await client.flush()
    await client.stream.send_all(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01")
    await client.read_to_end()
    assert client.got(h2.events.ConnectionTerminated)[0].error_code == ErrorCodes.FRAME_SIZE_ERROR
    assert await server.is_alive()


async def test_a_client_that_breaks_the_protocol_and_does_not_read_is_cut_off(
    open_client, server_errors
):
    """The writer is still stuck when the connection closes."""
    stuck = trio.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            with trio.move_on_after(0.05) as scope:
                await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
            if scope.cancelled_caught:
                stuck.set()
                await trio.sleep_forever()

    server, client = await open_client(app, linger_timeout=0.05)
    client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
    client.h2.increment_flow_control_window(2**30)
    await client.request()
    await stuck.wait()
    await client.stream.send_all(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01")
    server.shutdown.set()
    await server.stopped.wait()
    assert server_errors() == []


async def test_slow_headers_are_cut(open_client):
    server, client = await open_client(header_timeout=0.1)
    await client.flush()
    await client.stream.send_all(b"\x00\x00\x20\x01\x04\x00\x00\x00\x01")
    await client.read_to_end()
    assert client.got(h2.events.ConnectionTerminated)[0].error_code == ErrorCodes.ENHANCE_YOUR_CALM
    assert await server.is_alive()


async def test_an_idle_connection_is_told_before_it_is_closed(open_client):
    _, client = await open_client(keep_alive_timeout=0.1, goaway_grace=0.1)
    assert await client.response(await client.request()) == (200, b"")
    first = await client.wait_for(h2.events.ConnectionTerminated)
    assert (first.error_code, first.last_stream_id) == (ErrorCodes.NO_ERROR, 2**31 - 1)
    await client.read_to_end()
    assert client.got(h2.events.ConnectionTerminated)[-1].last_stream_id == 1


async def test_a_request_in_the_moment_of_the_idle_close_is_served(open_client, helpers):
    _, client = await open_client(keep_alive_timeout=0.05, goaway_grace=10.0)
    await client.flush()
    late = client.h2
    late.send_headers(
        1,
        [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")],
        end_stream=True,
    )
    request = late.data_to_send()
    # Not answering the PING keeps the grace open: a client that has not seen GOAWAY yet.
    data = b""
    while bytes.fromhex("7fffffff") not in data:
        data += await client.stream.receive_some(65536)
    await client.stream.send_all(request)
    data = b""
    while b"\x00\x00\x00\x01" not in data:
        data += await client.stream.receive_some(65536)
    assert b"\x88" in data  # HPACK for :status 200


async def test_a_request_that_comes_with_the_answer_to_the_last_ping_is_served(open_client):
    """gRPC's core writes both at once; refused, its call fails where GOAWAY had let it pass."""
    _, client = await open_client(keep_alive_timeout=0.05, goaway_grace=10.0)
    await client.flush()
    data = b""
    while bytes.fromhex("7fffffff") not in data:
        data += await client.stream.receive_some(65536)
    client.h2.receive_data(data)  # the answer to PING is in what follows
    headers = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
    client.h2.send_headers(1, headers, end_stream=True)
    await client.flush()
    assert await client.response(1) == (200, b"")


async def test_a_client_cannot_make_the_header_table_grow(open_client):
    _, client = await open_client()
    client.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 2**30})
    assert await client.response(await client.request()) == (200, b"")
    assert client.h2.decoder.header_table_size <= 4096


@pytest.mark.parametrize("refused", [True, False], ids=["refused", "slow"])
async def test_a_flood_on_one_connection_lets_others_have_their_turn(
    h2_client, codec_name, refused
):
    """What is to run when the first request of a read begins runs before the last one does."""
    begun, open_requests = [], []

    class Front:
        def begin(self, exchange):
            if not begun:
                nursery.start_soon(others)
            begun.append(exchange.target)
            if refused:
                exchange.respond(429, [], b"")
            else:
                time.sleep(0.001)
                open_requests.append(exchange)

    async def others():
        begun.append(b"others")

    ours, theirs = trio.testing.memory_stream_pair()
    settings = ServerSettings(http2_codec=codec_name)
    async with trio.open_nursery() as nursery:
        connection = HTTP2Connection(Front(), theirs, Peer("http"), settings, TaskPool(nursery))
        nursery.start_soon(connection.run)
        client = h2_client(ours)
        head = [(":method", "GET"), (":scheme", "http"), (":authority", "a")]
        for number in range(60):
            stream_id = client.h2.get_next_available_stream_id()
            client.h2.send_headers(stream_id, [*head, (":path", f"/{number}")], end_stream=True)
        await client.flush()
        await trio.testing.wait_all_tasks_blocked()
        for exchange in open_requests:
            exchange.respond(200, [], b"")
        await client.response(stream_id)
        nursery.cancel_scope.cancel()
    assert begun.index(b"others") <= 16
    begun.remove(b"others")
    assert begun == [b"/%d" % number for number in range(60)]

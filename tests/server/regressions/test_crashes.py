"""One client must not end the process: an exception that leaves the server fails these tests."""

import time

import h2.events
import pytest
import trio
from hyperframe.frame import DataFrame, HeadersFrame, PriorityFrame


async def answer_at_once(scope, receive, send):
    """Answers without a look at the request's body."""
    length = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": b"ok"})


async def accept_websocket(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    else:
        await answer_at_once(scope, receive, send)


async def serves_on(server):
    """What the server was sent is handled, and it answers others."""
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert await server.is_alive()


async def send_unless_cut(client, data):
    try:
        await client.stream.send_all(data)
    except trio.BrokenResourceError:
        client.closed = True


async def test_data_after_an_answer_that_came_before_the_body(start, h2_client):
    """A 413 or 403 with the upload still under way."""
    server = await start(answer_at_once)
    client = h2_client(await server.connect())
    stream_id = await client.request("POST", end=False)
    await client.wait_for(h2.events.ResponseReceived, stream_id)
    await trio.testing.wait_all_tasks_blocked(0.01)
    await send_unless_cut(client, DataFrame(stream_id, b"more").serialize())
    await serves_on(server)


async def test_a_request_that_meets_the_idle_timer(start, h2_client, helpers):
    """Both are due in the same pass of the event loop, which then takes either first."""
    idle = 0.1
    server = await start(helpers.echo, keep_alive_timeout=idle, goaway_grace=1000)
    met = 0
    while met < 5:
        client = h2_client(await server.connect())
        await client.flush()
        first = await client.request("POST", end=False)
        await client.data(first, b"1", end=True)
        await client.response(first)
        if client.got(h2.events.ConnectionTerminated):
            continue  # this test was too slow
        met += 1
        stream_id = await client.request("POST", end=False)
        time.sleep(2 * idle)  # noqa: ASYNC251 - so that the loop finds both when it goes on
        await client.data(stream_id, b"x", end=True)
        assert await client.response(stream_id) == (200, b"x")


async def test_a_thousand_answers_with_trailers_while_one_call_is_open(start, h2_client, helpers):
    """What any busy gRPC channel does within seconds."""

    async def app(scope, receive, send):
        if scope["path"] == "/alive":
            await helpers.respond(send, 200)
            return
        if scope["path"] == "/open":
            await trio.sleep_forever()
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"message"})
        await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]})

    server = await start(app)
    client = h2_client(await server.connect())
    started = 0
    while started < 1500:
        while client.h2.open_outbound_streams < 90:  # all of them busy
            await client.request(headers=(("te", "trailers"),))
            started += 1
        assert await client.read()
    await serves_on(server)


async def test_a_thousand_priorities_for_streams_that_are_idle(start, h2_client):
    server = await start(answer_at_once)
    client = h2_client(await server.connect())
    await client.flush()
    await send_unless_cut(
        client, b"".join(PriorityFrame(2 * n + 1).serialize() for n in range(1, 1100))
    )
    await serves_on(server)


@pytest.mark.parametrize("name", [b":path", b":method"])
async def test_a_pseudo_header_that_is_not_ascii(start, h2_client, name):
    server = await start(answer_at_once)
    client = h2_client(await server.connect())
    fields = {b":method": b"GET", b":scheme": b"http", b":authority": b"a", b":path": b"/"}
    await client.flush()
    block = client.h2.encoder.encode(list({**fields, name: b"/\xff"}.items()))
    await send_unless_cut(
        client, HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]).serialize()
    )
    await serves_on(server)


async def test_connect_without_a_path(start, h2_client):
    server = await start(answer_at_once)
    client = h2_client(await server.connect())
    await client.flush()
    block = client.h2.encoder.encode([(b":method", b"CONNECT"), (b":authority", b"a:1")])
    await send_unless_cut(client, HeadersFrame(1, block, flags=["END_HEADERS"]).serialize())
    await serves_on(server)


WEBSOCKET_1 = (
    b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


async def test_websocket_extensions_that_are_not_ascii(start_server):
    server = await start_server(accept_websocket)
    stream = await server.connect()
    await stream.send_all(WEBSOCKET_1 + b"sec-websocket-extensions: \xff\r\n\r\n")
    await serves_on(server)


async def open_websocket_2(client, *headers):
    await client.flush()
    fields = [
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":scheme", b"http"),
        (b":authority", b"a"),
        (b":path", b"/"),
        (b"sec-websocket-version", b"13"),
        *headers,
    ]
    block = client.h2.encoder.encode(fields)
    await client.stream.send_all(HeadersFrame(1, block, flags=["END_HEADERS"]).serialize())


async def test_websocket_extensions_over_http2_that_are_not_ascii(start, h2_client):
    server = await start(accept_websocket)
    client = h2_client(await server.connect())
    await open_websocket_2(client, (b"sec-websocket-extensions", b"\xff"))
    await serves_on(server)


async def test_garbage_on_a_websocket_over_http2(start, h2_client):
    server = await start(accept_websocket)
    client = h2_client(await server.connect())
    await open_websocket_2(client)
    for _ in range(2):
        await trio.testing.wait_all_tasks_blocked(0.02)
        await send_unless_cut(client, DataFrame(1, b"\xff" * 100).serialize())
    await serves_on(server)


async def test_an_upgrade_to_h2c_whose_settings_are_not_base64(start_server):
    server = await start_server(answer_at_once)
    stream = await server.connect()
    await stream.send_all(
        b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: upgrade, http2-settings\r\n"
        b"http2-settings: A\r\n\r\n"
    )
    await serves_on(server)


async def test_bytes_behind_a_websocket_upgrade(start_server):
    server = await start_server(accept_websocket)
    stream = await server.connect()
    await stream.send_all(WEBSOCKET_1 + b"\r\nearly")
    await serves_on(server)

"""One client must not end the process: reliability's worst finding about hypercorn.

On trio, hypercorn runs every connection in one nursery and catches only ``OSError``.
"""

import time

import h2.exceptions
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


async def send_unless_cut(client, data):
    try:
        await client.stream.send_all(data)
    except trio.BrokenResourceError:
        client.closed = True


async def read_all_there_is(client):
    """Take in what the server has sent so far."""
    with trio.move_on_after(0.2):
        await client.read_to_end()


@pytest.mark.outcomes(hypercorn="ended by KeyError", prism="alive")
async def test_data_after_an_answer_that_came_before_the_body(start, expected, h2_client):
    """A 413 or 403 with the upload still under way."""
    server = await start(answer_at_once)
    client = h2_client(await server.connect())
    stream_id = await client.request("POST", end=False)
    await client.wait_for(h2.events.ResponseReceived, stream_id)
    await trio.testing.wait_all_tasks_blocked(0.01)
    await send_unless_cut(client, DataFrame(stream_id, b"more").serialize())
    assert await server.fate() == expected


@pytest.mark.outcomes(hypercorn="a request was lost", prism="all were answered")
async def test_a_request_that_meets_the_idle_timer(start, expected, h2_client, helpers):
    """Both are due in the same pass of the event loop, which then takes either first.

    In hypercorn one order ends the process, the other loses the request.
    """
    idle = 0.05
    server = await start(
        helpers.echo,
        hypercorn={"keep_alive_timeout": idle},
        prism={"keep_alive_timeout": idle, "goaway_grace": 5},
    )
    outcome = "all were answered"
    for _ in range(10):
        if server.failure is not None:
            outcome = "a request was lost"
            break
        client = h2_client(await server.connect())
        await client.flush()
        first = await client.request("POST", end=False)
        await client.data(first, b"1", end=True)
        await client.response(first)
        stream_id = await client.request("POST", end=False)
        time.sleep(2 * idle)  # noqa: ASYNC251 - so that the loop finds both when it goes on
        try:
            await client.data(stream_id, b"x", end=True)
            await client.response(stream_id)
        except (AssertionError, trio.BrokenResourceError, h2.exceptions.ProtocolError):
            outcome = "a request was lost"
            break
    assert outcome == expected


@pytest.mark.outcomes(hypercorn="ended by TooManyStreamsError", prism="alive")
async def test_a_thousand_answers_with_trailers_while_one_call_is_open(
    start, expected, h2_client, helpers
):
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

    server = await start(app, hypercorn={"keep_alive_max_requests": 10**6})
    client = h2_client(await server.connect())
    started = 0
    while started < 1500 and not client.closed:
        while client.h2.open_outbound_streams < 90:  # all of them busy
            await client.request(headers=(("te", "trailers"),))
            started += 1
        await client.read()
    assert await server.fate() == expected


@pytest.mark.outcomes(hypercorn="ended by TooManyStreamsError", prism="alive")
async def test_a_thousand_priorities_for_streams_that_are_idle(start, expected, h2_client):
    server = await start(answer_at_once)
    client = h2_client(await server.connect())
    await client.flush()
    await send_unless_cut(
        client, b"".join(PriorityFrame(2 * n + 1).serialize() for n in range(1, 1100))
    )
    assert await server.fate() == expected


@pytest.mark.parametrize("name", [b":path", b":method"])
@pytest.mark.outcomes(hypercorn="ended by UnicodeDecodeError", prism="alive")
async def test_a_pseudo_header_that_is_not_ascii(start, expected, h2_client, name):
    server = await start(answer_at_once)
    client = h2_client(await server.connect())
    fields = {b":method": b"GET", b":scheme": b"http", b":authority": b"a", b":path": b"/"}
    await client.flush()
    block = client.h2.encoder.encode(list({**fields, name: b"/\xff"}.items()))
    await send_unless_cut(
        client, HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]).serialize()
    )
    assert await server.fate() == expected


@pytest.mark.outcomes(hypercorn="ended by UnboundLocalError", prism="alive")
async def test_connect_without_a_path(start, expected, h2_client):
    server = await start(answer_at_once)
    client = h2_client(await server.connect())
    await client.flush()
    block = client.h2.encoder.encode([(b":method", b"CONNECT"), (b":authority", b"a:1")])
    await send_unless_cut(client, HeadersFrame(1, block, flags=["END_HEADERS"]).serialize())
    assert await server.fate() == expected


WEBSOCKET_1 = (
    b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.outcomes(hypercorn="ended by UnicodeDecodeError", prism="alive")
async def test_websocket_extensions_that_are_not_ascii(start, expected):
    server = await start(accept_websocket)
    stream = await server.connect()
    await stream.send_all(WEBSOCKET_1 + b"sec-websocket-extensions: \xff\r\n\r\n")
    assert await server.fate() == expected


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


@pytest.mark.outcomes(hypercorn="ended by UnicodeDecodeError", prism="alive")
async def test_websocket_extensions_over_http2_that_are_not_ascii(start, expected, h2_client):
    server = await start(accept_websocket)
    client = h2_client(await server.connect())
    await open_websocket_2(client, (b"sec-websocket-extensions", b"\xff"))
    assert await server.fate() == expected


@pytest.mark.outcomes(hypercorn="ended by KeyError", prism="alive")
async def test_garbage_on_a_websocket_over_http2(start, expected, h2_client):
    server = await start(accept_websocket)
    client = h2_client(await server.connect())
    await open_websocket_2(client)
    for _ in range(2):
        await trio.testing.wait_all_tasks_blocked(0.02)
        await send_unless_cut(client, DataFrame(1, b"\xff" * 100).serialize())
    assert await server.fate() == expected


@pytest.mark.outcomes(hypercorn="ended by Error", prism="alive")  # binascii.Error
async def test_an_upgrade_to_h2c_whose_settings_are_not_base64(start, expected):
    server = await start(answer_at_once)
    stream = await server.connect()
    await stream.send_all(
        b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: upgrade, http2-settings\r\n"
        b"http2-settings: A\r\n\r\n"
    )
    assert await server.fate() == expected


@pytest.mark.outcomes(hypercorn="ended by LocalProtocolError", prism="alive")
async def test_bytes_behind_a_websocket_upgrade(start, expected):
    server = await start(accept_websocket)
    stream = await server.connect()
    await stream.send_all(WEBSOCKET_1 + b"\r\nearly")
    assert await server.fate() == expected

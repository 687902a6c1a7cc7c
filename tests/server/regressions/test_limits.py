"""Limits that are announced must hold, and floods must end the connection, not the service."""

import operator
from contextlib import suppress

import h2.connection
import h2.events
import pytest
import trio
from h2.errors import ErrorCodes
from hpack import Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

from prism.server.http2.limits import FRAMES_AT_ONCE

HEAD = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()


def request(stream_id, *headers, flags=("END_HEADERS", "END_STREAM")):
    """A HEADERS frame that no client library has looked at."""
    return HeadersFrame(stream_id, Encoder().encode([*HEAD, *headers]), flags=flags).serialize()


async def verdict(server, attack):
    """The code of the GOAWAY that ends a connection which sends ``attack``."""
    stream = await server.connect()
    received = bytearray()

    async def receive():
        with suppress(trio.BrokenResourceError):
            async for data in stream:
                received.extend(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        with suppress(trio.BrokenResourceError):  # cut: what was received says why
            await stream.send_all(PREFACE + attack)
    while len(received) >= 9:
        frame, length = Frame.parse_frame_header(memoryview(received[:9]))
        frame.parse_body(memoryview(received[9 : 9 + length]))
        del received[: 9 + length]
        if isinstance(frame, GoAwayFrame):
            return ErrorCodes(frame.error_code)
    return None


async def test_headers_far_above_the_announced_limit(start, helpers):
    """The limit is 4 KiB, below h2's own of 64 KiB. Up to four times of it cost their stream only
    (``../http2/test_connection.py``)."""
    server = await start(helpers.echo, max_header_size=4096)
    bulk = [(f"x-{n}", "y" * 500) for n in range(36)]
    assert await verdict(server, request(1, *bulk)) is ErrorCodes.ENHANCE_YOUR_CALM


FLOODS = {
    "PING": PingFrame(0, opaque_data=bytes(8)).serialize(),
    "SETTINGS": SettingsFrame(0).serialize(),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_of_frames_that_carry_nothing(start, helpers, name):
    server = await start(helpers.echo)
    assert await verdict(server, FLOODS[name] * 5000) is ErrorCodes.ENHANCE_YOUR_CALM


async def test_rapid_reset(start):
    """CVE-2023-44487: how many applications one connection can have started."""
    started = 0

    async def app(scope, receive, send):
        nonlocal started
        started += 1
        await trio.sleep_forever()

    server = await start(app)
    cancel = [RstStreamFrame(n, ErrorCodes.CANCEL).serialize() for n in range(1, 4001, 2)]
    requests = [request(n) for n in range(1, 4001, 2)]
    attack = b"".join(map(operator.add, requests, cancel))
    assert await verdict(server, attack) is ErrorCodes.ENHANCE_YOUR_CALM
    assert started < 500


async def test_one_stream_too_many(start, h2_client):
    """It is that stream's error; h2 alone makes it the connection's."""

    async def app(scope, receive, send):
        await trio.sleep_forever()

    server = await start(app, max_concurrent_streams=5)
    client = h2_client(await server.connect())
    ids = [await client.request() for _ in range(6)]  # before it knows of the limit
    refused = await client.wait_for(h2.events.StreamReset)
    assert (refused.stream_id, refused.error_code) == (ids[-1], ErrorCodes.REFUSED_STREAM)
    client.h2.ping(bytes(8))
    await client.flush()
    await client.wait_for(h2.events.PingAckReceived)
    assert client.got(h2.events.StreamReset) == [refused]
    assert not client.got(h2.events.ConnectionTerminated)


async def test_frames_handled_while_other_tasks_wait(start_server, helpers, monkeypatch):
    """However many frames one read of 64 KiB holds."""
    at_once = []
    receive_data = h2.connection.H2Connection.receive_data

    def counting(connection, data):
        events = receive_data(connection, data)
        at_once.append(len(events))
        return events

    monkeypatch.setattr(h2.connection.H2Connection, "receive_data", counting)
    server = await start_server(helpers.echo, http2_codec="h2")
    stream = await server.connect()
    await stream.send_all(PREFACE + request(1, flags=["END_HEADERS"]))
    await trio.testing.wait_all_tasks_blocked(0.02)
    await stream.send_all(DataFrame(1, b"x").serialize() * 3000)
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert max(at_once) <= FRAMES_AT_ONCE

"""Limits that are announced must hold, and floods must end the connection, not the service."""

import operator
from contextlib import suppress

import h2.connection
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

HEAD = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()
PATIENCE = 1.5
"""Seconds for a GOAWAY to come: a connection that has none by then is not cut."""


def request(stream_id, *headers, flags=("END_HEADERS", "END_STREAM")):
    """A HEADERS frame that no client library has looked at."""
    return HeadersFrame(stream_id, Encoder().encode([*HEAD, *headers]), flags=flags).serialize()


async def verdict(server, attack):
    """How a connection ends that sends ``attack``: its GOAWAY's code, or ``is served``."""
    stream = await server.connect()
    received = bytearray()

    async def send():
        with suppress(trio.BrokenResourceError):  # cut: what was received says why
            await stream.send_all(PREFACE + attack)

    with trio.move_on_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            with suppress(trio.BrokenResourceError):
                async for data in stream:
                    received += data
    while len(received) >= 9:
        frame, length = Frame.parse_frame_header(memoryview(received[:9]))
        frame.parse_body(memoryview(received[9 : 9 + length]))
        del received[: 9 + length]
        if isinstance(frame, GoAwayFrame):
            return ErrorCodes(frame.error_code).name
    return "is served"


@pytest.mark.outcomes(hypercorn="is served", prism="ENHANCE_YOUR_CALM")
async def test_headers_above_the_announced_limit(start, expected, helpers):
    """The limit is 4 KiB; h2's own, of 64 KiB, hides that hypercorn does not hold it."""
    server = await start(
        helpers.echo, hypercorn={"h2_max_header_list_size": 4096}, prism={"max_header_size": 4096}
    )
    bulk = [(f"x-{n}", "y" * 500) for n in range(12)]
    assert await verdict(server, request(1, *bulk)) == expected


FLOODS = {
    "PING": PingFrame(0, opaque_data=bytes(8)).serialize(),
    "SETTINGS": SettingsFrame(0).serialize(),
}


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.outcomes(hypercorn="is served", prism="ENHANCE_YOUR_CALM")
async def test_a_flood_of_frames_that_carry_nothing(start, expected, helpers, name):
    assert await verdict(await start(helpers.echo), FLOODS[name] * 5000) == expected


@pytest.mark.outcomes(hypercorn="over a thousand", prism="below five hundred")
async def test_rapid_reset(start, expected):
    """CVE-2023-44487: how many applications one connection can have started."""
    started = 0

    async def app(scope, receive, send):
        nonlocal started
        started += 1
        await trio.sleep_forever()

    server = await start(app)
    cancel = [RstStreamFrame(n, ErrorCodes.CANCEL).serialize() for n in range(1, 4001, 2)]
    requests = [request(n) for n in range(1, 4001, 2)]
    await verdict(server, b"".join(map(operator.add, requests, cancel)))
    assert ("below five hundred" if started < 500 else "over a thousand") == expected
    assert started > 1000 or expected == "below five hundred"


@pytest.mark.outcomes(hypercorn="PROTOCOL_ERROR", prism="is served")
async def test_one_stream_too_many(start, expected):
    """It is that stream's error; h2 and hypercorn make it the connection's."""

    async def app(scope, receive, send):
        await trio.sleep_forever()

    server = await start(
        app, hypercorn={"h2_max_concurrent_streams": 5}, prism={"max_concurrent_streams": 5}
    )
    assert await verdict(server, b"".join(map(request, range(1, 13, 2)))) == expected


@pytest.mark.outcomes(hypercorn="thousands", prism="at most a hundred")
async def test_frames_handled_while_other_tasks_wait(start, expected, helpers, monkeypatch):
    """hypercorn handles a read of 64 KiB whole, however many frames that is."""
    at_once = []
    receive_data = h2.connection.H2Connection.receive_data

    def counting(connection, data):
        events = receive_data(connection, data)
        at_once.append(len(events))
        return events

    monkeypatch.setattr(h2.connection.H2Connection, "receive_data", counting)
    server = await start(helpers.echo, prism={"http2_codec": "h2"})
    stream = await server.connect()
    await stream.send_all(PREFACE + request(1, flags=["END_HEADERS"]))
    await trio.testing.wait_all_tasks_blocked(0.02)
    await stream.send_all(DataFrame(1, b"x").serialize() * 3000)
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert ("at most a hundred" if max(at_once) <= 100 else "thousands") == expected

"""Bytes that no client library sends: what they cost stays bounded, and stays theirs."""

import contextlib

import pytest
import trio
from h2.errors import ErrorCodes
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

MAGIC = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
AGE = b"\x95"
"""One byte that stands for a header field with an empty value (RFC 7541, appendix A)."""


def settings(**values):
    names = {"table": 1, "streams": 3, "window": 4, "frame": 5}
    return SettingsFrame(
        0, settings={names[name]: value for name, value in values.items()}
    ).serialize()


def headers(stream_id, *more, extra=b"", flags=("END_HEADERS", "END_STREAM")):
    block = Encoder().encode([*HEAD, *more]) + extra
    return HeadersFrame(stream_id, block, flags=flags).serialize()


def update(stream_id, increment):
    return WindowUpdateFrame(stream_id, window_increment=increment).serialize()


class RawClient:
    """Sends bytes, and sorts the frames that come."""

    def __init__(self, stream):
        self.stream = stream
        self.frames = []
        self._received = bytearray()

    async def send(self, data):
        """As much as the server takes before it closes."""
        with contextlib.suppress(trio.BrokenResourceError):
            await self.stream.send_all(data)

    async def read(self):
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            data = b""
        self._received += data
        while len(self._received) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(bytes(self._received[:9])))
            if len(self._received) < 9 + length:
                break
            frame.parse_body(memoryview(bytes(self._received[9 : 9 + length])))
            del self._received[: 9 + length]
            self.frames.append(frame)
        return bool(data)

    def got(self, kind, stream_id=None):
        return [
            frame
            for frame in self.frames
            if isinstance(frame, kind) and stream_id in {None, frame.stream_id}
        ]

    async def wait_for(self, kind, stream_id=None, number=1):
        while len(self.got(kind, stream_id)) < number:
            assert await self.read(), f"closed; got {self.frames}"
        return self.got(kind, stream_id)[number - 1]

    async def end(self):
        """The code of the GOAWAY that ends the connection."""
        while await self.read():
            pass
        return ErrorCodes(self.got(GoAwayFrame)[-1].error_code)


@pytest.fixture
def attack(start_server, codec_name):
    """``server, client = await attack(app, first_bytes)``"""

    async def attack(app, first=b"", **limits):
        server = await start_server(app, http2_codec=codec_name, **limits)
        client = RawClient(await server.connect())
        await client.send(MAGIC + first)
        return server, client

    return attack


async def test_fields_are_counted_not_only_measured(attack, helpers):
    """A kilobyte that stands for 900 fields took 10 ms, in which nobody was served."""
    server, client = await attack(helpers.echo, settings())
    await client.send(headers(1, extra=AGE * 90))
    await client.wait_for(HeadersFrame, 1)
    await client.send(headers(3, extra=AGE * 900))
    assert await client.end() == ErrorCodes.ENHANCE_YOUR_CALM
    assert await server.is_alive()


@pytest.mark.parametrize("cut", [1, 100, 5000])
async def test_fields_are_counted_over_continuations(attack, helpers, cut):
    server, client = await attack(helpers.echo, settings())
    block = Encoder().encode(HEAD) + AGE * 900
    await client.send(
        HeadersFrame(1, block[:cut]).serialize()
        + ContinuationFrame(1, block[cut:], flags=["END_HEADERS"]).serialize()
    )
    assert await client.end() == ErrorCodes.ENHANCE_YOUR_CALM
    assert await server.is_alive()


async def test_one_byte_at_a_time_is_not_an_endless_game(attack, helpers):
    """Each frame earned a client the WINDOW_UPDATE for the next: one byte, for ever."""

    async def app(scope, receive, send):
        await helpers.respond(send, 200, bytes(100_000))

    _, client = await attack(app, settings(window=1) + headers(1), flood_budget=50, flood_refill=0)
    with contextlib.suppress(AssertionError):
        for number in range(1, 1000):
            await client.wait_for(DataFrame, 1, number)
            await client.send(update(1, 1))
    assert await client.end() == ErrorCodes.ENHANCE_YOUR_CALM
    assert len(client.got(DataFrame)) < 100


async def test_a_client_with_small_windows_that_are_honest_is_served(attack, helpers):
    """Updates for what was taken, at half a small window, as constrained devices do."""

    async def app(scope, receive, send):
        await helpers.respond(send, 200, bytes(500_000))

    _, client = await attack(
        app, settings(window=4096) + headers(1), flood_budget=50, flood_refill=0
    )
    await client.send(update(0, 2**30))
    taken = seen = 0
    while taken < 500_000:
        await client.wait_for(DataFrame, 1, seen + 1)
        size = len(client.got(DataFrame, 1)[seen].data)
        taken, seen = taken + size, seen + 1
        await client.send(update(1, size))
    assert not client.got(GoAwayFrame)


async def test_a_window_below_nothing_has_to_be_filled_first(attack, helpers):
    async def app(scope, receive, send):
        await helpers.respond(send, 200, b"x" * 200)

    _, client = await attack(app, settings(window=100) + headers(1))
    first = await client.wait_for(DataFrame, 1)
    await client.send(settings(window=0))  # now it is -100
    await client.send(update(1, 100))
    await trio.testing.wait_all_tasks_blocked(0.02)
    await client.send(update(1, 30))
    second = await client.wait_for(DataFrame, 1, 2)
    assert (len(first.data), len(second.data)) == (100, 30)
    await client.send(settings(window=70))
    third = await client.wait_for(DataFrame, 1, 3)
    assert len(third.data) == 70
    assert "END_STREAM" in third.flags


async def test_settings_that_swing_are_a_flood_and_no_more(attack, helpers):
    async def app(scope, receive, send):
        await helpers.respond(send, 200, bytes(100))

    server, client = await attack(
        app, settings(window=0) + b"".join(headers(n) for n in range(1, 200, 2))
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, (settings(window=0) + settings(window=0, table=9)) * 1000)
        assert await client.end() == ErrorCodes.ENHANCE_YOUR_CALM
    assert await server.is_alive()


async def test_resets_that_the_client_provokes_count_as_its_own(attack):
    """CVE-2025-8671: a stream error asked for takes the place of RST_STREAM."""
    started = 0

    async def app(scope, receive, send):
        nonlocal started
        if scope["path"] == "/alive":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})
            return
        started += 1
        await trio.sleep_forever()

    server, client = await attack(app, settings())
    data = b"".join(headers(n) + update(n, 2**31 - 1) for n in range(1, 6001, 2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, data)
        code = await client.end()
    assert code in {ErrorCodes.ENHANCE_YOUR_CALM, ErrorCodes.FLOW_CONTROL_ERROR}
    assert started < 1000
    assert await server.is_alive()


@pytest.mark.parametrize(
    "frame",
    [
        DataFrame(3, b"x"),
        HeadersFrame(3, b"\x82", flags=["END_HEADERS"]),
        WindowUpdateFrame(3, window_increment=1),
        RstStreamFrame(1),
        SettingsFrame(0),
        ContinuationFrame(3, b"x"),
    ],
    ids=lambda frame: type(frame).__name__,
)
async def test_nothing_comes_between_headers_and_their_continuation(attack, helpers, frame):
    server, client = await attack(helpers.echo, settings())
    await client.send(HeadersFrame(1, b"\x82").serialize() + frame.serialize())
    assert await client.end() == ErrorCodes.PROTOCOL_ERROR
    assert await server.is_alive()


async def test_empty_continuations_are_cut(attack, helpers):
    server, client = await attack(helpers.echo, settings() + HeadersFrame(1, b"\x82").serialize())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, ContinuationFrame(1).serialize() * 5000)
        assert await client.end() in {ErrorCodes.ENHANCE_YOUR_CALM, ErrorCodes.PROTOCOL_ERROR}
    assert await server.is_alive()


@pytest.mark.parametrize("authority", ["a b", "u@a", "a/b", "a:x", "[::1"])
async def test_an_authority_that_is_none(attack, helpers, authority):
    """As a ``host`` in HTTP/1.1."""
    _, client = await attack(helpers.echo, settings())
    fields = [*HEAD[:2], (":authority", authority), HEAD[3]]
    flags = ["END_HEADERS", "END_STREAM"]
    await client.send(HeadersFrame(1, Encoder().encode(fields), flags=flags).serialize())
    while not client.got(RstStreamFrame, 1) and not client.got(HeadersFrame, 1):
        assert await client.read()
    if answers := client.got(HeadersFrame, 1):
        assert answers[0].data[:1] == b"\x8c"  # HPACK for :status 400

"""WebSockets as the server carries them; the front end above has tests of its own."""

import tracemalloc

import pytest
import trio
import trio.lowlevel
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Ping, Pong, TextMessage

UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PINGS = {"websocket_ping_interval": 0.1, "websocket_ping_timeout": 0.1}


class Client:
    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.frames = Connection(ConnectionType.CLIENT)

    async def open(self) -> "Client":
        await self.stream.send_all(UPGRADE)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await self.stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 101 ")
        self.frames.receive_data(answer.partition(b"\r\n\r\n")[2])
        return self

    async def say(self, text: str) -> None:
        await self.stream.send_all(self.frames.send(TextMessage(data=text)))

    async def next(self):
        while True:
            for event in self.frames.events():
                return event
            data = await self.stream.receive_some()
            assert data, "closed without a close frame"
            self.frames.receive_data(data)


def taking(until: trio.Event, taken: list[str], ended: trio.Event):
    """An application that takes messages, the second one only when ``until`` is set."""

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while (message := await receive())["type"] == "websocket.receive":
                taken.append(message["text"])
                await until.wait()
            await send({"type": "websocket.close"})
        finally:
            ended.set()

    return app


async def test_a_client_that_the_application_lets_wait_is_not_given_up(start_server):
    until, taken, ended = trio.Event(), [], trio.Event()
    server = await start_server(taking(until, taken, ended), **PINGS)
    client = await Client(await server.connect()).open()
    for word in ("a", "b", "c"):
        await client.say(word)
    for _ in range(5):  # it reads no answers to these, since it reads nothing
        assert isinstance(await client.next(), Ping)
    until.set()
    await client.stream.send_all(client.frames.send(CloseConnection(code=1000)))
    await ended.wait()
    assert taken == ["a", "b", "c"]


async def test_a_client_that_does_not_answer_pings_is_given_up(start_server):
    until, taken, ended = trio.Event(), [], trio.Event()
    until.set()
    server = await start_server(taking(until, taken, ended), **PINGS)
    client = await Client(await server.connect()).open()
    while isinstance(event := await client.next(), Ping):
        pass
    assert (event.code, event.reason) == (1011, "no answer to a ping")
    await ended.wait()


@pytest.mark.parametrize("size", [1_000, 30_000_000], ids=["all is on its way", "window shut"])
async def test_a_client_that_leaves_while_it_is_let_wait(start_server, size):
    until, taken, ended = trio.Event(), [], trio.Event()
    limits = {"websocket_max_message": 40_000_000, "stream_window": 10_000}
    server = await start_server(taking(until, taken, ended), **PINGS, **limits)
    client = await Client(await server.connect()).open()
    for word in ("a", "b", "c"):
        await client.say(word)
    with trio.move_on_after(0.3):
        await client.say("x" * size)
    await client.stream.aclose()
    await ended.wait()
    assert not until.is_set()


def frame(opcode: int, payload: bytes, *, final: bool = True, masked: bool = True) -> bytes:
    """A client's frame as it is on the wire, with the mask 0 (RFC 6455, 5.2)."""
    mask = b"\0\0\0\0" if masked else b""
    return bytes([opcode | 0x80 * final, len(payload) | 0x80 * masked]) + mask + payload


def announce(size: int, opcode: int = 1) -> bytes:
    """The head of a frame of ``size`` bytes, without them."""
    return bytes([opcode | 0x80, 127 | 0x80]) + size.to_bytes(8, "big") + b"\0\0\0\0"


TEXT, BINARY, CONTINUATION, PING, RESERVED = 1, 2, 0, 9, 3


async def test_a_message_in_fragments_is_one_message(start_server):
    until, taken, ended = trio.Event(), [], trio.Event()
    until.set()
    server = await start_server(taking(until, taken, ended))
    client = await Client(await server.connect()).open()
    umlaut = "\N{LATIN SMALL LETTER U WITH DIAERESIS}".encode()
    for data in (
        frame(TEXT, b"gr" + umlaut[:1], final=False),
        frame(PING, b"?"),
        frame(CONTINUATION, umlaut[1:], final=False),
        frame(CONTINUATION, b"n"),
    ):
        await client.stream.send_all(data)
    assert isinstance(await client.next(), Pong)
    await client.stream.send_all(client.frames.send(CloseConnection(code=1000)))
    await ended.wait()
    assert taken == ["gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n"]


async def test_empty_fragments_take_no_memory_and_no_turn_of_others(start_server):
    """Each is seven bytes, and says that its client is there."""
    until, taken, ended = trio.Event(), [], trio.Event()
    until.set()
    server = await start_server(taking(until, taken, ended))
    other = await Client(await server.connect()).open()
    client = await Client(await server.connect()).open()
    fragments = frame(CONTINUATION, b"", final=False) * 20_000
    tracemalloc.start()
    try:
        await client.stream.send_all(frame(TEXT, b"a", final=False) + fragments + frame(PING, b""))
        await other.say("meanwhile")
        assert isinstance(await client.next(), Pong)
        kept, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 250_000
    assert taken == ["meanwhile"]
    await client.stream.send_all(frame(CONTINUATION, b"b"))
    while taken != ["meanwhile", "ab"]:  # noqa: ASYNC110 - the server's application takes it
        await trio.sleep(0.01)


async def test_what_came_before_the_clients_end_is_taken(start_server):
    until, taken, ended = trio.Event(), [], trio.Event()
    server = await start_server(taking(until, taken, ended))
    client = await Client(await server.connect()).open()
    said = [client.frames.send(TextMessage(data=str(n))) for n in range(10)]
    await client.stream.send_all(b"".join(said) + client.frames.send(CloseConnection(code=1000)))
    await client.stream.send_eof()
    while not taken:  # noqa: ASYNC110 - as above
        await trio.sleep(0.01)
    until.set()
    await ended.wait()
    assert taken == [str(n) for n in range(10)]


@pytest.mark.parametrize(
    "data",
    [
        announce(2**32),
        announce(2**62),
        announce(2**62)[:10],  # the mask may never come either
        announce(65_536, BINARY),
        frame(TEXT, b"x" * 100, final=False) + frame(PING, b"") + announce(2**32, CONTINUATION),
    ],
)
async def test_a_frame_that_announces_too_much_is_not_waited_for(start_server, data):
    until, taken, ended = trio.Event(), [], trio.Event()
    until.set()
    server = await start_server(taking(until, taken, ended), websocket_max_message=65_535)
    client = await Client(await server.connect()).open()
    for byte in data:
        await client.stream.send_all(bytes([byte]))
        await trio.lowlevel.checkpoint()
    while isinstance(event := await client.next(), Pong):
        pass
    assert (event.code, event.reason) == (1009, "a message is larger than 65535 bytes")
    await ended.wait()


@pytest.mark.parametrize("at_once", [True, False])
async def test_messages_of_just_the_limit_in_any_pieces(start_server, at_once):
    until, taken, ended = trio.Event(), [], trio.Event()
    until.set()
    server = await start_server(taking(until, taken, ended), websocket_max_message=120)
    client = await Client(await server.connect()).open()
    message = (
        frame(TEXT, b"a" * 60, final=False)
        + frame(PING, b"p" * 125)
        + frame(CONTINUATION, b"b" * 60)
    )
    data = message * 3 + frame(8, b"")
    if at_once:
        await client.stream.send_all(data)
    else:
        for position in range(len(data)):
            await client.stream.send_all(data[position : position + 1])
    while not isinstance(event := await client.next(), CloseConnection):
        assert isinstance(event, Pong)
    await ended.wait()
    assert taken == ["a" * 60 + "b" * 60] * 3


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(CONTINUATION, b"of nothing"), 1002),
        (frame(TEXT, b"a", final=False) + frame(TEXT, b"b"), 1002),
        (frame(TEXT, b"unmasked", masked=False), 1002),
        (frame(RESERVED, b""), 1002),
        (frame(PING, b"in parts", final=False), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"x" * 100, final=False) + frame(CONTINUATION, b"x" * 100), 1009),
        (
            frame(TEXT, "\N{EURO SIGN}".encode() * 40, final=False)
            + frame(CONTINUATION, "\N{EURO SIGN}".encode() * 20),
            1009,
        ),
    ],
)
async def test_what_breaks_the_protocol_ends_its_own_websocket(start_server, data, code):
    until, taken, ended = trio.Event(), [], trio.Event()
    until.set()
    server = await start_server(taking(until, taken, ended), websocket_max_message=150)
    other = await Client(await server.connect()).open()
    client = await Client(await server.connect()).open()
    await client.stream.send_all(data)
    event = await client.next()
    assert isinstance(event, CloseConnection)
    assert event.code == code
    await ended.wait()
    await other.say("still here")
    while "still here" not in taken:  # noqa: ASYNC110 - the server's application takes it
        await trio.sleep(0.01)

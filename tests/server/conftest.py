"""A server on a free port, and clients that can misbehave."""

import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
import trio
from h2.settings import SettingCodes

from prism.calls.memory import Memory
from prism.server.http2.implementation import Implementation, choose
from prism.server.serve import serve
from prism.server.settings import ServerSettings
from prism.server.statistics import ServerStatistics
from prism.streams.addresses import Address
from prism.streams.listeners import open_listeners
from prism.streams.tls import ServerTLS

sys.path.insert(0, str(Path(__file__).parent))
from asgi_app import App, ASGIApp, Message

NEEDS = (
    "the nghttp2 codec is not there; it needs a C compiler when Prism is installed, "
    "and libnghttp2 (Debian: gcc, libc6-dev, libnghttp2-14)"
)
TEST_TIMEOUT = 60
QUICK = {"linger_timeout": 0.2, "goaway_grace": 0.2, "half_close_grace": 0.2}


class RunningServer:
    """A server in the test's nursery; ``stopped`` is set when ``serve`` has returned."""

    def __init__(
        self,
        address: Address,
        shutdown: trio.Event,
        stopped: trio.Event,
        statistics: ServerStatistics,
    ) -> None:
        self.address = address
        self.statistics = statistics
        self.shutdown = shutdown
        self.stopped = stopped

        self.connections: list[trio.SocketStream] = []

    async def connect(self) -> trio.SocketStream:
        stream = await trio.open_tcp_stream(self.address.host, self.address.port)
        self.connections.append(stream)
        return stream

    async def is_alive(self) -> bool:
        stream = await self.connect()
        await stream.send_all(b"GET /alive HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        return (await read_all(stream)).startswith(b"HTTP/1.1 200")


class PatientConnection(h2.connection.H2Connection):
    """h2 takes nothing more after GOAWAY; real clients read their responses."""

    def _receive_goaway_frame(self, frame):
        event = h2.events.ConnectionTerminated()
        event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
        return [], [event]


class H2Client:
    """An HTTP/2 client that keeps every event it got."""

    def __init__(self, stream: trio.abc.Stream, *, window: int | None = None) -> None:
        self.stream = stream
        self.h2 = PatientConnection(h2.config.H2Configuration(client_side=True))
        if window is not None:
            self.h2.local_settings = h2.settings.Settings(
                client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window}
            )
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.closed = False
        self.take_data = True
        self._next_id = 1
        self.sending = trio.Lock()

    async def flush(self) -> None:
        async with self.sending:
            if data := self.h2.data_to_send():
                await self.stream.send_all(data)

    async def request(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        end: bool = True,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> int:
        stream_id = self._next_id
        self._next_id += 2
        pseudo = [
            (":method", method),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", path),
        ]
        self.h2.send_headers(stream_id, [*pseudo, *headers], end_stream=end)
        await self.flush()
        return stream_id

    async def data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(stream_id, data, end_stream=end)
        await self.flush()

    async def read(self) -> bool:
        """Take in what comes next; False at the end of the connection."""
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            self.closed = True
            return False
        for event in self.h2.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived) and self.take_data:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        try:
            await self.flush()
        except trio.BrokenResourceError:
            self.closed = True
        return not self.closed

    def got(self, kind: type, stream_id: int | None = None) -> list:
        return [
            event
            for event in self.events
            if isinstance(event, kind) and (stream_id is None or event.stream_id == stream_id)
        ]

    async def wait_for(self, kind: type, stream_id: int | None = None) -> h2.events.Event:
        while not self.got(kind, stream_id):
            assert await self.read(), f"closed before {kind.__name__}; got {self.events}"
        return self.got(kind, stream_id)[0]

    async def response(self, stream_id: int) -> tuple[int, bytes]:
        await self.wait_for(h2.events.StreamEnded, stream_id)
        head = self.got(h2.events.ResponseReceived, stream_id)[0]
        body = b"".join(event.data for event in self.got(h2.events.DataReceived, stream_id))
        return int(dict(head.headers)[b":status"]), body

    async def read_to_end(self) -> None:
        while await self.read():
            pass


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    data = bytearray()
    try:
        async for chunk in stream:
            data += chunk
    except trio.BrokenResourceError:
        pass
    return bytes(data)


async def echo(scope: Message, receive, send) -> None:
    """Answers 200 with the request's body."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body += message["body"]
        more = message["more_body"]
    await respond(send, 200, bytes(body))


async def respond(send, status: int, body: bytes = b"") -> None:
    length = (b"content-length", b"%d" % len(body))
    start: Message = {"type": "http.response.start", "status": status, "headers": [length]}
    await send(start)
    await send({"type": "http.response.body", "body": body})


StartServer = Callable[..., Awaitable[RunningServer]]


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    """``await start_server(app, tls=None, **settings)``; stopped hard at the test's end."""
    servers: list[RunningServer] = []
    async with trio.open_nursery() as nursery:

        async def start(
            app: App = echo,
            tls: ServerTLS | None = None,
            memory: Memory | None = None,
            **limits,
        ) -> RunningServer:
            settings = ServerSettings(**{**QUICK, **limits})
            shutdown, stopped = trio.Event(), trio.Event()
            statistics = ServerStatistics()

            async def run(task_status: trio.TaskStatus[list[Address]]) -> None:
                listeners = await open_listeners("127.0.0.1", 0, tls=tls)
                await serve(
                    ASGIApp(app),
                    listeners,
                    settings,
                    shutdown=shutdown,
                    statistics=statistics,
                    memory=memory,
                    task_status=task_status,
                )
                stopped.set()

            addresses = await nursery.start(run)
            servers.append(RunningServer(addresses[0], shutdown, stopped, statistics))
            return servers[-1]

        async def watchdog() -> None:
            await trio.sleep(TEST_TIMEOUT)
            raise AssertionError(f"the test did not end within {TEST_TIMEOUT} seconds")

        nursery.start_soon(watchdog)
        try:
            yield start
        finally:
            for server in servers:
                for connection in server.connections:
                    connection.socket.close()
        nursery.cancel_scope.cancel()


@pytest.fixture
def h2_client() -> type[H2Client]:
    return H2Client


@pytest.fixture
def helpers() -> type:
    class Helpers:
        read_all = staticmethod(read_all)
        respond = staticmethod(respond)
        echo = staticmethod(echo)
        front = ASGIApp

    return Helpers


@pytest.fixture
def server_errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the server logged at ERROR so far."""
    caplog.set_level(logging.INFO, "prism.server")

    def errors() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]

    return errors


@pytest.fixture(params=["h2", "nghttp2"])
def codec_name(request: pytest.FixtureRequest) -> str:
    if request.param == "nghttp2":
        request.getfixturevalue("nghttp2")
    return request.param


@pytest.fixture
def implementation(codec_name: str) -> Implementation:
    return choose(codec_name)


@pytest.fixture(scope="session")
def nghttp2() -> Implementation:
    if choose().name != "nghttp2":
        assert "CI" not in os.environ, NEEDS
        pytest.skip(NEEDS)
    return choose("nghttp2")

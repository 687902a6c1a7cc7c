"""Every kind of channel, opened to the same plugin class."""

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest
import trio
import trio.testing
import trustme
from msgspec import Struct

from prism.channels import websocket
from prism.channels.channel import PluginChannel
from prism.channels.frames.channel import ChannelSettings, FramedChannel
from prism.channels.grpc import GrpcChannel
from prism.channels.in_process import InProcessChannel
from prism.contract.messages import InitializeRequest
from prism.hosts.library import plugin_class
from prism.hosts.loading import load_library
from prism.sdk import Call, Plugin, PluginError, StatusCode, operation
from prism.sdk.byte_streams import WebSocketStream as PluginWebSocket
from prism.sdk.session import Session
from prism.streams import tcp, unix
from prism.streams.tls import TLSFiles
from prism.streams.unix import FD_VARIABLE, socket_pair
from prism.wire import ConnectionState, Role
from prism.wire.connection import Connection
from prism.wire.events import Event, Hello, Ping
from prism.wire.frames import FrameType, pack
from tests.hosts.building import probe_library

E = TypeVar("E", bound=Event)

MAX_FRAME = 256 * 1024
PROBE_FILE = Path(__file__).with_name("probe_plugin.py")


class Text(Struct):
    text: str = ""


class Number(Struct):
    n: int = 0


class Probe(Plugin):
    """Does what the test asks; ``cancelled`` counts the calls that were."""

    name = "probe"
    version = "1.2"

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = 0
        self.waiting = 0
        self.release = anyio.Event()
        self.sent = 0

    @operation(idempotent=True)
    async def echo(self, params: Text) -> Text:
        return params

    @operation
    async def big(self, params: Number) -> str:
        return "x" * params.n

    @operation
    async def fail(self, params: Text) -> None:
        raise PluginError(StatusCode.NOT_FOUND, params.text)

    @operation
    async def seen(self, params: Text) -> dict[str, int]:
        return {"cancelled": self.cancelled, "sent": self.sent, "waiting": self.waiting}

    @operation
    async def wait(self, params: Text) -> None:
        self.waiting += 1
        try:
            await self.release.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise

    @operation
    async def time_left(self, params: Text, call: Call) -> float:
        return min(call.time_left(), 1e6)

    @operation
    async def count(self, params: Number) -> AsyncIterator[int]:
        for n in range(params.n):
            yield n

    @operation
    async def flood(self, params: Number) -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * params.n
                self.sent += 1
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise

    @operation
    async def break_off(self, params: Number) -> AsyncIterator[int]:
        yield params.n
        raise PluginError(StatusCode.DATA_LOSS, "broken off")

    @operation
    async def chat(self, params: Text, call: Call) -> AsyncIterator[str]:
        yield params.text
        async for message in call.messages(Text):
            yield message.text
        yield "bye"


OpenChannel = Callable[[], AbstractAsyncContextManager[PluginChannel]]
SETTINGS = ChannelSettings(max_frame=MAX_FRAME, cancel_grace=5, handshake_timeout=60)


class _TrioBytes:
    """A trio stream with the methods of anyio's byte streams."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            data = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError as error:
            raise anyio.BrokenResourceError from error
        except trio.ClosedResourceError as error:
            raise anyio.ClosedResourceError from error
        if not data:
            raise anyio.EndOfStream
        return bytes(data)

    async def send(self, item: bytes) -> None:
        try:
            await self._stream.send_all(item)
        except trio.BrokenResourceError as error:
            raise anyio.BrokenResourceError from error
        except trio.ClosedResourceError as error:
            raise anyio.ClosedResourceError from error

    async def aclose(self) -> None:
        await self._stream.aclose()


def session_on(stream: trio.abc.Stream, plugin: Plugin) -> Session:
    return Session(_TrioBytes(stream), plugin, name=plugin.name, version=plugin.version)


@asynccontextmanager
async def framed(
    stream: trio.abc.Stream, settings: ChannelSettings = SETTINGS, **callbacks: Any
) -> AsyncIterator[FramedChannel]:
    """A channel over ``stream``, connected and running."""
    channel = FramedChannel(stream, settings, **callbacks)
    async with trio.open_nursery() as nursery:
        try:
            await channel.handshake()
            nursery.start_soon(channel.run)
            yield channel
        finally:
            with trio.CancelScope(shield=True):
                await channel.aclose()


@asynccontextmanager
async def _with_session(
    ours: trio.abc.Stream, theirs: trio.abc.Stream
) -> AsyncIterator[PluginChannel]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session_on(theirs, Probe()).run)
        async with framed(ours) as channel:
            yield channel


@asynccontextmanager
async def in_process(_tmp_path: Path) -> AsyncIterator[PluginChannel]:
    channel = InProcessChannel(Probe(), "probe")
    try:
        yield channel
    finally:
        await channel.aclose()


@asynccontextmanager
async def in_library(_tmp_path: Path, *, threads: int) -> AsyncIterator[PluginChannel]:
    """The suite's plugin in C, in this process."""
    path = str(probe_library(f"-DTHREADS={threads}"))
    plugin = plugin_class(load_library(path, path))()
    channel = InProcessChannel(plugin, "probe")
    try:
        yield channel
    finally:
        await channel.aclose()
        await plugin.aclose()


@asynccontextmanager
async def in_memory(_tmp_path: Path) -> AsyncIterator[PluginChannel]:
    ours, theirs = trio.testing.memory_stream_pair()
    async with _with_session(ours, theirs) as channel:
        yield channel


@asynccontextmanager
async def over_socketpair(_tmp_path: Path) -> AsyncIterator[PluginChannel]:
    ours, theirs = socket_pair()
    other = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    async with _with_session(ours, other) as channel:
        yield channel


@asynccontextmanager
async def unix_dialling_in(tmp_path: Path) -> AsyncIterator[PluginChannel]:
    listener = unix.listen(tmp_path / "p" / "s")
    theirs = await trio.open_unix_socket(str(listener.path))
    ours, _peer = await listener.accept()
    async with _with_session(ours, theirs) as channel:
        yield channel
    await listener.aclose()


@asynccontextmanager
async def unix_dialled(tmp_path: Path) -> AsyncIterator[PluginChannel]:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        ours = await unix.dial(path)
        theirs = trio.SocketStream(trio.socket.from_stdlib_socket(sock.accept()[0]))
        async with _with_session(ours, theirs) as channel:
            yield channel


@asynccontextmanager
async def _over_tcp(
    context: ssl.SSLContext | None, files: TLSFiles | None
) -> AsyncIterator[PluginChannel]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery, listener:

        async def serve() -> None:
            stream: Any = await listener.accept()
            if context is not None:
                stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            await session_on(stream, Probe()).run()

        nursery.start_soon(serve)
        async with framed(await tcp.dial("127.0.0.1", port, files)) as channel:
            yield channel


@asynccontextmanager
async def over_tcp(_tmp_path: Path) -> AsyncIterator[PluginChannel]:
    async with _over_tcp(None, None) as channel:
        yield channel


@asynccontextmanager
async def over_tls(tmp_path: Path, *, mutual: bool = False) -> AsyncIterator[PluginChannel]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    files = TLSFiles(ca_cert=str(tmp_path / "ca.pem"))
    if mutual:
        authority.issue_cert("proxy@example.org").private_key_and_cert_chain_pem.write_to_path(
            tmp_path / "proxy.pem"
        )
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
        pem = str(tmp_path / "proxy.pem")
        files = TLSFiles(ca_cert=files.ca_cert, cert=pem, key=pem)
    async with _over_tcp(context, files) as channel:
        yield channel


@asynccontextmanager
async def over_websocket(_tmp_path: Path) -> AsyncIterator[PluginChannel]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery, listener:

        async def serve() -> None:
            inner = PluginWebSocket(_TrioBytes(await listener.accept()))
            await inner.accept()
            plugin = Probe()
            await Session(inner, plugin, name=plugin.name, version=plugin.version).run()

        nursery.start_soon(serve)
        stream = await websocket.dial(f"ws://127.0.0.1:{port}/plugin", None, nursery)
        async with framed(stream) as channel:
            yield channel


@asynccontextmanager
async def in_a_process(_tmp_path: Path, *, backend: str) -> AsyncIterator[PluginChannel]:
    ours, theirs = socket_pair()
    with theirs:
        process = subprocess.Popen(  # noqa: ASYNC220 - takes milliseconds
            [sys.executable, PROBE_FILE, backend],
            pass_fds=[theirs.fileno()],
            env=os.environ | {FD_VARIABLE: str(theirs.fileno())},
        )
    try:
        async with framed(ours) as channel:
            yield channel
        with trio.CancelScope(shield=True), trio.fail_after(60):
            status = await anyio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
        assert status == 0
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()


SCHEMAS = Path(__file__).parents[2] / "schemas"
GRPC_SERVER = Path(__file__).with_name("grpc_server.py")


@asynccontextmanager
async def grpc_server(*arguments: str | Path) -> AsyncIterator[int]:
    """The port of a stock grpcio server that plays the probe plugin."""
    command = [sys.executable, GRPC_SERVER, SCHEMAS, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: ASYNC220 - milliseconds
    try:
        assert process.stdout is not None
        with process.stdout as output:
            yield int(await anyio.to_thread.run_sync(output.readline))
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def over_grpc(
    port: int, files: TLSFiles | None = None, **callbacks: Any
) -> AsyncIterator[GrpcChannel]:
    """A channel to a gRPC server, connected and running."""
    stream = await tcp.dial("127.0.0.1", port, files, protocols=["h2"])
    authority = f"127.0.0.1:{port}"
    channel = GrpcChannel(stream, SETTINGS, authority=authority, namespace="n", **callbacks)
    async with trio.open_nursery() as nursery:
        try:
            await channel.handshake()
            nursery.start_soon(channel.run)
            yield channel
        finally:
            with trio.CancelScope(shield=True):
                await channel.aclose()


@asynccontextmanager
async def plain_grpc(_tmp_path: Path) -> AsyncIterator[PluginChannel]:
    async with grpc_server() as port, over_grpc(port) as channel:
        yield channel


@pytest.fixture
async def compressed_grpc() -> AsyncIterator[PluginChannel]:
    """A channel to a server that compresses what it sends."""
    async with grpc_server("--gzip") as port, over_grpc(port) as channel:
        await channel.initialize(InitializeRequest(namespace="n"))
        yield channel


@asynccontextmanager
async def secure_grpc(tmp_path: Path) -> AsyncIterator[PluginChannel]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("127.0.0.1", "proxy@example.org"):
        pem = authority.issue_cert(name).private_key_and_cert_chain_pem
        pem.write_to_path(tmp_path / f"{name}.pem")
    ours = str(tmp_path / "proxy@example.org.pem")
    files = TLSFiles(ca_cert=str(tmp_path / "ca.pem"), cert=ours, key=ours)
    async with (
        grpc_server(tmp_path / "127.0.0.1.pem", tmp_path / "ca.pem") as port,
        over_grpc(port, files) as channel,
    ):
        yield channel


FRAMED = {
    "memory": in_memory,
    "socketpair": over_socketpair,
    "unix dialling in": unix_dialling_in,
    "unix dialled": unix_dialled,
    "tcp": over_tcp,
    "tls": over_tls,
    "mutual tls": partial(over_tls, mutual=True),
    "websocket": over_websocket,
    "trio process": partial(in_a_process, backend="trio"),
    "asyncio process": partial(in_a_process, backend="asyncio"),
}
GRPC = {
    "grpc": plain_grpc,
    "grpc, mutual tls": secure_grpc,
}
LIBRARY = {
    "library": partial(in_library, threads=0),
    "library, threads": partial(in_library, threads=4),
}
KINDS = {"in process": in_process, **LIBRARY, **FRAMED, **GRPC}
"""Add a new kind of channel here, and it has to keep every promise of the suite."""
SLOW = {"trio process", "grpc, mutual tls"}


def _params(kinds: dict[str, Any]) -> list[Any]:
    return [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in kinds]


@pytest.fixture(params=_params(KINDS))
def open_channel(request: pytest.FixtureRequest, tmp_path: Path) -> OpenChannel:
    """Opens a channel of each kind; the plugin is not yet initialized."""
    return partial(KINDS[request.param], tmp_path)


@pytest.fixture(params=_params(FRAMED))
def open_framed(request: pytest.FixtureRequest, tmp_path: Path) -> OpenChannel:
    """As ``open_channel``, the kinds that carry frames only."""
    return partial(FRAMED[request.param], tmp_path)


class ScriptedPlugin:
    """The plugin's end of a connection, played by hand: says what no session would."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.connection = Connection(Role.PLUGIN, Hello(name="scripted", codecs=("json",)))

    async def handshake(self) -> None:
        self.connection.send(self.connection.local_hello)
        await self.flush()
        await self.expect(Hello)

    async def send(self, event: Event) -> None:
        self.connection.send(event)
        await self.flush()

    async def raw(
        self, kind: FrameType, stream: int = 0, payload: bytes = b"", **fields: Any
    ) -> None:
        await self.stream.send_all(pack(kind, stream, payload, **fields))

    async def flush(self) -> None:
        await self.stream.send_all(self.connection.data_to_send())

    async def next(self) -> Event | None:
        """The host's next event; pings are answered and not shown."""
        while True:
            event = self.connection.next_event()
            if isinstance(event, Ping):
                await self.send(Ping(event.token, ack=True))
            elif event is not None:
                return event
            elif self.connection.state is ConnectionState.CLOSED:
                return None
            else:
                self.connection.receive_data(await self.stream.receive_some(65536))

    async def expect(self, kind: type[E]) -> E:
        event = await self.next()
        assert isinstance(event, kind), event
        return event


@pytest.fixture
def streams() -> tuple[trio.abc.Stream, ScriptedPlugin]:
    """The host's stream, and the plugin to script at its other end."""
    ours, theirs = trio.testing.memory_stream_pair()
    return ours, ScriptedPlugin(theirs)

"""A plugin, and hosts that are scripted by hand, on trio and on asyncio."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from prism.contract.messages import ExecuteRequest, InitializeRequest
from prism.contract.service import Method
from prism.sdk import Call, Health, Plugin, PluginError, StatusCode, operation
from prism.sdk.session import Session
from prism.wire import ConnectionState, Role
from prism.wire.connection import Connection
from prism.wire.events import Close, Event, Hello, Open
from prism.wire.handshake import answer


class EchoConfig(msgspec.Struct, forbid_unknown_fields=True):
    greeting: str = "hello"


class Key(msgspec.Struct, forbid_unknown_fields=True):
    key: str


class Times(msgspec.Struct):
    times: int = 1


class EchoPlugin(Plugin):
    name = "echo"
    version = "1.2.3"
    Config = EchoConfig
    config: EchoConfig

    started = 0
    stopped = 0

    def __init__(self) -> None:
        super().__init__()
        self.release = anyio.Event()

    async def start(self) -> None:
        self.started += 1
        if self.config.greeting == "crash":
            raise ValueError(f"cannot connect with {self.credentials['password']}")
        if self.config.greeting == "refuse":
            raise PluginError(StatusCode.UNAUTHENTICATED, "the backend said no")

    async def stop(self) -> None:
        self.stopped += 1

    async def health(self) -> Health:
        if self.config.greeting == "sick":
            raise OSError("backend gone")
        return Health.degraded("slow", lag="3 s")

    @operation(idempotent=True)
    async def get(self, params: Key) -> dict[str, str]:
        return {"key": params.key, "greeting": self.config.greeting}

    @operation
    async def nothing(self, params: dict[str, int]) -> None:
        self.metrics.custom["nothing"] = len(params)

    @operation
    async def raw(self, params: Key) -> msgspec.Raw:
        return msgspec.Raw(b'{"n":123456789012345678901234567890}')

    @operation
    async def who(self, params: Key, call: Call) -> dict[str, object]:
        return {
            "namespace": call.namespace,
            "principal": call.principal,
            "request_id": call.request_id,
            "traceparent": call.traceparent,
            "operation": call.operation,
            "binary": call.binary,
        }

    @operation
    async def fail(self, params: Key) -> None:
        raise PluginError(StatusCode.NOT_FOUND, f"no {params.key}")

    @operation
    async def bug(self, params: Key) -> None:
        raise KeyError(f"secret detail {self.credentials.get('password')}")

    @operation
    async def grouped(self, params: Key) -> None:
        async def child() -> None:
            raise PluginError(StatusCode.ABORTED, "in a child")

        async with anyio.create_task_group() as group:
            group.start_soon(child)

    @operation
    async def unencodable(self, params: Key) -> object:
        return object()

    @operation
    async def wait(self, params: Key) -> None:
        await self.release.wait()

    @operation
    async def count(self, params: Times) -> AsyncIterator[dict[str, int]]:
        for n in range(params.times):
            yield {"n": n}
        if params.times == 13:
            raise PluginError(StatusCode.OUT_OF_RANGE, "unlucky")

    @operation(name="chat")
    async def talk(self, params: Key, call: Call) -> AsyncIterator[str]:
        try:
            yield f"first {params.key}"
            async for message in call.messages(Times):
                yield f"times {message.times}"
        finally:
            self.metrics.custom["closed"] = 1


@pytest.fixture
def echo() -> type[EchoPlugin]:
    return EchoPlugin


class MemoryStream:
    """One end of a byte stream in memory, with the methods of anyio's. It takes all that is
    sent."""

    def __init__(self) -> None:
        self.peer: MemoryStream
        self._received = bytearray()
        self._ended = self._closed = False
        self._changed = anyio.Event()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while not self._received:
            if self._closed:
                raise anyio.ClosedResourceError
            if self._ended:
                raise anyio.EndOfStream
            self._changed = anyio.Event()
            await self._changed.wait()
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        return data

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        if self.peer._closed:
            raise anyio.BrokenResourceError
        self.peer._received += item
        self.peer._changed.set()

    async def send_eof(self) -> None:
        self.peer._ended = True
        self.peer._changed.set()

    async def aclose(self) -> None:
        self._closed = True
        self._changed.set()
        await self.send_eof()


class Host:
    """The host's end of a session, played by hand."""

    def __init__(self, stream: MemoryStream, **limits: int) -> None:
        self.stream = stream
        self.connection = Connection(Role.HOST, Hello(name="host", **limits))
        self.events: deque[Event] = deque()

    async def next(self) -> Event | None:
        while True:
            event = self.connection.next_event()
            if event is not None:
                return event
            if self.connection.state is ConnectionState.CLOSED:
                return None
            try:
                self.connection.receive_data(await self.stream.receive())
            except anyio.EndOfStream:
                self.connection.receive_data(b"")

    async def expect(self, kind: type[Event]) -> Any:
        event = await self.next()
        assert isinstance(event, kind), event
        return event

    async def send(self, *events: Event) -> None:
        """All of them in one piece."""
        for event in events:
            self.connection.send(event)
        await self.stream.send(self.connection.data_to_send())

    async def handshake(self, codec: str = "msgpack") -> None:
        offer = msgspec.structs.replace(await self.expect(Hello), codecs=(codec,))
        await self.send(answer(offer, self.connection.local_hello))

    async def open(self, method: Method, message: Any, **fields: Any) -> int:
        stream = self.connection.next_stream()
        await self.send(Open(stream, method, message, **fields))
        return stream

    async def call(self, method: Method, message: Any, **fields: Any) -> Any:
        stream = await self.open(method, message, **fields)
        close = await self.expect(Close)
        assert close.stream == stream
        return close

    async def execute(self, operation: str, params: str = "", **fields: Any) -> Any:
        request = ExecuteRequest(operation=operation, params_json=params)
        return await self.call(Method.EXECUTE, request, **fields)

    async def burst(self, *operations: str, deadline_ms: int = 0) -> list[int]:
        """Calls that arrive in one piece."""
        first = self.connection.next_stream()
        streams = [first + 2 * n for n in range(len(operations))]
        for stream, name in zip(streams, operations, strict=True):
            request = ExecuteRequest(operation=name)
            self.connection.send(Open(stream, Method.EXECUTE, request, deadline_ms))
        await self.send()
        return streams


def memory_streams() -> tuple[MemoryStream, MemoryStream]:
    """Both ends of one."""
    ours, theirs = MemoryStream(), MemoryStream()
    ours.peer, theirs.peer = theirs, ours
    return ours, theirs


@asynccontextmanager
async def run_session(
    plugin: Any, *, initialize: bool = True, codec: str = "msgpack", **limits: int
) -> AsyncIterator[tuple[Host, Session, list[bool]]]:
    """(host, session, ended): a session that runs, that has shaken hands, initialized."""
    ours, theirs = memory_streams()
    session = Session(theirs, plugin, name="scripted", version="1")
    host = Host(ours, **limits)
    ended: list[bool] = []

    async def run() -> None:
        await session.run()
        ended.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await host.handshake(codec)
        if initialize:
            await host.call(Method.INITIALIZE, InitializeRequest(namespace="ns"))
        yield host, session, ended
        await host.stream.aclose()


@pytest.fixture
def stream_pair() -> Callable[[], tuple[MemoryStream, MemoryStream]]:
    return memory_streams


@pytest.fixture
def host_on() -> type[Host]:
    """A host on a stream."""
    return Host


@pytest.fixture
def session_of() -> Callable[..., Any]:
    return run_session


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs an async function to its end, on either event loop, whose name is ``backend``."""

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        async def in_time() -> Any:
            with anyio.fail_after(30):
                return await function(*arguments)

        return anyio.run(in_time, backend=request.param)

    run.backend = request.param  # type: ignore[attr-defined]
    return run

"""Calls to a plugin over the channels that the proxy uses, in the process and out of it.

Each result is held against the JSON Schema that the plugin declares for it.
"""

import importlib
import importlib.util
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import trio

from prism.channels.channel import PluginChannel, StreamCall
from prism.channels.frames.channel import FramedChannel
from prism.channels.in_process import InProcessChannel
from prism.contract.messages import (
    ExecuteRequest,
    InitializeRequest,
    InitializeResponse,
    OperationDeclaration,
    ShutdownRequest,
    StreamRequest,
)
from prism.contract.status import StatusCode
from prism.sdk import Plugin, PluginError
from prism.streams import unix
from prism.streams.errors import LaunchError
from tests.compliance.subjects import Setup, Subject

try:
    import jsonschema
except ImportError:  # `make` installs it
    if os.environ.get("CI"):
        raise
    jsonschema = None

_decode = msgspec.json.Decoder(float_hook=Decimal).decode
"""Numbers may be larger than floats are."""

LIMIT = 60.0
"""Seconds after which something counts as hung."""


async def eventually(check: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until the answer is true, and return that."""
    with trio.fail_after(LIMIT):
        while not (found := await check()):  # noqa: ASYNC110 - a backend changes
            await trio.sleep(0.02)
    return found


def refused(status: StatusCode) -> Any:
    """A block that a plugin has to answer with this status."""
    return pytest.raises(PluginError, check=lambda error: error.status is status)


class Caller:
    """An initialized plugin behind a channel."""

    def __init__(self, channel: PluginChannel, answer: InitializeResponse) -> None:
        self.channel = channel
        self.groups = frozenset(answer.groups)
        self.operations = {one.name: one for one in answer.operations}

    async def execute(self, operation: str, text: str, *, raw: bytes = b"") -> tuple[str, bytes]:
        """The result as the plugin wrote it, as JSON and as MessagePack.

        Raises:
            PluginError: the plugin answered with an error.
        """
        request = ExecuteRequest(operation=operation, params_json=text, params_raw=raw)
        with trio.fail_after(LIMIT):
            answer = await self.channel.execute(request)
        if not answer.success:
            raise PluginError(StatusCode.from_wire(answer.error_code), answer.error)
        if answer.result_json:
            self._check(operation, "result_schema", answer.result_json)
        return answer.result_json, answer.result_raw

    async def call(self, operation: str, /, **params: Any) -> Any:
        """The result of a call with JSON params."""
        text, _ = await self.execute(operation, msgspec.json.encode(params).decode())
        return msgspec.json.decode(text)

    async def call_binary(self, operation: str, /, **params: Any) -> Any:
        """The same in MessagePack."""
        _, raw = await self.execute(operation, "", raw=msgspec.msgpack.encode(params))
        return msgspec.msgpack.decode(raw)

    @asynccontextmanager
    async def stream(
        self, operation: str, /, *, resume_after: str = "", **params: Any
    ) -> AsyncIterator["Messages"]:
        """A stream, which ends with the block."""
        metadata = {"prism-last-event-id": resume_after} if resume_after else {}
        text = msgspec.json.encode(params).decode()
        first = StreamRequest(operation=operation, params_json=text, metadata=metadata)
        async with self.channel.execute_stream(first) as stream:
            await stream.end()
            yield Messages(self, operation, stream)

    @asynccontextmanager
    async def dialogue(self, operation: str, /, **params: Any) -> AsyncIterator["Messages"]:
        """A stream in which the client goes on to ``send`` until its ``end``."""
        text = msgspec.json.encode(params).decode()
        first = StreamRequest(operation=operation, params_json=text)
        async with self.channel.execute_stream(first) as stream:
            yield Messages(self, operation, stream)

    async def list(self, operation: str, /, **params: Any) -> list[Any]:
        """All messages of a stream that ends."""
        async with self.stream(operation, **params) as messages:
            return [message async for message, _ in messages]

    def check_message(self, operation: str, text: str) -> None:
        """Hold a stream's message against its schema."""
        also = self.operations[operation].also_streaming
        self._check(operation, "stream_result_schema" if also else "result_schema", text)

    def _check(self, operation: str, field: str, text: str) -> None:
        declared = self.operations.get(operation, OperationDeclaration())
        if schema := getattr(declared, field):
            _validate(_decode(text), schema)


class Messages(AsyncIterator[tuple[Any, str]]):
    """The messages of a stream, each with its position.

    Raises:
        PluginError: the plugin ended the stream with an error.
    """

    def __init__(self, caller: Caller, operation: str, stream: StreamCall) -> None:
        self._caller = caller
        self._operation = operation
        self._stream = stream

    async def send(self, **params: Any) -> None:
        """The client's next message."""
        text = msgspec.json.encode(params).decode()
        await self._stream.send(StreamRequest(params_json=text))

    async def end(self) -> None:
        """The client has no more to say."""
        await self._stream.end()

    async def __anext__(self) -> tuple[Any, str]:
        while True:
            try:
                with trio.fail_after(LIMIT):
                    message = await self._stream.receive()
            except trio.EndOfChannel:
                raise StopAsyncIteration from None
            if message.error_code:
                raise PluginError(StatusCode.from_wire(message.error_code), message.error)
            if message.result_json:
                self._caller.check_message(self._operation, message.result_json)
                return msgspec.json.decode(message.result_json), message.position


def _validate(value: Any, schema: str) -> None:
    if jsonschema is not None:
        _validator(schema).validate(value)


@cache
def _validator(schema: str) -> Any:
    return jsonschema.Draft202012Validator(msgspec.json.decode(schema))


def check_schema(text: str) -> None:
    """See that a schema is one."""
    if text and jsonschema is not None:
        jsonschema.Draft202012Validator.check_schema(msgspec.json.decode(text))


class Process:
    """A plugin's process, which serves all who connect, each with a plugin of their own."""

    def __init__(self, subject: Subject, directory: Path) -> None:
        self._path = directory / "plugin.sock"
        self._log = directory / "log"
        with self._log.open("wb") as log:
            self.popen = subprocess.Popen(
                [*subject.command, "--listen", f"unix:{self._path}"], stderr=log, cwd=directory
            )

    async def connect(self) -> trio.abc.Stream:
        """A new connection, once the process listens."""
        with trio.fail_after(LIMIT):
            while True:
                try:
                    return await unix.dial(self._path)
                except LaunchError:
                    assert self.popen.poll() is None, self._log.read_text()
                    await trio.sleep(0.02)

    def end(self) -> None:
        """End it."""
        self.popen.terminate()
        self.popen.wait(LIMIT)


@asynccontextmanager
async def over_frames(stream: trio.abc.Stream) -> AsyncIterator[PluginChannel]:
    """A channel on a connection."""
    channel = FramedChannel(stream, name="it")
    async with trio.open_nursery() as nursery:
        try:
            await channel.handshake()
            nursery.start_soon(channel.run)
            yield channel
        finally:
            with trio.CancelScope(shield=True):
                await channel.aclose()


@asynccontextmanager
async def in_this_process(subject: Subject) -> AsyncIterator[PluginChannel]:
    """A channel to a plugin here."""
    channel = InProcessChannel(plugin_class(subject)(), subject.name)
    try:
        yield channel
    finally:
        with trio.CancelScope(shield=True):
            await channel.aclose()


def plugin_class(subject: Subject) -> type[Plugin]:
    """The subject's class."""
    where, _, name = subject.module.partition(":")
    if where.endswith(".py"):
        spec = importlib.util.spec_from_file_location(f"compliance_{subject.name}", where)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(where)
    found: type[Plugin] = getattr(module, name)
    return found


@asynccontextmanager
async def initialized(
    channel: PluginChannel, setup: Setup, namespace: str
) -> AsyncIterator[Caller]:
    """The plugin behind ``channel``, from Initialize to Shutdown."""
    answer = await channel.initialize(
        InitializeRequest(
            namespace=namespace,
            config_json=msgspec.json.encode(setup.config).decode(),
            credentials=dict(setup.credentials),
        )
    )
    assert answer.success, answer.error
    try:
        yield Caller(channel, answer)
    finally:
        with anyio.move_on_after(LIMIT, shield=True):
            stopped = await channel.shutdown(ShutdownRequest(timeout_seconds=5))
    assert stopped.success, stopped.error

"""The plugin before a real broker; each test has topics and groups of its own there."""

import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from prism.contract.messages import StreamRequest
from prism.contract.status import StatusCode
from prism.sdk import PluginError
from prism.sdk.testing import RunningPlugin, run_plugin
from prism_plugins.kafka import KafkaPlugin
from tests.services.kafka import Kafka

LIMIT = 60.0
"""Seconds after which something counts as hung."""

OpenPlugin = Callable[..., AbstractAsyncContextManager[RunningPlugin[KafkaPlugin]]]


async def eventually(check: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until the answer is true, and return that."""
    with anyio.fail_after(LIMIT):
        found = await check()
        while not found:
            await anyio.sleep(0.05)
            found = await check()
    return found


class Requests(AsyncIterator[StreamRequest]):
    """What a client has sent, and will send until ``ended``."""

    def __init__(self) -> None:
        self.sent: deque[StreamRequest] = deque()
        self.ended = False
        self.changed = anyio.Event()

    async def __anext__(self) -> StreamRequest:
        while not self.sent:
            if self.ended:
                raise StopAsyncIteration
            self.changed = anyio.Event()
            await self.changed.wait()
        return self.sent.popleft()


class Stream:
    """A stream that is held open: ``send`` goes to the plugin, ``next`` is what it answers.

    It begins with the first ``next``.
    """

    def __init__(self, plugin: KafkaPlugin, operation: str, params: dict[str, Any]) -> None:
        self._requests = Requests()
        self.send(params, operation)
        self._responses = plugin.execute_stream(self._requests)

    def send(self, message: dict[str, Any], operation: str = "") -> None:
        text = msgspec.json.encode(message).decode()
        self._requests.sent.append(StreamRequest(operation=operation, params_json=text))
        self._requests.changed.set()

    def end(self) -> None:
        """The client has no more to say."""
        self._requests.ended = True
        self._requests.changed.set()

    async def next(self) -> Any:
        """The next message, or None at the good end."""
        with anyio.fail_after(LIMIT):
            response = await anext(self._responses)
        if response.error_code:
            raise PluginError(StatusCode.from_wire(response.error_code), response.error)
        return None if response.is_final else msgspec.json.decode(response.result_json)

    async def next_of(self, event: str) -> Any:
        """The next message of this kind; those before it are passed over."""
        while (message := await self.next()) is not None and message["event"] != event:
            pass
        assert message is not None, "the stream has ended"
        return message

    async def messages(self, number: int) -> list[Any]:
        """So many messages of the topic."""
        return [await self.next_of("message") for _ in range(number)]

    async def aclose(self) -> None:
        """As if the client had gone away."""
        await self._responses.aclose()


@asynccontextmanager
async def open_stream(
    kafka: RunningPlugin[KafkaPlugin], operation: str, **params: Any
) -> AsyncIterator[Stream]:
    stream = Stream(kafka.plugin, operation, params)
    try:
        yield stream
    finally:
        await stream.aclose()


@pytest.fixture
def prefix() -> str:
    return f"t{secrets.token_hex(4)}_"


@pytest.fixture
def open_plugin(kafka: Kafka, prefix: str) -> OpenPlugin:
    @asynccontextmanager
    async def opened(
        *, credentials: dict[str, str] | None = None, **config: Any
    ) -> AsyncIterator[RunningPlugin[KafkaPlugin]]:
        whole = {
            "brokers": [f"127.0.0.1:{kafka.port}"],
            "topic_prefix": prefix,
            "consumer_group": prefix + "group",
            **config,
        }
        async with run_plugin(KafkaPlugin, config=whole, credentials=credentials) as plugin:
            yield plugin

    return opened


@pytest.fixture
async def plugin(open_plugin: OpenPlugin) -> AsyncIterator[RunningPlugin[KafkaPlugin]]:
    """With a topic ``orders`` of three partitions, and ``single`` of one."""
    async with open_plugin() as opened:
        await opened.call("create_topic", topic="orders", partitions=3)
        await opened.call("create_topic", topic="single")
        yield opened

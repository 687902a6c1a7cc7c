"""Test a plugin without a proxy.

::

    async with run_plugin(Echo, config={"greeting": "hi"}) as echo:
        assert await echo.call("get", key="a") == {"found": False}

Everything passes through the same encoding as in production.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Generic, TypeVar

import anyio
import msgspec

from prism.contract.errors import PluginError
from prism.contract.messages import (
    ExecuteRequest,
    HealthCheckRequest,
    HealthCheckResponse,
    InitializeRequest,
    ShutdownRequest,
    StreamRequest,
)
from prism.contract.status import StatusCode
from prism.sdk.plugin import Plugin

P = TypeVar("P", bound=Plugin)

STOP_TIMEOUT_SECONDS = 10


class RunningPlugin(Generic[P]):
    """An initialized plugin; ``plugin`` is the instance itself."""

    def __init__(self, plugin: P) -> None:
        self.plugin = plugin

    async def call(self, operation: str, /, **params: Any) -> Any:
        """Call an operation with JSON params; returns the decoded result.

        Raises:
            PluginError: the plugin answered with an error.
        """
        return await self.request(operation, params)

    async def request(
        self,
        operation: str,
        params: Mapping[str, Any],
        *,
        metadata: Mapping[str, str] | None = None,
        binary: bool = False,
    ) -> Any:
        """Like ``call``, with metadata, and in MessagePack when ``binary``."""
        response = await self.plugin.execute(
            ExecuteRequest(
                operation=operation,
                metadata=dict(metadata or {}),
                params_json="" if binary else msgspec.json.encode(params).decode(),
                params_raw=msgspec.msgpack.encode(params) if binary else b"",
            )
        )
        if not response.success:
            raise PluginError(StatusCode.from_wire(response.error_code), response.error)
        return _decode(response.result_json, response.result_raw)

    async def stream(
        self, operation: str, /, *messages: Mapping[str, Any], **params: Any
    ) -> AsyncGenerator[Any, None]:
        """Open a stream with ``params``, send ``messages``; yields the decoded results.

        Raises:
            PluginError: the plugin ended the stream with an error.
        """
        requests = _Requests(operation, [params, *messages])
        async with aclosing(self.plugin.execute_stream(requests)) as responses:
            async for response in responses:
                if response.error_code:
                    raise PluginError(StatusCode.from_wire(response.error_code), response.error)
                if response.result_json or response.result_raw:
                    yield _decode(response.result_json, response.result_raw)

    async def health(self) -> HealthCheckResponse:
        """The plugin's answer to a health check."""
        return await self.plugin.health_check(HealthCheckRequest())


@asynccontextmanager
async def run_plugin(
    plugin: type[P],
    *,
    config: Mapping[str, Any] | None = None,
    credentials: Mapping[str, str] | None = None,
    namespace: str = "test",
) -> AsyncIterator[RunningPlugin[P]]:
    """Initialize a plugin, and shut it down on leaving.

    Raises:
        PluginError: the plugin refused to start, or failed to stop.
    """
    instance = plugin()
    started = await instance.initialize(
        InitializeRequest(
            namespace=namespace,
            backend_type=instance.name,
            config_json=msgspec.json.encode(config or {}).decode(),
            credentials=dict(credentials or {}),
        )
    )
    if not started.success:
        raise PluginError(StatusCode.from_wire(started.error_code), started.error)
    try:
        yield RunningPlugin(instance)
    finally:
        with anyio.move_on_after(STOP_TIMEOUT_SECONDS, shield=True):
            stopped = await instance.shutdown(ShutdownRequest(timeout_seconds=1))
    if not stopped.success:
        raise PluginError(StatusCode.INTERNAL, stopped.error)


class _Requests(AsyncIterator[StreamRequest]):
    """Not a generator, so that a plugin may stop reading before the end."""

    def __init__(self, operation: str, messages: Iterable[Mapping[str, Any]]) -> None:
        self._operation = operation
        self._messages = iter(messages)

    async def __anext__(self) -> StreamRequest:
        for message in self._messages:
            operation, self._operation = self._operation, ""
            text = msgspec.json.encode(message).decode()
            return StreamRequest(operation=operation, params_json=text)
        raise StopAsyncIteration


def _decode(text: str, raw: bytes) -> Any:
    return msgspec.msgpack.decode(raw) if raw else msgspec.json.decode(text)

"""The contract's service as a Python interface: what a plugin implements.

``prism.sdk.Plugin`` implements it for plugin authors; the in-process channel
and the SDK's server call it. Neither needs to know the other.
"""

from collections.abc import AsyncIterator, Sequence
from enum import IntEnum
from typing import Protocol

from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    HealthCheckRequest,
    HealthCheckResponse,
    InitializeRequest,
    InitializeResponse,
    Message,
    ShutdownRequest,
    ShutdownResponse,
    StreamRequest,
    StreamResponse,
)


class Method(IntEnum):
    """The five calls of ``BackendPlugin``, numbered as in an OPEN frame."""

    INITIALIZE = 1
    HEALTH_CHECK = 2
    EXECUTE = 3
    EXECUTE_STREAM = 4
    SHUTDOWN = 5


REQUEST_TYPE: dict[Method, type[Message]] = {
    Method.INITIALIZE: InitializeRequest,
    Method.HEALTH_CHECK: HealthCheckRequest,
    Method.EXECUTE: ExecuteRequest,
    Method.EXECUTE_STREAM: StreamRequest,
    Method.SHUTDOWN: ShutdownRequest,
}

RESPONSE_TYPE: dict[Method, type[Message]] = {
    Method.INITIALIZE: InitializeResponse,
    Method.HEALTH_CHECK: HealthCheckResponse,
    Method.EXECUTE: ExecuteResponse,
    Method.EXECUTE_STREAM: StreamResponse,
    Method.SHUTDOWN: ShutdownResponse,
}


class StreamRequests(AsyncIterator[StreamRequest]):
    """A client's messages that know how far the client is with what it gets."""

    async def wait_room(self, size: int) -> None:
        """Wait until there is room for ``size`` bytes that the plugin is about to send."""

    def resize_room(self, sizes: Sequence[int]) -> None:
        """Of these, the plugin needs room for messages of ``sizes``, which are to come. Plain
        code."""


class BackendPlugin(Protocol):
    """One plugin, for one namespace, from Initialize to Shutdown.

    Every failure is an answer: implementations report errors in the response
    (``success``, ``error``, ``error_code``). What they raise nevertheless counts
    as INTERNAL. Cancelling a call must leave the plugin usable.
    """

    async def initialize(self, request: InitializeRequest) -> InitializeResponse: ...

    async def execute(self, request: ExecuteRequest) -> ExecuteResponse: ...

    def execute_stream(
        self, requests: AsyncIterator[StreamRequest]
    ) -> AsyncIterator[StreamResponse]:
        """Usually an async generator; closing it ends the stream early."""
        ...

    async def health_check(self, request: HealthCheckRequest) -> HealthCheckResponse: ...

    async def shutdown(self, request: ShutdownRequest) -> ShutdownResponse: ...

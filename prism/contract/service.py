"""The contract's service as a Python interface: what a plugin implements.

``prism.sdk.Plugin`` implements it for plugin authors; the in-process channel
and the SDK's server call it. Neither needs to know the other.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from enum import IntEnum
from typing import Any, Protocol

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

NAMESPACE_KEY = "prism-namespace"
PRINCIPAL_KEY = "prism-principal"
REQUEST_ID_KEY = "prism-request-id"
LAST_EVENT_ID_KEY = "prism-last-event-id"
TRACEPARENT_KEY = "traceparent"
TRACESTATE_KEY = "tracestate"
"""The keys of a request's metadata under which the proxy tells a plugin of the call."""


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


class PendingExecution:
    """An answer to Execute that an operation has left for later.

    Who has it waits until it is settled, and then calls ``finish``, or ``abandon`` at any time
    before. All of it is plain code.
    """

    # No ABC: each answer is asked whether it is one, and an ABC's isinstance is slow.
    __slots__ = ()

    def when_settled(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called once ``finish`` can be: at once, if it can."""
        raise NotImplementedError

    def finish(self) -> ExecuteResponse:
        """The answer; never raises."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Nobody wants it any more: ``tell`` is not called."""
        raise NotImplementedError


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


def execution_of(
    plugin: BackendPlugin,
) -> Callable[[ExecuteRequest], Coroutine[Any, Any, ExecuteResponse | PendingExecution]]:
    """What runs an operation of ``plugin``: its ``begin_execution``, which may leave the answer for
    later, if the class that has it has ``execute`` too; a subclass may have another one of that."""
    kind = type(plugin)
    with_begin = next((each for each in kind.__mro__ if "begin_execution" in vars(each)), None)
    with_execute = next((each for each in kind.__mro__ if "execute" in vars(each)), None)
    if with_begin is not None and with_begin is with_execute:
        return plugin.begin_execution  # type: ignore[attr-defined,no-any-return]
    return plugin.execute

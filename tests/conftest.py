"""Fixtures for the floors above the channels: a namespace whose plugin is a function."""

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pytest
import trio

from prism.calls.namespace import Namespace
from prism.channels.channel import AnswerMemory, PluginChannel, StreamCall
from prism.config.types import NamespaceConfig, NamespaceLimits
from prism.contract.errors import CallError, ChannelClosed, PluginCrashed
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    HealthCheckRequest,
    HealthCheckResponse,
    HealthStatus,
    InitializeRequest,
    InitializeResponse,
    OperationDeclaration,
    ShutdownRequest,
    ShutdownResponse,
    StreamRequest,
)
from prism.supervision.instance import Instance
from prism.supervision.slot import Slot

Answer = Callable[[ExecuteRequest], Awaitable[ExecuteResponse]]


class FunctionChannel(PluginChannel):
    """A channel to a plugin in this process whose ``execute`` is the function given."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[ExecuteRequest] = []
        self._open = 0
        self._closed = trio.Event()

    async def initialize(self, request: InitializeRequest) -> InitializeResponse:
        return InitializeResponse(success=True)

    async def execute(
        self, request: ExecuteRequest, memory: AnswerMemory | None = None
    ) -> ExecuteResponse:
        if self._closed.is_set():
            raise PluginCrashed("the channel is closed")
        self.requests.append(request)
        self._open += 1
        try:
            return await self.answer(request)
        finally:
            self._open -= 1

    def execute_stream(
        self, first: StreamRequest, memory: AnswerMemory | None = None
    ) -> AbstractAsyncContextManager[StreamCall]:
        raise NotImplementedError

    async def health_check(self, request: HealthCheckRequest) -> HealthCheckResponse:
        return HealthCheckResponse(status=HealthStatus.HEALTHY)

    async def shutdown(self, request: ShutdownRequest) -> ShutdownResponse:
        return ShutdownResponse(success=True)

    def go_away(self, reason: str) -> None:
        pass

    async def aclose(self) -> None:
        self._closed.set()

    async def wait_broken(self) -> Exception:
        await self._closed.wait()
        return ChannelClosed("closed")

    @property
    def ended(self) -> Exception | None:
        return ChannelClosed("closed") if self._closed.is_set() else None

    def cancel_calls(self, error: CallError) -> None:
        raise NotImplementedError

    @property
    def open_calls(self) -> int:
        return self._open


async def echo(request: ExecuteRequest) -> ExecuteResponse:
    """Answers with the parameters, exactly."""
    return ExecuteResponse(success=True, result_json=request.params_json)


class MakeNamespace(Protocol):
    def __call__(
        self, answer: Answer = echo, *, name: str = "kv", limits: NamespaceLimits = ...
    ) -> Namespace: ...


@pytest.fixture
def make_namespace() -> MakeNamespace:
    """A namespace with the operations ``get``, ``set`` and the streaming ``watch``."""

    def make(
        answer: Answer = echo,
        *,
        name: str = "kv",
        limits: NamespaceLimits = NamespaceLimits(),  # noqa: B008
    ) -> Namespace:
        slot = Slot(name)
        declared = [
            OperationDeclaration(name="get", idempotent=True),
            OperationDeclaration(name="set"),
            OperationDeclaration(name="watch", streaming=True),
        ]
        slot.fill(
            Instance(
                namespace=name,
                generation=1,
                plugin="function",
                version="1.0",
                channel=FunctionChannel(answer),
                operations={operation.name: operation for operation in declared},
                health=HealthCheckResponse(status=HealthStatus.HEALTHY, message="fine"),
            )
        )
        config = NamespaceConfig(name, "memory", "A test's namespace", limits=limits)
        return Namespace(config, slot)

    return make


DRIVERS = {"postgres": "psycopg", "redis": "hiredis", "kafka": "confluent_kafka"}
"""Of the plugins that need one."""


@pytest.fixture(params=DRIVERS)
def lacking(request: pytest.FixtureRequest) -> Iterator[str]:
    """A backend whose driver is not installed."""
    backend: str = request.param
    package = f"prism_plugins.{backend}"

    def taken() -> dict[str, object]:
        names = [name for name in sys.modules if f"{name}.".startswith(f"{package}.")]
        return {name: sys.modules.pop(name) for name in names}

    before = taken()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, DRIVERS[backend], None)
        yield backend
    taken()
    sys.modules.update(before)  # type: ignore[arg-type]
    if package in before:
        setattr(sys.modules["prism_plugins"], backend, before[package])

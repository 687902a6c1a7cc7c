"""``Plugin``: the base class of every plugin written in Python.

The same class runs inside the proxy (under trio) and as a process of its own
(under trio or asyncio): it knows anyio and neither of the two.

Theory of operation. The class is compiled when it is defined: one decoder per
operation. A call is a dictionary look-up, a decode, the handler, an encode; and
whatever goes wrong on this way becomes an answer, never an exception, as the
contract asks. Cancellation passes through untouched: no state outlives a call
but the count of running calls, which ``finally`` lowers.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, ClassVar, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread
import msgspec

from prism.contract.errors import PluginError
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    HealthCheckRequest,
    HealthCheckResponse,
    HealthStatus,
    InitializeRequest,
    InitializeResponse,
    ProxyCapabilities,
    ShutdownRequest,
    ShutdownResponse,
    StreamRequest,
    StreamResponse,
)
from prism.contract.status import StatusCode
from prism.sdk.call import Call
from prism.sdk.codec import decode_config, encode_json, encode_msgpack
from prism.sdk.failures import Failures
from prism.sdk.health import Health
from prism.sdk.metrics import Metrics
from prism.sdk.operation import Operation, compile_operations
from prism.sdk.position import Positioned
from prism.sdk.running_calls import RunningCalls
from prism.sdk.state import State

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Plugin:
    """One plugin for one namespace; subclass it and add operations.

    ``start`` finds ``self.config``, ``self.credentials`` and ``self.namespace``
    set. ``Config`` is the msgspec Struct to decode the configuration to; without
    one, ``self.config`` is the plain dictionary. Raise ``PluginError`` to answer
    a call with a status; any other exception is INTERNAL and only the log has it.
    """

    name: ClassVar[str] = ""
    version: ClassVar[str] = "0.0.0"
    Config: ClassVar[type[msgspec.Struct] | None] = None
    blocking_threads: ClassVar[int] = 8
    """How many ``run_blocking`` calls may run at the same time; others wait."""

    operations: ClassVar[Mapping[str, Operation]] = {}
    """Compiled from the methods marked with ``@operation``."""

    config: Any
    credentials: Mapping[str, str]
    namespace: str
    capabilities: ProxyCapabilities

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.name:
            cls.name = cls.__name__.lower()
        reserved = frozenset(name for name in vars(Plugin) if not name.startswith("__"))
        cls.operations = compile_operations(cls, reserved)

    def __init__(self) -> None:
        self.namespace = ""
        self.credentials = {}
        self.capabilities = ProxyCapabilities()
        self.metrics = Metrics()
        self._state = State.NEW
        self._failures = Failures(self.name)
        self._calls = RunningCalls(self.metrics)
        self._limiter: anyio.CapacityLimiter | None = None

    async def start(self) -> None:
        """Open connections. Raising refuses Initialize; ``stop`` is not called then."""

    async def stop(self) -> None:
        """Close connections. The caller bounds the time by cancelling."""

    async def health(self) -> Health:
        """The health of the plugin and its backend. Raising means unhealthy."""
        return Health.healthy()

    async def run_blocking(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run a function that blocks in a worker thread; at most ``blocking_threads`` at once.

        A cancelled caller still waits for the function to return: a thread
        cannot be stopped from outside.
        """
        return await anyio.to_thread.run_sync(function, *args, limiter=self._limiter)

    async def initialize(self, request: InitializeRequest) -> InitializeResponse:
        """Decode the configuration and run ``start``; once in a plugin's life.

        A cancelled Initialize leaves the plugin FAILED.
        """
        if self._state is not State.NEW:
            return InitializeResponse(
                error=f"plugin {self.name!r} was initialized before; start a new instance instead",
                error_code=StatusCode.FAILED_PRECONDITION,
            )
        self._state = State.STARTING
        self.namespace = request.namespace
        self.credentials = request.credentials
        self.capabilities = request.capabilities or ProxyCapabilities()
        self._failures.keep_secret(request.credentials)
        self._limiter = anyio.CapacityLimiter(self.blocking_threads)
        try:
            self.config = decode_config(self.Config, request.config_json)
            await self.start()
            self._state = State.SERVING
        except Exception as error:
            code, detail = self._failures.of_lifecycle(error, "start")
            return InitializeResponse(error=detail, error_code=code, plugin_version=self.version)
        finally:
            if self._state is State.STARTING:
                self._state = State.FAILED
        return InitializeResponse(
            success=True,
            plugin_version=self.version,
            supported_operations=list(self.operations),
            operations=[operation.declaration for operation in self.operations.values()],
        )

    async def execute(self, request: ExecuteRequest) -> ExecuteResponse:
        """Run one operation that is not streaming."""
        started = self._calls.begin()
        binary = bool(request.params_raw)
        try:
            operation = self._find(request.operation, streaming=False)
            params = operation.params.decode(request.params_json, request.params_raw)
            if operation.takes_call:
                call = Call(request.operation, self.namespace, request.metadata, binary=binary)
                result = await operation.handler(self, params, call)
            else:
                result = await operation.handler(self, params)
            metrics = self._calls.metrics_when_due(started)
            if binary:
                raw = encode_msgpack(result)
                return ExecuteResponse(success=True, result_raw=raw, metrics=metrics)
            text = encode_json(result)
            return ExecuteResponse(success=True, result_json=text, metrics=metrics)
        except Exception as error:
            self.metrics.requests_failed += 1
            request_id = request.metadata.get("prism-request-id", "")
            code, detail = self._failures.of_call(error, request.operation, request_id)
            return ExecuteResponse(error=detail, error_code=code)
        finally:
            self._calls.end(started)

    async def execute_stream(
        self, requests: AsyncIterator[StreamRequest]
    ) -> AsyncGenerator[StreamResponse, None]:
        """Run one streaming operation.

        Every item is one message; after the last one comes a message that has
        only ``is_final``, or the error. Closing the generator closes the handler;
        ``requests`` stays the caller's to close.
        """
        started = self._calls.begin()
        first = StreamRequest()
        try:
            first = await anext(requests, first)
            name = first.operation
            binary = bool(first.params_raw)
            operation = self._find(name, streaming=True)
            params = operation.params.decode(first.params_json, first.params_raw)
            call = Call(name, self.namespace, first.metadata, binary=binary, requests=requests)
            arguments = (self, params, call) if operation.takes_call else (self, params)
            async with aclosing(operation.handler(*arguments)) as items:
                async for item in items:
                    value, position = item if isinstance(item, Positioned) else (item, "")
                    if binary:
                        raw = encode_msgpack(value)
                        yield StreamResponse(result_raw=raw, position=position)
                    else:
                        text = encode_json(value)
                        yield StreamResponse(result_json=text, position=position)
            yield StreamResponse(is_final=True)
        except Exception as error:
            self.metrics.requests_failed += 1
            request_id = first.metadata.get("prism-request-id", "")
            code, detail = self._failures.of_call(error, first.operation, request_id)
            yield StreamResponse(is_final=True, error=detail, error_code=code)
        finally:
            self._calls.end(started)

    async def health_check(self, request: HealthCheckRequest) -> HealthCheckResponse:
        """Ask ``health``; a plugin that is not serving is UNHEALTHY."""
        if self._state is State.SERVING:
            try:
                health = await self.health()
            except Exception as error:
                health = Health.unhealthy(self._failures.of_lifecycle(error, "health check")[1])
        else:
            health = Health(HealthStatus.UNHEALTHY, f"the plugin is {self._state.value}")
        return HealthCheckResponse(
            status=health.status,
            message=health.message,
            details=health.details,
            metrics=self.metrics.snapshot(),
        )

    async def shutdown(self, request: ShutdownRequest) -> ShutdownResponse:
        """Refuse new calls, wait up to ``timeout_seconds`` for running ones, run ``stop``.

        ``stop`` runs even when calls remain; the answer then says how many.
        Cancelling leaves the plugin STOPPING: it takes no calls any more.
        """
        if self._state is State.STARTING:
            return ShutdownResponse(error="the plugin is still starting")
        if self._state is not State.SERVING:
            self._state = State.STOPPED
            return ShutdownResponse(success=True)
        self._state = State.STOPPING
        with anyio.move_on_after(request.timeout_seconds):
            await self._calls.wait_none_left()
        remaining = self._calls.count
        try:
            await self.stop()
        except Exception as error:
            return ShutdownResponse(error=self._failures.of_lifecycle(error, "stop")[1])
        finally:
            self._state = State.STOPPED
        if remaining:
            return ShutdownResponse(error=f"stopped while {remaining} calls were still running")
        return ShutdownResponse(success=True)

    def _find(self, name: str, *, streaming: bool) -> Operation:
        if self._state is not State.SERVING:
            gone = self._state in (State.STOPPING, State.STOPPED)
            code = StatusCode.UNAVAILABLE if gone else StatusCode.FAILED_PRECONDITION
            raise PluginError(code, f"plugin {self.name!r} is {self._state.value}")
        operation = self.operations.get(name)
        if operation is None:
            offered = ", ".join(sorted(self.operations)) or "none"
            raise PluginError(
                StatusCode.UNIMPLEMENTED,
                f"plugin {self.name!r} has no operation {name!r}; it offers: {offered}",
            )
        if streaming and operation.stream is not None:
            return operation.stream
        if operation.streaming is not streaming:
            right = "as a stream" if operation.streaming else "as a single call"
            raise PluginError(StatusCode.UNIMPLEMENTED, f"operation {name!r} is called {right}")
        return operation

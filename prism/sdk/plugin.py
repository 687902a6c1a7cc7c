"""``Plugin``: the base class of every plugin written in Python.

The same class runs inside the proxy (under trio) and as a process of its own
(under trio or asyncio): it knows anyio and neither of the two.

Theory of operation. The class is compiled when it is defined: one decoder per
operation. A call is a dictionary look-up, a decode, the handler, an encode; and
whatever goes wrong on this way becomes an answer, never an exception, as the
contract asks. Callers learn what a plugin says on purpose (``PluginError``) and no
more; credentials are taken out of every sentence and every traceback. Cancellation
passes through untouched: no state outlives a call but the count of running calls,
which ``finally`` lowers.
"""

import logging
import math
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from contextlib import aclosing
from enum import Enum
from time import perf_counter
from typing import Any, ClassVar, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread
import msgspec

from prism.contract.errors import CallError, PluginError
from prism.contract.json_words import in_json_words
from prism.contract.messages import (
    CacheSettings,
    ExecuteRequest,
    ExecuteResponse,
    HealthCheckRequest,
    HealthCheckResponse,
    HealthStatus,
    InitializeRequest,
    InitializeResponse,
    OperationDeclaration,
    PluginMetrics,
    ProxyCapabilities,
    ShutdownRequest,
    ShutdownResponse,
    StreamRequest,
    StreamResponse,
)
from prism.contract.redaction import Redaction
from prism.contract.service import REQUEST_ID_KEY, PendingExecution
from prism.contract.settings import settings_problems
from prism.contract.status import StatusCode
from prism.sdk.call import Call, Positioned
from prism.sdk.declaration import declare
from prism.sdk.health import Health, Metrics
from prism.sdk.later import Later
from prism.sdk.operation import Operation, compile_operations, encode_json, encode_msgpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

METRICS_INTERVAL = 1.0
"""Seconds: ExecuteResponse carries metrics at most this often; health checks always do."""


class PluginState(Enum):
    """The life of a plugin, in order; FAILED instead of SERVING when start() raised."""

    NEW = "not initialized"
    STARTING = "still starting"
    SERVING = "serving"
    FAILED = "not initialized: its start failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


class _Failures:
    """What an exception becomes: a status and a sentence for the caller, a log entry for us."""

    def __init__(self, plugin: str) -> None:
        self.logger = logging.getLogger(f"prism.plugin.{plugin}")
        self._redaction = Redaction()

    def keep_secret(self, credentials: Mapping[str, str]) -> None:
        """From now on these values appear in no answer and no log entry."""
        self._redaction = Redaction(credentials)

    def of_call(
        self, error: BaseException, operation: str, request_id: str = ""
    ) -> tuple[StatusCode, str]:
        """Status and detail for the caller of an operation that raised ``error``.

        ``request_id`` leads from the log entry to the proxy's line about the call.
        """
        said = _said_on_purpose(error)
        if said is not None:
            return said.status, self._redaction.text(said.detail)
        error_id = secrets.token_hex(4)
        request = f", request {request_id}" if request_id else ""
        self._log(error, f"operation {operation!r} failed, error id {error_id}{request}")
        what = _EXITS.get(type(_alone(error)), "the plugin failed unexpectedly")
        return StatusCode.INTERNAL, f"{what}; its log has the cause under error id {error_id}"

    def of_lifecycle(self, error: BaseException, step: str) -> tuple[StatusCode, str]:
        """Status and detail for the operator, when ``step`` of the plugin's life failed.

        Unlike a client, the operator may read the exception's own text.
        """
        said = _said_on_purpose(error)
        if said is not None:
            return said.status, self._redaction.text(said.detail)
        self._log(error, f"{step} failed")
        return StatusCode.INTERNAL, self._redaction.text(
            f"{step} failed: {type(error).__name__}: {error}"
        )

    def _log(self, error: BaseException, what: str) -> None:
        self.logger.error("%s\n%s", what, self._redaction.traceback(error))


_EXITS = {
    SystemExit: "the plugin's handler called sys.exit",
    KeyboardInterrupt: "the plugin's handler raised KeyboardInterrupt",
}
_FAULTS = (Exception, *_EXITS)
"""What a plugin's own code fails with. What ends a process elsewhere is a handler's error here: it
must not end the calls beside it. Signals are heard by the process's main program."""


def is_fault(error: BaseException) -> bool:
    """Is it the plugin's own failure alone, and nothing of a cancellation?"""
    if isinstance(error, BaseExceptionGroup):
        return error.split(_FAULTS)[1] is None
    return isinstance(error, _FAULTS)


def _alone(error: BaseException) -> BaseException:
    """The error itself, also when a task group wrapped it alone into a group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _said_on_purpose(error: BaseException) -> CallError | None:
    found = _alone(error)
    return found if isinstance(found, CallError) else None


class PendingResponse(PendingExecution):
    """The answer of a call that its operation has left for ``later``; it can be awaited."""

    __slots__ = ("_finish", "_request", "_started", "later")

    def __init__(
        self,
        later: Later[Any],
        finish: Callable[[ExecuteRequest, Later[Any], float], Any],
        request: ExecuteRequest,
        started: float,
    ) -> None:
        self.later = later
        self._finish = finish
        self._request = request
        self._started = started

    def when_settled(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called once ``finish`` can be: at once, if it can."""
        self.later.when_settled(tell)

    def finish(self) -> ExecuteResponse:
        """The answer; never raises."""
        response: ExecuteResponse = self._finish(self._request, self.later, self._started)
        return response

    def abandon(self) -> None:
        """Nobody wants it any more."""
        self.later.abandon()
        self._finish(self._request, self.later, self._started)

    def __await__(self) -> Generator[Any, Any, ExecuteResponse]:
        try:
            yield from self.later.wait().__await__()
        except BaseException:
            self.abandon()
            raise
        return self.finish()


class Plugin:
    """One plugin for one namespace; subclass it and add operations.

    ``start`` finds ``self.config``, ``self.credentials`` and ``self.namespace``
    set. ``Config`` is the msgspec Struct to decode the configuration to; without
    one, ``self.config`` is the plain dictionary. What it may say beside its fields, which
    credentials there are for one, is in ``prism.contract.settings``. Raise ``PluginError`` to
    answer a call with a status; any other exception is INTERNAL and only the log has it, also
    ``SystemExit``: a handler cannot end the process, and the calls of others with it.
    Names with two leading underscores are the SDK's; all others are the author's.
    """

    name: ClassVar[str] = ""
    version: ClassVar[str] = "0.0.0"
    Config: ClassVar[type[msgspec.Struct] | None] = None
    blocking_threads: ClassVar[int] = 8
    """How many ``run_blocking`` calls may run at the same time; others wait."""

    cacheable: ClassVar[frozenset[str]] = frozenset()
    """Operations whose results it can keep, where the namespace has a ``cache:`` block."""

    operations: Mapping[str, Operation] = {}
    """Compiled from the methods marked with ``@operation``, for the class; an object may have
    others, see ``declarations``."""

    __group: ClassVar[str] = ""
    __declared: ClassVar[list[OperationDeclaration]] = []

    config: Any
    credentials: Mapping[str, str]
    namespace: str
    capabilities: ProxyCapabilities

    groups: ClassVar[tuple[str, ...]] = ()
    """The vocabularies that the class speaks: sets of operations, each the same in all plugins
    that declare it."""

    def __init_subclass__(cls, *, group: str = "", **kwargs: object) -> None:
        """``class Queues(Plugin, group="queue")`` has a group's operations, for others to mix
        in; it has no name of its own."""
        super().__init_subclass__(**kwargs)
        cls.__group = group
        named = {vars(base).get("_Plugin__group") for base in reversed(cls.__mro__)}
        cls.groups = tuple(sorted(filter(None, named)))
        if not cls.name and not group:
            cls.name = cls.__name__.lower()
        reserved = frozenset(name for name in vars(Plugin) if not name.startswith("__"))
        cls.operations = compile_operations(cls, reserved)

    def __init__(self) -> None:
        self.namespace = ""
        self.credentials = {}
        self.capabilities = ProxyCapabilities()
        self.metrics = Metrics()
        self.__state = PluginState.NEW
        self.__failures = _Failures(self.name)
        self.__offered: Mapping[str, Operation] = {}  # those that may be called now
        self.__running = 0
        self.__none_runs: anyio.Event | None = None
        self.__metrics_due = -math.inf
        self.__limiter: anyio.CapacityLimiter | None = None

    async def start(self) -> None:
        """Open connections. Raising refuses Initialize; ``stop`` is not called then."""

    async def stop(self) -> None:
        """Close connections. The caller bounds the time by cancelling."""

    async def health(self) -> Health:
        """The health of the plugin and its backend. Raising means unhealthy."""
        return Health.healthy()

    def use_cache(self, settings: CacheSettings) -> None:
        """Keep results from now on, of operations that are ``cacheable``. Called after
        ``start``, and only where a cache is wanted."""

    async def run_blocking(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run a function that blocks in a worker thread; at most ``blocking_threads`` at once.

        A cancelled caller still waits for the function to return: a thread
        cannot be stopped from outside.
        """
        return await anyio.to_thread.run_sync(function, *args, limiter=self.__limiter)

    async def initialize(self, request: InitializeRequest) -> InitializeResponse:
        """Decode the configuration and run ``start``; once in a plugin's life.

        A cancelled Initialize leaves the plugin FAILED.
        """
        if self.__state is not PluginState.NEW:
            return InitializeResponse(
                error=f"plugin {self.name!r} was initialized before; start a new instance instead",
                error_code=StatusCode.FAILED_PRECONDITION,
            )
        self.__state = PluginState.STARTING
        self.namespace = request.namespace
        self.credentials = request.credentials
        self.capabilities = request.capabilities or ProxyCapabilities()
        self.__failures.keep_secret(request.credentials)
        self.__limiter = anyio.CapacityLimiter(self.blocking_threads)
        try:
            self.config = _decode_config(self.Config, request.config_json)
            if self.Config is not None:
                self.__check_settings(self.Config)
            if request.cache is not None:
                self.__check_cache(request.cache)
            await self.start()
            if request.cache is not None:
                self.use_cache(request.cache)
            self.__state = PluginState.SERVING
            self.__offered = self.operations
            if not self.operations:
                self.__failures.logger.warning(
                    "plugin %r offers no operation, so nothing can be called: "
                    "mark its methods with @operation",
                    self.name,
                )
        except BaseException as error:
            if not is_fault(error):
                raise
            code, detail = self.__failures.of_lifecycle(error, "start")
            return InitializeResponse(error=detail, error_code=code, plugin_version=self.version)
        finally:
            if self.__state is PluginState.STARTING:
                self.__state = PluginState.FAILED
        return InitializeResponse(
            success=True,
            plugin_version=self.version,
            supported_operations=list(self.operations),
            operations=self.declarations(),
            groups=list(self.groups),
        )

    def __check_settings(self, kind: type[msgspec.Struct]) -> None:
        """Raises PluginError: INVALID_ARGUMENT, with all that is wrong."""
        problems = list(settings_problems(kind, self.config, self.credentials))
        if problems:
            raise PluginError(StatusCode.INVALID_ARGUMENT, "; ".join(map(str, problems)))

    def __check_cache(self, settings: CacheSettings) -> None:
        """Raises PluginError: INVALID_ARGUMENT, for what it cannot keep."""
        wrong = [name for name in settings.operations if name not in self.cacheable]
        if wrong:
            possible = ", ".join(sorted(self.cacheable)) or "none"
            raise PluginError(
                StatusCode.INVALID_ARGUMENT,
                f"cache.operations: plugin {self.name!r} cannot keep results of {wrong[0]!r}; "
                f"it can of: {possible}",
            )

    def declarations(self) -> list[OperationDeclaration]:
        """What the proxy and its clients are told of the operations. A plugin that learns in
        ``start`` which it has, and sets ``self.operations``, overrides this.
        """
        # Made once per class: the schemas take some milliseconds.
        cls = type(self)
        if "_Plugin__declared" not in vars(cls):
            cls.__declared = [declare(operation) for operation in cls.operations.values()]
        return cls.__declared

    async def execute(self, request: ExecuteRequest) -> ExecuteResponse:
        """Run one operation that is not streaming."""
        response = await self.begin_execution(request)
        return await response if isinstance(response, PendingResponse) else response

    async def begin_execution(self, request: ExecuteRequest) -> ExecuteResponse | PendingResponse:
        """Like ``execute``; what the operation leaves for later comes as it is."""
        started = perf_counter()
        self.__running += 1
        self.metrics.requests_total += 1
        pending = False
        try:
            operation = self.__offered.get(request.operation)
            if operation is None or operation.streaming:
                raise self.__refusal(request.operation, streaming=False)
            binary = bool(request.params_raw)
            params = operation.params.decode(request.params_json, request.params_raw)
            if operation.takes_call:
                call = Call(request.operation, self.namespace, request.metadata, binary=binary)
                result = await operation.handler(self, params, call)
            else:
                result = await operation.handler(self, params)
            if isinstance(result, Later):
                pending = True
                return PendingResponse(result, self.__finish, request, started)
            return self.__answer(result, started, binary=binary)
        except BaseException as error:
            if not is_fault(error):
                raise
            return self.__failed(request, error)
        finally:
            if not pending:
                self.__call_ends(started)

    def __finish(self, request: ExecuteRequest, later: Later[Any], started: float) -> Any:
        """The answer of a call that was left for later; None where nobody wants it."""
        try:
            if later.abandoned:
                return None
            return self.__answer(later.result(), started, binary=bool(request.params_raw))
        except BaseException as error:
            if not is_fault(error):
                raise
            return self.__failed(request, error)
        finally:
            self.__call_ends(started)

    def __answer(self, result: object, started: float, *, binary: bool) -> ExecuteResponse:
        metrics = self.__metrics_now(started) if started >= self.__metrics_due else None
        if binary:
            raw = encode_msgpack(result)
            return ExecuteResponse(success=True, result_raw=raw, metrics=metrics)
        return ExecuteResponse(success=True, result_json=encode_json(result), metrics=metrics)

    def __failed(self, request: ExecuteRequest, error: BaseException) -> ExecuteResponse:
        self.metrics.requests_failed += 1
        request_id = request.metadata.get(REQUEST_ID_KEY, "")
        code, detail = self.__failures.of_call(error, request.operation, request_id)
        return ExecuteResponse(error=detail, error_code=code)

    async def execute_stream(
        self, requests: AsyncIterator[StreamRequest]
    ) -> AsyncGenerator[StreamResponse, None]:
        """Run one streaming operation.

        Every item is one message; after the last one comes a message that has
        only ``is_final``, or the error. Closing the generator closes the handler;
        ``requests`` stays the caller's to close.
        """
        started = perf_counter()
        self.__running += 1
        self.metrics.requests_total += 1
        first = StreamRequest()
        try:
            first = await anext(requests, first)
            name = first.operation
            binary = bool(first.params_raw)
            operation = self.__offered.get(name)
            if operation is not None and operation.stream is not None:
                operation = operation.stream
            if operation is None or not operation.streaming:
                raise self.__refusal(name, streaming=True)
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
        except BaseException as error:
            if not is_fault(error):
                raise
            self.metrics.requests_failed += 1
            request_id = first.metadata.get(REQUEST_ID_KEY, "")
            code, detail = self.__failures.of_call(error, first.operation, request_id)
            yield StreamResponse(is_final=True, error=detail, error_code=code)
        finally:
            self.__call_ends(started)

    async def health_check(self, request: HealthCheckRequest) -> HealthCheckResponse:
        """Ask ``health``; a plugin that is not serving is UNHEALTHY."""
        if self.__state is PluginState.SERVING:
            try:
                health = await self.health()
            except BaseException as error:
                if not is_fault(error):
                    raise
                health = Health.unhealthy(self.__failures.of_lifecycle(error, "health check")[1])
        else:
            health = Health(HealthStatus.UNHEALTHY, f"the plugin is {self.__state.value}")
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
        if self.__state is PluginState.STARTING:
            return ShutdownResponse(error="the plugin is still starting")
        if self.__state is not PluginState.SERVING:
            self.__state = PluginState.STOPPED
            return ShutdownResponse(success=True)
        self.__state = PluginState.STOPPING
        self.__offered = {}
        if self.__running:
            self.__none_runs = anyio.Event()
            with anyio.move_on_after(request.timeout_seconds):
                await self.__none_runs.wait()
        remaining = self.__running
        try:
            await self.stop()
        except BaseException as error:
            if not is_fault(error):
                raise
            return ShutdownResponse(error=self.__failures.of_lifecycle(error, "stop")[1])
        finally:
            self.__state = PluginState.STOPPED
        if remaining:
            return ShutdownResponse(error=f"stopped while {remaining} calls were still running")
        return ShutdownResponse(success=True)

    def __call_ends(self, started: float) -> None:
        self.__running -= 1
        self.metrics.latency_ms = (perf_counter() - started) * 1000
        if self.__none_runs is not None and not self.__running:
            self.__none_runs.set()

    def __metrics_now(self, now: float) -> PluginMetrics:
        self.__metrics_due = now + METRICS_INTERVAL
        return self.metrics.snapshot()

    def __refusal(self, name: str, *, streaming: bool) -> PluginError:
        """Why this operation cannot be called, or not in this way."""
        if self.__state is not PluginState.SERVING:
            gone = self.__state in (PluginState.STOPPING, PluginState.STOPPED)
            code = StatusCode.UNAVAILABLE if gone else StatusCode.FAILED_PRECONDITION
            return PluginError(code, f"plugin {self.name!r} is {self.__state.value}")
        if name not in self.operations:
            offered = ", ".join(sorted(self.operations)) or "none"
            return PluginError(
                StatusCode.UNIMPLEMENTED,
                f"plugin {self.name!r} has no operation {name!r}; it offers: {offered}",
            )
        right = "as a single call" if streaming else "as a stream"
        return PluginError(StatusCode.UNIMPLEMENTED, f"operation {name!r} is called {right}")


def _decode_config(config_type: type[msgspec.Struct] | None, text: str) -> Any:
    """The configuration as ``config_type``, or as a dictionary where there is none.

    Raises:
        PluginError: INVALID_ARGUMENT, with msgspec's sentence and path.
    """
    expected: Any = dict[str, Any] if config_type is None else config_type
    try:
        return msgspec.json.decode(text or "{}", type=expected)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise PluginError(
            StatusCode.INVALID_ARGUMENT, f"config: {in_json_words(str(error))}"
        ) from error

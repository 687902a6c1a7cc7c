"""A module as a plugin: its operations are those that it declares when it is initialised."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, ClassVar, cast

import anyio.to_thread
import msgspec

from prism.contract.errors import PluginError
from prism.contract.messages import HealthStatus, OperationDeclaration
from prism.contract.status import StatusCode
from prism.hosts.wasm import component, core
from prism.hosts.wasm.guest import (
    MAX_CODE,
    Broke,
    CannotRun,
    Declared,
    HealthReport,
    Limits,
    Trapped,
    checked,
    decoded,
    in_one_line,
    introduction,
)
from prism.hosts.wasm.jobs import Job, Pool, StreamJob, json_bytes
from prism.hosts.wasm.services import Grants, Services
from prism.sdk.call import Call
from prism.sdk.health import Health
from prism.sdk.operation import Operation, ParamsDecoder
from prism.sdk.plugin import Plugin


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``plugin.wasm`` of the configuration, whose types say what each is."""

    memory_bytes: int = 64 * 1024 * 1024
    instances: int = 4
    fuel: int = 0
    grants: Grants = Grants()


class _Params:
    """Params as the guest gets them: JSON text of an object, as it came."""

    def __init__(self) -> None:
        self._text = ParamsDecoder(dict[str, msgspec.Raw])
        self._values = ParamsDecoder(dict[str, Any])

    def decode(self, params_json: str, params_raw: bytes) -> str:
        """Raises PluginError: INVALID_ARGUMENT, it is none."""
        if params_raw:
            return json_bytes(self._values.decode("", params_raw)).decode()
        self._text.decode(params_json, b"")
        return params_json or "{}"


_PARAMS = cast("ParamsDecoder[str]", _Params())


class WasmPlugin(Plugin):
    """The host's side of a module. Made with its file's path and its settings by ``serve``."""

    name = "wasm"
    module: ClassVar[str] = ""
    module_name: ClassVar[str] = ""
    settings: ClassVar[Settings] = Settings()

    async def start(self) -> None:
        """Compile the module, and make the first instance, which says what it offers."""
        logger = logging.getLogger(f"prism.plugin.{self.name}")
        services = Services(self.settings.grants, logger)
        limits = Limits(self.settings.memory_bytes, self.settings.fuel)
        settings = msgspec.json.encode(
            {
                "namespace": self.namespace,
                "config": self.config,
                "credentials": dict(self.credentials),
            }
        )
        try:
            # Compiling cannot be cancelled; who gives it up ends this process.
            self._code = await anyio.to_thread.run_sync(
                compiled, self.module, limits, services, abandon_on_cancel=True
            )
            self._pool = Pool(self.settings.instances, self._code.guest, settings, services)
            said = introduction(await self._submit(Job("introduce", make=bytes)))
        except (CannotRun, Trapped, Broke) as error:
            logger.error("%s", error)
            why = f"the module {self.module_name}: {in_one_line(error)}"
            raise PluginError(StatusCode.FAILED_PRECONDITION, why) from None
        self._declared = [each.declaration() for each in said.operations]
        self._streams = 0
        # Of the class, elsewhere.
        self.version, self.groups = said.version, tuple(said.groups)  # type: ignore[misc]
        self.operations = {each.name: _operation(each) for each in said.operations}

    def declarations(self) -> list[OperationDeclaration]:
        """As the module made them."""
        return self._declared

    async def stop(self) -> None:
        """Let the instances go."""
        self._pool.close()

    async def health(self) -> Health:
        """What the module says of itself, where an instance is free to be asked."""
        pool = self._pool
        self.metrics.custom["wasm_instances"] = pool.instances
        self.metrics.custom["wasm_traps"] = pool.traps
        details = {"instances": f"{pool.instances} of {pool.size}", "traps": str(pool.traps)}
        if pool.is_full:
            return Health.healthy("all instances are busy", **details)
        if not self._code.offers_health:
            return Health.healthy(**details)
        said = await self._submit(Job("health", make=_health))
        return Health(HealthStatus[said.status.upper()], said.message, said.details | details)

    def _submit(self, job: Job) -> Job:
        self._pool.submit(job)
        return job

    async def execute_operation(self, params: str, call: Call) -> Any:
        """An operation that gives one result, or a job that is settled when it is there."""
        make = _objects if call.binary else msgspec.Raw
        job = Job("execute", make, call.operation, params, call)
        return job.result() if self._pool.execute(job) else job

    async def stream_operation(self, params: str, call: Call) -> AsyncGenerator[Any, None]:
        """An operation that sends messages."""
        if not self._code.offers_streams:
            raise PluginError(
                StatusCode.UNIMPLEMENTED, "the module declares streams, and exports no prism_stream"
            )
        most = max(1, self._pool.size - max(1, self._pool.size // 4))
        if self._streams >= most:
            raise PluginError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"{most} streams run, each in an instance of its own; "
                "plugin.wasm.instances allows more",
            )
        make = _objects if call.binary else msgspec.Raw
        job = StreamJob(params, call, self._pool)
        self._streams += 1
        try:
            self._pool.submit(job)
            async with aclosing(job.messages()) as messages:
                async for message in messages:
                    yield make(checked(message))
        finally:
            job.leave()
            self._streams -= 1


def compiled(
    path: str, limits: Limits, services: Services
) -> core.CoreModule | component.ComponentModule:
    """The module in a file, whichever kind it is. Blocks, for as long as compiling takes.

    Raises:
        CannotRun: it is none, too large, or may not run.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - may be one of /proc/self/fd
            code = file.read(MAX_CODE + 1)
    except OSError as error:
        raise CannotRun(f"it cannot be read: {error.strerror}") from None
    if len(code) > MAX_CODE:
        raise CannotRun(f"it has more than {MAX_CODE} bytes")
    if code.startswith(core.MAGIC):
        return core.CoreModule(code, limits, services)
    if code.startswith(component.MAGIC):
        return component.ComponentModule(code, limits, services)
    raise CannotRun("it is neither a WebAssembly module nor a component (in binary form)")


def _operation(declared: Declared) -> Operation:
    stream = None
    if declared.also_streaming and not declared.streaming:
        stream = _form(declared, WasmPlugin.stream_operation, streaming=True)
    handler = WasmPlugin.stream_operation if declared.streaming else WasmPlugin.execute_operation
    return replace(_form(declared, handler, streaming=declared.streaming), stream=stream)


def _form(declared: Declared, handler: Callable[..., Any], *, streaming: bool) -> Operation:
    return Operation(
        name=declared.name,
        handler=handler,
        params=_PARAMS,
        params_type=str,
        result_type=Any,
        takes_call=True,
        streaming=streaming,
        idempotent=declared.idempotent,
    )


def _objects(answer: bytes) -> Any:
    """For callers that speak MessagePack."""
    return msgspec.json.decode(answer)


def _health(answer: bytes) -> HealthReport:
    report: HealthReport = decoded(answer, HealthReport, "its answer to health")
    return report

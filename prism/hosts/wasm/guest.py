"""What both kinds of guests have in common: their limits, how they answer, and how they fail.

A *guest* is one instance of a module or a component. It has an engine of its own, since an
engine's epoch is what interrupts: to raise it stops this guest, whatever it does, and no other.
The code is compiled once for all, and shared by all engines through one file in memory.
"""

import os
import re
import resource
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, Protocol

import msgspec
import wasmtime

from prism.contract.errors import PluginError
from prism.contract.messages import OperationAccess, OperationDeclaration
from prism.contract.names import OPERATION, OPERATION_FORM
from prism.contract.status import StatusCode
from prism.hosts.wasm.services import Services

ABI = 1
"""The version of the interface for core modules; docs/wasm.md has it."""
MAX_RESULT = 16 * 1024 * 1024
"""Bytes of one answer or message of a guest; the proxy takes no larger frame by default."""
MAX_DETAIL = 4096
"""Bytes of a guest's own sentence about a failure."""
MAX_CODE = 64 * 1024 * 1024
"""Bytes of a module: to compile takes some 20 times as much memory."""
STACK = 512 * 1024
"""Bytes of stack for a guest's calls; the threads it runs in have far more."""
MAX_TABLE = 100_000
"""Elements of a guest's tables, which are its function pointers."""

Entry = Literal["introduce", "execute", "stream", "health"]
"""What is asked of a guest; to introduce itself, it is started."""


class Limits(msgspec.Struct, frozen=True):
    """Of each guest: bytes of memory, and fuel for one call, 0 for any."""

    memory_bytes: int
    fuel: int = 0


class Trapped(Exception):
    """A guest's code ended as no code should; the guest cannot be used any more."""


class Broke(Exception):
    """A guest did what the interface forbids; it is thrown away like one that trapped."""


class CannotRun(Exception):
    """A module that is none, or not one for Prism; says what is wrong with it."""


class Running(Protocol):
    """The call that a guest runs, as far as the guest can ask for it; see ``jobs``."""

    deadline: float
    unwanted: bool

    def context(self) -> bytes: ...

    def log(self, services: Services, level: int, message: str) -> None: ...

    def send(self, message: bytes) -> bool: ...

    def receive(self) -> bytes | None: ...

    def on_stop(self, stop: Callable[[], None]) -> None: ...


class Guest(ABC):
    """One instance. Its owner calls it from one thread at a time, after setting its ``job``."""

    job: Running

    def __init__(self, engine: wasmtime.Engine) -> None:
        self._engine = engine

    def interrupt(self) -> None:
        """Stop what it runs now, from any thread; it traps."""
        self._engine.increment_epoch()

    def _ready(self, store: wasmtime.Store, limits: Limits) -> None:
        """Before each call into it: the next interruption stops it, and it has its fuel.

        Raises:
            Trapped: it was interrupted before.
        """
        store.set_epoch_deadline(1)
        if limits.fuel:
            store.set_fuel(limits.fuel)
        if self.job.unwanted:  # after the deadline is set: what comes from here on is heard
            raise Trapped("it was interrupted before it began")

    @property
    @abstractmethod
    def is_there(self) -> bool:
        """Is there an instance? Not before ``start``, nor after ``discard``."""

    @abstractmethod
    def start(self, settings: bytes) -> bytes:
        """Make a new instance and initialise it; returns its answer.

        Raises:
            PluginError: it said why it will not run.
            CannotRun, Trapped, Broke: it cannot.
        """

    @abstractmethod
    def call(self, entry: Entry, operation: str, params: str) -> bytes:
        """Call it; returns the result as JSON text that was not looked at.

        Raises:
            PluginError: its own failure.
            Trapped, Broke: it is to be discarded.
        """

    @abstractmethod
    def discard(self) -> None:
        """Give up the instance and its memory."""


def configuration(limits: Limits, *, component: bool) -> wasmtime.Config:
    """For the engine of a guest. What no plugin needs is off: there is less to go wrong."""
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.consume_fuel = limits.fuel > 0
    config.max_wasm_stack = STACK
    config.wasm_threads = False
    config.wasm_memory64 = False
    config.wasm_multi_memory = False
    config.wasm_gc = False
    config.wasm_function_references = False
    config.wasm_component_model = component
    config.parallel_compilation = False  # one module must not take all cores from the proxy
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        # By default 4 GiB of addresses for each memory, which saves it checks of its bounds.
        config.memory_reservation = limits.memory_bytes
        config.memory_reservation_for_growth = 0
        config.memory_guard_size = 65536
    return config


def store_of(engine: wasmtime.Engine, limits: Limits, *, instances: int = 1) -> wasmtime.Store:
    """An empty store with limits. A component is of several instances, each with a memory."""
    store = wasmtime.Store(engine)
    store.set_limits(
        memory_size=limits.memory_bytes,
        table_elements=MAX_TABLE,
        instances=instances,
        tables=4 * instances,
        memories=instances,
    )
    return store


def in_one_line(error: Exception) -> str:
    """What wasmtime says, and the last of the causes that it names; without the backtrace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    what, cause = (lines or [type(error).__name__])[0], lines[-1:]
    if "Caused by:" not in lines:
        return what
    reason = cause[0].removeprefix("0: ").removeprefix("1: ")
    return reason if "wasm backtrace" in what else f"{what.rstrip(':')}: {reason}"


class Shared:
    """Code that was compiled, as a sealed file in memory from which each engine takes it."""

    def __init__(self, compiled: bytes | bytearray) -> None:
        self._descriptor = os.memfd_create("wasm", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(os.dup(self._descriptor), "wb") as file:
            file.write(compiled)
        self.path = f"/proc/self/fd/{self._descriptor}"


# -- what a guest answers ------------------------------------------------------------------


class Declared(msgspec.Struct, frozen=True):
    """One operation, as a guest declares it."""

    name: str
    idempotent: bool = False
    access: Literal["read", "write", "admin"] | None = None
    streaming: bool = False
    also_streaming: bool = False
    description: str = ""
    params_schema: msgspec.Raw = msgspec.Raw()
    result_schema: msgspec.Raw = msgspec.Raw()
    cost: int = 0

    def declaration(self) -> OperationDeclaration:
        """In the contract's words."""
        schemas = {"params_schema": self.params_schema, "result_schema": self.result_schema}
        if self.also_streaming:
            schemas["stream_params_schema"] = self.params_schema
        return OperationDeclaration(
            name=self.name,
            idempotent=self.idempotent,
            access=OperationAccess[(self.access or "undeclared").upper()],
            streaming=self.streaming,
            also_streaming=self.also_streaming,
            description=self.description,
            cost=self.cost,
            **{name: bytes(schema).decode() for name, schema in schemas.items()},
        )


class Introduction(msgspec.Struct, frozen=True):
    """What a guest says of itself when it is initialised."""

    version: str = "0.0.0"
    operations: list[Declared] = []
    groups: list[str] = []


class HealthReport(msgspec.Struct, frozen=True):
    """What a guest says of its health."""

    status: Literal["healthy", "degraded", "unhealthy"] = "healthy"
    message: str = ""
    details: dict[str, str] = {}


_is_name = re.compile(OPERATION).fullmatch


def introduction(answer: bytes) -> Introduction:
    """The answer to Initialize.

    Raises:
        Broke: it is not JSON, not of this form, or declares what nobody could call.
    """
    said: Introduction = decoded(answer, Introduction, "its answer to initialize")
    names = [operation.name for operation in said.operations]
    for name in names:
        if _is_name(name) is None:
            raise Broke(f"no client can call an operation {name!r}; a name is {OPERATION_FORM}")
        if names.count(name) > 1:
            raise Broke(f"it declares the operation {name!r} twice; `also_streaming` is for both")
    return said


def decoded(answer: bytes, kind: Any, what: str) -> Any:
    """An answer as ``kind``.

    Raises:
        Broke: it is not.
    """
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Broke(f"{what} cannot be used: {error}") from None


_check_json = msgspec.json.Decoder(msgspec.Raw).decode


def checked(answer: bytes) -> bytes:
    """An answer that is JSON in UTF-8, as it is.

    Raises:
        Broke: it is not.
    """
    try:
        answer.decode()  # which the next step does not look at
        _check_json(answer)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Broke(f"its result is not JSON: {error}") from None
    return answer


def failure(status: int, detail: str) -> PluginError:
    """A guest's own failure, for the caller."""
    known = 0 < status <= max(StatusCode)
    code = StatusCode(status) if known else StatusCode.UNKNOWN
    return PluginError(code, detail or "the plugin gave no reason")

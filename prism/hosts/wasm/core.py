"""Core modules: their interface, which is numbers and one memory, and what they may import.

Theory of operation. A call writes the operation's name and its params into a buffer that the
guest gave by ``prism_alloc``, and calls ``prism_execute``; the result is where it says, a byte of
status and then text. The buffer is asked for again only when a call needs a larger one, so most
calls are one call into the guest. docs/wasm.md has the interface for authors.

Whatever number a guest gives is checked against its memory before it is used. wasmtime's own
``Func.__call__`` looks up the function's type each time, which takes five times as long as the
call: ``_Export`` calls the C function below it, with a type that was checked once. It is likewise
with ``Memory``.
"""

import ctypes
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic_ns, time_ns
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from prism.hosts.wasm.guest import (
    ABI,
    MAX_DETAIL,
    MAX_RESULT,
    Broke,
    CannotRun,
    Entry,
    Guest,
    Limits,
    Shared,
    Trapped,
    configuration,
    failure,
    in_one_line,
    store_of,
)
from prism.hosts.wasm.services import Services, needed_grant

MAGIC = b"\0asm\x01\0\0\0"
"""How a core module begins."""
WASI = "wasi_snapshot_preview1"
OURS = "prism"
BUFFER = 4096
"""Bytes of the first buffer for what a guest is called with; a larger one is twice what is
needed."""
MAX_PAIRS = 64
"""Pieces of one write to standard output."""
NO_ACCESS = 76
"""WASI's errno ENOTCAPABLE, the answer to whatever is not granted to anybody."""
BAD_DESCRIPTOR = 8
BAD_ADDRESS = 21

I32, I64 = "i32", "i64"
Signature = tuple[tuple[str, ...], tuple[str, ...]]

EXPORTS: dict[str, Signature] = {
    "prism_abi": ((), (I32,)),
    "prism_alloc": ((I32,), (I32,)),
    "prism_initialize": ((I32, I32), (I64,)),
    "prism_execute": ((I32, I32, I32, I32), (I64,)),
}
OPTIONAL: dict[str, Signature] = {
    "prism_stream": ((I32, I32, I32, I32), (I64,)),
    "prism_health": ((), (I64,)),
    "_initialize": ((), ()),
}
"""What a module exports beside its memory, ``memory``."""
_ENTRIES: dict[Entry, str] = {
    "execute": "prism_execute",
    "stream": "prism_stream",
    "health": "prism_health",
}


@dataclass(frozen=True)
class Import:
    """A function that a module may import, and the grant that it needs, empty for none."""

    signature: Signature
    needs: str
    method: str


IMPORTS: dict[tuple[str, str], Import] = {
    (OURS, "context"): Import(((), (I32,)), "", "_context"),
    (OURS, "take"): Import(((I32, I32), (I32,)), "", "_take"),
    (OURS, "send"): Import(((I32, I32), (I32,)), "", "_send"),
    (OURS, "receive"): Import(((), (I32,)), "", "_receive"),
    (OURS, "log"): Import(((I32, I32, I32), ()), "log", "_log"),
    (OURS, "clock"): Import(((), (I64,)), "clock", "_clock"),
    (OURS, "random"): Import(((I32, I32), (I32,)), "random", "_random"),
    (OURS, "get"): Import(((I32, I32), (I32,)), "key_value", "_get"),
    (OURS, "set"): Import(((I32, I32, I32, I32), (I32,)), "key_value", "_set"),
    (OURS, "delete"): Import(((I32, I32), (I32,)), "key_value", "_delete"),
    (OURS, "increment"): Import(((I32, I32, I64), (I64,)), "key_value", "_increment"),
    (OURS, "fetch"): Import(((I32, I32), (I32,)), "http", "_fetch"),
    (WASI, "clock_time_get"): Import(((I32, I64, I32), (I32,)), "clock", "_wasi_clock"),
    (WASI, "random_get"): Import(((I32, I32), (I32,)), "random", "_wasi_random"),
    (WASI, "fd_write"): Import(((I32, I32, I32, I32), (I32,)), "", "_wasi_write"),
    (WASI, "fd_close"): Import(((I32,), (I32,)), "", "_wasi_no_descriptor"),
    (WASI, "fd_seek"): Import(((I32, I64, I32, I32), (I32,)), "", "_wasi_no_descriptor"),
    (WASI, "fd_fdstat_get"): Import(((I32, I32), (I32,)), "", "_wasi_no_descriptor"),
    (WASI, "fd_prestat_get"): Import(((I32, I32), (I32,)), "", "_wasi_no_descriptor"),
    (WASI, "environ_sizes_get"): Import(((I32, I32), (I32,)), "", "_wasi_no_strings"),
    (WASI, "environ_get"): Import(((I32, I32), (I32,)), "", "_wasi_nothing"),
    (WASI, "args_sizes_get"): Import(((I32, I32), (I32,)), "", "_wasi_no_strings"),
    (WASI, "args_get"): Import(((I32, I32), (I32,)), "", "_wasi_nothing"),
    (WASI, "sched_yield"): Import(((), (I32,)), "", "_wasi_nothing"),
    (WASI, "proc_exit"): Import(((I32,), ()), "", "_wasi_exit"),
}
"""What a module may import. Other functions of WASI may be imported, too, as a C library does that
never calls them: each answers that it is not allowed."""


class CoreModule:
    """A module that was compiled and may run.

    Raises:
        CannotRun: it is no module, or not one for Prism, or imports what is not granted.
    """

    def __init__(self, code: bytes, limits: Limits, services: Services) -> None:
        self._limits = limits
        self._services = services
        engine = wasmtime.Engine(configuration(limits, component=False))
        try:
            module = wasmtime.Module(engine, code)
        except wasmtime.WasmtimeError as error:
            raise CannotRun(f"it cannot be compiled: {in_one_line(error)}") from None
        self._has = _check_exports(module)
        self.offers_health = "prism_health" in self._has
        self.offers_streams = "prism_stream" in self._has
        _check_imports(module, services)
        self._code = Shared(module.serialize())

    def guest(self) -> "CoreGuest":
        """A guest that is yet to be started."""
        return CoreGuest(self._code, self._limits, self._services, self._has)


def _signature(kind: Any) -> Signature | None:
    if not isinstance(kind, wasmtime.FuncType):
        return None
    return tuple(map(str, kind.params)), tuple(map(str, kind.results))


def _shown(signature: Signature) -> str:
    params, results = (", ".join(part) for part in signature)
    return f"({params}) -> ({results})"


def _check_exports(module: wasmtime.Module) -> frozenset[str]:
    found = {export.name: export.type for export in module.exports}
    if "_start" in found and "prism_execute" not in found:
        raise CannotRun(
            "it is a program (_start), not a plugin: build it as a reactor or library "
            "that exports prism_execute"
        )
    memory = found.get("memory")
    if not isinstance(memory, wasmtime.MemoryType):
        raise CannotRun('it does not export its memory as "memory"')
    has = set()
    for name, wanted in (EXPORTS | OPTIONAL).items():
        if name not in found:
            if name in EXPORTS:
                raise CannotRun(f"it does not export {name} {_shown(wanted)}")
            continue
        signature = _signature(found[name])
        if signature != wanted:
            is_now = "is no function" if signature is None else f"is {_shown(signature)}"
            raise CannotRun(f"its export {name} {is_now}; it has to be {_shown(wanted)}")
        has.add(name)
    return frozenset(has)


def _check_imports(module: wasmtime.Module, services: Services) -> None:
    for each in module.imports:
        place, name = each.module, each.name or ""
        signature = _signature(each.type)
        known = IMPORTS.get((place, name))
        if known is None and (
            place != WASI or signature is None or signature[1] not in ((I32,), ())
        ):
            ours = ", ".join(n for p, n in IMPORTS if p == OURS)
            raise CannotRun(
                f"it imports {place}.{name}, which there is not; there are {WASI} and "
                f"{OURS}: {ours}"
            )
        if known is None:
            continue
        if signature != known.signature:
            raise CannotRun(
                f"it imports {place}.{name} as something else: it is {_shown(known.signature)}"
            )
        line = needed_grant(services.grants, known.needs)
        if line is not None:
            raise CannotRun(
                f"it imports {place}.{name}, which is not granted; plugin.wasm.grants "
                f"can have `{line}`"
            )


class _Export:
    """A function of a guest, to be called with numbers."""

    def __init__(
        self, store: wasmtime.Store, function: wasmtime.Func, signature: Signature
    ) -> None:
        self._context = store._context()
        self._function = ctypes.byref(function._func)
        self._kept = function, store
        count = len(signature[0])
        self._params = (ffi.wasmtime_val_t * count)()
        # Their kind is 0, that of i32: there are no others.
        self._values = [param.of for param in self._params]
        self._count = count
        self._results = (ffi.wasmtime_val_t * 1)()
        self._result_count = len(signature[1])
        self._is_long = signature[1] == (I64,)

    def __call__(self, *numbers: int) -> int:
        """Raises Trapped."""
        for value, number in zip(self._values, numbers, strict=True):
            value.i32 = number
        trap = ctypes.POINTER(ffi.wasm_trap_t)()
        error = ffi.wasmtime_func_call(
            self._context,
            self._function,
            self._params,
            self._count,
            self._results,
            self._result_count,
            ctypes.byref(trap),
        )
        if error:
            raise Trapped(str(wasmtime.WasmtimeError._from_ptr(error)))
        if trap:
            raise Trapped(str(wasmtime.Trap._from_ptr(trap)))
        result: int = self._results[0].of.i64 if self._is_long else self._results[0].of.i32
        return result


class CoreGuest(Guest):
    """One instance of a core module."""

    def __init__(
        self, code: Shared, limits: Limits, services: Services, has: frozenset[str]
    ) -> None:
        engine = wasmtime.Engine(configuration(limits, component=False))
        super().__init__(engine)
        self._limits = limits
        self._services = services
        self._has = has
        self._module = wasmtime.Module.deserialize_file(engine, code.path)
        self._linker = wasmtime.Linker(engine)
        for each in self._module.imports:
            self._define(each)
        self._store: wasmtime.Store | None = None
        self._memory: Any = None  # the C structure
        self._store_context: Any = None
        self._base = self._base_size = 0
        self._functions: dict[str, _Export] = {}
        self._buffer = self._capacity = 0
        self._answer = b""

    def _define(self, each: Any) -> None:
        known = IMPORTS.get((each.module, each.name))
        function: Callable[..., Any]
        if known is not None:
            function = getattr(self, known.method)
        elif each.type.results:
            function = _not_allowed
        else:
            function = _nothing
        self._linker.define_func(each.module, each.name, each.type, function)

    @property
    def is_there(self) -> bool:
        return self._memory is not None

    def discard(self) -> None:
        self._memory = None
        self._functions = {}
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def start(self, settings: bytes) -> bytes:
        self.discard()
        self._buffer = self._capacity = 0
        try:
            return self._start(settings)
        except BaseException:
            self.discard()
            raise

    def _start(self, settings: bytes) -> bytes:
        self._store = store = store_of(self._engine, self._limits)
        self._ready(store, self._limits)
        try:
            exports = self._linker.instantiate(store, self._module).exports(store)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            raise Trapped(f"it could not be instantiated: {error}") from None
        for name, signature in (EXPORTS | OPTIONAL).items():
            function = exports.get(name)
            if isinstance(function, wasmtime.Func):
                self._functions[name] = _Export(store, function, signature)
        memory = exports["memory"]
        assert isinstance(memory, wasmtime.Memory)  # noqa: S101 - for mypy: it was checked
        self._store_context, self._base_size = store._context(), -1
        self._memory = ctypes.byref(memory._memory)
        if "_initialize" in self._has:
            self._functions["_initialize"]()
        version = self._functions["prism_abi"]()
        if version != ABI:
            raise CannotRun(f"it is built for version {version} of the interface; this is {ABI}")
        return self._result("prism_initialize", settings)

    def call(self, entry: Entry, operation: str, params: str) -> bytes:
        store = self._store
        assert store is not None  # noqa: S101 - its owner has started it
        self._ready(store, self._limits)
        if entry == "health":
            return self._result(_ENTRIES[entry])
        return self._result(_ENTRIES[entry], operation.encode(), params.encode())

    def _result(self, name: str, *texts: bytes) -> bytes:
        """Call a function with texts; what it answers.

        Raises:
            PluginError, Trapped, Broke: see ``Guest.call``.
        """
        numbers: list[int] = []
        if texts:
            whole = b"".join(texts)
            at = self._room(len(whole))
            self._put(at, whole)
            for text in texts:
                numbers += (at, len(text))
                at += len(text)
        packed = self._functions[name](*numbers)
        at, size = (packed >> 32) & 0xFFFFFFFF, packed & 0xFFFFFFFF
        if size == 0:
            raise Broke("its result is empty: it begins with a byte of status")
        if size > MAX_RESULT:
            raise Broke(f"its result has {size} bytes; {MAX_RESULT} are possible")
        result = self._read(at, size)
        if result is None:
            raise Broke(f"its result ({size} bytes at {at}) is outside of its memory")
        if result[0]:
            detail = result[1 : 1 + MAX_DETAIL].decode(errors="replace")
            raise failure(result[0], detail)
        return result[1:]

    def _room(self, size: int) -> int:
        """Where ``size`` bytes can be put for the guest."""
        if size > self._capacity:
            wanted = max(BUFFER, 2 * size)
            at = self._functions["prism_alloc"](wanted) & 0xFFFFFFFF
            if at == 0 or at + wanted > self._memory_size():
                raise Broke(f"prism_alloc({wanted}) gave {at}, which is not in its memory")
            self._buffer, self._capacity = at, wanted
        return self._buffer

    # -- its memory -----------------------------------------------------------------------

    def _memory_size(self) -> int:
        """How large it is now. Asked before every use: it grows, and may then have moved."""
        if self._memory is None:
            return 0
        size: int = ffi.wasmtime_memory_data_size(self._store_context, self._memory)
        if size != self._base_size:
            start = ffi.wasmtime_memory_data(self._store_context, self._memory)
            self._base = ctypes.cast(start, ctypes.c_void_p).value or 0
            self._base_size = size
        return size

    def _read(self, at: int, size: int, limit: int = MAX_RESULT) -> bytes | None:
        """A part of its memory; None where it has none there, or too much is asked."""
        at &= 0xFFFFFFFF
        size &= 0xFFFFFFFF
        if size > limit or at + size > self._memory_size():
            return None
        return ctypes.string_at(self._base + at, size)

    def _put(self, at: int, data: bytes) -> bool:
        at &= 0xFFFFFFFF
        if at + len(data) > self._memory_size():
            return False
        ctypes.memmove(self._base + at, data, len(data))
        return True

    # -- what it imports of Prism ----------------------------------------------------------

    def _give(self, answer: bytes) -> int:
        """Keep an answer for ``take``; returns its size."""
        self._answer = answer
        return len(answer)

    def _take(self, at: int, capacity: int) -> int:
        """The first bytes of the last answer, which is forgotten; -1: no room for it there."""
        answer, self._answer = self._answer[: capacity & 0xFFFFFFFF], b""
        return len(answer) if self._put(at, answer) else -1

    def _context(self) -> int:
        return self._give(self.job.context())

    def _send(self, at: int, size: int) -> int:
        message = self._read(at, size)
        return -1 if message is None else int(self.job.send(message))

    def _receive(self) -> int:
        message = self.job.receive()
        return -1 if message is None else self._give(message)

    def _log(self, level: int, at: int, size: int) -> None:
        text = self._read(at, min(size & 0xFFFFFFFF, 8192))
        if text is not None:
            self.job.log(self._services, level, text.decode(errors="replace"))

    def _clock(self) -> int:
        return time_ns()

    def _random(self, at: int, size: int) -> int:
        size &= 0xFFFFFFFF
        return int(size <= 65536 and self._put(at, os.urandom(size)))

    def _get(self, at: int, size: int) -> int:
        key = self._read(at, size)
        value = None if key is None else self._services.table.get(key)
        return -1 if value is None else self._give(value)

    def _set(self, at: int, size: int, value_at: int, value_size: int) -> int:
        key, value = self._read(at, size), self._read(value_at, value_size)
        return int(key is not None and value is not None and self._services.table.set(key, value))

    def _delete(self, at: int, size: int) -> int:
        key = self._read(at, size)
        return int(key is not None and self._services.table.delete(key))

    def _increment(self, at: int, size: int, by: int) -> int:
        key = self._read(at, size)
        return 0 if key is None else self._services.table.increment(key, by)

    def _fetch(self, at: int, size: int) -> int:
        request = self._read(at, size)
        if request is None:
            return -1
        job = self.job
        return self._give(self._services.outgoing.fetch(request, job.deadline, job.on_stop))

    # -- what it imports of WASI: as much as a C or Rust library needs to run ----------------

    def _wasi_clock(self, clock: int, _precision: int, at: int) -> int:
        now = time_ns() if clock == 0 else monotonic_ns()
        return 0 if self._put(at, struct.pack("<Q", now)) else BAD_ADDRESS

    def _wasi_random(self, at: int, size: int) -> int:
        return 0 if self._random(at, size) else BAD_ADDRESS

    def _wasi_write(self, descriptor: int, pairs_at: int, count: int, written_at: int) -> int:
        """Standard output and error are log lines, where they are granted, and else nothing."""
        if descriptor not in (1, 2):
            return BAD_DESCRIPTOR
        count = min(count & 0xFFFFFFFF, MAX_PAIRS)
        pairs = self._read(pairs_at, count * 8)
        if pairs is None:
            return BAD_ADDRESS
        pieces = [
            self._read(where, size, 65536) for where, size in struct.iter_unpack("<II", pairs)
        ]
        if None in pieces:
            return BAD_ADDRESS
        text = b"".join(piece for piece in pieces if piece is not None)
        if self._services.grants.log:
            for line in text.decode(errors="replace").splitlines():
                self.job.log(self._services, descriptor, line)
        return 0 if self._put(written_at, struct.pack("<I", len(text))) else BAD_ADDRESS

    def _wasi_no_descriptor(self, *_: int) -> int:
        return BAD_DESCRIPTOR

    def _wasi_no_strings(self, count_at: int, size_at: int) -> int:
        none = struct.pack("<I", 0)
        return 0 if self._put(count_at, none) and self._put(size_at, none) else BAD_ADDRESS

    def _wasi_nothing(self, *_: int) -> int:
        return 0

    def _wasi_exit(self, status: int) -> None:
        """The call does not return from here: the guest traps at its next step."""
        self.job.log(self._services, 3, f"the module called exit({status})")
        self.interrupt()


def _not_allowed(*_: int) -> int:
    return NO_ACCESS


def _nothing(*_: int) -> None:
    """A function of WASI that gives nothing back, and does nothing."""

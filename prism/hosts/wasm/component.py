"""Components: the interface of ``schemas/abi/prism_plugin.wit``, and WASI 0.2 as far as granted.

wasmtime converts what passes between a component and Python. Its conversion of variants (option,
result) towards a component is not for several threads, and lists of bytes go one by one: so what
is imported gives strings, numbers and records only.
"""

import logging
from collections.abc import Callable
from typing import Any

import wasmtime
from wasmtime import component as wasm

from prism.hosts.wasm.guest import (
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

MAGIC = b"\0asm\x0d\0\x01\0"
"""How a component begins."""
PACKAGE = "prism:plugin/"
VERSION = "@1.0.0"
HANDLER = f"{PACKAGE}handler{VERSION}"
MAX_INSTANCES = 32
"""Core instances that one component may be made of: a program with adapters has about six."""

_NEEDS = {
    f"{PACKAGE}calls{VERSION}": "",
    f"{PACKAGE}logging{VERSION}": "log",
    f"{PACKAGE}key-value{VERSION}": "key_value",
    f"{PACKAGE}http{VERSION}": "http",
}
"""Our interfaces, and the grant that each needs."""
_WASI = {
    "wasi:cli": "",
    "wasi:io": "",
    "wasi:filesystem": "",  # there is no directory in it
    "wasi:clocks": "clock",
    "wasi:random": "random",
}
"""Packages of WASI, and the grant that each needs: no sockets, and HTTP only as ours."""
_ENTRIES = ("initialize", "execute", "stream", "health")
_LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3}


class ComponentModule:
    """A component that was compiled and may run.

    Raises:
        CannotRun: it is none, or not one for Prism, or imports what is not granted.
    """

    offers_health = offers_streams = True

    def __init__(self, code: bytes, limits: Limits, services: Services) -> None:
        self._limits = limits
        self._services = services
        engine = wasmtime.Engine(configuration(limits, component=True))
        try:
            compiled = wasm.Component(engine, code)
        except wasmtime.WasmtimeError as error:
            raise CannotRun(f"it cannot be compiled: {in_one_line(error)}") from None
        if HANDLER not in compiled.type.exports(engine):
            raise CannotRun(f"it does not export {HANDLER} of prism_plugin.wit")
        self._imports = tuple(compiled.type.imports(engine))
        for name in self._imports:
            _check_import(name, services)
        self._code = Shared(compiled.serialize())

    def guest(self) -> "ComponentGuest":
        """A guest that is yet to be started."""
        return ComponentGuest(self._code, self._limits, self._services, self._imports)


def _check_import(name: str, services: Services) -> None:
    need = _NEEDS.get(name)
    if need is None:
        need = _WASI.get(name.partition("/")[0])
    if need is None:
        ours = ", ".join(_NEEDS)
        raise CannotRun(f"it imports {name}, which there is not; there are WASI 0.2 and {ours}")
    line = needed_grant(services.grants, need)
    if line is not None:
        raise CannotRun(
            f"it imports {name}, which is not granted; plugin.wasm.grants can have `{line}`"
        )


class _Received(wasm.Record):
    def __init__(self, message: str, *, ended: bool) -> None:
        self.message = message
        self.ended = ended


class _Found(wasm.Record):
    def __init__(self, value: str, *, found: bool) -> None:
        self.value = value
        self.found = found


class ComponentGuest(Guest):
    """One instance of a component."""

    def __init__(
        self, code: Shared, limits: Limits, services: Services, imports: tuple[str, ...]
    ) -> None:
        engine = wasmtime.Engine(configuration(limits, component=True))
        super().__init__(engine)
        self._limits = limits
        self._services = services
        self._component = wasm.Component.deserialize_file(engine, code.path)
        self._linker = wasm.Linker(engine)
        if any(name.startswith("wasi:") for name in imports):
            self._linker.add_wasip2()
        for name in imports:
            if name in _NEEDS:
                self._define(name)
        self._store: wasmtime.Store | None = None
        self._functions: dict[str, wasm.Func] = {}

    def _define(self, name: str) -> None:
        interfaces: dict[str, dict[str, Callable[..., Any]]] = {
            f"{PACKAGE}calls{VERSION}": {
                "context": self._context,
                "send": self._send,
                "receive": self._receive,
            },
            f"{PACKAGE}logging{VERSION}": {"log": self._log},
            f"{PACKAGE}key-value{VERSION}": {
                "get": self._get,
                "set": self._set,
                "delete": self._delete,
                "increment": self._increment,
            },
            f"{PACKAGE}http{VERSION}": {"fetch": self._fetch},
        }
        with self._linker.root() as root, root.add_instance(name) as interface:
            for each, function in interfaces[name].items():
                interface.add_func(each, function)

    @property
    def is_there(self) -> bool:
        return bool(self._functions)

    def discard(self) -> None:
        self._functions = {}
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def start(self, settings: bytes) -> bytes:
        self.discard()
        try:
            return self._start(settings)
        except BaseException:
            self.discard()
            raise

    def _start(self, settings: bytes) -> bytes:
        self._store = store = store_of(self._engine, self._limits, instances=MAX_INSTANCES)
        self._ready(store, self._limits)
        store.set_wasi(self._wasi())
        try:
            instance = self._linker.instantiate(store, self._component)
        except wasmtime.WasmtimeError as error:
            raise Trapped(f"it could not be instantiated: {error}") from None
        handler = instance.get_export_index(store, HANDLER)
        for name in _ENTRIES:
            index = handler and instance.get_export_index(store, name, handler)
            function = index and instance.get_func(store, index)
            if not function:
                raise CannotRun(f"it does not export {name} of {HANDLER}")
            self._functions[name] = function
        return self._call("initialize", settings.decode())

    def _wasi(self) -> wasmtime.WasiConfig:
        """No arguments, no environment, no files; output is lines of the log, or nothing."""
        wasi = wasmtime.WasiConfig()
        if self._services.grants.log:
            wasi.stdout_custom = self._output(1)
            wasi.stderr_custom = self._output(2)
        return wasi

    def _output(self, level: int) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            for line in data.decode(errors="replace").splitlines():
                self.job.log(self._services, level, line)

        return write

    def call(self, entry: Entry, operation: str, params: str) -> bytes:
        assert self._store is not None  # noqa: S101 - its owner has started it
        self._ready(self._store, self._limits)
        if entry == "health":
            return self._call(entry)
        return self._call(entry, operation, params)

    def _call(self, name: str, *texts: str) -> bytes:
        function, store = self._functions[name], self._store
        assert store is not None  # noqa: S101 - for mypy
        try:
            answer = function(store, *texts)
            function.post_return(store)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            raise Trapped(str(error)) from None
        except (TypeError, ValueError, AssertionError) as error:
            raise Broke(f"{name} has another type than in prism_plugin.wit: {error}") from None
        if isinstance(answer, str):
            result = answer.encode()
            if len(result) > MAX_RESULT:
                raise Broke(f"its result has {len(result)} bytes; {MAX_RESULT} are possible")
            return result
        status, detail = getattr(answer, "status", None), getattr(answer, "detail", None)
        if not (isinstance(status, int) and isinstance(detail, str)):
            raise Broke(f"{name} has another type than in prism_plugin.wit")
        raise failure(status, detail[:MAX_DETAIL])

    # -- what it imports -----------------------------------------------------------------------

    def _context(self, _store: object) -> str:
        return self.job.context().decode()

    def _send(self, _store: object, message: str) -> bool:
        return self.job.send(message.encode())

    def _receive(self, _store: object) -> _Received:
        message = self.job.receive()
        return _Received((message or b"").decode(), ended=message is None)

    def _log(self, _store: object, level: str, message: str) -> None:
        self.job.log(self._services, _LEVELS.get(level, logging.INFO), message)

    def _get(self, _store: object, key: str) -> _Found:
        value = self._services.table.get(key.encode())
        return _Found((value or b"").decode(errors="replace"), found=value is not None)

    def _set(self, _store: object, key: str, value: str) -> bool:
        return self._services.table.set(key.encode(), value.encode())

    def _delete(self, _store: object, key: str) -> bool:
        return self._services.table.delete(key.encode())

    def _increment(self, _store: object, key: str, by: int) -> int:
        return self._services.table.increment(key.encode(), by)

    def _fetch(self, _store: object, request: str) -> str:
        job = self.job
        answer = self._services.outgoing.fetch(request.encode(), job.deadline, job.on_stop)
        return answer.decode()

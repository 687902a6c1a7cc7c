"""A native library as a plugin: ``LibraryPlugin`` carries calls over the C interface.

The same class serves in a host process (``native``) and in the proxy itself. The interface is
``schemas/abi/prism_plugin.h``; what is called from C is in ``native/library``.

Theory of operation. A call goes down as a C function, on the event loop's thread or, where the
library wants threads, on one of its host's own. What the library says comes up as a list: when
the function returns, for what it said meanwhile, so that a call that is answered at once costs no
more than that; and else when an eventfd is readable, which any of its threads may have made so.
No thread of a library ever runs Python.

A library cannot be stopped from outside. A call that nobody wants any more is cancelled, and when
it is not completed within a grace period, the library is taken for stuck: ``on_stuck`` is told,
once, and its owner ends it.
"""

import logging
import math
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import anyio
import anyio.to_thread
import msgspec
from msgspec.structs import replace

from prism.contract.errors import PluginError
from prism.contract.messages import (
    HealthCheckResponse,
    InitializeRequest,
    InitializeResponse,
    OperationDeclaration,
    PluginMetrics,
    ShutdownRequest,
    ShutdownResponse,
)
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.hosts.loading import forget_library
from prism.sdk.background import BackgroundTask, run_beside
from prism.sdk.call import Call, Positioned
from prism.sdk.health import Health, TellsHealth
from prism.sdk.later import Later
from prism.sdk.operation import Operation, ParamsDecoder
from prism.sdk.plugin import Plugin
from prism.sdk.workers import event_loop

if TYPE_CHECKING:
    from prism.hosts._library import Library

T = TypeVar("T")

MAX_ANSWER = 256 * 1024 * 1024
"""Bytes of an answer or a message that are copied from a library, where a host's connection has
a limit of its own that is lower, and is told to the caller as what it is."""
DESTROY_TIMEOUT = 2.0
"""Seconds for functions of the library to return that still run when it is done with."""
END: Final = 1
NOT_STARTED: Final = 2
TOO_LARGE: Final = 8
MSGPACK: Final = 16
COMPLETE, SEND, WANT, LOG, NOTE, WRONG, DROPPED = range(1, 8)
"""What a library says: as in ``native/library/host.h``, which a test compares."""

_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
_EXECUTE: Final = int(Method.EXECUTE)
_EXECUTE_STREAM: Final = int(Method.EXECUTE_STREAM)
_MOST_SECONDS = (2**32 - 1) // 1000
_AUTHORS_METRICS = (
    "connections_active",
    "connections_idle",
    "queries_executed",
    "cache_hits",
    "cache_misses",
)
_encode = msgspec.json.Encoder().encode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode
_check_msgpack = msgspec.msgpack.Decoder(msgspec.Raw).decode

Said = tuple[int, int, int, int, bytes, bytes]
"""(kind, call, number, flags, body, position), as ``Instance.take`` returns it."""


class ToldRecord(msgspec.Struct):
    """One record of a NOTE."""

    message: str = ""
    level: str = "INFO"


class ToldNote(msgspec.Struct):
    """A NOTE (docs/protocol.md, section 8)."""

    logs: list[ToldRecord] = []
    metrics: PluginMetrics | None = None
    health: HealthCheckResponse | None = None


def plugin_class(
    library: "Library", *, cancel_grace: float = 5.0, max_answer: int = MAX_ANSWER
) -> "type[LibraryPlugin]":
    """The plugin class of a library.

    Args:
        library: what makes the plugins.
        cancel_grace: seconds for a cancelled call to be completed, until the plugin is stuck.
        max_answer: bytes of an answer, or a message, that are taken from it.
    """
    return type(
        "LibraryPlugin",
        (LibraryPlugin,),
        {
            "name": library.name,
            "version": library.version,
            "library": library,
            "cancel_grace": cancel_grace,
            "max_answer": max_answer,
        },
    )


class _Pending(Later[Any]):
    """A call that the library has not completed; the answer is (status, flags, body)."""

    __slots__ = ("answer", "deadline", "number", "operation", "plugin")
    answer: tuple[int, int, bytes]

    def __init__(
        self,
        plugin: "LibraryPlugin",
        number: int,
        operation: str,
        result: Callable[[tuple[int, int, bytes]], msgspec.Raw],
    ) -> None:
        super().__init__(result)
        self.plugin = plugin
        self.number = number
        self.operation = operation
        self.deadline = plugin.deadline()

    def abandon(self) -> None:
        super().abandon()
        self.plugin.end_call(self.number, self.operation, self.deadline)


class _Stream:
    """What a library has said on a stream, and how many of the client's messages it wants."""

    def __init__(self) -> None:
        self.said: deque[Said] = deque()
        self.wanted = 0
        self.changed = anyio.Event()
        self.feeder: anyio.CancelScope | None = None

    def tell(self) -> None:
        """Wake who waits for a change."""
        self.changed.set()

    async def wait(self) -> None:
        """Wait for the next change."""
        if self.changed.is_set():
            self.changed = anyio.Event()
        await self.changed.wait()


def _ignore(_sentence: str) -> None:
    """Whoever made the plugin does not want to know."""


class LibraryPlugin(TellsHealth, Plugin):
    """One plugin of a library. Use ``plugin_class``: a class of its own has the library.

    ``on_stuck`` gets a sentence when a cancelled call was not completed within ``cancel_grace``
    seconds.
    """

    name = "library"
    on_stuck: Callable[[str], None] = staticmethod(_ignore)
    library: ClassVar["Library"]
    cancel_grace: ClassVar[float] = 5.0
    max_answer: ClassVar[int] = MAX_ANSWER

    def __init__(self) -> None:
        super().__init__()
        self._log = logging.getLogger(f"prism.plugin.{self.name}")
        self._initialize: InitializeRequest | None = None
        self._shutdown = ShutdownRequest()
        self._told = InitializeResponse()
        self._instance: Any = None
        self._descriptor = -1
        self._reader: BackgroundTask | None = None
        self._number = 0
        self._pending: dict[int, _Pending] = {}
        self._streams: dict[int, _Stream] = {}
        self._given_up: dict[int, tuple[float, str]] = {}  # until when, and what, by number
        self._last_error = ""
        self._now: Callable[[], float]
        self.deadline: Callable[[], float]
        """When the call ends that this task is at, on the loop's clock."""

    # -- its life -------------------------------------------------------------------------------

    async def initialize(self, request: InitializeRequest) -> InitializeResponse:
        """Make the plugin and initialise it."""
        self._initialize = request
        # What can be kept in a cache, the library itself has to know.
        response = await super().initialize(replace(request, cache=None))
        return replace(response, groups=self._told.groups) if response.success else response

    async def start(self) -> None:
        """Have the library make a plugin, and initialise that."""
        _, self._now = event_loop()
        self.deadline = _deadline_of_loop()
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self._instance = await anyio.to_thread.run_sync(
                self.library.make, self._descriptor, self.max_answer
            )
            self._dispatch(self._instance.take())
            if not self._instance.is_made:
                why = self._last_error or "it does not say why"
                raise PluginError(StatusCode.FAILED_PRECONDITION, f"it made no plugin: {why}")
            self._reader = BackgroundTask(
                partial(self._read, self._descriptor), f"what {self.name} says"
            )
            body = await self._ask(Method.INITIALIZE, msgspec.json.encode(self._initialize))
            self._initialize = None  # it has the credentials
            self._told = _decoded(body, InitializeResponse, "its answer to Initialize")
            self.operations = self._operations()
        except BaseException:
            await self._release()
            raise

    def _operations(self) -> dict[str, Operation]:
        declared = {one.name: one for one in self._told.operations}
        names = self._told.supported_operations or declared
        return {name: _compile(declared.get(name, OperationDeclaration(name))) for name in names}

    def declarations(self) -> list[OperationDeclaration]:
        """What the library has said of its operations."""
        return self._told.operations

    async def shutdown(self, request: ShutdownRequest) -> ShutdownResponse:
        """Let calls end, then the plugin."""
        self._shutdown = request
        return await super().shutdown(request)

    async def stop(self) -> None:
        """Cancel what is left, have the library close what it has open, and be done with it."""
        try:
            for number, pending in list(self._pending.items()):
                self._cancel(number, pending.operation, StatusCode.CANCELLED)
            await self._ask(Method.SHUTDOWN, msgspec.json.encode(self._shutdown))
        finally:
            await self._release()

    async def health(self) -> Health:
        """As the library says."""
        body = await self._ask(Method.HEALTH_CHECK, b"{}")
        answer = _decoded(body or b"{}", HealthCheckResponse, "its answer to HealthCheck")
        self._take_metrics(answer.metrics)
        return Health(answer.status, answer.message, answer.details)

    async def aclose(self) -> None:
        """End it without asking, where ``shutdown`` has not: calls that are open stay so."""
        await self._release()

    async def _release(self) -> None:
        """The library is not called any more, and what it says is void. Bounded, and shielded."""
        instance, descriptor = self._instance, self._descriptor
        if descriptor < 0:
            return
        self._descriptor = -1
        with anyio.CancelScope(shield=True):
            if self._reader is not None:
                await self._reader.aclose()
            if instance is not None:
                self._dispatch(instance.take())  # its last lines
                instance.close()
            os.close(descriptor)
            if instance is None or not instance.is_made:
                return
            with anyio.move_on_after(DESTROY_TIMEOUT):
                # A thread: it may join its own. One that does not return is left behind.
                if not await anyio.to_thread.run_sync(
                    instance.destroy, DESTROY_TIMEOUT, abandon_on_cancel=True
                ):
                    self._log.warning(
                        "plugin %r has calls open that it was to end; what it holds stays with "
                        "the process",
                        self.name,
                    )

    # -- calls ----------------------------------------------------------------------------------

    async def _ask(self, method: Method, body: bytes) -> bytes:
        """One of the calls that are no operations; returns its response.

        Raises:
            PluginError: what the library says instead of one.
        """
        self._number = number = self._number + 1
        said = self._open(number, int(method), 0, "", body, b"{}")
        pending = self._pending[number] = _Pending(self, number, method.name, _json_result)
        self._dispatch(said)
        await pending.wait()
        status, _, answer = pending.answer
        _raise_unless_ok(status, answer)
        return answer

    def _open(
        self, number: int, method: int, flags: int, operation: str, body: bytes, metadata: bytes
    ) -> "list[Said] | None":
        """Begin a call. Returns what the library has said by then.

        Raises:
            PluginError: nothing was begun.
        """
        if self._descriptor < 0:
            raise PluginError(StatusCode.UNAVAILABLE, f"plugin {self.name!r} is stopped")
        deadline = self.deadline()
        left = 0
        if deadline != math.inf:
            left = int(min(max(deadline - self._now(), 0.001), _MOST_SECONDS) * 1000)
        try:
            said: list[Said] | None = self._instance.open(
                number, method, flags, left, operation, body, metadata
            )
        except RuntimeError as error:
            raise PluginError(StatusCode.UNAVAILABLE, f"it was not begun: {error}") from None
        return said

    async def _execute(self, params: msgspec.Raw, call: Call) -> Any:
        """The handler of every operation that is no stream."""
        self._number = number = self._number + 1
        flags, result = (MSGPACK, _binary_result) if call.binary else (0, _json_result)
        metadata = _encode(call.metadata)
        said = self._open(number, _EXECUTE, flags, call.operation, bytes(params), metadata)
        if said is not None and len(said) == 1 and said[0][:2] == (COMPLETE, number):
            # What most libraries do: to answer, and nothing else.
            return result(said[0][2:5])
        pending = self._pending[number] = _Pending(self, number, call.operation, result)
        self._dispatch(said)
        return pending

    async def _stream(self, params: msgspec.Raw, call: Call) -> AsyncGenerator[Any, None]:
        """The handler of every operation that is one."""
        self._number = number = self._number + 1
        stream = self._streams[number] = _Stream()
        flags, check = (MSGPACK, _binary_result) if call.binary else (0, _json_result)
        is_over = True
        deadline = self.deadline()
        try:
            metadata, name = _encode(call.metadata), call.operation
            said = self._open(number, _EXECUTE_STREAM, flags, name, bytes(params), metadata)
            is_over = False
            self._dispatch(said)
            while True:
                if stream.wanted and stream.feeder is None:
                    stream.feeder = run_beside(self._feed, number, stream, call, flags)
                while not stream.said:
                    await stream.wait()
                    if stream.wanted and stream.feeder is None:
                        stream.feeder = run_beside(self._feed, number, stream, call, flags)
                kind, _, status, said_flags, body, position = stream.said.popleft()
                if kind == SEND:
                    message = check((0, said_flags, body))
                    yield Positioned(message, _text(position)) if position else message
                    size = len(body) + len(position)
                    self._dispatch(self._instance.give_room(number, size))
                    continue
                is_over = True
                if status != StatusCode.OK or body:
                    yield check((status, said_flags, body))
                return
        finally:
            if stream.feeder is not None:
                stream.feeder.cancel()
            if any(one[0] == COMPLETE for one in stream.said) or is_over:
                del self._streams[number]
            else:
                self.end_call(number, call.operation, deadline)

    async def _feed(self, number: int, stream: _Stream, call: Call, flags: int) -> None:
        """Give the library the client's messages, as many as it wants."""
        messages = call.messages(msgspec.Raw)
        while True:
            while not stream.wanted:
                await stream.wait()
            message = await anext(messages, None)
            stream.wanted -= 1
            if message is None:
                self._dispatch(self._instance.data(number, END, b""))
                return
            self._dispatch(self._instance.data(number, flags, bytes(message)))

    # -- calls that nobody wants ----------------------------------------------------------------

    def end_call(self, number: int, operation: str, deadline: float) -> None:
        """Tell the library that nobody waits for a call any more, unless it is completed. Plain
        code; never raises."""
        if self._pending.pop(number, None) is None and self._streams.pop(number, None) is None:
            return
        late = self._now() >= deadline
        self._cancel(
            number, operation, StatusCode.DEADLINE_EXCEEDED if late else StatusCode.CANCELLED
        )

    def _cancel(self, number: int, operation: str, status: StatusCode) -> None:
        if self._descriptor < 0:
            return
        if not self._given_up:  # the reader is to watch it
            os.eventfd_write(self._descriptor, 1)
        self._given_up[number] = (self._now() + self.cancel_grace, operation)
        self._dispatch(self._instance.cancel(number, int(status)))

    def _look_at_given_up(self) -> None:
        """Is one of the calls that were cancelled still open, after its grace?"""
        until, operation = next(iter(self._given_up.values()))
        if self._now() >= until:
            self._given_up.clear()
            forget_library(self.library)
            self.on_stuck(
                f"plugin {self.name!r} is stuck: {operation} was cancelled, and was not completed "
                f"within {self.cancel_grace:g} s"
            )

    # -- what the library says ------------------------------------------------------------------

    async def _read(self, descriptor: int) -> None:
        """Take what the library's threads say. Runs until cancelled."""
        while True:
            patience = next(iter(self._given_up.values()))[0] if self._given_up else math.inf
            with anyio.CancelScope(deadline=patience):
                await anyio.wait_readable(descriptor)
            self._dispatch(self._instance.take())
            if self._given_up:
                self._look_at_given_up()

    def _dispatch(self, said: "Iterable[Said] | None") -> None:
        """Act on what the library has said. Never raises."""
        if said is None:
            return
        for one in said:
            kind, number, value, flags, body, _ = one
            if kind == COMPLETE:
                self._given_up.pop(number, None)
                pending = self._pending.pop(number, None)
                if pending is not None:
                    pending.answer = (value, flags, body)
                    pending.settle(pending.answer)
                elif (stream := self._streams.get(number)) is not None:
                    stream.said.append(one)
                    stream.tell()
            elif kind == SEND:
                if (stream := self._streams.get(number)) is not None:
                    stream.said.append(one)
                    stream.tell()
            elif kind == WANT:
                if (stream := self._streams.get(number)) is not None:
                    stream.wanted += value
                    stream.tell()
            else:
                self._take_note(kind, number, value, body)

    def _take_note(self, kind: int, number: int, value: int, body: bytes) -> None:
        if kind == LOG:
            text = body.decode(errors="replace")
            level = _LEVELS[min(value, len(_LEVELS) - 1)]
            if level >= logging.ERROR:
                self._last_error = text
            self._log.log(level, "%s", text)
        elif kind == WRONG:
            why = "was completed before" if value else "was never begun"
            self._log.warning("plugin %r completed call %d, which %s", self.name, number, why)
        elif kind == DROPPED:
            self._log.warning("%d log lines or notes were dropped: too many at once", value)
        else:
            try:
                note = msgspec.json.decode(body, type=ToldNote)
            except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
                self._log.warning("plugin %r sent a note that is none: %s", self.name, error)
                return
            for record in note.logs:
                level = logging.getLevelNamesMapping().get(record.level, logging.INFO)
                self._log.log(level, "%s", record.message)
            self._take_metrics(note.metrics)
            if note.health is not None:
                self.on_health(note.health)

    def _take_metrics(self, told: PluginMetrics | None) -> None:
        """The counters that the SDK does not keep itself."""
        if told is None:
            return
        for name in _AUTHORS_METRICS:
            setattr(self.metrics, name, getattr(told, name))
        if told.custom_metrics_json:
            try:
                custom = msgspec.json.decode(told.custom_metrics_json, type=dict[str, float])
            except (msgspec.MsgspecError, RecursionError) as error:
                self._log.warning("plugin %r: custom_metrics_json: %s", self.name, error)
            else:
                self.metrics.custom = custom


def _deadline_of_loop() -> Callable[[], float]:
    """anyio's ``current_effective_deadline``; on trio its own, at half the price."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        found: Callable[[], float] = trio.current_effective_deadline
        return found
    return anyio.current_effective_deadline


def _text(body: bytes) -> str:
    return body.decode(errors="replace")


def _compile(declared: OperationDeclaration) -> Operation:
    def form(handler: Callable[..., Any], *, streaming: bool, stream: Any = None) -> Operation:
        return Operation(
            name=declared.name,
            handler=handler,
            params=ParamsDecoder(msgspec.Raw),
            params_type=msgspec.Raw,
            result_type=msgspec.Raw,
            takes_call=True,
            streaming=streaming,
            idempotent=declared.idempotent,
            access=declared.access,
            cost=declared.cost or 1,
            stream=stream,
        )

    if declared.streaming:
        return form(LibraryPlugin._stream, streaming=True)  # noqa: SLF001 (its own class)
    stream = form(LibraryPlugin._stream, streaming=True) if declared.also_streaming else None  # noqa: SLF001 (as above)
    return form(LibraryPlugin._execute, streaming=False, stream=stream)  # noqa: SLF001 (as above)


def _raise_unless_ok(status: int, body: bytes) -> None:
    """Raises PluginError: what the library has said."""
    if status:
        code = StatusCode.from_wire(status)
        raise PluginError(code, _text(body) or f"the plugin answered {code.name}")


def _json_result(answer: tuple[int, int, bytes]) -> msgspec.Raw:
    """The result, which is JSON.

    Raises:
        PluginError: what the library says instead, or what is wrong with it.
    """
    status, flags, body = answer
    if status:
        _raise_failed(status, flags, body)
    if not body:
        return msgspec.Raw(b"{}")
    if flags & MSGPACK:
        raise PluginError(StatusCode.INTERNAL, "the plugin answered a JSON call in MessagePack")
    try:
        body.decode()
        return _check_json(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise PluginError(
            StatusCode.INTERNAL, f"the plugin's result is not JSON: {error}"
        ) from None


def _binary_result(answer: tuple[int, int, bytes]) -> msgspec.Raw:
    """The result, which is MessagePack. Raises as ``_json_result``."""
    status, flags, body = answer
    if status:
        _raise_failed(status, flags, body)
    if not body:
        return msgspec.Raw(b"\x80")
    if not flags & MSGPACK:
        raise PluginError(StatusCode.INTERNAL, "the plugin answered a MessagePack call in JSON")
    try:
        return _check_msgpack(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise PluginError(
            StatusCode.INTERNAL, f"the plugin's result is not MessagePack: {error}"
        ) from None


def _raise_failed(status: int, flags: int, body: bytes) -> None:
    if flags & TOO_LARGE:
        raise PluginError(
            StatusCode.INTERNAL,
            "the plugin's answer is larger than what is taken of it (plugin.max_frame_bytes in "
            "the configuration); the call has run",
        )
    _raise_unless_ok(status, body)


def _decoded(body: bytes, kind: type[T], what: str) -> T:
    """A message of the library's.

    Raises:
        PluginError: it is none.
    """
    try:
        body.decode()
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise PluginError(StatusCode.INTERNAL, f"{what} is wrong: {error}") from None

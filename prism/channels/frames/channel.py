"""A plugin at the other end of a byte stream: the host's side of the frame protocol.

Theory of operation. An ordinary call (``start``) is a frame queued and an entry in ``_calls``;
its CLOSE, read by the link's reader, leads straight to the call's ``answered`` or ``failed``.
Initialize, health checks and Shutdown wait for their CLOSE in the caller's task. A call that is
cancelled sends CANCEL and is over at once; it stays on the books (``_abandoned``) until the
plugin's CLOSE. A plugin that
does not close a cancelled call within ``cancel_grace`` seconds is wedged, as is
one that falls silent or does not read: the channel breaks, and its owner
ends the process.

However the channel ends, every open call ends with it, and ``wait_broken``
returns the reason.
"""

import logging
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from copy import copy
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import outcome
import trio
from msgspec.structs import replace
from mypy_extensions import mypyc_attr

from prism.channels.channel import (
    AnswerMemory,
    PluginChannel,
    StreamCall,
    UnaryCall,
    execute_request,
    wrong_json,
)
from prism.channels.frames.link import FrameLink, LinkSettings
from prism.channels.frames.stream import FramedStreamCall
from prism.channels.frames.tap import Sender
from prism.contract.errors import (
    AnswerTooLarge,
    CallError,
    ChannelBroken,
    Overloaded,
    PluginCrashed,
    PluginMisbehaved,
    PluginUnavailable,
    RemoteProtocolError,
)
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
)
from prism.contract.redaction import Redaction
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.streams.outlet import turn_time
from prism.wire import Role, codecs
from prism.wire.connection import Connection
from prism.wire.events import (
    Cancel,
    Close,
    Credit,
    Data,
    Event,
    Fault,
    GoAway,
    Hello,
    Note,
    Open,
    Overrun,
)
from prism.wire.frames import Codec, Frame
from prism.wire.parts import Pieces
from prism.wire.prepared import PreparedExecute

log = logging.getLogger("prism.channel")

# Every call comes by these: on Python 3.11 an enum's attribute costs as much as a call.
_MSGPACK = Codec.MSGPACK
_OK = StatusCode.OK

MAX_DEADLINE_MS = 2**32 - 1
"""Longest deadline an OPEN can carry, some 49 days; longer ones are sent as none."""
LAST_STREAM = 2**32 - 1
"""Ids are never reused, so a connection carries some 2^31 calls in its life."""
ROOM_TIMEOUT = 0.5
"""Seconds that a call waits for room in the queue: enough for many MB to a plugin that reads,
and soon over with one that does not."""
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
"""Levels of log records; Python's has one more than the protocol's page."""
NO_SUCCESS = 'the plugin closed the call with status OK, but without "success": true'
MAX_PREPARED = 1024
"""Operations and principals whose requests are kept half encoded."""
STREAMS_LEFT_TO_LEAVE = 2**20
"""Calls before the last one at which the channel asks to be replaced."""

M = TypeVar("M", bound=Message)
W = TypeVar("W")


@dataclass(frozen=True, kw_only=True)
class ChannelSettings(LinkSettings):
    """The limits of one channel, in seconds and bytes.

    Args:
        max_frame: largest message accepted from the plugin.
        max_queued: bytes queued for the plugin beyond which streams wait, whatever credit
            the plugin gave them, and so do new calls, which are refused after ``ROOM_TIMEOUT``.
        cancel_grace: for the CLOSE of a cancelled call.
        strict: end the connection for mistakes that are else forgiven.
    """

    max_frame: int = 16 * 1024 * 1024
    max_queued: int = 4 * 1024 * 1024
    cancel_grace: float = 10.0
    strict: bool = False


def _answer(close: Close, kind: type[M]) -> M:
    """The response in a CLOSE, with the frame's status where the message has none."""
    message = close.message if close.message is not None else kind()
    assert isinstance(message, kind)  # noqa: S101 - the codec decoded it as this type
    success = getattr(message, "success", None)
    if success is None or (success and close.status is _OK):
        return message
    changes: dict[str, Any] = {"success": False}
    stated = getattr(message, "error_code", None)
    if stated is not None:
        changes["error_code"] = close.status or StatusCode.from_wire(stated) or StatusCode.UNKNOWN
    return replace(message, **changes)


def _ill_failed(close: Close) -> str:
    """What is wrong with how a call says that it has failed; empty where nothing is."""
    status, message = close.status, close.message
    said = getattr(message, "error_code", 0)
    if said and StatusCode.from_wire(said) is not status:
        return f"status {status} of its CLOSE is not its error_code, {said}"
    if getattr(message, "success", False):
        return f'"success": true with status {status}'
    return ""


class _Answered(Protocol):
    """What is told how a call has ended."""

    def answered(self, response: ExecuteResponse) -> None: ...

    def failed(self, error: CallError) -> None: ...


class _Awaited(NamedTuple):
    """A task that waits for a call's answer."""

    task: trio.lowlevel.Task

    def answered(self, response: ExecuteResponse) -> None:
        trio.lowlevel.reschedule(self.task, outcome.Value(response))

    def failed(self, error: CallError) -> None:
        trio.lowlevel.reschedule(self.task, outcome.Error(error))


@mypyc_attr(allow_interpreted_subclasses=True)
class FramedChannel(PluginChannel):
    """Calls over frames. ``handshake`` first, then keep ``run`` running in a nursery.

    ``on_note``, ``on_goaway`` and ``on_fault`` are called from the reader: they must not block.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        settings: ChannelSettings | None = None,
        *,
        name: str = "the plugin",
        version: str = "",
        on_note: Callable[[Note], None] = lambda _note: None,
        on_goaway: Callable[[GoAway], None] = lambda _goaway: None,
        on_fault: Callable[[Fault], None] = lambda _fault: None,
    ) -> None:
        self.name = name
        self.settings = settings or ChannelSettings()
        self._connection = Connection(
            Role.HOST, Hello(name="prism", version=version, max_frame=self.settings.max_frame)
        )
        self._link = FrameLink(
            name,
            stream,
            self._connection,
            self.settings,
            self._dispatch,
            self._fail_all,
            self._wake,
            self._forgive,
        )
        self._on_note = on_note
        self._on_fault = on_fault
        self._on_goaway = on_goaway
        self._calls: dict[int, _Answered] = {}
        self._waiting: dict[int, trio.lowlevel.Task] = {}
        self._prepared: dict[tuple[str, str, str], PreparedExecute] = {}
        self._streams: dict[int, FramedStreamCall] = {}
        self._abandoned: dict[int, float] = {}
        self._callers = trio.lowlevel.ParkingLot()
        self._somebody_waits = False

    # -- life -----------------------------------------------------------------

    async def handshake(self) -> Hello:
        """Await the plugin's HELLO and answer it. Cancelling leaves a dead channel.

        Raises:
            HandshakeFailed: the plugin said nothing in time, went away, broke
                the protocol, or speaks another version.
        """
        return await self._link.handshake()

    async def run(self) -> None:
        """Carry calls until the channel ends. Returns then; raises only Cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_cancelled_calls)
            await self._link.run()
            nursery.cancel_scope.cancel()

    async def _watch_cancelled_calls(self) -> None:
        grace = self.settings.cancel_grace
        while True:
            due = trio.current_time() + grace / 2
            await trio.sleep_until(due)
            if trio.current_time() - due > grace:
                # This process was stopped, and could read no CLOSE: the grace begins anew.
                self._abandoned = dict.fromkeys(self._abandoned, trio.current_time())
            oldest = next(iter(self._abandoned.values()), float("inf"))
            if trio.current_time() - oldest >= grace:
                self._link.finish(
                    ChannelBroken(f"it did not close a cancelled call within {grace:g} seconds")
                )

    def _fail_all(self, reason: Exception) -> None:
        """The link ended: so does every open call."""
        calls, self._calls = self._calls, {}
        waiting, self._waiting = self._waiting, {}
        self._abandoned.clear()
        for call in calls.values():
            call.failed(self._failure(reason))
        for task in waiting.values():
            trio.lowlevel.reschedule(task, outcome.Error(self._failure(reason)))
        for stream in self._streams.values():
            stream.fail(self._failure(reason))
        self._streams.clear()
        self._callers.unpark_all()

    def _failure(self, reason: Exception) -> CallError:
        why = self.redaction.text(str(reason))
        if isinstance(reason, RemoteProtocolError):
            return PluginMisbehaved(f"{self.name} broke the frame protocol: {why}")
        return PluginCrashed(f"{self.name} went away during the call: {why}")

    async def aclose(self) -> None:
        """Write what is queued, if the plugin reads on, and close. Never raises."""
        await self._link.aclose()

    def tap(self, publish: Callable[[Sender, Frame], None]) -> None:
        """Have ``publish`` told each frame that crosses from now on; it must not block or raise."""
        self._link.tap(publish)

    def untap(self) -> None:
        """Nobody looks at the frames any more."""
        self._link.untap()

    async def wait_broken(self) -> Exception:
        """Wait for the end of the channel; returns its reason."""
        return await self._link.wait_ended()

    @property
    def ended(self) -> Exception | None:
        """Why the channel can carry no more calls; None while it can."""
        return self._link.ended

    def cancel_calls(self, error: CallError) -> None:
        """Cancel every open call in the plugin, and let each end with ``error`` here."""
        for stream, call in list(self._calls.items()):
            self.abandon(stream, StatusCode.UNAVAILABLE)
            call.failed(copy(error))
        for stream, task in list(self._waiting.items()):
            self.abandon(stream, StatusCode.UNAVAILABLE)
            trio.lowlevel.reschedule(task, outcome.Error(copy(error)))
        for stream, opened in list(self._streams.items()):
            self.abandon(stream, StatusCode.UNAVAILABLE)
            opened.fail(error)

    @property
    def open_calls(self) -> int:
        """Calls for which the plugin still owes a CLOSE."""
        waiting = len(self._calls) + len(self._waiting)
        return waiting + len(self._streams) + len(self._abandoned)

    def go_away(self, reason: str) -> None:
        """Tell the plugin that its drain begins; calls may still be made."""
        if self._link.ended is None:
            self._link.send(GoAway(self._connection.last_peer_stream, reason))

    # -- what the plugin says -------------------------------------------------

    def _on_close(self, event: Close) -> None:
        call = self._calls.pop(event.stream, None)
        if call is not None:
            self._answer_call(call, event)
            return
        task = self._waiting.pop(event.stream, None)
        if task is not None:
            trio.lowlevel.reschedule(task, outcome.Value(event))
        elif (stream := self._streams.pop(event.stream, None)) is not None:
            if self._check_message(stream, event.stream, event.message):
                stream.close(event)
        else:
            self._abandoned.pop(event.stream, None)

    def _answer_call(self, call: _Answered, close: Close) -> None:
        if close.not_started:
            call.failed(self._not_started(close))
            return
        if close.too_large:
            call.failed(AnswerTooLarge(self.settings.max_frame))
            return
        response = _answer(close, ExecuteResponse)
        if not response.success:
            unsaid = close.status is StatusCode.OK and not response.error
            if unsaid:
                response = replace(response, error=NO_SUCCESS)
            call.answered(self.redaction.fields(response, "error"))
            if unsaid:
                self._forgive(Fault("no_success", f"call {close.stream}: {NO_SUCCESS}"))
            elif wrong := _ill_failed(close):
                self._forgive(Fault("ill_failed", f"call {close.stream}: {wrong}"))
            return
        if wrong := wrong_json(response.result_json, all_of_it=self.settings.strict):
            call.failed(self._not_json(wrong))
            self._forgive(Fault("not_json", f"call {close.stream}: result_json is {wrong}"))
            return
        call.answered(response)

    def _not_json(self, wrong: str) -> PluginMisbehaved:
        return PluginMisbehaved(f"{self.name} answered with what is no JSON: {wrong}")

    def _check_message(self, call: FramedStreamCall, number: int, message: object) -> bool:
        """Whether a stream's message is one; else the call fails, and only that."""
        text = getattr(message, "result_json", "")
        wrong = wrong_json(text, all_of_it=self.settings.strict)
        if wrong:
            call.fail(self._not_json(wrong))
            self._forgive(Fault("not_json", f"call {number}: result_json is {wrong}"))
        return not wrong

    def _forgive(self, fault: Fault) -> None:
        """The plugin has made a mistake that does no harm, or only to its call.

        Raises:
            RemoteProtocolError: nothing is forgiven here.
        """
        self._on_fault(fault)
        if self.settings.strict:
            self._link.refuse(f"strict: {fault.what}")

    def _not_started(self, close: Close) -> Overloaded:
        detail = getattr(close.message, "error", "") or "it takes no calls now"
        return Overloaded(f"{self.name} did not start the call: {self.redaction.text(detail)}")

    def _on_data(self, event: Data) -> None:
        call = self._streams.get(event.stream)
        if call is not None and self._check_message(call, event.stream, event.message):
            call.deliver(event)

    def _on_credit(self, event: Credit) -> None:
        call = self._streams.get(event.stream)
        if call is not None:
            call.wake()

    def _on_overrun(self, event: Overrun) -> None:
        call = self._streams.get(event.stream)
        if call is not None:
            self._forgive(Fault("overrun", f"DATA beyond its credit on call {event.stream}"))
            self.abandon(event.stream, StatusCode.RESOURCE_EXHAUSTED)
            call.fail(PluginMisbehaved(f"{self.name} sent more than it had credit for"))

    def _on_open(self, event: Open) -> None:
        self._connection.send(Close(event.stream, StatusCode.UNIMPLEMENTED, not_started=True))

    def _on_notes(self, event: Note) -> None:
        strange = [each.level for each in event.logs if each.level not in LEVELS]
        if strange:
            what = f"a log record's level is {self.redaction.text(strange[0][:40])!r}"
            self._forgive(Fault("note_level", what))
        logs = [self.redaction.fields(record, "message", "logger") for record in event.logs]
        health = event.health and self.redaction.fields(event.health, "message", "details")
        self._on_note(Note(logs=logs, metrics=event.metrics, health=health))

    def _on_leaving(self, event: GoAway) -> None:
        self._on_goaway(event)

    def _dispatch(self, event: Event) -> None:
        _HANDLERS[type(event)](self, event)

    # -- calls ----------------------------------------------------------------

    def send(self, event: Event) -> None:
        """Queue one event and wake the writer."""
        self._link.send(event)

    @property
    def has_room(self) -> bool:
        """May something be queued now? If not, streams are woken, and callers unparked, later."""
        self._somebody_waits = self._connection.queued_bytes > self.settings.max_queued
        return not self._somebody_waits

    async def _wait_to_begin(self, deadline: float) -> float:
        """Seconds left of a call that cannot begin at once: it is late, or there is no room.

        Beside a large body others wait a little, instead of being refused for it.

        Raises:
            Overloaded: there is no room; the plugin does not read.
        """
        if deadline <= trio.current_time():
            await trio.lowlevel.checkpoint_if_cancelled()
        with trio.move_on_after(ROOM_TIMEOUT):
            while self._link.ended is None and not self.has_room:
                await self._callers.park()
            return deadline - trio.current_time()
        raise Overloaded(f"{self.name} does not keep up with what it is sent")

    def _wake(self) -> None:
        if self._somebody_waits and self.has_room:
            self._callers.unpark_all()
            for call in self._streams.values():
                call.wake()

    def begin(self, method: Method, message: Message, left: float, *, end: bool) -> int:
        """Open a call that has ``left`` seconds.

        Raises:
            PluginUnavailable, Overloaded, PayloadTooLarge: it was not opened.
        """
        connection = self._connection
        control = method is not Method.EXECUTE and method is not Method.EXECUTE_STREAM
        self._check_may_open(connection.can_open_control if control else connection.can_open)
        stream = connection.next_stream()
        self.send(Open(stream, method, message, _milliseconds(left), end))
        self._watch_ids(stream)
        return stream

    def _check_may_open(self, takes_calls: bool) -> None:
        if self._link.ended is not None:
            raise PluginUnavailable(
                f"{self.name} is gone: {self.redaction.text(str(self._link.ended))}"
            )
        if not takes_calls:
            raise Overloaded(f"{self.name} takes no more calls now")

    def _watch_ids(self, stream: int) -> None:
        if stream == LAST_STREAM - 2 * STREAMS_LEFT_TO_LEAVE:
            self._on_goaway(GoAway(0, "the connection's call ids are nearly used up"))

    def start(self, call: UnaryCall) -> None:
        """Queue the call's frame. Where there is no room, a task waits for some."""
        if self.has_room or self._link.ended is not None:
            self._start_now(call)
            return

        async def start_late() -> None:
            try:
                await self._wait_to_begin(call.deadline)
                if not call.done:  # in the moment in which there was room
                    self._start_now(call)
            except CallError as error:
                call.failed(error)

        call.wait_for(call.tasks.start(start_late))

    def _start_now(self, call: UnaryCall) -> None:
        self._check_may_open(self._connection.can_open)
        payload = self._payload(call)
        left = _milliseconds(call.deadline - turn_time())
        stream = call.stream_number = self._connection.open_execute(payload, left)
        self._calls[stream] = call
        self._link.wake()
        self._watch_ids(stream)

    def _payload(self, call: UnaryCall) -> Pieces:
        if self._connection.codec is not _MSGPACK or call.raw or call.metadata or call.tracestate:
            return (codecs.encode(self._connection.codec, execute_request(call)),)
        key = (call.operation, call.namespace, call.principal)
        prepared = self._prepared.get(key)
        if prepared is None:
            if len(self._prepared) >= MAX_PREPARED:
                self._prepared.clear()
            prepared = self._prepared[key] = PreparedExecute(*key)
        return prepared.payload(call.params or b"{}", call.request_id, call.traceparent)

    def cancel(self, call: UnaryCall, status: StatusCode) -> None:
        """Send CANCEL, if the call was sent and not answered."""
        if self._calls.get(call.stream_number) is call:
            self.abandon(call.stream_number, status)

    def abandon(self, stream: int, status: StatusCode) -> None:
        """Cancel an open call whose answer nobody awaits any more."""
        self._calls.pop(stream, None)
        self._waiting.pop(stream, None)
        self._streams.pop(stream, None)
        if self._link.ended is not None or stream in self._abandoned:
            return
        if self._connection.is_open(stream):
            self._abandoned[stream] = trio.current_time()
            self.send(Cancel(stream, status))

    async def _call(self, method: Method, message: Message) -> Close:
        task = trio.lowlevel.current_task()
        close: Close = await self._wait_in(self._waiting, task, method, message)
        if close.not_started:
            raise self._not_started(close)
        if close.too_large:
            raise AnswerTooLarge(self.settings.max_frame)
        return close

    async def _wait_in(
        self, calls: dict[int, W], waiting: W, method: Method, message: Message
    ) -> Any:
        """Open a call, put ``waiting`` into ``calls``, and wait until that reschedules the task."""
        deadline = trio.current_effective_deadline()
        left = deadline - trio.current_time()
        if left <= 0 or not self.has_room:
            left = await self._wait_to_begin(deadline)
        stream = self.begin(method, message, left, end=True)
        calls[stream] = waiting

        # Called outside of any task, so it cannot ask trio for the deadline.
        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self.abandon(stream, _why_cancelled(deadline))
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    async def initialize(self, request: InitializeRequest) -> InitializeResponse:
        """Configure the plugin; the first call, made exactly once."""
        self.redaction = Redaction(request.credentials)
        answer = _answer(await self._call(Method.INITIALIZE, request), InitializeResponse)
        return self.redaction.fields(answer, "error", "plugin_version")

    async def execute(
        self, request: ExecuteRequest, memory: AnswerMemory | None = None
    ) -> ExecuteResponse:
        """Run one operation. Its answer comes as one frame, one at a time, and is not counted."""
        waiting = _Awaited(trio.lowlevel.current_task())
        answer: ExecuteResponse
        answer = await self._wait_in(self._calls, waiting, Method.EXECUTE, request)
        return answer

    async def health_check(self, request: HealthCheckRequest) -> HealthCheckResponse:
        """Ask for the plugin's health."""
        answer = _answer(await self._call(Method.HEALTH_CHECK, request), HealthCheckResponse)
        return self.redaction.fields(answer, "message", "details")

    async def shutdown(self, request: ShutdownRequest) -> ShutdownResponse:
        """Ask the plugin to finish and end. Call ``aclose`` afterwards."""
        answer = _answer(await self._call(Method.SHUTDOWN, request), ShutdownResponse)
        return self.redaction.fields(answer, "error")

    def execute_stream(
        self, first: StreamRequest, memory: AnswerMemory | None = None
    ) -> AbstractAsyncContextManager[StreamCall]:
        """Open a stream with its first message; leaving the block early cancels it."""
        return _StreamBlock(self, first, memory)

    async def open_stream(
        self, first: StreamRequest, deadline: float, memory: AnswerMemory | None
    ) -> FramedStreamCall:
        """Open a stream; ``abandon`` must follow."""
        left = deadline - trio.current_time()
        if left <= 0 or not self.has_room:
            left = await self._wait_to_begin(deadline)
        stream = self.begin(Method.EXECUTE_STREAM, first, left, end=False)
        call = self._streams[stream] = FramedStreamCall(self, stream, self._connection, memory)
        return call


class _StreamBlock:
    """The block that ``execute_stream`` is for: a class, since mypyc takes no async generator."""

    def __init__(
        self, channel: FramedChannel, first: StreamRequest, memory: AnswerMemory | None
    ) -> None:
        self._channel = channel
        self._first = first
        self._memory = memory
        self._stream = 0
        self._deadline = math.inf

    async def __aenter__(self) -> FramedStreamCall:
        self._deadline = trio.current_effective_deadline()
        call = await self._channel.open_stream(self._first, self._deadline, self._memory)
        self._stream = call.number
        return call

    async def __aexit__(self, *_: object) -> None:
        self._channel.abandon(self._stream, _why_cancelled(self._deadline))
        if self._memory is not None:
            self._memory.release()


_HANDLERS: Final[dict[type[Event], Callable[[FramedChannel, Any], None]]] = {
    Close: FramedChannel._on_close,
    Data: FramedChannel._on_data,
    Credit: FramedChannel._on_credit,
    Overrun: FramedChannel._on_overrun,
    Open: FramedChannel._on_open,
    Note: FramedChannel._on_notes,
    GoAway: FramedChannel._on_leaving,
}


def _milliseconds(left: float) -> int:
    """``left`` seconds as OPEN has them; rounded up, so that the proxy, which started first, is
    never the later one."""
    left *= 1000
    return max(1, math.ceil(left)) if left <= MAX_DEADLINE_MS else 0


def _why_cancelled(deadline: float) -> StatusCode:
    expired = trio.current_time() >= deadline
    return StatusCode.DEADLINE_EXCEEDED if expired else StatusCode.CANCELLED

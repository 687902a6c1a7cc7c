"""The one interface through which the proxy calls a plugin.

The five calls are the contract's. ``execute``, the ordinary one, also comes without a task
(``start``): the call is told its answer when it has come. The others wait for theirs, under the
caller's cancel scope. Either way a channel that crosses a process boundary tells the plugin how
much time is left.
"""

import logging
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
import trio

from prism.contract.errors import CallError, InternalError
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    HealthCheckRequest,
    HealthCheckResponse,
    InitializeRequest,
    InitializeResponse,
    ShutdownRequest,
    ShutdownResponse,
    StreamRequest,
    StreamResponse,
)
from prism.contract.redaction import Redaction
from prism.contract.status import StatusCode
from prism.streams.tasks import TaskPool

log = logging.getLogger("prism.channel")

MAX_CHECKED = 16 * 1024
"""Characters of a result that is checked to be JSON: ten microseconds."""

_read_json = msgspec.json.Decoder(msgspec.Raw).decode


UNCOUNTED = 4096
"""Bytes of a stream's messages that are not counted: the stream itself takes more."""
COPIES = 2
"""Of a message on its way to a client: itself, and what it is in the door's frame."""


class AnswerMemory(Protocol):
    """Where bytes of an answer are counted that its client does not have yet; ``size`` are."""

    size: int

    def resize(self, size: int) -> None:
        """There are ``size`` bytes now.

        Raises:
            AnswerDropped: there is no room for them; nothing has changed.
        """

    async def wait_room(self, size: int) -> None:
        """Have ``size`` bytes once there is room for them, and nothing until then."""

    def release(self) -> None:
        """There are none any more."""


def message_size(message: StreamResponse) -> int:
    """Bytes of a message, at least."""
    return len(message.result_json) + len(message.result_raw)


class StreamCall(ABC):
    """One open ExecuteStream call; got from :meth:`PluginChannel.execute_stream`.

    ``counts_sent``: the channel has counted what it gives out for as long as that is on its way
    to the client, to when the next message is asked for.
    """

    counts_sent = False

    @abstractmethod
    async def send(self, request: StreamRequest) -> None:
        """Send one message; waits while the plugin gives no credit.

        Cancelling is safe: the message was then either sent whole or not at all.

        Raises:
            LocalProtocolError: after ``end()``.
            CallError: the call is over already.
        """

    @abstractmethod
    async def end(self) -> None:
        """Say that no more messages will be sent. Calling it again does nothing."""

    @abstractmethod
    async def receive(self) -> StreamResponse:
        """The plugin's next message. Cancelling loses nothing.

        Raises:
            trio.EndOfChannel: the plugin finished the stream without an error.
            CallError: the stream failed.
        """

    async def receive_some(self) -> list[StreamResponse]:
        """As ``receive``: the next message, and those that have come right behind it."""
        return [await self.receive()]


class UnaryCall(Protocol):
    """What a channel needs to know of a call that it runs without a task.

    ``params`` is a JSON object, empty for ``{}``, unless ``raw`` is there. ``deadline`` is on
    trio's clock; who made the call watches it. ``done``: it has ended. ``tasks`` runs what
    has to wait. ``stream_number`` is the channel's own.
    """

    namespace: str
    operation: str
    principal: str
    params: bytes | bytearray
    raw: bytes
    request_id: str
    traceparent: str
    tracestate: str
    metadata: dict[str, str] | None
    deadline: float
    done: bool
    tasks: TaskPool
    stream_number: int

    def plugin_metadata(self) -> dict[str, str]:
        """What the plugin is told beside the params."""

    def new_answer_memory(self) -> AnswerMemory | None:
        """Where an answer that is still arriving is counted."""

    def answered(self, response: ExecuteResponse) -> None:
        """The plugin has answered."""

    def failed(self, error: CallError) -> None:
        """There will be no answer."""

    def wait_for(self, waiting: trio.CancelScope) -> None:
        """``waiting`` is to be cancelled if the call ends before."""


def execute_request(call: UnaryCall) -> ExecuteRequest:
    """The message that asks for ``call``."""
    return ExecuteRequest(
        operation=call.operation,
        params_json="" if call.raw else call.params.decode() or "{}",
        params_raw=call.raw,
        metadata=call.plugin_metadata(),
    )


def wrong_json(text: str, *, all_of_it: bool = False) -> str:
    """What is wrong with a result, which should be JSON; "" for nothing, or where it is so long
    that to look would cost others time, unless ``all_of_it`` is to be looked at."""
    if not text or (len(text) > MAX_CHECKED and not all_of_it):
        return ""
    try:
        _read_json(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        return str(error).removeprefix("JSON is ")
    return ""


class PluginChannel(ABC):
    """A plugin, as the proxy sees it: the contract's five calls, and ``aclose``.

    A failure that the plugin answers is a response with ``success=False``. What
    is raised instead means that there is no answer: ``PluginCrashed``,
    ``PluginMisbehaved``, ``PluginUnavailable``, ``Overloaded``, ``PayloadTooLarge``.

    Cancelling a call cancels it in the plugin and leaves the channel usable.

    No credential of ``initialize`` comes back in an error, a health message or a
    log record: ``redaction`` takes them out.
    """

    redaction = Redaction()

    @abstractmethod
    async def initialize(self, request: InitializeRequest) -> InitializeResponse:
        """Configure the plugin; the first call, made exactly once."""

    @abstractmethod
    async def execute(
        self, request: ExecuteRequest, memory: AnswerMemory | None = None
    ) -> ExecuteResponse:
        """Run one operation. What arrives of its answer over some time is counted in ``memory``,
        until it is returned."""

    def start(self, call: UnaryCall) -> None:
        """Run ``call``: one of ``call.answered`` and ``call.failed`` comes later, unless it is
        cancelled before. Plain code. Here a task awaits ``execute``.

        Raises:
            CallError: it was not begun.
        """

        async def run() -> None:
            try:
                response = await self.execute(execute_request(call), call.new_answer_memory())
            except CallError as error:
                call.failed(error)
            except Exception:
                log.exception("request %s failed", call.request_id)
                call.failed(InternalError())
            else:
                call.answered(response)

        scope = call.tasks.start(run)
        scope.deadline = call.deadline
        call.wait_for(scope)

    def cancel(self, call: UnaryCall, status: StatusCode) -> None:
        """Nobody waits for the answer to ``call``, which was given to ``start``, any more.

        ``status`` is CANCELLED or DEADLINE_EXCEEDED. Here the task's own scope is cancelled.
        """

    @abstractmethod
    def execute_stream(
        self, first: StreamRequest, memory: AnswerMemory | None = None
    ) -> AbstractAsyncContextManager[StreamCall]:
        """Open a stream with its first message; leaving the block early cancels it.

        What the plugin has said, and nobody has taken yet, is counted in ``memory``, beyond what
        any stream may have waiting; the end of the block releases that.
        """

    @abstractmethod
    async def health_check(self, request: HealthCheckRequest) -> HealthCheckResponse:
        """Ask for the plugin's health."""

    @abstractmethod
    async def shutdown(self, request: ShutdownRequest) -> ShutdownResponse:
        """Ask the plugin to finish and end. Call ``aclose`` afterwards."""

    @abstractmethod
    def go_away(self, reason: str) -> None:
        """Tell the plugin that its drain begins; calls may still be made. Never raises."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the channel. Open calls fail as PluginCrashed. Never raises."""

    @abstractmethod
    async def wait_broken(self) -> Exception:
        """Wait until the channel can carry no more calls; returns why.

        ``ChannelClosed`` after ``aclose``, otherwise ``ChannelBroken`` or
        ``RemoteProtocolError``.
        """

    @property
    @abstractmethod
    def ended(self) -> Exception | None:
        """Why the channel can carry no more calls; None while it can."""

    @abstractmethod
    def cancel_calls(self, error: CallError) -> None:
        """Cancel every open call in the plugin, and let each end with ``error`` here.

        For the end of a drain. The channel can be used afterwards. Never raises.
        """

    @property
    @abstractmethod
    def open_calls(self) -> int:
        """Calls that the plugin has not closed yet, cancelled ones too: for the metrics."""

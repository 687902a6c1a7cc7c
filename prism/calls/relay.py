"""Carries the messages of one stream between a client and a plugin.

Nothing is stored between them: messages are taken from one side when the other has
taken those before, so a slow client slows its plugin's stream, and that one only. What is being
sent is counted: few bytes wait for room, while a message that is larger is dropped without it, and
ends its stream, or as many such as there are streams would be held until there is.
"""

import logging
from typing import TYPE_CHECKING

import trio

from prism.calls.stream import ClientStream
from prism.channels.channel import COPIES, UNCOUNTED, AnswerMemory, StreamCall, message_size
from prism.contract.errors import CallError, DeadlineExceeded, InternalError
from prism.contract.messages import StreamRequest, StreamResponse
from prism.supervision.instance import Instance

if TYPE_CHECKING:
    from prism.calls.call import Call

log = logging.getLogger("prism.calls")

FIRST_MESSAGE_WAIT = 0.25
"""Seconds to wait for a first message before the client is told that the stream is open.
An error that comes within them still has a status of its own, which is easier to handle
than one inside a stream."""

MAX_WAITING = 128 * 1024
"""Bytes of messages that may wait for room; twice what is taken from a plugin at a time."""

_IDLE_FRACTION = 8
"""The idle deadline is put off after this fraction of it, not at every message."""


class _Idle:
    """Ends a stream on which nothing moves; both directions count."""

    def __init__(self, seconds: float) -> None:
        self.scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        self._seconds = seconds
        self._put_off_at = trio.current_time() + seconds / _IDLE_FRACTION

    def moved(self) -> None:
        now = trio.current_time()
        if now >= self._put_off_at:
            self.scope.deadline = now + self._seconds
            self._put_off_at = now + self._seconds / _IDLE_FRACTION


class OpenStream:
    """A stream under way, so that it can be ended: the proxy stops, or its plugin goes."""

    def __init__(self, instance_id: str, call: "Call | None" = None) -> None:
        self.instance_id = instance_id
        self.call = call
        self._sending = call.new_answer_memory() if call is not None else None
        self.ending: CallError | None = None
        self._opened = call is None
        self._waiting: trio.CancelScope | None = None

    def end(self, reason: CallError) -> None:
        """End it with ``reason`` between two messages, never within one."""
        self.ending = self.ending or reason
        if self._waiting is not None:
            self._waiting.cancel()

    async def next_responses(self, call: StreamCall, seconds: float) -> list[StreamResponse]:
        """The plugin's next messages, empty if none came for ``seconds`` seconds.

        Raises:
            CallError: the stream failed, or was ended.
            trio.EndOfChannel: the plugin ended it.
        """
        if self.ending is not None:
            raise self.ending
        try:
            with trio.move_on_after(seconds) as self._waiting:
                responses = await call.receive_some()
                if not self._opened and self.call is not None:
                    self._opened = True
                    self.call.stream_opened()
                return responses
        finally:
            self._waiting = None
        if self.ending is not None:
            raise self.ending
        return []

    async def send(
        self, call: StreamCall, client: ClientStream, responses: list[StreamResponse]
    ) -> None:
        """Send messages of the plugin on, all of which come out of ``responses``.

        Raises:
            AnswerDropped: there is no room to keep them until the client takes them.
            CallError: as ``ClientStream.send``; or the stream was ended.
        """
        size = sum(map(message_size, responses))
        memory = self._sending
        if memory is None or call.counts_sent or size <= UNCOUNTED:
            await client.send_some(responses)
            return
        if size > MAX_WAITING:
            memory.resize(COPIES * size)
        else:
            await self._wait_room(memory, COPIES * size)
        try:
            await client.send_some(responses)
        finally:
            memory.release()

    async def _wait_room(self, memory: AnswerMemory, size: int) -> None:
        if self.ending is None:
            try:
                with trio.CancelScope() as self._waiting:
                    await memory.wait_room(size)
            finally:
                self._waiting = None
        if self.ending is not None:
            memory.release()
            raise self.ending


def relay_stream(call: "Call", instance: Instance, client: ClientStream) -> None:
    """Have a task carry the stream of ``call`` between its client and ``instance``.

    It also keeps the deadline: an error is told within a stream that has begun, which may wait.
    """

    async def carry() -> None:
        failure: CallError | None = None
        try:
            with trio.CancelScope(deadline=call.deadline) as in_time:
                await _carry(call, instance, client)
            if in_time.cancelled_caught:
                failure = call.too_late()
        except CallError as error:
            failure = error
        except Exception:
            log.exception("request %s failed", call.request_id)
            failure = InternalError()
        if failure is not None and not client.begun:
            call.failed(failure)
        else:
            await call.end_stream(failure)

    call.wait_for(call.tasks.start(carry))


async def _carry(call: "Call", instance: Instance, client: ClientStream) -> None:
    assert call.target is not None  # noqa: S101 - it was invoked
    first = StreamRequest(
        operation=call.operation,
        params_json="" if call.raw else call.params.decode() or "{}",
        params_raw=call.raw,
        metadata=call.plugin_metadata(),
    )
    stream = OpenStream(instance.id, call)
    streams = call.target.open_streams
    streams.add(stream)
    try:
        # It may have waited for its first message, or its plugin, while they were reviewed.
        if (why := call.target.refusal(call)) is not None:
            raise why
        memory = call.new_stream_memory()
        async with instance.channel.execute_stream(first, memory) as plugin:
            await relay(plugin, client, stream, call.target.limits.stream_idle_timeout_seconds)
    finally:
        streams.remove(stream)


async def relay(
    call: StreamCall, client: ClientStream, stream: OpenStream, idle_timeout: float
) -> None:
    """Carry messages both ways until the plugin, or ``stream.end``, ends the stream.

    Raises:
        CallError: the stream failed, on whichever side.
        DeadlineExceeded: no message went either way for ``idle_timeout`` seconds.
    """
    idle = _Idle(idle_timeout)
    with idle.scope:
        if client.one_way:
            await call.end()
            await _to_client(call, client, stream, idle)
        else:
            await _both_ways(call, client, stream, idle)
        return
    raise DeadlineExceeded(f"no message went either way for {idle_timeout:g} s")


async def _both_ways(
    call: StreamCall, client: ClientStream, stream: OpenStream, idle: _Idle
) -> None:
    failure: CallError | None = None
    async with trio.open_nursery() as nursery:

        async def to_plugin() -> None:
            nonlocal failure
            try:
                await _to_plugin(call, client, idle)
            except CallError as error:
                failure = error
                nursery.cancel_scope.cancel()

        nursery.start_soon(to_plugin)
        try:
            await _to_client(call, client, stream, idle)
        except CallError as error:
            failure = failure or error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _to_plugin(call: StreamCall, client: ClientStream, idle: _Idle) -> None:
    while (message := await client.receive()) is not None:
        idle.moved()
        try:
            await call.send(message)
        except CallError:
            return  # the plugin has ended the stream; ``receive`` says how
    await call.end()


async def _to_client(
    call: StreamCall, client: ClientStream, stream: OpenStream, idle: _Idle
) -> None:
    try:
        responses = await stream.next_responses(call, FIRST_MESSAGE_WAIT)
        if responses:
            await stream.send(call, client, responses)
        else:
            await client.begin()
        while True:
            responses = await stream.next_responses(call, client.heartbeat)
            if responses:
                idle.moved()
                await stream.send(call, client, responses)
            else:
                await client.beat()
    except trio.EndOfChannel:
        await client.begin()

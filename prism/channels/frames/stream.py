"""One ExecuteStream call over frames, on the host's side."""

from collections import deque
from typing import Protocol

import trio

from prism.channels.channel import AnswerMemory, StreamCall
from prism.contract.errors import (
    AnswerDropped,
    AnswerTooLarge,
    CallError,
    LocalProtocolError,
    Overloaded,
    PluginError,
)
from prism.contract.messages import StreamRequest, StreamResponse
from prism.contract.redaction import Redaction
from prism.contract.status import StatusCode
from prism.wire.connection import Connection
from prism.wire.events import Close, Credit, Data, Event

BATCH = 64 * 1024
"""Bytes of messages taken at a time, which is a window's quarter."""


class StreamCallChannel(Protocol):
    """What a stream call needs of its channel."""

    redaction: Redaction

    @property
    def has_room(self) -> bool:
        """May a message be queued now? If not, the channel calls ``wake`` once it may."""

    def send(self, event: Event) -> None:
        """Queue one event for the plugin."""


class FramedStreamCall(StreamCall):
    """Messages of one call, held back by credit in both directions.

    What the plugin sent and nobody has received yet waits in ``_inbox``; it is
    bounded by the window, since credit goes back only as messages are received. What a large
    message has beyond the window is counted, and ends the stream where there is no room for it.
    The channel calls ``deliver``, ``wake``, ``close`` and ``fail``; none blocks.
    """

    def __init__(
        self,
        channel: StreamCallChannel,
        stream: int,
        connection: Connection,
        memory: AnswerMemory | None = None,
    ) -> None:
        self._channel = channel
        self.number = stream
        self._connection = connection
        self._give_back_at = connection.local_hello.window // 2
        self._received = 0
        self._inbox: deque[Data] = deque()
        self._waiting = 0  # bytes in it
        self._window = connection.local_hello.window
        self._memory = memory
        self._sent_end = False
        self._over: CallError | trio.EndOfChannel | None = None
        self._receiver = trio.lowlevel.ParkingLot()
        self._senders = trio.lowlevel.ParkingLot()

    async def send(self, request: StreamRequest) -> None:
        """Send one message; waits while the plugin gives no credit, or does not read.

        Raises:
            PayloadTooLarge: the plugin takes no message of this size; the call goes on.
        """
        await trio.lowlevel.checkpoint()
        while self._over is None and not self._may_send:
            await self._senders.park()
        self._check_sending()
        self._channel.send(Data(self.number, request))

    async def end(self) -> None:
        """Say that no more messages will be sent. Calling it again does nothing.

        The half-close rides on an empty message of its own, as the protocol has
        no frame for it alone; like every DATA it waits for credit.
        """
        if self._sent_end:
            return
        while self._over is None and not self._may_send:
            await self._senders.park()
        self._sent_end = True
        if self._over is None:
            self._channel.send(Data(self.number, StreamRequest(), end=True))

    @property
    def _may_send(self) -> bool:
        return self._connection.send_credit(self.number) > 0 and self._channel.has_room

    def _check_sending(self) -> None:
        if self._sent_end:
            raise LocalProtocolError("this stream's sending side has ended")
        if isinstance(self._over, CallError):
            raise self._over
        if self._over is not None:
            raise PluginError(StatusCode.CANCELLED, "the plugin has finished the stream")

    async def receive(self) -> StreamResponse:
        """The plugin's next message. Cancelling loses nothing."""
        await self._wait_for_message()
        return self._take()

    async def receive_some(self) -> list[StreamResponse]:
        """The plugin's next messages, of about ``BATCH`` bytes together at most."""
        await self._wait_for_message()
        taken, size = [], 0
        while self._inbox and size < BATCH:
            size += self._inbox[0].size
            taken.append(self._take())
        return taken

    async def _wait_for_message(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._inbox:
            if self._over is not None:
                raise self._over
            await self._receiver.park()

    def _take(self) -> StreamResponse:
        data = self._inbox.popleft()
        self._received += data.size
        self._count(-data.size)
        if self._received >= self._give_back_at and self._over is None:
            self._channel.send(Credit(self.number, self._received))
            self._received = 0
        message = data.message
        assert isinstance(message, StreamResponse)  # noqa: S101 - decoded as this type
        return self._channel.redaction.fields(message, "error") if message.error else message

    def deliver(self, event: Data) -> None:
        """Take in a message from the plugin."""
        if self._over is not None:
            return
        try:
            self._count(event.size)
        except AnswerDropped as error:
            self._finish(error)
            return
        self._inbox.append(event)
        if self._receiver:  # an empty lot is not free to unpark, and messages come in numbers
            self._receiver.unpark_all()

    def _count(self, more: int) -> None:
        """There are ``more`` bytes in the inbox now, or fewer.

        Raises:
            AnswerDropped: there is no room for them.
        """
        self._waiting += more
        if self._memory is not None and (self._waiting > self._window or self._memory.size):
            self._memory.resize(max(0, self._waiting - self._window))

    def wake(self) -> None:
        """The plugin or the channel has room again."""
        self._senders.unpark_all()

    def close(self, event: Close) -> None:
        """The plugin ended the call."""
        last = event.message if isinstance(event.message, StreamResponse) else StreamResponse()
        status = event.status or StatusCode.from_wire(last.error_code)
        error = self._channel.redaction.text(last.error)
        if event.not_started:
            detail = error or "it takes no calls now"
            self._finish(Overloaded(f"the plugin did not start the stream: {detail}"))
        elif event.too_large:
            self._finish(AnswerTooLarge(self._connection.local_hello.max_frame))
        elif status is StatusCode.OK:
            if last.result_json or last.result_raw:
                self._inbox.append(Data(event.stream, last))
            self._finish(trio.EndOfChannel())
        else:
            self._finish(PluginError(status, error))

    def fail(self, error: CallError) -> None:
        """The call is lost; messages that arrived before can still be received."""
        self._finish(error)

    def _finish(self, over: CallError | trio.EndOfChannel) -> None:
        if self._over is None:
            self._over = over
        self._receiver.unpark_all()
        self._senders.unpark_all()

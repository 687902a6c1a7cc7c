"""One gRPC call on an HTTP/2 connection, as its link and its caller see it.

The link's reader calls ``on_headers``, ``on_data``, ``on_end`` and ``fail``, which never
block; the caller awaits ``next_message``. What has arrived and was not taken yet is
bounded, and stays compressed if it came so: the stream's window is given back for messages
that were taken, and for the part of one that the caller is waiting for. What is more than
``uncounted`` bytes, messages that the caller still holds among them (``taken``), is counted, and
ends the call where there is no room for it.
"""

import re
from typing import Protocol

import trio

from prism.channels.channel import AnswerMemory
from prism.contract.errors import (
    AnswerDropped,
    AnswerTooLarge,
    CallError,
    PayloadTooLarge,
    PluginError,
    RemoteProtocolError,
)
from prism.grpc.framing import Encoding, MessageReader
from prism.grpc.status import status_of_http

Headers = dict[str, str]

MAX_UNSENT = 256 * 1024
"""Bytes of one call's messages waiting for the plugin's window before ``send`` waits."""


class Link(Protocol):
    """What an exchange needs of its connection."""

    def give_window(self, stream_id: int, size: int) -> None: ...

    def send(self, exchange: "GrpcExchange") -> None: ...

    def reset(self, stream_id: int, *, cancelled: bool) -> None: ...


class GrpcExchange:
    """``headers`` and ``trailers`` are empty until they come; a trailers-only answer has
    its trailers among its headers. ``failure`` is why no proper end will come."""

    def __init__(self, link: Link, stream_id: int, window: int, limit: int) -> None:
        self.stream_id = stream_id
        self.memory: AnswerMemory | None = None
        self.uncounted = 0
        self.taken = 0
        self.headers: Headers = {}
        self.trailers: Headers = {}
        self.ended = False
        self.failure: Exception | None = None
        self.unsent = bytearray()
        self.unsent_ends = False
        self.sent_end = False
        self.is_queued = False  # waits in the link for its turn to send, or for the window
        self._link = link
        self._window = window
        self._limit = limit
        self._reader: MessageReader | None = None
        self._owed = 0
        self._receiver = trio.lowlevel.ParkingLot()
        self._senders = trio.lowlevel.ParkingLot()

    # From the link.

    def on_headers(self, headers: Headers) -> None:
        """The answer begins."""
        self.headers = headers
        http_status = headers.get(":status", "")
        encoding = headers.get("grpc-encoding", Encoding.IDENTITY)
        if http_status != "200":
            number = int(http_status) if re.fullmatch("[0-9]{3}", http_status) else 0
            said = f"HTTP {number}" if number else "no HTTP status"
            self._break(PluginError(status_of_http(number), f"the plugin's server answered {said}"))
        elif not headers.get("content-type", "").startswith("application/grpc"):
            self._break(RemoteProtocolError("its answer is not application/grpc"))
        elif encoding not in list(Encoding):
            self._break(RemoteProtocolError(f"its answer is in the unknown encoding {encoding!r}"))
        else:
            self._reader = MessageReader(self._limit, Encoding(encoding))

    def on_data(self, data: bytes, size: int) -> None:
        """Bytes of the answer; ``size`` is what they took of the window."""
        if self._reader is not None and not self.ended:
            self._owed += size
            self._reader.feed(data)
            try:
                self.count()
            except AnswerDropped as error:
                self._break(error)
            self._receiver.unpark_all()

    def on_trailers(self, trailers: Headers) -> None:
        """The answer's status."""
        self.trailers = trailers

    def on_end(self) -> None:
        """The answer is complete."""
        self._end()

    def fail(self, error: Exception) -> None:
        """No more will come of this call; messages that came before can still be taken."""
        if self.failure is None and not self.ended:
            self.failure = error
        self._end()

    def has_sent(self, size: int, *, end: bool) -> None:
        """``size`` bytes of ``unsent`` are in a frame, and its END_STREAM if ``end``."""
        del self.unsent[:size]
        self.sent_end = end
        if len(self.unsent) < MAX_UNSENT:
            self._senders.unpark_all()

    # From the caller.

    def count(self) -> None:
        """``taken`` has changed, or more has come.

        Raises:
            AnswerDropped: there is no room for it.
        """
        if self.memory is not None:
            size = self.taken + (0 if self._reader is None else self._reader.buffered)
            if size > self.uncounted or self.memory.size:
                self.memory.resize(size if size > self.uncounted else 0)

    async def wait_writable(self) -> None:
        """Wait until ``queue`` may be called; returns at once when the call is over."""
        await trio.lowlevel.checkpoint()
        while len(self.unsent) >= MAX_UNSENT and not self.ended:
            await self._senders.park()

    def queue(self, data: bytes, *, end: bool) -> None:
        """Send ``data`` as the plugin's window allows; dropped when the call is over."""
        if not self.ended:
            self.unsent += data
            self.unsent_ends = end
            self._link.send(self)

    async def next_message(self) -> bytes | None:
        """The next message of the answer, ``None`` after the last. Cancelling loses nothing.

        Raises:
            CallError, RemoteProtocolError: ``failure``, after the messages before it.
        """
        while True:
            try:
                message = self._reader.next_message() if self._reader is not None else None
            except RemoteProtocolError as error:
                self._break(error)
            except PayloadTooLarge as error:
                self._break(AnswerTooLarge(error.limit))
            else:
                if message is not None:
                    self.taken += len(message)
                    self._give_back()
                    return message
            if self.failure is not None:
                raise self.failure
            if self.ended:
                if self._reader is not None and self._reader.incomplete:
                    raise RemoteProtocolError("its answer ended in the middle of a message")
                return None
            self._give_back(awaited=True)
            await self._receiver.park()

    def cancel(self) -> None:
        """Tell the plugin that nobody waits any more."""
        if not self.ended:
            self._end()
            self._link.reset(self.stream_id, cancelled=True)

    def _break(self, error: CallError | RemoteProtocolError) -> None:
        """What comes cannot be used: end the call from our side."""
        self.failure = self.failure or error
        self._reader = None
        self._end()
        self._link.reset(self.stream_id, cancelled=False)

    def _give_back(self, *, awaited: bool = False) -> None:
        """Open the window, in portions, by what was taken; ``awaited``: by all that came."""
        waiting = 0 if awaited or self._reader is None else self._reader.buffered
        size = self._owed - waiting
        if size >= self._window // 2 and not self.ended:
            self._owed -= size
            self._link.give_window(self.stream_id, size)

    def _end(self) -> None:
        self.ended = True
        self.unsent.clear()
        self._receiver.unpark_all()
        self._senders.unpark_all()

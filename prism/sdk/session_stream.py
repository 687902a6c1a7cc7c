"""One ExecuteStream call on the plugin's side."""

from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

import anyio

from prism.contract.messages import StreamRequest, StreamResponse
from prism.wire.connection import Connection
from prism.wire.events import Credit, Data, Event, Open


class Sender(Protocol):
    """What a stream needs of its session."""

    def send(self, event: Event) -> None:
        """Queue one event for the host."""


class SessionStream(AsyncIterator[StreamRequest]):
    """The messages of one call, held back by credit in both directions.

    Iterating gives the host's messages, the opening one first, until it says END.
    It is not a generator, so that a plugin may stop reading before that.
    """

    def __init__(self, session: Sender, opened: Open, connection: Connection) -> None:
        self._session = session
        self._number = opened.stream
        self._connection = connection
        self._give_back_at = connection.local_hello.window // 2
        self._dealt_with = 0
        first = Data(opened.stream, opened.message, opened.end)
        self._inbox: deque[Data] = deque([first])
        self._ended = False
        self._changed = anyio.Event()

    def deliver(self, event: Data) -> None:
        """Take in a message from the host."""
        self._inbox.append(event)
        self._changed.set()

    def credit(self) -> None:
        """The host has room again."""
        self._changed.set()

    async def _wait_for_change(self) -> None:
        if self._changed.is_set():
            self._changed = anyio.Event()
        await self._changed.wait()

    async def __anext__(self) -> StreamRequest:
        """The next message. A half-close without one of its own arrives as an empty
        message, which is not passed on."""
        while not self._ended:
            while not self._inbox:
                await self._wait_for_change()
            data = self._inbox.popleft()
            self._give_back(data.size)
            self._ended = data.end
            assert isinstance(data.message, StreamRequest)  # noqa: S101 - decoded as this type
            if not (data.end and data.size and data.message == StreamRequest()):
                return data.message
        raise StopAsyncIteration

    def _give_back(self, size: int) -> None:
        self._dealt_with += size
        if self._dealt_with >= self._give_back_at and self._connection.is_open(self._number):
            self._session.send(Credit(self._number, self._dealt_with))
            self._dealt_with = 0

    async def send(self, response: StreamResponse) -> None:
        """Send one message; waits while the host gives no credit."""
        await anyio.lowlevel.checkpoint()
        while self._connection.send_credit(self._number) <= 0:
            await self._wait_for_change()
        self._session.send(Data(self._number, response))

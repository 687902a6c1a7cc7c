"""The task that writes what a session has queued."""

from typing import Protocol

import anyio

from prism.wire.connection import Connection

CONNECTION_ERRORS = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
"""What a stream raises when its connection is gone; TLS's own errors are OSErrors."""


class Sink(Protocol):
    """Where the bytes go."""

    async def send(self, item: bytes) -> None: ...


class SessionWriter:
    """Sends what ``connection`` has queued; everything queued by then leaves in one send."""

    def __init__(self, sink: Sink, connection: Connection) -> None:
        self._sink = sink
        self._connection = connection
        self._wake = anyio.Event()
        self._waits = False
        self._all_written = anyio.Event()
        self._writing = False
        self._can_write = True

    def wake(self) -> None:
        """Something was queued. Most often the writer knows: each answer comes by here."""
        if self._waits:
            self._waits = False
            self._wake.set()

    async def run(self, scope: anyio.CancelScope) -> None:
        """Write until ``scope`` is cancelled or the connection breaks."""
        with scope:
            while True:
                data = self._connection.data_to_send()
                self._writing = bool(data)
                if data:
                    try:
                        await self._sink.send(data)
                    except CONNECTION_ERRORS:
                        break  # the reader sees the end as well, and acts on it
                else:
                    self._all_written.set()
                    self._wake = anyio.Event()
                    self._waits = True
                    await self._wake.wait()
        self._can_write = False
        self._all_written.set()

    async def flush(self, patience: float) -> None:
        """Give the last frames, such as Shutdown's answer, a moment to leave."""
        with anyio.move_on_after(patience, shield=True):
            while self._can_write and (self._writing or self._connection.queued_bytes):
                if self._all_written.is_set():
                    self._all_written = anyio.Event()
                self.wake()
                await self._all_written.wait()

"""What is said on channels (LISTEN), to many listeners, over one connection.

The connection is there while somebody listens. It is asked for an answer when it is silent, and
made anew when it is lost: the listeners are told of the gap, and then hear what follows.
"""

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Literal, NamedTuple

import anyio

from prism.sdk import PluginError
from prism.sdk.background import BackgroundTask

from .connection import Connection
from .errors import ConnectionLost

HEARTBEAT_SECONDS = 10.0
"""Of silence, after which the server is asked whether it is there; and for its answer."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two attempts to connect."""
MAX_BUFFERED = 1_000
"""Notifications that wait for a listener; of more it is told that there is a gap."""

Said = Literal["ready", "gap"]


class Heard(NamedTuple):
    """A notification."""

    channel: str
    payload: str


class _Listening:
    """One listener: its channels, and what it has not taken yet."""

    def __init__(self, channels: Iterable[str]) -> None:
        self.channels = frozenset(channels)
        self.waiting: deque[Heard | Said] = deque()
        self.woken = anyio.Event()
        self.hears = False
        self.was_ready = False

    def put(self, heard: Heard | Said) -> None:
        if len(self.waiting) < MAX_BUFFERED:
            self.waiting.append(heard)
        elif self.waiting[-1] != "gap":
            self.waiting.append("gap")
        self.woken.set()


class Listener:
    """Connects with ``connect`` when somebody listens."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._all: set[_Listening] = set()
        self._task: BackgroundTask | None = None
        self._waits: anyio.CancelScope | None = None
        self._ended = self._changed = False
        self.problem = ""
        """Why nothing is heard, though somebody listens."""
        self.connects = 0

    @property
    def listeners(self) -> int:
        """How many there are."""
        return len(self._all)

    async def listen(self, channels: Iterable[str]) -> AsyncGenerator[Heard | Said, None]:
        """``ready``, once what is said is heard, and then all of it, with ``gap`` where some may
        be missing. Ends when the plugin does."""
        listening = _Listening(channels)
        self._all.add(listening)
        try:
            self._wake()
            while not self._ended:
                while listening.waiting:
                    yield listening.waiting.popleft()
                listening.woken = anyio.Event()
                if not listening.waiting and not self._ended:
                    await listening.woken.wait()
        finally:
            self._all.discard(listening)
            self._wake()

    async def aclose(self) -> None:
        """End all that listen."""
        self._ended = True
        for listening in self._all:
            listening.woken.set()
        if self._task is not None:
            await self._task.aclose()

    def _wake(self) -> None:
        """Somebody came, or went."""
        self._changed = True
        if self._task is None and self._all and not self._ended:
            self._task = BackgroundTask(self._run, "notifications")
        elif self._waits is not None:
            self._waits.cancel()

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                connection = await self._connect()
                try:
                    self.connects += 1
                    await self._serve(connection)
                finally:
                    connection.close()
                    for listening in self._all:
                        listening.hears = False
            except (PluginError, OSError) as error:
                if not self.problem:
                    pause = FIRST_PAUSE
                self.problem = str(error) or type(error).__name__
            if not self._all:
                self.problem = ""
                self._task = None
                return
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _serve(self, connection: Connection) -> None:
        """Until nobody listens any more, or the connection is lost."""
        active: frozenset[str] = frozenset()
        while self._all:
            self._changed = False
            wanted = frozenset[str]().union(*(listening.channels for listening in self._all))
            if wanted != active:
                with anyio.fail_after(HEARTBEAT_SECONDS):
                    await _change(connection, active, wanted)
                active = wanted
            self.problem = ""
            for listening in self._all:
                if not listening.hears and listening.channels <= active:
                    listening.hears = True
                    listening.put("gap" if listening.was_ready else "ready")
                    listening.was_ready = True
            for channel, payload in connection.take_notifications():
                for listening in self._all:
                    if listening.hears and channel in listening.channels:
                        listening.put(Heard(channel, payload))
            if self._changed:
                continue
            with anyio.CancelScope() as self._waits:
                with anyio.move_on_after(HEARTBEAT_SECONDS) as silence:
                    await connection.wait_unasked()
                if silence.cancelled_caught:
                    await _ask(connection)
            self._waits = None


async def _change(connection: Connection, active: frozenset[str], wanted: frozenset[str]) -> None:
    for word, channels in (("UNLISTEN", active - wanted), ("LISTEN", wanted - active)):
        for channel in channels:
            name = channel.replace('"', '""')
            connection.send(f'{word} "{name}"'.encode())
    connection.send_sync()
    await connection.finish_group()


async def _ask(connection: Connection) -> None:
    """Raises ConnectionLost where the server does not answer."""
    with anyio.move_on_after(HEARTBEAT_SECONDS, shield=True) as waiting:
        connection.send(b"SELECT 1")
        connection.send_sync()
        await connection.finish_group()
    if waiting.cancelled_caught:
        raise ConnectionLost(
            f"PostgreSQL did not answer for {HEARTBEAT_SECONDS:g} seconds", sent=False
        )

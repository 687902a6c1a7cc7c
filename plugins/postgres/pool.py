"""Connections that one caller has at a time; a bounded number of them, made when needed.

Who waits is served in the order of coming. A connection is given back clean, is cleaned in the
background (its caller was cancelled), or is closed; the count of those there are is exact in
each case, also when a caller is cancelled while it waits, or while its connection is made.
"""

import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from prism.sdk import PluginError, StatusCode
from prism.sdk.background import BackgroundTask

from .connection import Connection
from .errors import ConnectionLost, StaleStatement

log = logging.getLogger("prism.plugin.postgres")

T = TypeVar("T")

LOOK_SECONDS = 5.0
"""Between two looks for connections that were idle for too long."""


class _Waiting:
    __slots__ = ("connection", "event", "may_open")

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.connection: Connection | None = None
        self.may_open = False


class Pool:
    """Up to ``size`` connections that ``open_one`` makes.

    ``timeout``: seconds to wait for one. ``idle_timeout``, ``max_lifetime``: seconds after which
    one that is not in use is closed.
    """

    def __init__(
        self,
        open_one: Callable[[], Awaitable[Connection]],
        *,
        size: int,
        timeout: float,
        idle_timeout: float,
        max_lifetime: float,
    ) -> None:
        self._open_one = open_one
        self._size = size
        self._timeout = timeout
        self._idle_timeout = idle_timeout
        self._max_lifetime = max_lifetime
        self._idle: list[Connection] = []
        self._waiting: deque[_Waiting] = deque()
        self._count = 0
        self._recovering: set[BackgroundTask] = set()
        self._closed = False
        self._reaper = BackgroundTask(self._reap, "idle connections of a pool")
        self.recovered = 0
        """Connections of cancelled callers that could be used again."""

    @property
    def count(self) -> int:
        """Connections there are: idle, in use, being made or cleaned."""
        return self._count

    @property
    def idle(self) -> int:
        """Those that wait for a caller."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Callers that wait for a connection."""
        return len(self._waiting)

    async def aclose(self) -> None:
        """Close all that are idle, and those in use as they come back; who waits is refused."""
        self._closed = True
        await self._reaper.aclose()
        while self._waiting:
            self._waiting.popleft().event.set()
        for task in list(self._recovering):
            await task.aclose()
        while self._idle:
            self._drop(self._idle.pop())

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Connection]:
        """A connection for the block alone.

        Raises:
            PluginError: RESOURCE_EXHAUSTED, none came in time; or it could not be made.
        """
        connection = await self._acquire()
        try:
            yield connection
        finally:
            self._release(connection)

    async def run(
        self, work: Callable[[Connection], Awaitable[T]], *, repeatable: bool = False
    ) -> T:
        """Do some work on a connection.

        It is repeated once where a statement was stale (nothing ran then), and where a
        ``repeatable`` one lost a connection that had been used before.
        """
        for is_last in (False, True):
            connection = await self._acquire()
            try:
                try:
                    return await work(connection)
                except StaleStatement:
                    return await work(connection)
            except ConnectionLost:
                if is_last or not repeatable or connection.times_used == 1:
                    raise
            finally:
                self._release(connection)
        raise AssertionError

    # -- one after the other ------------------------------------------------------

    async def _acquire(self) -> Connection:
        if self._closed:
            raise PluginError(StatusCode.UNAVAILABLE, "the plugin is stopping")
        while self._idle and not self._waiting:
            connection = self._idle.pop()
            if await self._settle(connection):
                return connection
            self._drop(connection)
        if self._count < self._size and not self._waiting:
            self._count += 1
        else:
            found = await self._wait()
            if found is not None:
                return found
        connection = await self._open()
        connection.times_used = 1
        return connection

    async def _settle(self, connection: Connection) -> bool:
        """Whether the connection can be used; the caller drops one that cannot."""
        connection.times_used += 1
        if not connection.looks_alive():
            return False
        try:
            await connection.settle()
        except PluginError:
            return False
        except BaseException:
            self._release(connection)
            raise
        return True

    async def _wait(self) -> Connection | None:
        """A connection, or None: one may be made, and is counted already."""
        waiting = _Waiting()
        self._waiting.append(waiting)
        try:
            with anyio.move_on_after(self._timeout):
                await waiting.event.wait()
        except BaseException:
            self._leave(waiting)
            raise
        if waiting.connection is not None:
            if await self._settle(waiting.connection):
                return waiting.connection
            waiting.connection.close()  # and one in its place
            return None
        if waiting.may_open:
            return None
        self._leave(waiting)
        if self._closed:
            raise PluginError(StatusCode.UNAVAILABLE, "the plugin is stopping")
        raise PluginError(
            StatusCode.RESOURCE_EXHAUSTED,
            f"all {self._size} connections to PostgreSQL were in use for {self._timeout:g} seconds "
            "(pool_size, pool_timeout)",
        )

    def _leave(self, waiting: _Waiting) -> None:
        """Give on what was given to one that waits no more."""
        if waiting in self._waiting:
            self._waiting.remove(waiting)
        elif waiting.connection is not None:
            self._give(waiting.connection)
        elif waiting.may_open:
            self._forget()

    async def _open(self) -> Connection:
        try:
            return await self._open_one()
        except BaseException:
            self._forget()
            raise

    def _release(self, connection: Connection) -> None:
        if connection.closed or self._closed:
            self._drop(connection)
        elif connection.is_clean:
            self._give(connection)
        else:
            task = BackgroundTask(
                lambda: self._recover(connection, task), "recovery of a connection"
            )
            self._recovering.add(task)

    async def _recover(self, connection: Connection, task: BackgroundTask) -> None:
        clean = False
        try:
            clean = await connection.recover()
        finally:
            self._recovering.discard(task)
            if clean and not self._closed:
                self.recovered += 1
                self._give(connection)
            else:
                self._drop(connection)

    def _give(self, connection: Connection) -> None:
        """To who has waited longest, or to nobody."""
        connection.used_at = now = anyio.current_time()
        if self._closed or connection.is_worn or now - connection.opened_at > self._max_lifetime:
            self._drop(connection)
        elif self._waiting:
            waiting = self._waiting.popleft()
            waiting.connection = connection
            waiting.event.set()
        else:
            self._idle.append(connection)

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self._forget()

    def _forget(self) -> None:
        """There is one connection less; who has waited longest may make another."""
        if self._waiting and not self._closed:
            waiting = self._waiting.popleft()
            waiting.may_open = True
            waiting.event.set()
        else:
            self._count -= 1

    async def _reap(self) -> None:
        while True:
            await anyio.sleep(min(LOOK_SECONDS, self._idle_timeout))
            now = anyio.current_time()
            for connection in list(self._idle):
                if (
                    now - connection.used_at > self._idle_timeout
                    or now - connection.opened_at > self._max_lifetime
                    or not connection.looks_alive()
                ):
                    self._idle.remove(connection)
                    self._drop(connection)
